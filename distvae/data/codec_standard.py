"""The standard and unit codings: y = (x - shift) / scale, for scalars and vectors."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distvae.data.arrow_values import Bools, Floats, Numbers, Values, row_slices
from distvae.data.codec_columns import Column
from distvae.data.policies import Verdicts

__all__ = [
    "LARGEST_STANDARDISED",
    "encode_vector",
    "reject_outside",
    "standardised",
    "to_float32",
]

LARGEST_STANDARDISED = 1e15
"""Rows with |y| beyond it are rejected: squares, and sums of squares, must fit into float32."""


def encode_vector(
    column: Column, value: Values, verdicts: Verdicts
) -> tuple[Numbers, Bools | None]:
    """One vector as a (n, width) block, and what of it is observed (None for all)."""
    if value.lengths is not None:
        _reject_lengths(column, value.lengths, verdicts)
    if value.values.dtype.kind == "f" and verdicts.policies.infinite == "clip":
        value = _clipped(column, value, verdicts)
    if not column.raw:
        return _standardised_vector(column, value, verdicts)
    if value.values.dtype.kind == "f":
        return _raw_floats(column, value, verdicts)
    x, valid = value.values, value.valid
    filled = x if valid is None else np.where(valid, x, np.zeros((), x.dtype))
    if column.unit_interval and column.scale == 1.0 and filled.size and filled.max() > 1:
        _reject(column, filled > 1, np.zeros(x.shape, np.bool_), verdicts)
    return filled, valid


def standardised(column: Column, x: Numbers, valid: Bools | None) -> tuple[Floats, Bools | None]:
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


def reject_outside(
    column: Column, y: Floats, observed: Bools | None, verdicts: Verdicts, x: Numbers | None = None
) -> None:
    """Reject rows whose y (n,) or (n, width) no likelihood can use, infinite x among them."""
    low, high = _bounds(column)
    if _within(y, low, high):
        return
    outside = np.asarray(~((y >= low) & (y <= high)))
    if observed is not None:
        outside &= observed
    infinite = np.zeros(y.shape, np.bool_)
    if x is not None and x.dtype.kind == "f":
        infinite = np.isinf(x) & outside
    if outside.any():
        _reject(column, outside, infinite, verdicts)


def to_float32(y: Floats) -> npt.NDArray[np.float32]:
    """The same numbers, infinite where float32 has none so large."""
    with np.errstate(over="ignore"):
        return y.astype(np.float32)


def _clipped(column: Column, value: Values, verdicts: Verdicts) -> Values:
    """Infinite elements as the largest seen, in a copy if there are any."""
    endless = np.isinf(value.values)
    if value.valid is not None:
        endless &= value.valid
    if not endless.any():
        return value
    verdicts.meet("infinite", endless, column.feature.label, "infinite value", "")
    filled = value.values.copy()
    filled[endless] = np.where(filled[endless] > 0, column.maximum, column.minimum)
    return Values(filled, value.valid, value.lengths)


def _raw_floats(column: Column, value: Values, verdicts: Verdicts) -> tuple[Numbers, Bools | None]:
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
        _reject(column, outside, np.isinf(x) & observed, verdicts)
    filled = np.where(observed, x, column.shift.astype(x.dtype))
    return filled, None if observed.all() else observed


def _standardised_vector(
    column: Column, value: Values, verdicts: Verdicts
) -> tuple[npt.NDArray[np.float32], Bools | None]:
    """Element types that float32 cannot hold, standardised here, in slices that fit a cache."""
    x = value.values
    block = np.empty(x.shape, np.float32)
    mask: Bools | None = None
    for rows in row_slices(*x.shape):
        valid = None if value.valid is None else value.valid[rows]
        y, observed = standardised(column, x[rows], valid)
        reject_outside(column, y, observed, verdicts.part(rows), x[rows])
        block[rows] = to_float32(y)
        if observed is not None:
            if mask is None:
                mask = np.ones(x.shape, np.bool_)
            mask[rows] = observed
    return block, mask


def _bounds(column: Column) -> tuple[float, float]:
    """The standardised values that can be used."""
    if column.unit_interval:
        return 0.0, 1.0
    return -LARGEST_STANDARDISED, LARGEST_STANDARDISED


def _within(x: Numbers, low: float, high: float) -> bool:
    """Whether all values lie in [low, high]; False with any NaN."""
    width = x.size // max(1, len(x))
    return all(x[rows].max() <= high and x[rows].min() >= low for rows in row_slices(len(x), width))


def _reject(column: Column, outside: Bools, infinite: Bools, verdicts: Verdicts) -> None:
    """Set aside the rows with a value outside, saying of which of them one is infinite."""
    endless, label = _any_element(infinite), column.feature.label
    if endless.any():
        verdicts.meet("infinite", infinite, label, "infinite value", "must be finite")
    beyond = np.asarray(outside & ~infinite)
    if beyond.any():
        unit = column.unit_interval
        found = f"beyond {LARGEST_STANDARDISED:g} standard deviations"
        found = f"value {'outside [0, 1]' if unit else found}"
        if verdicts.meet("out_of_range", beyond, label, found, "the likelihood cannot use it"):
            # No number stands for it that the likelihood could use, whatever the policy.
            verdicts.reject(_any_element(beyond), f"{label}: {found}")


def _reject_lengths(column: Column, lengths: npt.NDArray[np.int64], verdicts: Verdicts) -> None:
    width = column.feature.width
    for length in np.unique(lengths[lengths != width]).tolist():
        verdicts.reject(
            lengths == length, f"{column.feature.label}: length {length}, must be {width}"
        )


def _any_element(flags: Bools) -> Bools:
    """(n,) or (n, width) flags as one per row."""
    return flags if flags.ndim == 1 else np.asarray(flags.any(axis=1))
