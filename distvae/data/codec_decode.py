"""Arrays to table: standardised samples back in the training table's own schema."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.arrow_values import Floats, row_slices
from distvae.data.codec_columns import Codec, Column
from distvae.errors import DistvaeError

__all__ = ["decode"]


def decode(codec: Codec, y: npt.NDArray[Any]) -> pa.Table:
    """The rows y (n, D), in standardised units, as a table with the codec's schema.

    x = y scale + shift in float64, clipped to the range seen in training; columns that held
    whole numbers only, floats among them, are rounded. Nothing comes out null.

    Raises:
        DistvaeError: a value of ``y`` that is not finite, which is the model's fault.
    """
    if y.shape != (len(y), codec.width):
        raise ValueError(f"samples of shape {y.shape}, the codec has {codec.width} elements")
    arrays = {column.feature.name: _array(column, y) for column in codec.columns}
    return pa.table(arrays, schema=codec.schema)


def _array(column: Column, y: npt.NDArray[Any]) -> pa.Array:
    """One column of raw values in its own type, list columns over one flat child array."""
    kind, width = column.feature.type, column.feature.width
    raw = np.empty((len(y), width), column.feature.element)
    for rows in row_slices(len(y), width):
        raw[rows] = _raw_values(column, y[rows, column.start : column.stop])
    if column.feature.role == "continuous":
        return pa.array(raw[:, 0], kind)
    flat = pa.array(raw.reshape(-1), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.FixedSizeListArray.from_arrays(flat, type=kind)
    offsets = np.arange(len(y) + 1) * width
    if pa.types.is_large_list(kind):
        return pa.LargeListArray.from_arrays(pa.array(offsets, pa.int64()), flat, type=kind)
    return pa.ListArray.from_arrays(pa.array(offsets, pa.int32()), flat, type=kind)


def _raw_values(column: Column, y: npt.NDArray[Any]) -> Floats:
    """Raw values in float64: rounded where whole, clipped to what was seen."""
    x: Floats = y.astype(np.float64)
    if not np.isfinite(x.min() + x.max()):
        raise DistvaeError(column.feature.label, "the model gave a value that is not finite")
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
