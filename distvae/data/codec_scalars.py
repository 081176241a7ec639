"""One scalar column of a table as elements of rows: the four codings, and what is missing."""

from __future__ import annotations

import reprlib
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from distvae.data.arrow_types import is_date, is_number
from distvae.data.cells import place
from distvae.data.codec_categories import fits
from distvae.data.codec_columns import LARGEST_COUNT, Column
from distvae.data.codec_numbers import numbers_of
from distvae.data.codec_standard import reject_outside, standardised, to_float32
from distvae.data.policies import Verdicts
from distvae.data.roles import Feature
from distvae.errors import DataError

__all__ = ["Scalar", "encode_scalar", "wrong_type"]

Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Scalar:
    """One column of n rows.

    Attributes:
        y: (n,) float32, 0 where missing.
        nulls: (n,) rows that are null, None for none.
        nans: (n,) rows that are NaN, None for none.
    """

    y: npt.NDArray[np.float32]
    nulls: Bools | None = None
    nans: Bools | None = None

    @property
    def observed(self) -> Bools | None:
        """(n,) rows that are neither; None for all."""
        if self.nulls is None or self.nans is None:
            missing = self.nulls if self.nans is None else self.nans
            return None if missing is None else ~missing
        return ~(self.nulls | self.nans)


def encode_scalar(column: Column, held: pa.ChunkedArray, verdicts: Verdicts) -> Scalar:
    """The elements of one column; what training did not see goes by the policies."""
    fitted = _as_trained(held, column.feature)
    if fitted is None:
        wrong_type(column.feature, held.type, verdicts)
        rows = len(verdicts.codes)
        return Scalar(np.zeros(rows, np.float32), np.ones(rows, np.bool_))
    chunk = _whole(fitted)
    if column.cells is not None and column.cells.values is not None:
        return _category(column, chunk, verdicts)
    nulls = None
    if chunk.null_count:
        nulls = np.asarray(chunk.is_null().to_numpy(zero_copy_only=False))
    if pa.types.is_decimal(chunk.type) and (column.cells is None or not column.cells.whole):
        chunk = chunk.cast(pa.float64())
    return _number(column, numbers_of(chunk), nulls, verdicts)


def wrong_type(feature: Feature, kind: pa.DataType, verdicts: Verdicts) -> None:
    """Act on a column of a type that no safe cast makes the one of training.

    Raises:
        DataError: by policy.
    """
    every = np.ones(len(verdicts.codes), np.bool_)
    found = f"has type {kind}, in training it was {feature.type}"
    if not len(every):
        every = np.ones(1, np.bool_)  # no rows to reject, but a mistake all the same
        if verdicts.policies.wrong_type != "error":
            return
    if verdicts.policies.wrong_type == "error":
        verdicts.counts["wrong_type"] += len(every)
        raise DataError(
            feature.label, f"has type {kind}", f"in training it was {feature.type}", "cast it"
        )
    verdicts.meet("wrong_type", every, feature.label, found, "")


def _whole(held: pa.ChunkedArray) -> pa.Array:
    """The chunks as one; dictionaries decoded, for together they may outgrow their index type."""
    if held.num_chunks == 1:
        return held.chunk(0)
    if pa.types.is_dictionary(held.type):
        held = held.cast(held.type.value_type)
    return pa.concat_arrays(held.chunks) if held.num_chunks else pa.array([], held.type)


def _as_trained(held: pa.ChunkedArray, feature: Feature) -> pa.ChunkedArray | None:
    """The column in a type that its coding reads, None where no safe cast gives one."""
    kind, trained = held.type, feature.type
    if kind.equals(trained):
        return held
    if not feature.is_number and (fits(kind, trained) or not is_date(trained)):
        return held if fits(kind, trained) else None
    if pa.types.is_dictionary(kind):
        return _as_trained(held.cast(kind.value_type), feature)
    if is_date(trained) or pa.types.is_null(kind):
        return _safe_cast(held, trained)
    return _as_number(held, trained) if is_number(kind) else None


def _as_number(held: pa.ChunkedArray, trained: pa.DataType) -> pa.ChunkedArray | None:
    """Numbers of another type; integers and floats are read as they are."""
    kind = held.type
    if not pa.types.is_decimal(trained):
        return held.cast(pa.float64()) if pa.types.is_decimal(kind) else held
    if pa.types.is_integer(kind):  # Arrow wants room for all of an integer's digits first
        digits = max(0, trained.scale)
        held = held.cast(pa.decimal256(20 + digits, digits))
    return _cast(held, trained)


