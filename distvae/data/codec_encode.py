"""Table to arrays: the hot path of every job, without copies on the common case.

Policy for values that training did not see: anything finite is encoded as it is, as long as its
standardised square fits into float32 (or, for a Bernoulli head, as it lies in [0, 1]); a row
beyond that is rejected, with its reason. Rows are never dropped here: the caller takes
``rejected`` rows out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.arrow_values import Bools, Floats, Numbers, Values, read_values, row_slices
from distvae.data.codec_columns import Codec, Column

__all__ = ["LARGEST_STANDARDISED", "Encoded", "encode"]

LARGEST_STANDARDISED = 1e15
"""Rows with |y| beyond it are rejected: squares, and sums of squares, must fit into float32."""


@dataclass(frozen=True)
class Encoded:
    """The blocks of n rows, as `distvae.data.codec_columns.block_layout` describes them.

    Attributes:
        blocks: per block (n, width): float32 standardised, or the table's own numbers where the
            layout says ``raw``. May be a read-only view of Arrow's memory.
        masks: per block None when everything is observed, else (n, width) bool, True where
            observed. An unobserved value is 0 once standardised: 0 in a float32 block, the
            shift in a raw float32 block; raw uint8 and float16 rely on the mask.
        rejected: (n,) bool, rows that cannot be used; their values are 0.
        reasons: one line per rejected row, in row order.
    """

    blocks: tuple[Numbers, ...]
    masks: tuple[Bools | None, ...]
    rejected: Bools
    reasons: list[str]


@dataclass
class _Rejections:
    """Collects the first reason of each bad row, without a loop over rows."""

    codes: npt.NDArray[np.int32]
    messages: list[str] = field(default_factory=list)

    def add(self, rows: Bools, message: str) -> None:
        self.codes[rows & (self.codes < 0)] = len(self.messages)
        self.messages.append(message)


def encode(codec: Codec, table: pa.Table) -> Encoded:
    """The rows of ``table`` as arrays; see `Encoded`.

    Raises:
        DataError: a column that is absent or has another type than in training.
    """
    rejections = _Rejections(np.full(table.num_rows, -1, np.int32))
    blocks: list[Numbers] = []
    masks: list[Bools | None] = []
    for columns in codec.blocks():
        values = [read_values(table, column.feature) for column in columns]
        if columns[0].feature.role == "continuous":
            block, mask = _scalars(columns, values, rejections)
        else:
            block, mask = _vector(columns[0], values[0], rejections)
        blocks.append(block)
        masks.append(mask)
    nothing = _nothing_observed(masks)
    if nothing is not None and nothing.any():
        rejections.add(nothing, "no value observed")
    rejected = rejections.codes >= 0
    reasons: list[str] = []
    if rejected.any():
        blocks = [_zeroed(block, rejected) for block in blocks]
        told = np.array(rejections.messages, dtype=object)
        reasons = told[rejections.codes[rejected]].tolist()
    return Encoded(tuple(blocks), tuple(masks), rejected, reasons)


def _scalars(
    columns: Sequence[Column], values: Sequence[Values], rejections: _Rejections
) -> tuple[npt.NDArray[np.float32], Bools | None]:
    """All continuous columns as one (n, c) block, standardised in float64."""
    block = np.empty((len(rejections.codes), len(columns)), np.float32)
    mask: Bools | None = None
    for index, (column, value) in enumerate(zip(columns, values, strict=True)):
        y, observed = _standardised(column, value.values, value.valid)
        _reject_outside(column, y, observed, value.values, rejections)
        block[:, index] = _to_float32(y)
        if observed is not None:
            if mask is None:
                mask = np.ones(block.shape, np.bool_)
            mask[:, index] = observed
    return block, mask


def _vector(column: Column, value: Values, rejections: _Rejections) -> tuple[Numbers, Bools | None]:
    """One vector as a (n, width) block."""
    if value.lengths is not None:
        _reject_lengths(column, value.lengths, rejections)
    if not column.raw:
        return _standardised_vector(column, value, rejections)
    if value.values.dtype.kind == "f":
        return _raw_floats(column, value, rejections)
    x, valid = value.values, value.valid
    filled = x if valid is None else np.where(valid, x, np.zeros((), x.dtype))
    if column.unit_interval and column.scale == 1.0 and filled.size and filled.max() > 1:
        _reject(column, filled > 1, np.zeros(x.shape, np.bool_), rejections)
    return filled, valid


def _raw_floats(
    column: Column, value: Values, rejections: _Rejections
) -> tuple[Numbers, Bools | None]:
    """float16 and float32 as they are; one look at the range tells that nothing is to be done."""
    x, valid = value.values, value.valid
    largest = float(np.finfo(np.float32).max)
    low, high = (column.scale * bound for bound in _bounds(column))
    if valid is None and _within(x, low + column.shift.max(), high + column.shift.min()):
        return x, None
    observed = ~np.isnan(x) if valid is None else valid & ~np.isnan(x)
    with np.errstate(over="ignore", invalid="ignore"):
        distance = x.astype(np.float32) - column.shift.astype(np.float32)
    within = (distance >= max(low, -largest)) & (distance <= min(high, largest))
    outside = observed & ~within
    if outside.any():
        _reject(column, outside, np.isinf(x) & observed, rejections)
    filled = np.where(observed, x, column.shift.astype(x.dtype))
    return filled, None if observed.all() else observed


def _standardised_vector(
    column: Column, value: Values, rejections: _Rejections
) -> tuple[npt.NDArray[np.float32], Bools | None]:
    """Element types that float32 cannot hold, standardised here, in slices that fit a cache."""
    x = value.values
    block = np.empty(x.shape, np.float32)
    mask: Bools | None = None
    for rows in row_slices(*x.shape):
        valid = None if value.valid is None else value.valid[rows]
        y, observed = _standardised(column, x[rows], valid)
        part = _Rejections(rejections.codes[rows], rejections.messages)
        _reject_outside(column, y, observed, x[rows], part)
        block[rows] = _to_float32(y)
        if observed is not None:
            if mask is None:
                mask = np.ones(x.shape, np.bool_)
            mask[rows] = observed
    return block, mask


def _standardised(column: Column, x: Numbers, valid: Bools | None) -> tuple[Floats, Bools | None]:
    """Y = (x - shift) / scale in float64, 0 where missing, and what is observed."""
    shift = column.shift if x.ndim > 1 else column.shift[0]
    with np.errstate(over="ignore", invalid="ignore"):
        y = x.astype(np.float64)
        y -= shift
        y /= column.scale
    observed = valid
    if x.dtype.kind == "f" and np.isnan(x).any():
        observed = ~np.isnan(x) if valid is None else valid & ~np.isnan(x)
    if observed is not None:
        y[~observed] = 0.0
        observed = None if observed.all() else observed
    return y, observed


def _bounds(column: Column) -> tuple[float, float]:
    """The standardised values that can be used."""
    if column.unit_interval:
        return 0.0, 1.0
    return -LARGEST_STANDARDISED, LARGEST_STANDARDISED


def _within(x: Numbers, low: float, high: float) -> bool:
    """Whether all values lie in [low, high]; False with any NaN."""
    width = x.size // max(1, len(x))
    return all(x[rows].max() <= high and x[rows].min() >= low for rows in row_slices(len(x), width))


def _to_float32(y: Floats) -> npt.NDArray[np.float32]:
    with np.errstate(over="ignore"):
        return y.astype(np.float32)


def _reject_outside(
    column: Column, y: Floats, observed: Bools | None, x: Numbers, rejections: _Rejections
) -> None:
    low, high = _bounds(column)
    if _within(y, low, high):
        return
    outside = np.asarray(~((y >= low) & (y <= high)))
    if observed is not None:
        outside &= observed
    infinite = np.isinf(x) & outside if x.dtype.kind == "f" else np.zeros(x.shape, np.bool_)
    if outside.any():
        _reject(column, outside, infinite, rejections)


def _reject(column: Column, outside: Bools, infinite: Bools, rejections: _Rejections) -> None:
    """Reject the rows with a value outside, saying of which of them one is infinite."""
    endless, label = _any_element(infinite), column.feature.label
    if endless.any():
        rejections.add(endless, f"{label}: infinite value")
    rule = f"beyond {LARGEST_STANDARDISED:g} standard deviations"
    rejections.add(
        _any_element(outside),
        f"{label}: value {'outside [0, 1]' if column.unit_interval else rule}",
    )


def _reject_lengths(
    column: Column, lengths: npt.NDArray[np.int64], rejections: _Rejections
) -> None:
    width = column.feature.width
    for length in np.unique(lengths[lengths != width]).tolist():
        rejections.add(
            lengths == length, f"{column.feature.label}: length {length}, must be {width}"
        )


def _any_element(flags: Bools) -> Bools:
    """(n,) or (n, width) flags as one per row."""
    return flags if flags.ndim == 1 else np.asarray(flags.any(axis=1))


def _nothing_observed(masks: Sequence[Bools | None]) -> Bools | None:
    """(n,) rows without any observed value; None when some block has all of its values."""
    nothing: Bools | None = None
    for mask in masks:
        if mask is None:
            return None
        empty = np.asarray(~_any_element(mask))
        nothing = empty if nothing is None else np.asarray(nothing & empty)
    return nothing


def _zeroed(block: Numbers, rows: Bools) -> Numbers:
    """A copy of ``block`` with 0 in ``rows``."""
    copy = block.copy()
    copy[rows] = 0
    return copy
