"""The parts of a profile, and how they become one whatever their order.

Samples are cut to the rows with the smallest places, values are counted once each, and ranges
joined.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.codec_numbers import numbers_of
from distvae.data.counting import Counts, joined_divisor, range_of, sum_counts, text_bytes

__all__ = [
    "MOST_BYTES",
    "MOST_VALUES",
    "SAMPLED_ROWS",
    "ColumnProfile",
    "Profile",
    "Rows",
    "joined",
    "merge_profiles",
]

Rows = npt.NDArray[np.int64]

MOST_VALUES = 131_072
"""Categories with more different values than this are not counted."""

MOST_BYTES = 64 << 20
"""Nor are those whose different values are longer than this together."""

_EMPTY = pa.array([], pa.int64())

SAMPLED_ROWS = 65_536
"""Rows kept of the numbers; fewer of tables with more than 512 columns."""


@dataclass(frozen=True)
class ColumnProfile:
    """What is known of one flat column.

    Attributes:
        rows: rows seen.
        nulls: rows whose value is null, be it in the dictionary or in a struct above.
        nans: rows whose value is NaN; 0 for types without.
        values: (v,) the different values of a boolean or categorical column, ascending, neither
            null nor NaN, dictionaries decoded (see `distvae.data.counting.counted_type`); None for
            other columns, and where there are more than `MOST_VALUES` or `MOST_BYTES`.
        counts: (v,) how many rows hold each value; None where ``values`` is.
        text_bytes: bytes of all strings of the column together.
        sample: (m,) values of the drawn rows, in the order of their places, nulls and NaN too, in
            the column's type; of numbers, dates and times (`Feature.is_number`), and of counted
            columns where asked for, dictionaries decoded; else None.
        minimum: smallest value that is neither NaN nor infinite, a scalar of the column's type;
            None where there is none, and where ``sample`` is.
        maximum: largest such value.
        divisor: greatest common divisor of all distances between whole numbers, dates, times and
            decimals; 0 where all are equal, 1 for other columns.
    """

    rows: int
    nulls: int
    nans: int = 0
    values: pa.Array | None = None
    counts: Counts | None = None
    text_bytes: int = 0
    sample: pa.Array | None = None
    minimum: pa.Scalar | None = None
    maximum: pa.Scalar | None = None
    divisor: int = 1


@dataclass(frozen=True)
class Profile:
    """What is known of the rows seen.

    Attributes:
        rows: their number.
        places: (m,) the smallest places, ascending.
        numbers: (m,) the absolute row numbers of the rows that have them.
        columns: by flat name; of vectors nothing but rows and nulls.
        count: the most rows kept in samples.
    """

    rows: int
    places: Rows
    numbers: Rows
    columns: Mapping[str, ColumnProfile]
    count: int = SAMPLED_ROWS


def merge_profiles(a: Profile, b: Profile) -> Profile:
    """The profile of the rows of both, made with the same features, key and count."""
    return joined([a, b], min(a.count, b.count))


def joined(parts: Sequence[Profile], count: int) -> Profile:
    """One profile of all, at least one: samples cut to ``count`` rows, counts added up."""
    places = np.concatenate([part.places for part in parts])
    numbers = np.concatenate([part.numbers for part in parts])
    order = np.argsort(places)[:count]  # places differ, so any sort gives the same
    columns = {
        name: _joined_column([part.columns[name] for part in parts], order)
        for name in parts[0].columns
    }
    rows = sum(part.rows for part in parts)
    return Profile(rows, places[order], numbers[order], columns, count)


def _joined_column(parts: Sequence[ColumnProfile], order: Rows) -> ColumnProfile:
    samples = [part.sample for part in parts if part.sample is not None]
    values, counts = _joined_counts(parts)
    ends = [end for part in parts for end in (part.minimum, part.maximum) if end is not None]
    span = range_of(pa.chunked_array([pa.repeat(end, 1) for end in ends])) if ends else None
    return ColumnProfile(
        rows=sum(part.rows for part in parts),
        nulls=sum(part.nulls for part in parts),
        nans=sum(part.nans for part in parts),
        values=values,
        counts=counts,
        text_bytes=sum(part.text_bytes for part in parts),
        sample=pa.concat_arrays(samples).take(pa.array(order)) if samples else None,
        minimum=None if span is None else span[0],
        maximum=None if span is None else span[1],
        divisor=_joined_divisor(parts),
    )


def _joined_divisor(parts: Sequence[ColumnProfile]) -> int:
    if any(part.divisor == 1 for part in parts):
        return 1
    known = [(part.divisor, part.minimum) for part in parts if part.minimum is not None]
    values = numbers_of(pa.concat_arrays([pa.repeat(least, 1) for _, least in known] or [_EMPTY]))
    pairs = zip((divisor for divisor, _ in known), values.tolist(), strict=True)
    return joined_divisor(list(pairs))


def _joined_counts(parts: Sequence[ColumnProfile]) -> tuple[pa.Array | None, Counts | None]:
    pieces = [(p.values, p.counts) for p in parts if p.values is not None and p.counts is not None]
    if len(pieces) < len(parts):
        return None, None
    values, counts = sum_counts(pieces)
    if len(values) > MOST_VALUES or text_bytes(values, np.ones_like(counts)) > MOST_BYTES:
        return None, None
    return values, counts
