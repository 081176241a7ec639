from __future__ import annotations

import math
from statistics import NormalDist

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.quasirandom import SobolEngine

from distvae.errors import UsageError
from distvae.model import noise, sources
from distvae.model.sources import (
    MOST_SOBOL_ROWS,
    SOURCES,
    check_source,
    inverse_normal_cdf,
    sobol_integers,
    source_points,
)

every = pytest.mark.parametrize("source", SOURCES)
_erf = np.vectorize(math.erf)


def _kolmogorov_smirnov(z: np.ndarray) -> float:
    """sqrt(n) times the largest distance of the empirical distribution from N(0, 1)."""
    ordered = np.sort(z.astype(np.float64))
    cdf = 0.5 * (1 + _erf(ordered / math.sqrt(2)))
    n = len(ordered)
    above = (np.arange(1, n + 1) / n - cdf).max()
    below = (cdf - np.arange(n) / n).max()
    return math.sqrt(n) * max(above, below)


@every
def test_each_dimension_is_standard_normal(source: str) -> None:
    eps, _ = source_points(source, 3, 500, 20_000, 3)
    # Kolmogorov: sqrt(n) D exceeds 1.95 with a probability of 0.001.
    assert all(_kolmogorov_smirnov(column) < 1.95 for column in eps.T)
    assert np.abs(np.corrcoef(eps.T) - np.eye(3)).max() < 5 / math.sqrt(20_000)
    # The variance of a squared standard normal is 2.
    assert np.abs(np.square(eps).mean(0) - 1).max() < 5 * math.sqrt(2 / 20_000)


@every
def test_the_component_number_is_uniform_and_independent(source: str) -> None:
    eps, u = source_points(source, 3, 0, 20_000, 2, choose=True)
    assert u is not None and u.dtype == np.float64 and u.shape == (20_000,)
    assert u.min() >= 0 and u.max() < 1
    ordered = np.sort(u)
    assert math.sqrt(20_000) * np.abs(ordered - np.arange(20_000) / 20_000).max() < 1.95
    assert np.abs(np.corrcoef(np.column_stack([eps, u]).T)[2, :2]).max() < 5 / math.sqrt(20_000)


def test_normal_has_the_bits_of_the_noise() -> None:
    eps, u = source_points("normal", 7, 1000, 3000, 5)
    assert u is None
    assert np.array_equal(eps, noise.normal_rows(7, "generate-z", 1000, 3000, 5))
    assert np.array_equal(eps, source_points("normal", 7, 1000, 3000, 5, choose=True)[0])


@given(
    st.sampled_from(SOURCES),
    st.integers(0, 5000),
    st.integers(0, 3000),
    st.integers(0, 3000),
    st.booleans(),
)
@settings(max_examples=60, deadline=None)
def test_rows_are_the_same_however_they_are_cut(
    source: str, first: int, rows: int, cut: int, choose: bool
) -> None:
    cut = min(cut, rows)
    whole = source_points(source, 11, first, rows, 3, choose)
    parts = [
        source_points(source, 11, first, cut, 3, choose),
        source_points(source, 11, first + cut, rows - cut, 3, choose),
    ]
    assert np.array_equal(whole[0], np.concatenate([part[0] for part in parts]))
    if choose:
        assert np.array_equal(whole[1], np.concatenate([part[1] for part in parts]))


@every
def test_points_depend_on_seed_and_stream(source: str) -> None:
    drawn = [
        source_points(source, seed, 0, 64, 2, stream=stream)[0]
        for seed in (0, 1, 1 << 32, (1 << 64) - 1)
        for stream in ("generate-z", "other")
    ]
    assert len({points.tobytes() for points in drawn}) == len(drawn)
    again, _ = source_points(source, 0, 0, 64, 2)
    assert np.array_equal(drawn[0], again)


@every
def test_torch_s_own_generator_is_left_alone(source: str) -> None:
    sources._sequence.cache_clear()
    before = torch.random.get_rng_state()
    source_points(source, 5, 0, 10, 4, choose=True)
    assert torch.equal(before, torch.random.get_rng_state())


def test_the_inverse_cdf_against_the_standard_library() -> None:
    u = np.array([2.0**-53, 2.0**-31, 1e-3, 0.25, 0.5, 0.9, 1 - 2.0**-31, 1 - 2.0**-53])
    expected = [NormalDist().inv_cdf(value) for value in u]
    np.testing.assert_allclose(inverse_normal_cdf(u), expected, rtol=1e-13, atol=1e-15)


def test_uniform_stays_finite_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    # The ends themselves are drawn once in 2^52 numbers, so they are put in.
    for u in (0.0, 1 - 2.0**-53):
        monkeypatch.setattr(sources, "_doubles", lambda *_, u=u: np.full((2, 2), u))
        eps, _ = source_points("uniform", 0, 0, 2, 2)
        assert np.abs(eps) == pytest.approx(8.2095, abs=1e-3)