def _safe_cast(held: pa.ChunkedArray, trained: pa.DataType) -> pa.ChunkedArray | None:
    """Dates and times of another unit, where nothing is lost and both have a zone or none."""
    kind = held.type
    if pa.types.is_null(kind):
        return held.cast(trained)
    same = type(kind) is type(trained) or (pa.types.is_date(kind) and pa.types.is_date(trained))
    if not same or (getattr(kind, "tz", None) is None) != (getattr(trained, "tz", None) is None):
        return None
    return _cast(held, trained)


def _cast(held: pa.ChunkedArray, trained: pa.DataType) -> pa.ChunkedArray | None:
    try:
        return held.cast(trained)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        return None


def _category(column: Column, chunk: pa.Array, verdicts: Verdicts) -> Scalar:
    y, nulls, unseen = column.lookup.find(chunk)
    nans = None
    if nulls is not None and pa.types.is_floating(column.feature.type):
        null = np.asarray(pc.is_null(chunk).to_numpy(zero_copy_only=False))
        nulls, nans = nulls & null, nulls & ~null
    if unseen is not None and unseen.any():
        first = reprlib.repr(chunk[int(np.flatnonzero(unseen)[0])].as_py())
        verdicts.meet(
            "unseen",
            unseen,
            column.feature.label,
            "category never seen in training",
            f"a model knows the categories of its training rows, {first} is none of them",
        )
    return Scalar(y, nulls, nans)


def _number(column: Column, x: npt.NDArray[Any], nulls: Bools | None, verdicts: Verdicts) -> Scalar:
    """Numbers in whatever type they came, by the column's coding."""
    nans, missing = None, nulls
    if x.dtype.kind == "f":
        lost = np.isnan(x)
        if nulls is not None:
            lost &= ~nulls
        if lost.any():
            nans = lost
            missing = lost if nulls is None else nulls | lost
        x = _finite(column, x, missing, verdicts)
    if column.cells is not None:
        y = _in_cells(column, x, missing, verdicts)
    elif column.coding == "count":
        y = _counts(column, x, missing, verdicts)
    else:
        observed = None if missing is None else ~missing
        wide, observed = standardised(column, x, observed)
        reject_outside(column, wide, observed, verdicts)
        y = to_float32(wide)
    if missing is not None:
        y[missing] = 0.0
    return Scalar(y, nulls, nans)


def _finite(
    column: Column, x: npt.NDArray[Any], missing: Bools | None, verdicts: Verdicts
) -> npt.NDArray[Any]:
    """The numbers with the largest seen in place of infinite ones, by the policy."""
    endless = np.isinf(x)
    if missing is not None:
        endless &= ~missing
    if not endless.any():
        return x
    verdicts.meet("infinite", endless, column.feature.label, "infinite value", "must be finite")
    filled = x.astype(np.float64)
    filled[endless] = np.where(x[endless] > 0, column.maximum, column.minimum)
    return filled


def _in_cells(
    column: Column, x: npt.NDArray[Any], missing: Bools | None, verdicts: Verdicts
) -> npt.NDArray[np.float32]:
    assert column.cells is not None
    grid, between = column.cells.grid, None
    if grid is not None:
        values = grid.keys(x)
        between = grid.between(x, values, column.feature.element)
    else:
        values = x.astype(np.float64)
        if missing is not None:
            values = np.where(missing, 0.0, values)
    y, outside = place(column.cells, values)
    _outside(column, outside, missing, verdicts, "outside the range seen in training")
    if between is not None and grid is not None:
        rule = f"training saw steps of {grid.spacing:g} only"
        _outside(column, between & ~outside, missing, verdicts, "between those of training", rule)
    return y


def _counts(
    column: Column, x: npt.NDArray[Any], missing: Bools | None, verdicts: Verdicts
) -> npt.NDArray[np.float32]:
    wide = np.nan_to_num(x.astype(np.float64))
    whole = np.clip(np.rint(wide), 0, LARGEST_COUNT)
    _outside(column, whole != wide, missing, verdicts, "is no count")
    return to_float32(whole)


def _outside(
    column: Column,
    outside: Bools,
    missing: Bools | None,
    verdicts: Verdicts,
    found: str,
    rule: str = "",
) -> None:
    if missing is not None:
        outside = outside & ~missing
    if outside.any():
        rule = rule or f"training saw [{column.minimum:g}, {column.maximum:g}]"
        verdicts.meet("out_of_range", outside, column.feature.label, f"value {found}", rule)
