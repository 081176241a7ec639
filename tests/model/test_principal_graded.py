"""Columns of scales many orders apart: no variance is lost beside a larger one."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distvae.model.linear import Pca, fit_pca
from distvae.model.principal import noise_of
from tests.model.linear_cases import (
    Floats,
    graded_table,
    log_normal,
    mean_and_covariance,
    pca_model,
    raw,
    scalar_table,
)


def pca_of(x: Floats, k: int) -> Pca:
    """The PCA of rows without gaps."""
    return fit_pca(x.mean(0), np.cov(x.T, bias=True), k)


@pytest.mark.parametrize("k", [1, 2, 3, 5, 6])
def test_scales_nine_orders_apart_keep_the_likelihood(k: int) -> None:
    """Against a float64 decomposition of the rows: mean ln p at the maximum is in closed form."""
    x = graded_table()
    model, y, _ = pca_model(scalar_table(x), k)
    assert not noise_of(model.architecture, pca_of(x, k)).stands_in
    lam = np.square(np.linalg.svd(x - x.mean(0))[1]) / len(x)
    found = model.exact_log_likelihood(y, None).numpy()
    lam[k:] = lam[k:].mean() if k < 6 else 0
    expected = -0.5 * (6 * (math.log(2 * math.pi) + 1) + np.log(lam).sum())
    assert found.mean() == pytest.approx(expected, abs=1e-4)
    total = (model.signal + model.noise_variance).numpy() * model.unit**2
    np.testing.assert_allclose(total, lam[:k], rtol=1e-5)


@pytest.mark.parametrize("k", [2, 5])
def test_scales_nine_orders_apart_with_gaps(k: int) -> None:
    """The marginal of what a row has, from the model's own covariance in its correlations."""
    x = graded_table(200)
    gaps = np.random.default_rng(1).random(x.shape) < 0.3
    gaps[0, 1:] = True
    x[gaps] = np.nan
    model, y, observed = pca_model(scalar_table(x), k)
    mean, matrix = mean_and_covariance(model)
    found, values = model.exact_log_likelihood(y, observed).numpy(), raw(model, y)
    for row in range(0, 200, 7):
        o = ~gaps[row]
        expected = log_normal(values[row, o], mean[o], matrix[np.ix_(o, o)])
        assert found[row] == pytest.approx(expected, abs=0.005)


def test_collinear_columns_leave_no_variance_and_say_so() -> None:
    x = graded_table()[:, :3]
    x[:, 2] = x[:, 0] * 7
    model, y, _ = pca_model(scalar_table(x), 2)
    noise = noise_of(model.architecture, pca_of(x, 2))
    assert noise.stands_in
    assert noise.variance == pytest.approx((1e-3 * x[:, 0].std()) ** 2 / 12, rel=1e-5)
    assert torch.isfinite(model.exact_log_likelihood(y, None)).all()
    assert noise_of(model.architecture, pca_of(x, 3)).stands_in
