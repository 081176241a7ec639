"""What one column holds: its different values and how often, its range, nulls and NaN.

Dictionaries are counted through their codes: their values are looked at once, not per row. Values
come in a type that Arrow's kernels know, see `counted_type`.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from distvae.data.arrow_types import is_date, is_text, value_type
from distvae.data.codec_numbers import numbers_of

__all__ = [
    "Counted",
    "Counts",
    "count_nulls",
    "count_values",
    "counted_type",
    "divisor_of",
    "joined_divisor",
    "range_of",
    "sum_counts",
    "text_bytes",
]

_FEW = 1024

Counts = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Counted:
    """The different values of some rows.

    Attributes:
        values: (v,) neither null nor NaN, in `counted_type`.
        counts: (v,) rows that hold each.
        nulls: rows whose value is null.
        nans: rows whose value is NaN.
    """

    values: pa.Array
    counts: Counts
    nulls: int
    nans: int


def counted_type(kind: pa.DataType) -> pa.DataType:
    """The type in which values of a column of type ``kind`` are counted.

    That of a dictionary's values; large strings for string views, float32 for float16 and
    decimal128 for the narrower decimals. All values keep their meaning.
    """
    kind = value_type(kind)
    if kind.equals(pa.string_view()):
        return pa.large_string()
    if pa.types.is_float16(kind):
        return pa.float32()
    if pa.types.is_decimal32(kind) or pa.types.is_decimal64(kind):
        return pa.decimal128(kind.precision, kind.scale)
    return kind


def count_values(column: pa.ChunkedArray) -> Counted:
    """The different values of a column; a value may stand more than once where chunks differ."""
    kind = counted_type(column.type)
    pieces = [_count_chunk(chunk, kind) for chunk in column.chunks]
    if len(pieces) == 1:
        return pieces[0]
    values = pa.concat_arrays([p.values for p in pieces]) if pieces else pa.array([], kind)
    counts = np.concatenate([np.zeros(0, np.int64), *(p.counts for p in pieces)])
    return Counted(values, counts, sum(p.nulls for p in pieces), sum(p.nans for p in pieces))


def sum_counts(pieces: Sequence[tuple[pa.Array, Counts]]) -> tuple[pa.Array, Counts]:
    """Each different value once, ascending, with the sum of its counts; at least one piece."""
    values = pa.chunked_array([values for values, _ in pieces])
    counts = pa.chunked_array([pa.array(counts, pa.int64()) for _, counts in pieces])
    grouped = pa.table([values, counts], ["value", "count"]).group_by("value", use_threads=False)
    total = grouped.aggregate([("count", "sum")]).sort_by("value").combine_chunks()
    return _whole(total.column("value")), total.column("count_sum").to_numpy()


def count_nulls(column: pa.ChunkedArray) -> int:
    """Rows that are null, be it that their value in the dictionary is."""
    total = column.null_count
    if pa.types.is_dictionary(column.type):
        for chunk in column.chunks:
            if chunk.dictionary.null_count:
                total += chunk.dictionary_decode().null_count - chunk.null_count
    return int(total)


def text_bytes(values: pa.Array, counts: Counts) -> int:
    """Bytes of the strings, each as often as it occurs; 0 for other types."""
    if not is_text(values.type) or not len(values):
        return 0
    lengths = pc.binary_length(values).to_numpy(zero_copy_only=False).astype(np.int64)
    return int(lengths @ counts)


def range_of(column: pa.ChunkedArray) -> tuple[pa.Scalar, pa.Scalar] | None:
    """The smallest and the largest value that is finite, in the column's type; None for none."""
    kind = column.type
    plain = _comparable(column)
    low, high = _extremes(plain)
    if pa.types.is_floating(plain.type) and not np.isfinite([low or 0.0, high or 0.0]).all():
        plain = plain.filter(pc.is_finite(plain))
        low, high = _extremes(plain)
    if low is None or high is None:
        return None
    ends = pa.array([low, high], plain.type)
    ends = ends.view(kind) if is_date(kind) else ends.cast(kind)
    return ends[0], ends[1]


def divisor_of(column: pa.ChunkedArray) -> int:
    """The greatest common divisor of all distances between whole numbers, dates, times, decimals.

    0 where there are no two different values; 1 for other types.
    """
    plain = _comparable(column)
    kind = plain.type
    if not (pa.types.is_integer(kind) or pa.types.is_temporal(kind) or pa.types.is_decimal(kind)):
        return 1
    pairs = [_divisor(numbers_of(chunk.drop_null())) for chunk in plain.chunks if len(chunk)]
    return joined_divisor([pair for pair in pairs if pair is not None])


def joined_divisor(parts: Sequence[tuple[int, int]]) -> int:
    """The divisor of all distances, of parts with some value of theirs each."""
    if not parts:
        return 0
    first = parts[0][1]
    return math.gcd(*(divisor for divisor, _ in parts), *(value - first for _, value in parts))


def _divisor(values: npt.NDArray[Any]) -> tuple[int, int] | None:
    """The divisor of the distances and the smallest value; None without values."""
    if not len(values):
        return None
    least = values.min()
    found = 0
    # The first values of most columns tell that there is no grid.
    for part in (values[:_FEW], values[_FEW:]):
        if found == 1 or not len(part):
            break
        held = part if part.dtype == np.uint64 else part.astype(np.int64, copy=False)
        apart = (held - held.dtype.type(least)).view(np.uint64)
        found = math.gcd(found, int(np.gcd.reduce(apart)))
    return found, int(least)


def _extremes(plain: pa.ChunkedArray) -> tuple[Any, Any]:
    found = pc.min_max(plain)
    return found["min"].as_py(), found["max"].as_py()


def _comparable(column: pa.ChunkedArray) -> pa.ChunkedArray:
    """The same values in a type whose extremes Arrow finds; dates as their whole numbers."""
    kind = column.type
    if not is_date(kind):
        return column.cast(counted_type(kind))
    whole = pa.int32() if kind.bit_width == 32 else pa.int64()
    return pa.chunked_array([chunk.view(whole) for chunk in column.chunks], whole)


def _count_chunk(chunk: pa.Array, kind: pa.DataType) -> Counted:
    if pa.types.is_dictionary(chunk.type):
        codes = chunk.indices.drop_null().to_numpy(zero_copy_only=False)
        counts = np.bincount(codes, minlength=len(chunk.dictionary)).astype(np.int64, copy=False)
        used = np.flatnonzero(counts)
        values, counts = chunk.dictionary.take(pa.array(used)), counts[used]
        nulls = chunk.null_count
    else:
        found = pc.value_counts(chunk.cast(kind))
        values, counts = found.field("values"), found.field("counts").to_numpy()
        nulls = 0
    values = values.cast(kind)
    if values.null_count:
        valid = values.is_valid().to_numpy(zero_copy_only=False)
        nulls += int(counts[~valid].sum())
        values, counts = values.filter(pa.array(valid)), counts[valid]
    nans = 0
    if pa.types.is_floating(kind):
        number = ~np.isnan(values.to_numpy(zero_copy_only=False))
        nans = int(counts[~number].sum())
        values, counts = values.filter(pa.array(number)), counts[number]
    return Counted(values, counts, nulls, nans)


def _whole(column: pa.ChunkedArray) -> pa.Array:
    whole = column.combine_chunks()
    return pa.concat_arrays(whole.chunks) if isinstance(whole, pa.ChunkedArray) else whole
