"""Arrow columns as NumPy arrays, without copies where the memory already has the right form.

Slices, chunks, structs, nulls (of rows and of list elements) and all three list types are handled
here, so that statistics and codec see nothing but arrays.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.arrow_types import is_date, is_number
from distvae.data.flatten import flat_column
from distvae.data.roles import Feature
from distvae.errors import DataError

__all__ = [
    "Bools",
    "Floats",
    "Numbers",
    "Values",
    "column_of",
    "element_slices",
    "read_values",
    "row_slices",
]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]
Numbers = npt.NDArray[Any]

# Elements per slice of rows: 2 MiB of float64, about what a core's cache holds.
_ELEMENTS_PER_SLICE = 1 << 18


@dataclass(frozen=True)
class Values:
    """One column of n rows.

    Attributes:
        values: (n,) for a scalar column, (n, width) for a vector, in the column's own number type
            (decimals float64, dates and times int64 in the unit of training, truth values uint8);
            often a read-only view of Arrow's memory; arbitrary where not valid.
        valid: same shape, False where null (the row, its element, or a list of wrong length);
            None when nothing is null. NaN is a value here.
        lengths: (n,) length of each list, set only when a non-null list has a wrong one;
            null lists count as right.
    """

    values: Numbers
    valid: Bools | None
    lengths: npt.NDArray[np.int64] | None


def read_values(table: pa.Table, feature: Feature) -> Values:
    """The column of ``feature`` in ``table``, which may be flat or nested.

    Raises:
        DataError: the table lacks the column, or it holds another type than in training. All
            number types stand for one another, dates and times of one sort for those of other
            units that lose nothing, and lists for lists of the same element and length.
        TypeError: a column of strings or dictionaries.
    """
    column = _column(table, feature)
    parts = [_read_chunk(chunk, feature) for chunk in column.chunks]
    if len(parts) == 1:
        return parts[0]
    if not parts:
        shape = (0,) if feature.is_scalar else (0, feature.width)
        return Values(np.empty(shape, feature.element), None, None)
    valid = lengths = None
    if any(part.valid is not None for part in parts):
        filled = [np.ones(p.values.shape, np.bool_) if p.valid is None else p.valid for p in parts]
        valid = np.concatenate(filled)
    if any(part.lengths is not None for part in parts):
        rows = [len(part.values) for part in parts]
        lengths = np.full(sum(rows), feature.width)
        for part, stop in zip(parts, np.cumsum(rows).tolist(), strict=True):
            if part.lengths is not None:
                lengths[stop - len(part.values) : stop] = part.lengths
    return Values(np.concatenate([part.values for part in parts]), valid, lengths)


def column_of(table: pa.Table, feature: Feature) -> pa.ChunkedArray:
    """The feature's column of a flat or nested table, in the type that it has there.

    Raises:
        DataError: the table lacks it.
    """
    column = flat_column(table, feature.name, feature.path)
    if column is None:
        raise DataError(
            feature.label, "is not in the data", "the model was trained with it", "add it"
        )
    return column


def element_slices(features: Sequence[Feature]) -> list[slice]:
    """The slice of a row's D elements that each feature takes."""
    stops = np.cumsum([feature.width for feature in features]).tolist()
    return [slice(stop - f.width, stop) for stop, f in zip(stops, features, strict=True)]


