"""The value space of one column, cut into cells, each belonging to one of K classes.

A cell is an interval, a range of whole numbers, one exact value (an atom) or one category. A
softmax over classes is then a likelihood of the column's own values, with p_k that of class k:

    log p(x) = log p_class(c) + log_within[c],   c the cell of x,
    log_within[c] = log m_c - log v_c,

m_c the cell's mass within its class (it sums to one over the cells of a class), v_c its width in
raw units (intervals), the whole numbers in it (ranges) or 1 (atoms and categories). So the
densities integrate, and the masses sum, to one over the whole axis. Cells that training left
empty (beyond the ends, between atoms, the unseen category) share m = 1 / (rows + 1) of their class:
what comes there is improbable, and never impossible.

A number y = cell + fraction in [0, 1) stands for a value, float32; atoms and categories have
fraction 1/2.
"""

from __future__ import annotations

from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.codec_numbers import Grid, Keys

__all__ = ["Cells", "locate", "place"]

Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_LONGEST_TABLE = 1 << 16


@dataclass(frozen=True, eq=False)
class Cells:
    """The cells of one column, numbers in ascending order; see the module's text.

    Attributes:
        rows: values that training saw of the column.
        cell_class: (C,) class of each cell; of numbers ascending.
        counts: (C,) training values (of those looked at) in each cell, 0 where none was.
        outside: whether the first, and the last, cell lies outside the range seen.
        grid: what whole numbers the keys ``lo``, ``hi`` are; None for intervals and categories.
        lo: (C,) smallest key of each cell of whole numbers, else None.
        hi: (C,) largest key, the next cell begins after it.
        ends: (C, 2) ends of each cell of floats, equal for an atom; else None.
        values: (C - 1,) the categories (C where none is kept for unseen ones), else None.
    """

    rows: int
    cell_class: npt.NDArray[np.int64]
    counts: npt.NDArray[np.int64]
    outside: tuple[bool, bool] = (False, False)
    grid: Grid | None = None
    lo: Keys | None = None
    hi: Keys | None = None
    ends: Floats | None = None
    values: pa.Array | None = None

    @property
    def count(self) -> int:
        """C, the number of cells."""
        return len(self.cell_class)

    @property
    def classes(self) -> int:
        """K, the number of classes."""
        return int(self.cell_class.max()) + 1

    @property
    def whole(self) -> bool:
        """Whether the values are whole numbers (of a decimal's last digit)."""
        return self.grid is not None

    @property
    def has_unseen(self) -> bool:
        """Whether the last cell is that of unseen categories."""
        return self.values is not None and len(self.values) < self.count

    @cached_property
    def share(self) -> Floats:
        """(C,) each cell's share of its class in what is generated, 0 where training saw none."""
        total = np.bincount(self.cell_class, weights=self.counts, minlength=self.classes)
        return np.asarray(self.counts / total[self.cell_class])

    @cached_property
    def mass(self) -> Floats:
        """(K,) each class's share of the values that training saw."""
        found = np.bincount(self.cell_class, weights=self.counts, minlength=self.classes)
        return np.asarray(found / max(found.sum(), 1.0))

    @cached_property
    def log_within(self) -> Floats:
        """(C,) log of the density, or mass, within the class; see the module's text."""
        empty = self.counts == 0
        empties = np.bincount(self.cell_class, weights=empty, minlength=self.classes)
        lost = 1.0 / (self.rows + 1)
        kept = np.where(empties > 0, 1.0 - lost, 1.0)
        of_empty = lost / np.maximum(empties, 1.0)
        mass = np.where(empty, of_empty[self.cell_class], kept[self.cell_class] * self.share)
        return np.asarray(np.log(mass) - self.log_volume)

    @cached_property
    def log_volume(self) -> Floats:
        """(C,) log of the width in raw units, or of the count of whole numbers; 0 for points."""
        if self.lo is not None and self.hi is not None:
            return np.log(self.spans + 1.0)
        if self.ends is None:
            return np.zeros(self.count)
        half = np.where(self.factors < 1.0, np.log(2.0), 0.0)
        return np.where(self.points, 0.0, np.log(self.widths) + half)

    @property
    def low(self) -> Floats | None:
        """(C,) lower end in raw units; half a step below the smallest of a range."""
        if self.grid is None or self.lo is None:
            return None if self.ends is None else self.ends[:, 0]
        return self.grid.raw(self.lo) - self._half_steps

    @property
    def high(self) -> Floats | None:
        """(C,) upper end in raw units; half a step above the largest of a range."""
        if self.grid is None or self.hi is None:
            return None if self.ends is None else self.ends[:, 1]
        return self.grid.raw(self.hi) + self._half_steps

    @property
    def limits(self) -> tuple[float, float]:
        """The smallest and largest number seen, in raw units."""
        first, last = self.seen.start, self.seen.stop - 1
        if self.grid is None or self.lo is None or self.hi is None:
            assert self.ends is not None
            return float(self.ends[first, 0]), float(self.ends[last, 1])
        low, high = self.grid.raw(np.array([self.lo[first], self.hi[last]])).tolist()
        return low, high

    @property
    def _half_steps(self) -> Floats:
        assert self.grid is not None
        return np.where(self.points, 0.0, 0.5 * self.grid.spacing)

    @cached_property
    def points(self) -> Bools:
        """(C,) cells of one exact value: atoms and categories."""
        if self.lo is not None:
            return np.asarray(self.lo == self.hi)
        if self.ends is None:
            return np.ones(self.count, np.bool_)
        return np.asarray(self.ends[:, 0] == self.ends[:, 1])

    @cached_property
    def spans(self) -> Floats:
        """(C,) hi - lo of whole numbers."""
        assert self.lo is not None
        assert self.hi is not None
        return (self.hi - self.lo).view(np.uint64).astype(np.float64)

    @cached_property
    def starts(self) -> Keys | Floats:
        """(C,) the first value of each cell: keys, or floats.

        A cell that training left empty begins just after what its neighbour holds.
        """
        if self.lo is not None:
            return self.lo
        assert self.ends is not None
        low = self.ends[:, 0]
        return np.where(self.counts == 0, np.nextafter(low, np.inf), low)

    @cached_property
    def table(self) -> npt.NDArray[np.float32] | None:
        """Y of every key from the first cell to the last, for short ranges of whole numbers."""
        if self.lo is None or self.hi is None:
            return None
        first, last = int(self.lo[0]), int(self.hi[-1])
        if last - first >= _LONGEST_TABLE:
            return None
        keys = np.arange(first, last + 1, dtype=np.int64)
        return _place_whole(self, keys, np.searchsorted(self.lo, keys, side="right") - 1)

    @cached_property
    def factors(self) -> Floats:
        """(C,) 1/2 for intervals wider than the largest float64, else 1."""
        assert self.ends is not None
        with np.errstate(over="ignore"):
            return np.where(np.isinf(self.ends[:, 1] - self.ends[:, 0]), 0.5, 1.0)

    @cached_property
    def widths(self) -> Floats:
        """(C,) widths of intervals times `factors`; 1 for atoms."""
        assert self.ends is not None
        width = self.ends[:, 1] * self.factors - self.ends[:, 0] * self.factors
        return np.where(self.points, 1.0, width)

    @cached_property
    def tops(self) -> npt.NDArray[np.float32]:
        """(C,) the largest float32 below cell + 1."""
        after = np.arange(1, self.count + 1, dtype=np.float32)
        return np.nextafter(after, np.float32(0))

    def __getstate__(self) -> dict[str, Any]:
        return {f.name: getattr(self, f.name) for f in fields(self)}  # what is derived stays here

    @property
    def seen(self) -> slice:
        """The cells within the range seen."""
        return slice(int(self.outside[0]), self.count - int(self.outside[1]))


