"""Random tables of all roles: every value comes back as it should, and likelihoods are ones."""

from __future__ import annotations

import datetime as dt
import decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pytest
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from distvae.data.codec import Codec, Column, decode, encode, feature_specs
from distvae.data.codec_numbers import Grid
from distvae.data.flatten import flatten_table
from tests.data.codec_cases import celled, standardised
from tests.data.random_tables import tables

# Random tables shrink slowly; the seed and the columns tell enough.
PHASES = (Phase.explicit, Phase.reuse, Phase.generate)


@given(table=tables(), cut=st.integers(0, 50))
@settings(max_examples=150, deadline=None, phases=PHASES)
def test_rows_come_back(table: pa.Table, cut: int) -> None:
    """Atoms and categories exactly, intervals to 2^-13 of their width, holes as they were."""
    codec = celled(table)
    codec = Codec.from_json(codec.to_json())
    part = table.slice(min(cut, table.num_rows - 1))
    encoded = encode(codec, part)
    assert encoded.reasons in ([], ["no value observed"] * len(encoded.reasons))
    assert set(encoded.counts.values()) == {0}
    y = standardised(codec, encoded)
    back = decode(codec, y)
    assert back.schema.equals(codec.schema)
    assert back.schema.equals(table.schema)
    back.validate(full=True)
    before, after = flatten_table(part), flatten_table(back)
    for column in codec.columns:
        if column.companion_of is None and column.feature.is_scalar:
            name = column.feature.name
            own = y[:, column.start]
            _check(column, before.column(name), after.column(name), own)
    whole = decode(codec, y, missing=False)
    for column in flatten_table(whole).columns:
        assert column.null_count == 0 or _under_struct(codec)


def _under_struct(codec: Codec) -> bool:
    return any(feature.path for feature in codec.features)


def _check(column: Column, x: pa.ChunkedArray, back: pa.ChunkedArray, y: np.ndarray) -> None:
    assert back.type.equals(x.type)
    assert pc.is_null(x).equals(pc.is_null(back))
    cells = column.cells
    if cells.values is not None:
        assert back.to_pylist() == x.to_pylist() or pa.types.is_floating(x.type)
        return
    if pa.types.is_floating(x.type):
        assert pc.is_nan(x).equals(pc.is_nan(back))
        x, back = (pc.if_else(pc.is_nan(part), None, part) for part in (x, back))
    known = pc.is_valid(x)
    y = y[known.to_numpy()]
    x, back = (np.array(_raw(part.filter(known)), object) for part in (x, back))
    if not len(x):
        return
    cell = np.floor(y).astype(int)
    step = _spacing(cells.grid) if cells.grid else 0
    span = cells.spans[cell] if cells.whole else None
    exact = cells.points[cell] if span is None else span < 4096
    assert (x[exact] == back[exact]).all()
    assert back.min() >= column_limits(column)[0] and back.max() <= column_limits(column)[1]
    wide = span * step if span is not None else (cells.ends[cell, 1] / 2 - cells.ends[cell, 0] / 2)
    for u, v, width in zip(x[~exact], back[~exact], wide[~exact].tolist(), strict=True):
        eps = {16: 1e-3, 32: 1.2e-7}.get(getattr(column.feature.type, "bit_width", 64), 4e-16)
        assert (
            abs(u / 2 - v / 2)
            <= (width + step) * 2**-12 + eps * abs(u / 2) + 1e-7 * (eps > 1e-4) + step
        )


def column_limits(column: Column) -> tuple[Any, Any]:
    cells = column.cells
    if cells.whole:
        ends = np.array([cells.lo[cells.seen][0], cells.hi[cells.seen][-1]])
        values = cells.grid.values(ends)
        if cells.grid.digits:
            return tuple(values.astype(column.feature.element).tolist())
        return tuple(int(v) for v in values)
    return column.minimum, column.maximum


def _spacing(grid: Grid) -> float:
    """Of neighbours, in the units of `_raw`."""
    return grid.spacing if grid.digits else grid.step


def _raw(array: pa.ChunkedArray) -> list[Any]:
    """Independent of the codec: numbers as Python's, dates and decimals as whole numbers."""
    kind = array.type
    if pa.types.is_decimal(kind):
        return [int(v.scaleb(kind.scale, decimal.Context(prec=80))) for v in array.to_pylist()]
    if pa.types.is_temporal(kind):
        array = array.cast(pa.int32() if kind.bit_width == 32 else pa.int64())
    return [v if isinstance(v, int) else float(v) for v in array.to_pylist()]