def row_slices(rows: int, width: int, at_least: int = 256) -> Iterator[slice]:
    """Slices that cover ``rows`` rows of ``width`` elements, each small enough for the cache.

    None is shorter than ``at_least`` rows, but for the last.
    """
    step = max(at_least, _ELEMENTS_PER_SLICE // max(1, width))
    for start in range(0, rows, step):
        yield slice(start, min(start + step, rows))


def _column(table: pa.Table, feature: Feature) -> pa.ChunkedArray:
    column = column_of(table, feature)
    kind, trained = column.type, feature.type
    if feature.role == "vector":
        lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
        fixed = pa.types.is_fixed_size_list(kind) and kind.list_size == feature.width
        fits = (lists or fixed) and kind.value_type == trained.value_type
    elif is_number(trained):
        fits = is_number(kind)
    elif is_date(trained):
        fits = is_date(kind) and _sort_of_date(kind) == _sort_of_date(trained)
    else:
        fits = feature.element == np.uint8 and pa.types.is_boolean(kind)
    if not fits:
        raise _wrong_type(feature, kind)
    if not is_date(trained) or kind.equals(trained):
        return column
    try:
        return column.cast(trained)
    except pa.ArrowInvalid as error:
        raise _wrong_type(feature, kind) from error


def _sort_of_date(kind: pa.DataType) -> str:
    """What may stand for one another: the type's name without width, unit and zone's name."""
    zoned = " with zone" if pa.types.is_timestamp(kind) and kind.tz is not None else ""
    return str(kind).partition("[")[0].rstrip("3264") + zoned


def _wrong_type(feature: Feature, kind: pa.DataType) -> DataError:
    return DataError(
        feature.label, f"has type {kind}", f"in training it was {feature.type}", "cast it"
    )


def _read_chunk(chunk: pa.Array, feature: Feature) -> Values:
    if feature.is_scalar:
        return Values(_numbers(chunk), _validity(chunk), None)
    if pa.types.is_fixed_size_list(chunk.type):
        return _read_fixed(chunk, feature.width)
    return _read_variable(chunk, feature.width)


def _numbers(chunk: pa.Array) -> Numbers:
    """The numbers of a scalar column, see `Values`."""
    kind = chunk.type
    if pa.types.is_decimal(kind):
        return _buffer(chunk.cast(pa.float64()))
    if pa.types.is_boolean(kind):
        return _buffer(chunk.cast(pa.uint8()))
    if is_date(kind):
        whole = pa.int32() if kind.bit_width == 32 else pa.int64()
        return _buffer(chunk.view(whole)).astype(np.int64, copy=False)
    return _buffer(chunk)


def _read_fixed(chunk: pa.FixedSizeListArray, width: int) -> Values:
    """A fixed-size list: every row, a null one too, owns its slots in the child array."""
    rows = len(chunk)
    child = chunk.values.slice(chunk.offset * width, rows * width)
    valid = _element_validity(child, _validity(chunk), width)
    return Values(_buffer(child).reshape(rows, width), valid, None)


def _read_variable(chunk: pa.ListArray | pa.LargeListArray, width: int) -> Values:
    """A variable list: a view when every row has ``width`` elements, else gathered."""
    rows = len(chunk)
    offsets = chunk.offsets.to_numpy(zero_copy_only=False).astype(np.int64, copy=False)
    lengths = np.diff(offsets)
    present = _validity(chunk)
    right = lengths == width
    if bool(right.all()) and rows:
        child = chunk.values.slice(int(offsets[0]), rows * width)
        values = _buffer(child).reshape(rows, width)
        return Values(values, _element_validity(child, present, width), None)
    full = right if present is None else right & present
    child = chunk.values
    at = offsets[:-1][full, np.newaxis] + np.arange(width)
    values = np.zeros((rows, width), chunk.type.value_type.to_pandas_dtype())
    values[full] = _buffer(child)[at]
    inner = _validity(child)
    valid = np.zeros((rows, width), np.bool_)
    valid[full] = True if inner is None else inner[at]
    missing = np.zeros(rows, np.bool_) if present is None else ~present
    wrong = ~right & ~missing
    return Values(values, valid, np.where(missing, width, lengths) if wrong.any() else None)


def _element_validity(child: pa.Array, present: Bools | None, width: int) -> Bools | None:
    inner = _validity(child)
    if present is None:
        return None if inner is None else inner.reshape(-1, width)
    if inner is None:
        return np.repeat(present[:, np.newaxis], width, axis=1)
    return np.asarray(inner.reshape(-1, width) & present[:, np.newaxis])


def _validity(array: pa.Array) -> Bools | None:
    if array.null_count == 0:
        return None
    return np.asarray(array.is_valid().to_numpy(zero_copy_only=False))


def _buffer(array: pa.Array) -> Numbers:
    """The numbers of a primitive array as they lie in memory; arbitrary where null."""
    dtype = np.dtype(array.type.to_pandas_dtype())
    memory = array.buffers()[1]
    if memory is None or len(array) == 0:
        return np.zeros(len(array), dtype)
    return np.frombuffer(memory, dtype, len(array), array.offset * dtype.itemsize)
