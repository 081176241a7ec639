"""Arrays to table: samples back in the training table's own schema."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from distvae.data.arrow_values import Floats, row_slices
from distvae.data.cells import locate
from distvae.data.codec_categories import categories
from distvae.data.codec_columns import Codec, Column
from distvae.data.codec_companions import states_of
from distvae.data.codec_numbers import array_of, decimals_of
from distvae.data.flatten import nest_table
from distvae.errors import DistvaeError

__all__ = ["decode"]

Bools = npt.NDArray[np.bool_]


def decode(codec: Codec, y: npt.NDArray[Any], missing: bool = True) -> pa.Table:
    """The rows y (n, D), as elements, as a table with the codec's schema.

    Standard columns: x = y scale + shift in float64, clipped to the range seen in training;
    columns that held whole numbers only, floats among them, are rounded. Cells: the value that
    the cell and its fraction stand for, categories and atoms exactly.

    Args:
        codec: of the columns.
        y: the elements.
        missing: whether values are null, or NaN, where a companion says so; if not, nothing is.

    Raises:
        DistvaeError: a value of ``y`` that is not finite, which is the model's fault.
    """
    if y.shape != (len(y), codec.width):
        raise ValueError(f"samples of shape {y.shape}, the codec has {codec.width} elements")
    companions = codec.companions if missing else {}
    arrays = {}
    for column in codec.columns:
        if column.companion_of is None:
            told = companions.get(column.feature.name)
            nulls, nans = (None, None) if told is None else _states(told, y)
            arrays[column.feature.name] = _array(column, y, nulls, nans)
    return nest_table(pa.table(arrays), codec.schema)


def _states(companion: Column, y: npt.NDArray[Any]) -> tuple[Bools | None, Bools | None]:
    return states_of(companion, _finite(companion, y[:, companion.start]))


def _array(
    column: Column, y: npt.NDArray[Any], nulls: Bools | None, nans: Bools | None
) -> pa.Array | pa.ChunkedArray:
    """One column of raw values in its own type."""
    valid = None if nulls is None else ~nulls
    kind = column.feature.type
    if not column.feature.is_scalar:
        return _lists(column, y, valid)
    own = y[:, column.start]
    if column.cells is not None and column.cells.values is not None:
        held = categories(column.cells, _finite(column, own), valid, kind)
        if nans is None or not nans.any():
            return held
        return pc.if_else(pa.array(nans), pa.scalar(np.nan, pa.float64()).cast(kind), held)
    x = _numbers(column, own)
    if x.dtype.kind == "f" and pa.types.is_decimal(kind):
        return decimals_of(x, valid, kind)
    if nans is not None and x.dtype.kind == "f":
        x[nans] = np.nan
    return array_of(x, valid, kind)


def _numbers(column: Column, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    """Raw values (n,) of a scalar, in its own type, or float64 still to be narrowed."""
    if column.cells is None:
        x = _raw_values(column, y[:, np.newaxis])[:, 0]
        return x if pa.types.is_decimal(column.feature.type) else x.astype(column.feature.element)
    values = locate(column.cells, _finite(column, y))
    if column.cells.grid is not None:
        held = column.cells.grid.values(values.astype(np.int64, copy=False))
        if not pa.types.is_floating(column.feature.type):
            return held
        return held.astype(np.float64)
    return values


def _lists(column: Column, y: npt.NDArray[Any], valid: Bools | None) -> pa.Array:
    """Vectors over one flat child array, null lists where not ``valid``."""
    kind, width = column.feature.type, column.feature.width
    raw = np.empty((len(y), width), column.feature.element)
    for rows in row_slices(len(y), width):
        raw[rows] = _raw_values(column, y[rows, column.start : column.stop])
    mask = None if valid is None else pa.array(~valid)
    flat = pa.array(raw.reshape(-1), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind, mask=mask)
    offsets = np.arange(len(y) + 1) * width
    if pa.types.is_large_list(kind):
        large = pa.array(offsets, pa.int64())
        return pa.LargeListArray.from_arrays(large, flat, type=kind, mask=mask)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, type=kind, mask=mask)


def _finite(column: Column, y: npt.NDArray[Any]) -> npt.NDArray[Any]:
    if len(y) and not np.isfinite(y.min() + y.max()):
        raise DistvaeError(column.feature.label, "the model gave a value that is not finite")
    return y


def _raw_values(column: Column, y: npt.NDArray[Any]) -> Floats:
    """Raw values in float64: rounded where whole, clipped to what was seen."""
    x: Floats = _finite(column, y).astype(np.float64)
    x *= column.scale
    x += column.shift
    if column.integer:
        np.rint(x, out=x)
    low, high = column.minimum, column.maximum
    if column.feature.element.kind in "iu":
        low, high = _inside(column.feature.element, low, high)
    np.maximum(x, low, out=x)
    return np.minimum(x, high, out=x)


def _inside(element: np.dtype[Any], low: float, high: float) -> tuple[float, float]:
    """The range cut to what ``element`` holds; float64 rounds the largest int64 up."""
    limits = np.iinfo(element)
    top = float(limits.max)
    if int(top) > limits.max:
        top = float(np.nextafter(top, 0.0))
    return max(low, float(limits.min)), min(high, top)
