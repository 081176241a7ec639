"""Cutting a column of numbers into cells and classes, from a sample of its values.

Up to 128 different values: each is an atom and a class. Else values that hold a hundredth of the
rows or more are atoms with classes of their own, and the rest is cut into up to 64 classes of
equal mass, each of up to 7 cells of equal mass (values that fill a cell alone are atoms), so that
the shape inside a class is followed; towards both ends cells halve their mass, down to two or
three values, so that a heavy tail is too. What lies between the smallest (largest) value of the
sample and that of all rows is one cell with the mass of one value.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.cells import Cells
from distvae.data.codec_numbers import Grid, numbers_of
from distvae.data.profile import ColumnProfile
from distvae.data.roles import Feature
from distvae.data.tally import MOST_DIGITS
from distvae.errors import DataError

__all__ = ["MOST_ATOMS", "cut_numbers", "fit_number_cells", "no_values"]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]

MOST_ATOMS = 128
"""Columns with at most this many different values consist of atoms."""

_CLASSES = 64
_CELLS_PER_CLASS = 7
_ATOM_SHARE = 0.01
_VALUES_PER_CELL = 8
_VALUES_PER_TAIL = 2
_VALUES_PER_CLASS = 16
# Above it a fraction has fewer than 12 bits left beside the cell's number in a float32.
_MOST_CELLS = 2048
_LARGEST_WHOLE_FLOAT = 2.0**53
_FLOAT_MAX = float(np.finfo(np.float64).max)


@dataclass(frozen=True)
class _Runs:
    """Neighbouring values put together: runs of the sorted different values.

    Attributes:
        first: smallest value of each run.
        last: largest.
        count: values of the sample in it.
        alone: whether it is an atom that no neighbour may stretch to.
        group: number of its class.
    """

    first: npt.NDArray[Any]
    last: npt.NDArray[Any]
    count: Ints
    alone: Bools
    group: Ints


def fit_number_cells(feature: Feature, column: ColumnProfile, digits: int) -> Cells:
    """The cells of a column of numbers, dates or times.

    Args:
        feature: the column.
        column: what the profile knows of it.
        digits: decimal digits that floats have, 0 where all are whole numbers; with more than
            `distvae.data.tally.MOST_DIGITS` they have intervals.

    Raises:
        DataError: no value at all, or a sample that is missing.
    """
    if column.sample is None or column.minimum is None or column.maximum is None:
        raise no_values(feature)
    sample = column.sample.drop_null()
    ends = pa.concat_arrays([pa.repeat(end, 1) for end in (column.minimum, column.maximum)])
    values, limits = numbers_of(sample), numbers_of(ends)
    if pa.types.is_decimal(feature.type) and np.abs(limits.astype(np.float64)).max() >= 2.0**63:
        # More digits than a key has: as floats, exact to 16 digits.
        values, limits = (numbers_of(part.cast(pa.float64())) for part in (sample, ends))
        digits = MOST_DIGITS + 1
    if values.dtype.kind == "f":
        values, limits = values.astype(np.float64), limits.astype(np.float64)
        values = values[np.isfinite(values)]
    rows = max(1, column.rows - column.nulls - column.nans)
    finest = Grid.of(feature.type)
    if values.dtype.kind == "f":
        if not _has_grid(feature, limits, digits):
            return cut_numbers(values + 0.0, limits + 0.0, rows, None)
        finest = replace(finest, digits=digits)
    divisor = column.divisor if values.dtype.kind != "f" else None
    grid = _grid(finest, np.concatenate([values, limits]), divisor)
    return cut_numbers(grid.keys(values), grid.keys(limits), rows, grid)


def _has_grid(feature: Feature, limits: npt.NDArray[np.float64], digits: int) -> bool:
    """Whether floats of ``digits`` decimal digits are exact multiples, and not by chance.

    Floats near 2^p / 10^digits, p the bits of their type, are all multiples of 10^-digits.
    """
    if digits > MOST_DIGITS:
        return False
    bits = np.finfo(feature.element).nmant
    most = 2.0 ** (bits - 1) if digits else _LARGEST_WHOLE_FLOAT
    return bool(np.abs(limits).max() * 10.0**digits <= most)


def no_values(feature: Feature) -> DataError:
    """The refusal of a column without any value."""
    return DataError(
        feature.label,
        "has no value in training",
        "at least one is needed",
        f"leave it out with --exclude {feature.name}",
    )


def cut_numbers(
    values: npt.NDArray[Any], limits: npt.NDArray[Any], rows: int, grid: Grid | None
) -> Cells:
    """The cells of values (m,), whose range is ``limits`` (2,), of ``rows`` rows.

    Args:
        values: keys of ``grid``, or float64 where it is None; none of them outside the limits.
        limits: smallest and largest of all rows.
        rows: values of all rows.
        grid: of whole numbers.
    """
    distinct, counts = np.unique(values if len(values) else limits, return_counts=True)
    per_class = _CELLS_PER_CLASS
    while True:
        runs = _runs(distinct, counts, per_class)
        cells = _cells(runs, limits, rows, grid)
        if cells.count < _MOST_CELLS or per_class == 1:
            return cells
        per_class //= 2


def _grid(finest: Grid, values: npt.NDArray[Any], divisor: int | None) -> Grid:
    """The coarsest grid that holds all ``values``, if they are many enough to tell one.

    Whole numbers have the ``divisor`` of all rows, floats of few digits that of the sample.
    """
    keys = np.unique(replace(finest, step=1).keys(values))
    step = finest.step
    if len(keys) > MOST_ATOMS:
        apart = divisor or int(np.gcd.reduce((keys - keys[0]).view(np.uint64)))
        step = apart if apart % step == 0 else step
    return replace(finest, step=step, rest=int(keys[0]) % step)


def _runs(distinct: npt.NDArray[Any], counts: Ints, per_class: int) -> _Runs:
    """Runs of the different values, ascending, with their classes."""
    size = len(distinct)
    if size <= MOST_ATOMS:
        alone = np.ones(size, np.bool_)
        return _Runs(distinct, distinct, counts, alone, np.arange(size))
    major = counts >= _ATOM_SHARE * counts.sum()
    rest = np.where(major, 0, counts)
    mass = int(rest.sum())
    classes = int(np.clip(mass // _VALUES_PER_CLASS, 1, _CLASSES))
    pieces = int(np.clip(mass // _VALUES_PER_CELL, 1, classes * per_class))
    alone = major | (counts * pieces >= mass)
    rank = (np.cumsum(rest) - 0.5 * rest) / max(mass, 1)
    opens = _changes(_piece(rank, pieces, mass)) | alone
    opens[1:] |= alone[:-1]
    starts = np.flatnonzero(opens)
    stops = np.append(starts[1:], size)
    count = np.add.reduceat(counts, starts)
    own = major[starts]
    held = np.add.reduceat(rest, starts)
    middle = (np.cumsum(held) - 0.5 * held) / max(mass, 1)
    begins = _changes(np.floor(middle * classes).astype(np.int64)) | own
    begins[1:] |= own[:-1]
    return _Runs(distinct[starts], distinct[stops - 1], count, alone[starts], np.cumsum(begins) - 1)


def _piece(rank: npt.NDArray[np.float64], pieces: int, mass: int) -> Ints:
    """Number of the cell of each rank in (0, 1): equal masses, halving within both last ones."""
    piece = np.floor(rank * pieces)
    levels = max(0, int(np.log2(max(1.0, mass / pieces / _VALUES_PER_TAIL))))
    edge = np.minimum(rank, 1.0 - rank) * pieces
    depth = np.clip(np.floor(-np.log2(np.maximum(edge, 1e-300))), 0, levels)
    sign = np.where(rank < 0.5, -1, 1)
    return np.asarray(piece + sign * depth, np.int64)


def _changes(numbers: Ints) -> Bools:
    changed = np.ones(len(numbers), np.bool_)
    changed[1:] = numbers[1:] != numbers[:-1]
    return changed


def _cells(runs: _Runs, limits: npt.NDArray[Any], rows: int, grid: Grid | None) -> Cells:
    """Runs as cells: stretched to the next one's first value, with cells for what is between."""
    first, last, whole = runs.first, runs.last.copy(), grid is not None
    joins = ~runs.alone[:-1] & ~runs.alone[1:]
    last[:-1][joins] = first[1:][joins] - 1 if whole else first[1:][joins]
    parts = [(first, last, runs.count, runs.group)]
    after = last[:-1] + 1 if whole else np.nextafter(last[:-1], np.inf)
    gaps = np.flatnonzero(after < first[1:])
    if len(gaps):
        low = after[gaps] if whole else last[gaps]
        high = first[1:][gaps] - 1 if whole else first[1:][gaps]
        parts.append((low, high, np.zeros(len(gaps), np.int64), runs.group[gaps]))
    parts += _tails(runs, limits, whole)
    below, above = _beyond(limits, grid)
    parts = ([(*below, runs.group[:1])] if below else []) + parts
    parts += [(*above, runs.group[-1:])] if above else []
    low, high, counts, group = (np.concatenate(held) for held in zip(*parts, strict=True))
    # A gap begins where its neighbour ends, so the end decides too.
    order = np.lexsort((high, low))
    return Cells(
        rows=rows,
        cell_class=group[order].astype(np.int64),
        counts=counts[order].astype(np.int64),
        outside=(below is not None, above is not None),
        grid=grid,
        lo=low[order] if whole else None,
        hi=high[order] if whole else None,
        ends=None if whole else np.stack([low[order], high[order]], axis=1),
    )