def test_sobol_stays_finite_at_both_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    for integer in (0, MOST_SOBOL_ROWS - 1):
        monkeypatch.setattr(
            sources, "sobol_integers", lambda *_, i=integer: np.full((2, 2), i, np.int32)
        )
        eps, _ = source_points("sobol", 0, 0, 2, 2)
        assert np.abs(eps) == pytest.approx(6.1208, abs=1e-3)


# -- Sobol against torch's engine -----------------------------------------------------------------


def _engine(seed: int, stream: str, dimension: int) -> SobolEngine:
    key = int(noise.generator(seed, f"{stream}/sobol", 0).integers(1 << 32))
    return SobolEngine(dimension, scramble=True, seed=key)


@pytest.mark.parametrize("dimension", [1, 3, 40])
def test_sobol_is_torch_s_sequence_from_the_start(dimension: int) -> None:
    found = sobol_integers(9, "s", 0, 5000, dimension)
    engine = _engine(9, "s", dimension)
    drawn = engine.draw(5000, dtype=torch.float64).numpy() * MOST_SOBOL_ROWS
    # The engine rounds its first point, and no other, to the default dtype.
    assert np.array_equal(found[1:], drawn[1:])
    assert np.array_equal(found[0], engine.shift.numpy())


@pytest.mark.parametrize(
    "first",
    [
        *(1, 1023, 1024, 1025, 30_000_000),
        # The engine walks there, which takes seconds.
        *(pytest.param(n, marks=pytest.mark.slow) for n in (1 << 29, MOST_SOBOL_ROWS - 3000)),
    ],
)
def test_sobol_is_torch_s_sequence_anywhere(first: int) -> None:
    engine = _engine(9, "s", 4)
    engine.fast_forward(first)
    drawn = engine.draw(3000, dtype=torch.float64).numpy() * MOST_SOBOL_ROWS
    assert np.array_equal(sobol_integers(9, "s", first, 3000, 4), drawn)


@given(st.integers(0, MOST_SOBOL_ROWS - 1), st.integers(0, 2**64 - 1))
@settings(max_examples=30, deadline=None)
def test_one_sobol_point_by_the_definition(row: int, seed: int) -> None:
    engine, gray = _engine(seed, "s", 3), row ^ (row >> 1)
    expected = engine.shift.numpy().copy()
    for bit in range(SobolEngine.MAXBIT):
        if gray >> bit & 1:
            expected ^= engine.sobolstate.numpy()[:, bit]
    assert np.array_equal(sobol_integers(seed, "s", row, 1, 3)[0], expected)


def test_sobol_fills_every_cell_once() -> None:
    # A (t, m, s)-net: of 2^m points each of 2^m equal intervals holds one, in each dimension.
    for first in (0, 4096):
        cells = sobol_integers(1, "s", first, 4096, 6) >> (SobolEngine.MAXBIT - 12)
        assert all(len(np.unique(column)) == 4096 for column in cells.T)


def test_sobol_integrates_better_than_independent_draws() -> None:
    # E[prod_j (1 + z_j / 4 + (z_j^2 - 1) / 8)] = 1 in 4 dimensions.
    def error(source: str, seed: int) -> float:
        z = source_points(source, seed, 0, 8192, 4)[0].astype(np.float64)
        return float((1 + z / 4 + (np.square(z) - 1) / 8).prod(1).mean() - 1)

    root = {s: math.sqrt(np.mean([error(s, seed) ** 2 for seed in range(20)])) for s in SOURCES}
    # Independent draws: sqrt((1 + 1/16 + 1/32)^4 - 1) / sqrt(8192) = 0.0072.
    assert root["normal"] == pytest.approx(0.0072, rel=0.5)
    assert root["uniform"] == pytest.approx(0.0072, rel=0.5)
    assert root["sobol"] < root["normal"] / 8


# -- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("source", "first", "rows", "k", "choose", "message"),
    [
        ("cauchy", 0, 1, 1, False, "source: got cauchy; it is one of normal, uniform, sobol"),
        ("sobol", MOST_SOBOL_ROWS - 1, 2, 1, False, "rows 0 to 1,073,741,823, asked for up to"),
        ("sobol", 0, 1, 21_202, False, "at most 21,201 latent dimensions, the model has 21,202"),
        ("sobol", 0, 1, 21_201, True, "at most 21,200 latent dimensions, the model has 21,201"),
    ],
)
def test_what_a_source_does_not_have_is_refused(
    source: str, first: int, rows: int, k: int, choose: bool, message: str
) -> None:
    for ask in (
        lambda: source_points(source, 0, first, rows, k, choose),
        lambda: check_source(source, first + rows, k, choose),
    ):
        with pytest.raises(UsageError, match=message):
            ask()


def test_other_sources_have_no_such_bounds() -> None:
    for source in ("normal", "uniform"):
        eps, _ = source_points(source, 0, MOST_SOBOL_ROWS + 5, 3, 2)
        assert np.isfinite(eps).all()
    eps, _ = source_points("sobol", 0, MOST_SOBOL_ROWS - 3, 3, 2)
    assert np.isfinite(eps).all()
