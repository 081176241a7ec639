from __future__ import annotations

import numpy as np
import pytest
from scipy import stats

from distvae.model.noise import normal_of
from distvae.stratified import pair_of_draws

ROWS = np.arange(20_000)


@pytest.mark.parametrize("k", [1, 2, 3, 16, 200])
def test_each_draw_alone_is_standard_normal(k: int) -> None:
    both = pair_of_draws(3, "t", ROWS, k)
    assert both.shape == (len(ROWS), 2 * k)
    assert both.dtype == np.float32
    for draw in (both[:, :k], both[:, k:]):
        assert stats.kstest(draw[:, 0], "norm").pvalue > 1e-3
        assert stats.kstest(np.square(draw).sum(1), stats.chi2(k).cdf).pvalue > 1e-3
        if k in (2, 3):
            assert np.abs(np.cov(draw.T) - np.eye(k)).max() < 0.05


@pytest.mark.parametrize("k", [2, 3, 16])
def test_directions_are_orthogonal_and_lengths_mirrored(k: int) -> None:
    first, second = np.split(pair_of_draws(0, "t", ROWS, k).astype(float), 2, axis=1)
    assert np.abs((first * second).sum(1)).max() < 1e-4
    shares = [stats.chi2(k).cdf(np.square(draw).sum(1)) for draw in (first, second)]
    np.testing.assert_allclose(shares[0] + shares[1], 1, atol=1e-4)


def test_a_row_depends_on_its_number_alone() -> None:
    some = np.array([5000, 7, 1_000_000_007])
    whole = pair_of_draws(1, "t", np.arange(6000), 4)
    assert np.array_equal(pair_of_draws(1, "t", some, 4)[:2], whole[some[:2]])
    assert np.isfinite(pair_of_draws(1, "t", some, 4)).all()


@pytest.mark.parametrize(("k", "share"), [(2, 0.75), (10, 0.5)])
def test_a_quadratics_mean_is_less_noisy_than_with_independent_pairs(k: int, share: float) -> None:
    curvature = np.diag(np.linspace(0.5, 1.5, k))

    def spread(draws: np.ndarray) -> float:
        parts = np.split(draws.astype(float), 2, axis=1)
        return float(np.mean([((p @ curvature) * p).sum(1) for p in parts], axis=0).std())

    independent = normal_of(0, "u", ROWS, 2 * k)
    assert spread(pair_of_draws(0, "t", ROWS, k)) < share * spread(independent)