@given(table=tables(), seed=st.integers(0, 2**32))
@settings(max_examples=75, deadline=None, phases=PHASES)
def test_likelihoods_integrate_to_one(table: pa.Table, seed: int) -> None:
    """Sum over cells of p_class exp(log_within) volume is one, from what the model is told."""
    rng = np.random.default_rng(seed)
    for column, spec in zip(*_specs(table), strict=True):
        told = spec["cells"]
        if told is None:
            continue
        p = rng.dirichlet(np.ones(told["classes"]))
        kinds = np.array(told["cell_class"])
        density = np.exp(np.array(told["log_within"], np.longdouble)) * p[kinds]
        assert float((density * _volumes(column, told)).sum()) == pytest.approx(1.0, abs=1e-9)


def _specs(table: pa.Table) -> tuple[tuple[Column, ...], list[dict[str, Any]]]:
    codec = celled(table)
    return codec.columns, feature_specs(codec)


def _volumes(column: Column, told: dict[str, Any]) -> np.ndarray:
    if told["low"] is None:
        return np.ones(len(told["cell_class"]))
    low, high = (np.array(told[end], np.longdouble) for end in ("low", "high"))
    width = high - low
    if told["whole"]:
        exact = column.cells.hi.astype(object) - column.cells.lo.astype(object) + 1
        return np.array(exact.tolist(), np.longdouble)
    return np.where(low == high, 1.0, width)


@pytest.mark.parametrize("kind", ["normal", "lognormal", "spikes"])
def test_numeric_integration_of_the_density(kind: str) -> None:
    """Trapezoids through encode() and log_within over a grid, plus the atoms, give one."""
    rng = np.random.default_rng(3)
    x = {
        "normal": rng.normal(size=3000),
        "lognormal": np.exp(rng.normal(size=3000)),
        "spikes": np.where(rng.random(3000) < 0.4, 1.0, rng.gamma(2.0, size=3000)),
    }[kind]
    codec = celled(pa.table({"x": x}))
    cells = codec.columns[0].cells
    p = rng.dirichlet(np.ones(cells.classes) * 5)
    grid = np.linspace(*_whole_axis(cells), 2_000_001)
    middle = (grid[1:] + grid[:-1]) / 2
    y = encode(codec, pa.table({"x": middle})).blocks[0][:, 0]
    cell = np.floor(y).astype(int)
    log_p = np.log(p[cells.cell_class[cell]]) + cells.log_within[cell]
    log_p[cells.points[cell]] = -np.inf  # a point that the grid happens to meet is no interval
    atoms = np.unique(x[np.isin(x, cells.ends[cells.points, 0])])
    y = encode(codec, pa.table({"x": atoms})).blocks[0][:, 0]
    cell = np.floor(y).astype(int)
    masses = p[cells.cell_class[cell]] * np.exp(cells.log_within[cell])
    total = (np.exp(log_p) * np.diff(grid)).sum() + masses.sum()
    assert total == pytest.approx(1.0, abs=2e-3)


def _whole_axis(cells: Any) -> tuple[float, float]:
    return float(cells.ends[0, 0]), float(cells.ends[-1, 1])


def test_whole_numbers_sum_to_one_through_encode() -> None:
    rng = np.random.default_rng(4)
    x = np.where(rng.random(3000) < 0.5, 0, rng.negative_binomial(2, 0.005, 3000))
    codec = celled(pa.table({"x": x}))
    cells = codec.columns[0].cells
    p = rng.dirichlet(np.ones(cells.classes))
    every = np.arange(int(cells.lo[0]), int(cells.hi[-1]) + 1)
    y = encode(codec, pa.table({"x": every})).blocks[0][:, 0]
    cell = np.floor(y).astype(int)
    mass = p[cells.cell_class[cell]] * np.exp(cells.log_within[cell])
    assert mass.sum() == pytest.approx(1.0, abs=1e-12)


def test_dates_beyond_pythons_own_come_back() -> None:
    ends = pa.array([-(2**63), 0, 2**63 - 1]).cast(pa.timestamp("ns", "UTC"))
    table = pa.table({"t": ends, "d": pa.array([dt.date(1, 1, 1), None, dt.date.max])})
    codec = celled(table)
    assert decode(codec, encode(codec, table).blocks[0]).equals(table)