def _tails(runs: _Runs, limits: npt.NDArray[Any], whole: bool) -> list[tuple[Any, ...]]:
    """What lies between the sample's range and that of all rows, with the mass of one value."""
    tails = []
    one = np.ones(1, np.int64)
    first, last = runs.first[:1], runs.last[-1:]
    if limits[0] < first[0]:
        tails.append((limits[:1], first - 1 if whole else first, one, runs.group[:1]))
    if limits[1] > last[0]:
        begin = last + 1 if whole else np.nextafter(last, np.inf)
        tails.append((begin, limits[1:], one, runs.group[-1:]))
    return tails


def _beyond(
    limits: npt.NDArray[Any], grid: Grid | None
) -> tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]:
    """The cell below and that above the range seen, as wide as it is; None at the type's end."""
    none = np.zeros(1, np.int64)
    if grid is not None:
        low, high = int(limits[0]), int(limits[1])
        least, most = grid.limits
        width = max(high - low, 1)
        down, up = max(low - width, least), min(high + width, most)
        below = (np.array([down]), np.array([low - 1]), none) if down < low else None
        above = (np.array([high + 1]), np.array([up]), none) if up > high else None
        return below, above
    return _beyond_floats(float(limits[0]), float(limits[1]))


def _beyond_floats(
    least: float, most: float
) -> tuple[tuple[Any, ...] | None, tuple[Any, ...] | None]:
    none = np.zeros(1, np.int64)
    width = max(min(most / 2 - least / 2, _FLOAT_MAX / 4) * 2, 1e-6 * max(-least, most), 1e-300)
    under, over = max(least - width, -_FLOAT_MAX), min(most + width, _FLOAT_MAX)
    below = (np.array([under]), np.array([least]), none) if under < least else None
    above = (np.array([most]), np.array([over]), none) if over > most else None
    return below, above
