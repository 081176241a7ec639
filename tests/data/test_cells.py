"""Cells: cutting, exactness, and that densities integrate to one."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from distvae.data.cells import Cells, locate, place
from distvae.data.codec_cut import cut_numbers
from distvae.data.codec_numbers import Grid

GAP = 2.0**-13
SIZE = 20_000
rng = np.random.default_rng(5)

FLOATS = {
    "normal": rng.normal(size=SIZE),
    "heavy": rng.standard_cauchy(SIZE),
    "lognormal": np.exp(3 * rng.normal(size=SIZE)),
    "spikes": np.where(rng.random(SIZE) < 0.7, 0.0, rng.gamma(2.0, 100.0, SIZE)),
    "two modes": np.where(rng.random(SIZE) < 0.5, -1e6, 1e6) + rng.normal(size=SIZE),
    "repeats": np.round(rng.normal(size=SIZE), 2),
    "few": rng.choice([0.1, 0.2, 1e300, -1e-320], SIZE),
    "denormal": rng.integers(1, 5000, SIZE) * 5e-324,
    "extreme": np.ldexp(rng.uniform(-1, 1, SIZE), rng.integers(-1000, 1024, SIZE)),
    "limits": np.concatenate([rng.normal(size=500), [np.finfo(float).max, np.finfo(float).min]]),
    "one": np.array([3.25]),
}
WHOLE = {
    "dice": rng.integers(1, 7, SIZE),
    "wide": rng.integers(-(10**9), 10**9, SIZE),
    "counts": np.where(
        rng.random(SIZE) < 0.9, 0, np.exp(3 * rng.normal(size=SIZE) + 5).astype(int)
    ),
    "limits": np.concatenate([rng.integers(-(2**63), 2**63 - 1, 500), [-(2**63), 2**63 - 1]]),
    "steps": rng.integers(0, 5000, SIZE) * 1000,
    "one": np.array([7]),
}


def cut(values: np.ndarray, limits: Any = None, rows: int | None = None) -> Cells:
    whole = values.dtype.kind == "i"
    ends = np.array([values.min(), values.max()] if limits is None else limits, values.dtype)
    return cut_numbers(values, ends, rows or len(values), Grid() if whole else None)


def volumes(cells: Cells) -> np.ndarray:
    """Independent of ``log_volume``: widths (1 for points), or how many whole numbers."""
    if cells.lo is not None and cells.hi is not None:
        return np.array(
            [int(h) - int(w) + 1 for w, h in zip(cells.lo, cells.hi, strict=True)], float
        )
    low, high = cells.ends.astype(np.longdouble).T
    return np.where(low == high, 1, high - low)


@pytest.mark.parametrize("values", [*FLOATS.values(), *WHOLE.values()], ids=[*FLOATS, *WHOLE])
def test_densities_integrate_to_one_for_any_probabilities(values: np.ndarray) -> None:
    cells = cut(values)
    p = np.random.default_rng(1).dirichlet(np.ones(cells.classes))
    mass = p[cells.cell_class] * np.exp(cells.log_within.astype(np.longdouble)) * volumes(cells)
    assert float(mass.sum()) == pytest.approx(1.0, abs=1e-11)
    share = np.bincount(cells.cell_class, weights=cells.share)
    assert share == pytest.approx(np.ones(cells.classes), abs=1e-12)
    assert np.isfinite(cells.log_within).all()
    assert (np.diff(cells.cell_class) >= 0).all()


@pytest.mark.parametrize("values", FLOATS.values(), ids=FLOATS)
def test_cells_cover_the_axis_in_order(values: np.ndarray) -> None:
    cells = cut(values)
    low, high = cells.ends.T
    assert (low[1:] >= high[:-1]).all()
    within = np.nextafter(high[:-1], np.inf) >= low[1:]
    assert within.all()


@pytest.mark.parametrize("values", WHOLE.values(), ids=WHOLE)
def test_ranges_follow_one_another(values: np.ndarray) -> None:
    cells = cut(values)
    assert (cells.lo[1:] - 1 == cells.hi[:-1]).all()
    low, high = cells.low, cells.high
    assert (low <= high).all()
    assert ((low == high) == (cells.lo == cells.hi)).all()


@pytest.mark.parametrize("values", FLOATS.values(), ids=FLOATS)
def test_floats_come_back_within_their_cells(values: np.ndarray) -> None:
    cells = cut(values)
    y, outside = place(cells, values)
    assert not outside.any()
    assert y.dtype == np.float32
    back = locate(cells, y)
    cell = np.floor(y).astype(int)
    low, high = cells.ends[cell].T
    assert ((values >= low) & (values <= high)).all()
    width = (high.astype(np.longdouble) - low) * GAP
    rounding = 4e-16 * np.abs(values) + 5e-324
    assert (np.abs(back.astype(np.longdouble) - values) <= width + rounding).all()
    assert (back[low == high] == values[low == high]).all()
    assert back.min() >= values.min() and back.max() <= values.max()


@pytest.mark.parametrize("values", WHOLE.values(), ids=WHOLE)
def test_whole_numbers_come_back(values: np.ndarray) -> None:
    cells = cut(values)
    y, outside = place(cells, values)
    assert not outside.any()
    back = locate(cells, y)
    span = cells.spans[np.floor(y).astype(int)]
    assert (back[span < 4096] == values[span < 4096]).all()
    apart = np.abs(back.astype(float) - values.astype(float))
    assert (apart <= 1 + span * GAP).all()
    assert back.min() >= values.min() and back.max() <= values.max()


def test_few_values_are_atoms_and_classes() -> None:
    cells = cut(np.repeat([1.5, 2.5, 9.0], [7, 2, 1]))
    atoms = cells.counts > 0
    assert cells.classes == 3
    assert cells.ends[atoms].tolist() == [[1.5, 1.5], [2.5, 2.5], [9.0, 9.0]]
    assert cells.counts[atoms].tolist() == [7, 2, 1]
    # Below, two gaps and above: 1 / (rows + 1) of their class each, its own value less by that.
    assert cells.count == 3 + 4
    assert np.exp(cells.log_within[atoms][1]) == pytest.approx(1 - 1 / 11)
    gap = ~atoms & (cells.ends[:, 0] == 2.5)
    assert np.exp(cells.log_within[gap]) == pytest.approx(1 / 11 / 6.5)
    assert cells.ends[0].tolist() == [1.5 - 7.5, 1.5]
    assert cells.ends[-1].tolist() == [9.0, 9.0 + 7.5]


def test_frequent_values_are_classes_and_the_rest_has_equal_mass() -> None:
    values = FLOATS["spikes"]
    cells = cut(values)
    zero = int(np.flatnonzero((cells.ends == 0.0).all(axis=1))[0])
    mass = np.bincount(cells.cell_class, weights=cells.counts)
    assert mass[cells.cell_class[zero]] == (values == 0).sum()
    others = np.delete(mass, cells.cell_class[zero])
    assert len(others) == 64
    expected = (values != 0).sum() / 64
    assert (np.abs(others - expected) <= 0.2 * expected).all()


def test_tails_are_followed() -> None:
    """The largest cell holds few values: what is drawn from it cannot shift the mean far."""
    values = FLOATS["lognormal"]
    cells = cut(values)
    seen = cells.counts[cells.seen]
    assert seen[-1] <= 5 and seen[0] <= 5
    middle = (cells.ends[:, 0] + cells.ends[:, 1]) / 2
    mean = float((cells.counts * middle).sum() / cells.counts.sum())
    assert mean == pytest.approx(values.mean(), rel=0.15)


def test_values_that_the_sample_missed_have_the_mass_of_one() -> None:
    values = rng.integers(0, 50, 100)
    cells = cut(values, limits=[-1000, 5000], rows=10**7)
    seen = cells.counts[cells.seen]
    assert (seen[0], seen[-1]) == (1, 1)
    assert cells.lo[cells.seen][0] == -1000 and cells.hi[cells.seen][-1] == 5000
    assert np.exp(cells.log_within[0] + cells.log_volume[0]) <= 1e-7


def test_outside_is_finite_improbable_and_comes_back_as_the_end() -> None:
    for values in (WHOLE["wide"], FLOATS["normal"]):
        cells = cut(values)
        span = values.max() - values.min()
        far = np.array([values.min() - 1, values.max() + 1, values.max() + 10**3 * span])
        y, outside = place(cells, far.astype(values.dtype))
        assert outside.all()
        assert np.floor(y).tolist() == [0, cells.count - 1, cells.count - 1]
        log_within = cells.log_within[np.floor(y).astype(int)]
        inside = cells.log_within[cells.seen]
        assert np.isfinite(log_within).all() and (log_within < inside.min() + 5).all()
        ends = [values.min(), values.max(), values.max()]
        assert locate(cells, y).tolist() == ends
        beyond = locate(cells, y, seen_only=False)
        assert beyond[1] > values.max() and beyond[0] < values.min()


def test_the_limits_of_a_type_have_nothing_outside() -> None:
    assert cut(WHOLE["limits"]).outside == (False, False)
    assert cut(FLOATS["limits"]).outside == (False, False)
    assert cut(np.array([2**63 - 1])).outside == (True, False)


def test_too_many_cells_are_made_fewer() -> None:
    """A float32 keeps 12 bits of a fraction below 2,048 cells."""
    values = np.repeat(np.cumsum(rng.random(1500)), np.tile([1, 40], 750))
    assert cut(values).count < 2048


def test_any_y_gives_a_value() -> None:
    for values in (FLOATS["spikes"], WHOLE["counts"]):
        cells = cut(values)
        back = locate(cells, np.array([-5.0, 0.0, 0.999, cells.count + 3, 1e30], np.float32))
        assert back.min() >= values.min() and back.max() <= values.max()
