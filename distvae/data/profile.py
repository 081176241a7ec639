"""What a column's cells are fitted to: exact counts of values, exact ranges, and drawn rows.

Profiles merge, and come out the same however the rows were cut into tables and in whatever order
the parts are merged. Categories are counted exactly up to `MOST_VALUES` different ones. Of the
numbers, the rows with the smallest places of a keyed permutation of all rows are kept (see
`distvae.data.draw`): the same rows for every column.
"""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distvae.data.arrow_types import is_text
from distvae.data.arrow_values import Bools, column_of
from distvae.data.counting import (
    count_nulls,
    count_values,
    counted_type,
    divisor_of,
    range_of,
    text_bytes,
)
from distvae.data.profile_files import profile_from_bytes, profile_to_bytes
from distvae.data.profile_parts import (
    MOST_BYTES,
    MOST_VALUES,
    SAMPLED_ROWS,
    ColumnProfile,
    Profile,
    Rows,
    joined,
    merge_profiles,
)
from distvae.data.roles import Feature
from distvae.data.sampling import positions

__all__ = [
    "MOST_BYTES",
    "MOST_VALUES",
    "SAMPLED_ROWS",
    "ColumnProfile",
    "Profile",
    "Profiler",
    "merge_profiles",
    "profile",
    "profile_from_bytes",
    "profile_to_bytes",
]

_MOST_SAMPLED = 1 << 25  # values: 256 MiB of float64
_PARTS_HELD = 64


class Profiler:
    """Builds a profile table by table, copying no more than the rows that are kept.

    Args:
        features: the columns to look at.
        total: rows of the whole input.
        key: 64-bit key of the draw, from `distvae.data.sampling.mix`.
        count: the most rows to keep; fewer of very wide tables.
        sampled: names of counted columns whose drawn values are wanted too.
    """

    def __init__(
        self,
        features: Sequence[Feature],
        total: int,
        key: int,
        count: int = SAMPLED_ROWS,
        sampled: Collection[str] = (),
    ) -> None:
        self.sampled = frozenset(sampled)
        self.features, self.total, self.key = features, total, key
        scalars = sum(feature.is_scalar for feature in features)
        self.count = min(count, _MOST_SAMPLED // max(1, scalars))
        self._parts: list[Profile] = []
        self._below = total  # places that may still count
        self._uncounted: frozenset[str] = frozenset()

    def add(self, table: pa.Table, rows: Rows) -> None:
        """Add a table, flat or nested; ``rows`` (n,) are its absolute row numbers.

        Raises:
            DataError: a column that the table lacks.
        """
        places = positions(rows, self.total, self.key)
        kept = places < self._below
        drawn = None if kept.all() else kept
        columns = {f.name: self._look(table, f, drawn) for f in self.features}
        held = (places, rows) if drawn is None else (places[kept], rows[kept])
        self._parts.append(Profile(len(rows), *held, columns, self.count))
        pending = sum(len(part.places) for part in self._parts)
        if len(self._parts) > _PARTS_HELD or pending > 2 * self.count:
            self.result()

    def result(self) -> Profile:
        """The profile of all tables so far."""
        found = joined(self._parts, self.count) if self._parts else self._nothing()
        self._parts = [found]
        if len(found.places) == self.count:
            self._below = int(found.places[-1]) + 1 if self.count else 0
        self._uncounted = frozenset(
            feature.name
            for feature in self.features
            if _is_counted(feature) and found.columns[feature.name].values is None
        )
        return found

    def _nothing(self) -> Profile:
        empty = pa.table({f.name: pa.array([], f.type) for f in self.features})
        columns = {f.name: self._look(empty, f, None) for f in self.features}
        return joined([Profile(0, _NONE, _NONE, columns, self.count)], self.count)

    def _look(self, table: pa.Table, feature: Feature, drawn: Bools | None) -> ColumnProfile:
        column = column_of(table, feature)
        if feature.is_number:
            return _look_at_numbers(column, drawn)
        if not _is_counted(feature):
            return ColumnProfile(len(column), count_nulls(column))
        if feature.name in self._uncounted:
            return ColumnProfile(len(column), count_nulls(column), text_bytes=_length(column))
        found = count_values(column)
        length = text_bytes(found.values, found.counts)
        sample = None
        if feature.name in self.sampled:
            kept = column if drawn is None else column.filter(pa.array(drawn))
            sample = _whole(kept.cast(counted_type(feature.type)))
        return ColumnProfile(
            len(column), found.nulls, found.nans, found.values, found.counts, length, sample
        )


def profile(
    table: pa.Table,
    features: Sequence[Feature],
    rows: Rows,
    total: int,
    key: int,
    count: int = SAMPLED_ROWS,
) -> Profile:
    """The profile of one table; for many, `Profiler` is faster than merging.

    Args:
        table: flat or nested.
        features: the columns to look at.
        rows: (n,) absolute numbers of the table's rows in [0, total).
        total: rows of the whole input.
        key: 64-bit key of the draw, from `distvae.data.sampling.mix`.
        count: the most rows to keep; fewer of very wide tables.

    Raises:
        DataError: a column that the table lacks.
    """
    profiler = Profiler(features, total, key, count)
    profiler.add(table, rows)
    return profiler.result()


_NONE = np.zeros(0, np.int64)


def _is_counted(feature: Feature) -> bool:
    return feature.role in ("boolean", "categorical")


def _look_at_numbers(column: pa.ChunkedArray, drawn: Bools | None) -> ColumnProfile:
    ends = range_of(column)
    floating = pa.types.is_floating(column.type)
    return ColumnProfile(
        len(column),
        column.null_count,
        int(pc.sum(pc.is_nan(column)).as_py() or 0) if floating else 0,
        sample=_whole(column if drawn is None else column.filter(pa.array(drawn))),
        minimum=None if ends is None else ends[0],
        maximum=None if ends is None else ends[1],
        divisor=divisor_of(column),
    )


def _length(column: pa.ChunkedArray) -> int:
    """Bytes of the strings of a column that is no longer counted."""
    if not is_text(column.type):
        return 0
    if pa.types.is_dictionary(column.type):
        found = count_values(column)
        return text_bytes(found.values, found.counts)
    plain = column.cast(pa.large_string()) if column.type.equals(pa.string_view()) else column
    return int(pc.sum(pc.binary_length(plain)).as_py() or 0)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
