"""The rules of a codec that encoding, decoding and the model rely on."""

from __future__ import annotations

import math
from collections.abc import Iterable

import numpy as np

from distvae.data.arrow_types import is_number
from distvae.data.cells import Cells
from distvae.data.codec_categories import plain
from distvae.data.codec_columns import LARGEST_COUNT, STATES, Codec, Column

__all__ = ["check_cells", "check_layout"]


def check_layout(codec: Codec) -> None:
    """The rules of all columns together, and of each.

    Raises:
        ValueError: a rule that is broken.
    """
    if not codec.columns or not codec.features:
        raise ValueError("no columns")
    if len({column.feature.name for column in codec.columns}) < len(codec.columns):
        raise ValueError("two columns of one name")
    _check_order(codec)
    scalars = sum(column.feature.is_scalar for column in codec.columns)
    start = 0
    for index, column in enumerate(codec.columns):
        block = 0 if index < scalars else index - scalars + bool(scalars)
        _check(column, block, start)
        start = column.stop
    nullable = {f.name: f for f in codec.features}
    owners = [c.companion_of for c in codec.columns if c.companion_of is not None]
    if len(set(owners)) < len(owners) or not set(owners) <= set(nullable):
        raise ValueError("companions of no feature, or two of one")


def check_cells(cells: Cells) -> None:
    """The rules of one column's cells.

    Raises:
        ValueError: a rule that is broken.
    """
    size = cells.count
    kinds = [cells.lo is not None, cells.ends is not None, cells.values is not None]
    _require((("cells", size >= 1 and kinds.count(True) == 1),))
    totals = np.bincount(np.maximum(cells.cell_class, 0), weights=cells.counts[:size])
    _require(
        (
            ("rows", 1 <= cells.rows < 2**62),
            ("counts", cells.counts.shape == (size,) and bool((cells.counts >= 0).all())),
            ("classes", int(cells.cell_class.min()) == 0 and bool((totals > 0).all())),
            ("class order", bool((np.diff(cells.cell_class) >= 0).all())),
            ("class numbers", bool((np.diff(cells.cell_class) <= 1).all())),
            ("outside", size > sum(cells.outside)),
        )
    )
    if cells.values is not None:
        _check_categories(cells)
    elif cells.lo is not None:
        _check_whole(cells)
    else:
        _check_intervals(cells)


def _check_order(codec: Codec) -> None:
    """Scalars, companions, vectors; scalars and vectors each in any order of their own."""
    ranks = [
        1 if c.companion_of is not None else 0 if c.feature.is_scalar else 2 for c in codec.columns
    ]
    if ranks != sorted(ranks):
        raise ValueError("order of the columns")


def _check(column: Column, block: int, start: int) -> None:
    feature, cells = column.feature, column.cells
    celled = column.coding == "cells"
    unit = (column.scale, column.resolution, column.shift.tolist()) == (1.0, 1.0, [0.0])
    _require(
        (
            ("block", column.block == block),
            ("elements", (column.start, column.stop) == (start, start + feature.width)),
            ("width", feature.width >= 1 and column.shift.shape == (feature.width,)),
            ("width of a scalar", feature.width == 1 or not feature.is_scalar),
            ("list size", getattr(feature.type, "list_size", feature.width) == feature.width),
            ("shift", bool(np.isfinite(column.shift).all())),
            ("scale", 0 < column.scale < math.inf),
            ("resolution", 0 < column.resolution < math.inf),
            ("range", -math.inf < column.minimum <= column.maximum < math.inf),
            ("cells", celled == (cells is not None)),
            ("coding", celled or feature.is_measured),
            ("units of its coding", unit or column.coding in ("standard", "unit")),
            ("scalar coding", feature.is_scalar or column.coding in ("standard", "unit")),
            ("count", column.coding != "count" or _is_count(column)),
            ("states", _fits_states(column)),
            ("kind of cells", cells is None or _fits_role(column, cells)),
        ),
        f" of column {feature.name!r}",
    )


def _fits_states(column: Column) -> bool:
    if column.companion_of is None:
        return not column.states
    values = None if column.cells is None else column.cells.values
    known = values is not None and tuple(values.to_pylist()) == column.states
    return known and bool(column.states) and set(column.states) <= set(STATES)


def _fits_role(column: Column, cells: Cells) -> bool:
    """Numbers have cells of numbers, of the kind that their type allows; others categories."""
    if not column.feature.is_number:
        return cells.values is not None
    floats = is_number(column.feature.type) and column.feature.element.kind == "f"
    return cells.values is None and (cells.whole or floats)


def _is_count(column: Column) -> bool:
    return column.integer and column.minimum >= 0 and column.maximum <= LARGEST_COUNT


def _check_categories(cells: Cells) -> None:
    assert cells.values is not None
    held = plain(cells.values)
    _require(
        (
            ("categories", len(held) in (cells.count, cells.count - 1) and bool(held)),
            ("two equal categories", len(set(held)) == len(held)),
            ("unseen", not cells.has_unseen or int(cells.counts[-1]) == 0),
            ("outside", not any(cells.outside)),
        )
    )


def _check_whole(cells: Cells) -> None:
    lo, hi, grid = cells.lo, cells.hi, cells.grid
    assert lo is not None
    assert hi is not None
    assert grid is not None
    shapes = lo.shape == hi.shape == (cells.count,)
    _require((("ends", shapes and bool((lo <= hi).all())),))
    within = int(lo[0]) >= grid.limits[0] and int(hi[-1]) <= grid.limits[1]
    _require(
        (
            ("contiguous cells", bool((lo[1:] > hi[:-1]).all() and (lo[1:] - 1 == hi[:-1]).all())),
            ("range of the grid", within),
        )
    )


def _check_intervals(cells: Cells) -> None:
    ends = cells.ends
    assert ends is not None
    low, high = ends[:, 0], ends[:, 1]
    shapes = ends.shape == (cells.count, 2) and bool(np.isfinite(ends).all())
    _require((("ends", shapes and bool((low <= high).all())),))
    _require(
        (
            ("order of cells", bool((low[1:] >= high[:-1]).all())),
            ("starts of cells", bool((np.diff(cells.starts) > 0).all())),
            ("empty atoms", not bool((cells.points & (cells.counts == 0)).any())),
        )
    )


def _require(rules: Iterable[tuple[str, bool]], where: str = "") -> None:
    for name, kept in rules:
        if not kept:
            raise ValueError(f"{name}{where}")
