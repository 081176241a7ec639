"""Sums over the rows of one table, from which its summary is made.

Values are counted from a base near their mean, fixed when an element is first observed, so that
sums of squares keep their digits: error grows with (base - mean)^2 / variance only, and the base
is the mean of the element's first slice of rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distvae.data.arrow_values import Bools, Floats, element_slices
from distvae.data.roles import Feature
from distvae.errors import DataError

__all__ = ["LARGEST_MAGNITUDE", "MOST_DIGITS", "Tally", "add_rows", "empty_tally"]

LARGEST_MAGNITUDE = 1e100
"""Larger values are refused in training: their squares must sum up in float64."""

MOST_DIGITS = 4
"""Decimal digits of floats that are told apart; values with more count as having one more."""

_ROWS_PROBED = 16  # most columns with fractions show one in their first rows


@dataclass
class Tally:
    """Running sums over D elements; d = m (x - base), m = 1 where observed.

    Attributes:
        rows: rows added.
        base: (D,) see above; 0 until the element is observed.
        count: (D,) sum of m.
        total: (D,) sum of d.
        squares: (D,) sum of d^2.
        minimum: (D,) of the observed values, +inf at first.
        maximum: (D,) of the observed values, -inf at first.
        digits: (D,) least d for which all observed values are multiples of 10^-d, 0 of types
            without fractions; ``MOST_DIGITS`` + 1 where there is none, and for other vectors.
        products: (D, D) sum of d_i d_j, or None when not wanted.
        cross: (D, D) sum of m_i d_j, once something is missing.
        pairs: (D, D) sum of m_i m_j, once something is missing.
    """

    rows: int
    base: Floats
    count: npt.NDArray[np.int64]
    total: Floats
    squares: Floats
    minimum: Floats
    maximum: Floats
    digits: npt.NDArray[np.int8]
    products: Floats | None
    cross: Floats | None = None
    pairs: Floats | None = None


def empty_tally(width: int, second_moments: bool) -> Tally:
    """The sums over no rows of ``width`` elements."""
    return Tally(
        rows=0,
        base=np.zeros(width),
        count=np.zeros(width, np.int64),
        total=np.zeros(width),
        squares=np.zeros(width),
        minimum=np.full(width, np.inf),
        maximum=np.full(width, -np.inf),
        digits=np.zeros(width, np.int8),
        products=np.zeros((width, width)) if second_moments else None,
    )


def add_rows(tally: Tally, x: Floats, features: Sequence[Feature]) -> None:
    """Add (n >= 1, D) rows, NaN where missing; ``x`` is used up.

    Raises:
        DataError: an infinite or huge value, naming its column.
    """
    low, high = x.min(axis=0), x.max(axis=0)
    mask: Bools | None = None
    count = np.full(len(low), len(x))
    if np.isnan(low).any():
        mask = ~np.isnan(x)
        count = mask.sum(axis=0)
        low, high = np.fmin.reduce(x, axis=0), np.fmax.reduce(x, axis=0)
        low[count == 0], high[count == 0] = np.inf, -np.inf
        np.copyto(x, 0.0, where=~mask)
    _refuse_huge(low, high, features)
    np.minimum(tally.minimum, low, out=tally.minimum)
    np.maximum(tally.maximum, high, out=tally.maximum)
    _note_digits(tally, x, features)
    _set_base(tally, x, mask, count)
    x -= tally.base
    if mask is not None:
        x *= mask
    _add_sums(tally, x, mask)
    tally.count += count
    tally.rows += len(x)


def _add_sums(tally: Tally, d: Floats, mask: Bools | None) -> None:
    total = d.sum(axis=0)
    if tally.products is None:
        tally.squares += np.einsum("ri,ri->i", d, d)
    else:
        products = d.T @ d
        tally.products += products
        tally.squares += products.diagonal()
        _add_pairs(tally, d, mask, total)
    tally.total += total


def _add_pairs(tally: Tally, d: Floats, mask: Bools | None, total: Floats) -> None:
    """Cross and pairs; as long as all is observed they follow from total and rows."""
    if mask is not None:
        if tally.cross is None or tally.pairs is None:
            tally.cross = np.tile(tally.total, (len(total), 1))
            tally.pairs = np.full(tally.cross.shape, float(tally.rows))
        seen = mask.astype(np.float64)
        tally.cross += seen.T @ d
        tally.pairs += seen.T @ seen
    elif tally.cross is not None and tally.pairs is not None:
        tally.cross += total
        tally.pairs += len(d)


def _set_base(tally: Tally, x: Floats, mask: Bools | None, count: npt.NDArray[np.int64]) -> None:
    """Where an element is observed for the first time, its mean over these rows becomes its base.

    Differences from the first value are summed: exact for constants, and no digits are lost.
    """
    fresh = np.flatnonzero((tally.count == 0) & (count > 0))
    if not fresh.size:
        return
    part = x[:, fresh]
    if mask is None:
        first = part[0]
        part = part - first
    else:
        seen = mask[:, fresh]
        first = part[seen.argmax(axis=0), np.arange(fresh.size)]
        part = (part - first) * seen
    tally.base[fresh] = first + part.sum(axis=0) / count[fresh]


def _note_digits(tally: Tally, x: Floats, features: Sequence[Feature]) -> None:
    """Raise ``digits`` to what the values need; missing values are 0 here."""
    floats = [np.full(feature.width, feature.element.kind == "f") for feature in features]
    scalars = [np.full(feature.width, feature.is_scalar) for feature in features]
    single = [np.full(feature.width, feature.element == np.float32) for feature in features]
    held, alone, narrow = (np.concatenate(flags) for flags in (floats, scalars, single))
    for rows in (x[:_ROWS_PROBED], x):
        for digits in range(MOST_DIGITS + 1):
            open_ = np.flatnonzero((tally.digits == digits) & held)
            if not open_.size:
                continue
            part = rows if open_.size == x.shape[1] else rows[:, open_]
            more = open_[~_have_digits(part, digits, narrow[open_])]
            tally.digits[more] = np.where(alone[more], digits + 1, MOST_DIGITS + 1)


def _have_digits(x: Floats, digits: int, narrow: Bools) -> Bools:
    """Whether all values of each element (n, w) are multiples of 10^-digits, in its own type."""
    if digits == 0:
        return np.asarray((x == np.rint(x)).all(axis=0))
    nearest = np.rint(x * 10.0**digits) / 10.0**digits
    nearest[:, narrow] = nearest[:, narrow].astype(np.float32)
    return np.asarray((x == nearest).all(axis=0))


def _refuse_huge(low: Floats, high: Floats, features: Sequence[Feature]) -> None:
    """``low`` > ``high`` where nothing is observed."""
    largest = np.where(low <= high, np.maximum(-low, high), 0.0)
    if largest.max() <= LARGEST_MAGNITUDE:
        return
    for feature, place in zip(features, element_slices(features), strict=True):
        worst = largest[place].max()
        if worst > LARGEST_MAGNITUDE:
            found = "has an infinite value" if np.isinf(worst) else f"has a value of {worst:.3g}"
            raise DataError(
                feature.label,
                found,
                f"training values must be finite, at most {LARGEST_MAGNITUDE:g} in magnitude",
                f"make it null or leave the column out with --exclude {feature.name}",
            )
