"""The cells of columns that a softmax models, as flat arrays over several columns.

A column's values are cut into cells, each of which belongs to one class; y = cell + fraction with
0 <= fraction < 1. The likelihood is p(class) times what ``log_within`` says of a value in its cell.
Shapes: w columns, K classes and C cells over all of them, S <= C cells that can be drawn.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from distvae.errors import DataError
from distvae.model.architecture import FeatureSpec

__all__ = ["CellSpace", "Cells", "cells_of", "log_masses"]

_LARGEST_REST = 1 - 2.0**-24
_LEAST_MASS = 1e-8

Float64 = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Cells:
    """The value space of one column.

    Attributes:
        name: the column's, for messages.
        classes: number of classes, >= 1.
        cell_class: ``(C,)`` int64 class of each cell.
        log_within: ``(C,)`` ln of the density, or the probability, of a value within its class.
        share: ``(C,)`` how often a cell is drawn, given its class.
        low, high: ``(C,)`` ends in raw units; None for categories, which have no order.
        mass: ``(K,)`` share of each class in the data, where it is known.
    """

    name: str
    classes: int
    cell_class: NDArray[np.int64]
    log_within: Float64
    share: Float64
    low: Float64 | None
    high: Float64 | None
    mass: Float64 | None

    @property
    def is_ordered(self) -> bool:
        """Whether the classes are ordered by value."""
        return self.low is not None

    @property
    def has_rest(self) -> bool:
        """Whether a class is more than one value, so that a draw needs to go on inside it."""
        several = np.bincount(self.cell_class[self.share > 0], minlength=self.classes) > 1
        if self.low is None or self.high is None:
            return bool(several.any())
        return bool(several.any() or (self.low < self.high)[self.share > 0].any())


def cells_of(spec: FeatureSpec) -> Cells:
    """Read a column's cells from its description.

    Shares become those of drawing: no cell of a class that could not be drawn at all is left out.

    Raises:
        DataError: they are missing, or don't fit together.
    """
    what, told = f"feature '{spec['name']}'", spec.get("cells")
    if not told:
        raise DataError(what, "has no cells", "its coding is cells")
    classes = int(told["classes"])
    cell_class = np.asarray(told["cell_class"], np.int64)
    log_within, share = (np.asarray(told[key], np.float64) for key in ("log_within", "share"))
    low, high, mass = (_optional(told.get(key)) for key in ("low", "high", "mass"))
    count = len(cell_class)
    arrays = [log_within, share, *(a for a in (low, high) if a is not None)]
    if count == 0 or any(array.shape != (count,) for array in arrays):
        raise DataError(what, "has cells of different lengths", "each has all entries")
    if len(np.unique(cell_class)) != classes or cell_class.min() != 0:
        raise DataError(what, "has a class without a cell", f"each of {classes} has one")
    if not np.isfinite(log_within).all() or (share < 0).any() or not np.isfinite(share).all():
        raise DataError(what, "has cells with shares that are none", "they are finite and >= 0")
    if mass is not None and mass.shape != (classes,):
        raise DataError(what, f"has {mass.size} masses", f"there are {classes} classes")
    totals = np.bincount(cell_class, share, classes)
    share = np.where(totals[cell_class] > 0, share, 1.0)
    share = share / np.bincount(cell_class, share, classes)[cell_class]
    return Cells(str(spec["name"]), classes, cell_class, log_within, share, low, high, mass)


class CellSpace(nn.Module):
    """Cells of w columns side by side: classes numbered through, cells numbered through.

    Args:
        columns: the cells of each.

    Attributes:
        class_count: K.
    """

    first_cell: Tensor
    last_cell: Tensor
    class_of_cell: Tensor
    log_within: Tensor
    first_class: Tensor
    edges: Tensor
    end: Tensor
    low: Tensor
    high: Tensor
    drawn: Tensor
    largest_y: Tensor
    is_wide: Tensor
    middle: Tensor

    def __init__(self, columns: Sequence[Cells]) -> None:
        super().__init__()
        cells = np.array([len(c.cell_class) for c in columns])
        classes = np.array([c.classes for c in columns])
        self.class_count = int(classes.sum())
        first_cell = np.cumsum(cells) - cells
        first_class = np.cumsum(classes) - classes
        class_of_cell = np.concatenate(
            [c.cell_class + first for c, first in zip(columns, first_class, strict=True)]
        )
        share = np.concatenate([c.share for c in columns])
        low, high = (_ends(columns, key) for key in ("low", "high"))
        # The cells that can be drawn, class by class; the edges of class g rise from g to g + 1.
        order = np.argsort(class_of_cell, kind="stable")
        order = order[share[order] > 0]
        owner = class_of_cell[order]
        before = np.cumsum(share[order]) - share[order]
        start = np.searchsorted(owner, np.arange(self.class_count))
        own_cell = order - first_cell[np.searchsorted(first_class, owner, side="right") - 1]
        edges = owner + np.clip(before - before[start][owner], 0, 1)
        buffers = {
            "first_cell": first_cell,
            "last_cell": first_cell + cells - 1,
            "class_of_cell": class_of_cell,
            "first_class": first_class,
            "edges": edges,
            # The first edge of a class ends the class before it, exactly.
            "end": np.append(edges[1:], self.class_count),
            "drawn": own_cell,
            "is_wide": (low < high)[order],
            # In the middle of each class's likeliest cell.
            "middle": own_cell[np.lexsort((-share[order], owner))[start]] + 0.5,
            "low": low,
            "high": high,
            # As float32 holds it: the next number is in the next cell.
            "largest_y": np.nextafter(np.float32(own_cell + 1), np.float32(0)).astype(np.float64),
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        log_within = np.concatenate([c.log_within for c in columns])
        dtype = torch.get_default_dtype()
        self.register_buffer("log_within", torch.from_numpy(log_within).to(dtype), persistent=False)

    def cell(self, y: Tensor) -> Tensor:
        """Return the cell of ``y (..., w)``, int64, numbered through; any finite y is inside."""
        last = self.last_cell - self.first_cell
        own = torch.minimum(y.floor().clamp(min=0).long(), last)
        return own + self.first_cell

    def place(self, chosen: Tensor, rest: Tensor) -> Tensor:
        """Return y for classes, numbered through, and what is left of a number in [0, 1) in them.

        Args:
            chosen: int64, any shape.
            rest: float64 of that shape: which of the class's cells, and where in it.

        Returns:
            y, float64 numbers that float32 can hold in the same cell.
        """
        at = torch.searchsorted(self.edges, chosen + rest.clamp(0, _LARGEST_REST), right=True) - 1
        low = self.edges[at]
        fraction = ((chosen + rest - low) / (self.end[at] - low)).clamp(0, 1)
        fraction = torch.where(self.is_wide[at], fraction, 0.5)
        return torch.minimum(self.drawn[at] + fraction, self.largest_y[at])

    def raw(self, y: Tensor) -> Tensor:
        """Return x in raw units ``(..., w)`` float64; 0 for categories."""
        cell = self.cell(y)
        fraction = y.double() - (cell - self.first_cell)
        return self.low[cell] + fraction.clamp(0, 1) * (self.high[cell] - self.low[cell])

    def center(self, chosen: Tensor) -> Tensor:
        """Return y in the middle of the likeliest cell of classes, numbered through; float64."""
        return self.middle[chosen]


def log_masses(columns: Sequence[Cells]) -> Tensor:
    """Return ln of the classes' shares in the data, uniform where they are not known, ``(K,)``."""
    parts = [
        np.log(np.full(c.classes, 1 / c.classes))
        if c.mass is None
        else np.log(np.maximum(c.mass / max(c.mass.sum(), _LEAST_MASS), _LEAST_MASS))
        for c in columns
    ]
    return torch.from_numpy(np.concatenate(parts)).to(torch.get_default_dtype())


def _ends(columns: Sequence[Cells], key: str) -> Float64:
    """``low`` or ``high`` of all cells, 0 for categories."""
    ends = [getattr(c, key) for c in columns]
    filled = [
        np.zeros(len(c.share)) if end is None else end for c, end in zip(columns, ends, strict=True)
    ]
    return np.concatenate(filled)


def _optional(values: Sequence[float] | None) -> Float64 | None:
    return None if values is None else np.asarray(values, np.float64)