def place(cells: Cells, values: Keys | Floats) -> tuple[npt.NDArray[np.float32], Bools]:
    """Y = cell + fraction of finite values (n,), and which lie outside the range seen.

    Args:
        cells: of numbers.
        values: keys of ``cells.grid`` where it is one, else float64.
    """
    if cells.lo is not None and cells.hi is not None:
        least, most = cells.lo[cells.seen.start], cells.hi[cells.seen.stop - 1]
        outside = (values < least) | (values > most)
        keys: Keys = np.clip(values, cells.lo[0], cells.hi[-1]).astype(np.int64, copy=False)
        if cells.table is not None:
            return cells.table[keys - cells.lo[0]], outside
        cell = np.searchsorted(cells.lo, keys, side="right") - 1
        return _place_whole(cells, keys, cell), outside
    assert cells.ends is not None
    low, high = cells.ends[:, 0], cells.ends[:, 1]
    outside = (values < low[cells.seen.start]) | (values > high[cells.seen.stop - 1])
    cell = np.maximum(np.searchsorted(cells.starts, values, side="right") - 1, 0)
    inside = np.clip(values, low[cell], high[cell])
    factor = cells.factors[cell]
    fraction = np.asarray((inside * factor - low[cell] * factor) / cells.widths[cell], np.float64)
    fraction[cells.points[cell]] = 0.5
    return _joined(cells, cell, fraction), np.asarray(outside)


def _place_whole(cells: Cells, keys: Keys, cell: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
    assert cells.lo is not None
    offset = (keys - cells.lo[cell]).view(np.uint64).astype(np.float64)
    return _joined(cells, cell, (offset + 0.5) / (cells.spans[cell] + 1.0))


def _joined(cells: Cells, cell: npt.NDArray[np.int64], fraction: Floats) -> npt.NDArray[np.float32]:
    """Cell + fraction in float32, below the next cell."""
    return np.minimum((cell + fraction).astype(np.float32), cells.tops[cell])


def locate(cells: Cells, y: npt.NDArray[np.float32], seen_only: bool = True) -> Keys | Floats:
    """The values (n,) of y = cell + fraction: keys of whole numbers, else float64.

    Args:
        cells: of numbers.
        y: any finite numbers; beyond the cells they count as the first or the last.
        seen_only: whether values outside the range seen come back as its ends.
    """
    exact = y.astype(np.float64)
    cell = np.clip(np.floor(exact), 0, cells.count - 1).astype(np.int64)
    fraction = np.clip(exact - cell, 0.0, 1.0)
    kept = cells.seen
    if cells.lo is not None and cells.hi is not None:
        span = cells.spans[cell]
        steps = np.minimum(np.floor(fraction * (span + 1.0)), np.nextafter(2.0**64, 0.0))
        most = (cells.hi - cells.lo).view(np.uint64)[cell]
        keys = cells.lo[cell] + np.minimum(steps.astype(np.uint64), most).view(np.int64)
        if seen_only and any(cells.outside):
            keys = np.clip(keys, cells.lo[kept.start], cells.hi[kept.stop - 1])
        return np.asarray(keys)
    assert cells.ends is not None
    low, high = cells.ends[cell, 0], cells.ends[cell, 1]
    x = low * (1.0 - fraction) + high * fraction
    x = np.where(cells.points[cell], low, np.clip(x, low, high))
    if seen_only and any(cells.outside):
        x = np.clip(x, cells.ends[kept.start, 0], cells.ends[kept.stop - 1, 1])
    return np.asarray(x)
