from __future__ import annotations

import math
from typing import Any

import mpmath
import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from sklearn.decomposition import PCA

from distvae.errors import DataError
from distvae.model.estimators import log_likelihood, row_noise
from distvae.model.files import ModelFiles, build, pack, unpack
from distvae.model.linear import Pca
from distvae.model.principal import PcaModel, Scores
from tests.model.linear_cases import (
    Floats,
    architecture_of,
    digits,
    log_normal,
    mean_and_covariance,
    odd_table,
    pca_model,
    raw,
    scalar_table,
    vector_table,
)

TABLES: dict[str, tuple[Any, Any]] = {
    "digits": (lambda: vector_table(digits()), lambda: digits().astype(np.float64)),
    "odd": (lambda: scalar_table(odd_table()), odd_table),
}


def same_divisor(sklearn: PCA) -> PCA:
    """scikit-learn's with the maximum-likelihood divisor n in place of n - 1."""
    share = (sklearn.n_samples_ - 1) / sklearn.n_samples_
    sklearn.explained_variance_ = sklearn.explained_variance_ * share
    sklearn.noise_variance_ *= share
    return sklearn


def posterior_covariance(u: Floats, signal: Floats, noise: float) -> Floats:
    """(diag(1 / signal) + u u^T / noise)^-1 in sixty digits, its scales being many orders apart."""
    with mpmath.workdps(60):
        seen = mpmath.matrix(u.tolist())
        precision = seen * seen.T / noise + mpmath.diag([1 / mpmath.mpf(s) for s in signal])
        return np.array((precision**-1).tolist(), np.float64)


@pytest.mark.parametrize(("name", "k"), [("digits", 1), ("digits", 10), ("digits", 40), ("odd", 3)])
def test_it_is_scikit_learns_pca(name: str, k: int) -> None:
    table, values = (make() for make in TABLES[name])
    model, y, observed = pca_model(table, k)
    assert observed is None
    theirs = same_divisor(PCA(k, svd_solver="full").fit(values))
    ours = (model.signal + model.noise_variance).numpy() * model.unit**2
    np.testing.assert_allclose(ours, theirs.explained_variance_, rtol=1e-5)
    noise = float(model.noise_variance) * model.unit**2
    np.testing.assert_allclose(noise, theirs.noise_variance_, rtol=1e-5)
    # Scores up to the signs of the components; the reconstruction; the density of each row.
    signs = np.sign((model.components.numpy() * theirs.components_).sum(1))
    mu = model.encode(y).mu.numpy()
    size = np.abs(theirs.transform(values)).max()
    np.testing.assert_allclose(mu * signs, theirs.transform(values), atol=3e-6 * size)
    back = theirs.inverse_transform(theirs.transform(values))
    found = raw(model, model.reconstruction_mean(model.decode(torch.from_numpy(mu))))
    scale = model.element_scale.numpy()
    assert np.abs((found - back) / scale).max() < 1e-4 * max(1.0, size / scale.max())
    exact = model.exact_log_likelihood(y, None).numpy()
    np.testing.assert_allclose(exact, theirs.score_samples(values), atol=0.005)


@pytest.mark.parametrize("k", [1, 12, 61, 64])
def test_likelihood_is_the_gaussians(k: int) -> None:
    """From 1 component to all 64, of which three have no variance: the floor stands in."""
    model, y, _ = pca_model(vector_table(digits()), k)
    mean, matrix = mean_and_covariance(model)
    expected = multivariate_normal(mean, matrix).logpdf(raw(model, y))
    np.testing.assert_allclose(model.exact_log_likelihood(y, None).numpy(), expected, atol=1e-3)
    if k >= 61:
        assert float(model.noise_variance) * model.unit**2 == pytest.approx(1 / 12, rel=1e-6)


def wide_table(rows: int = 2000) -> Floats:
    """784 elements like MNIST's: a tenth constant, variances over twelve orders."""
    rng = np.random.default_rng(0)
    variances = 1e4 * 10.0 ** -np.linspace(0, 12, 784)
    mixed = np.linalg.qr(rng.normal(size=(784, 784)))[0][:, :700]
    x = rng.normal(size=(rows, 700)) * np.sqrt(variances[:700]) @ mixed.T
    x[:, ::10] = 3.0
    return x.astype(np.float32).astype(np.float64)


@pytest.mark.parametrize("k", [50, 300, 784])
def test_wide_rows_keep_the_likelihood(k: int) -> None:
    x = wide_table()
    model, y, _ = pca_model(vector_table(x.astype(np.float32)), k)
    mean, matrix = mean_and_covariance(model)
    factor = np.linalg.cholesky(matrix)
    z = np.linalg.solve(factor, (x - mean).T)
    log_det = 2 * np.log(np.diag(factor)).sum()
    expected = -0.5 * ((z**2).sum(0) + log_det + 784 * math.log(2 * math.pi))
    found = model.exact_log_likelihood(y, None).numpy()
    assert np.abs(found - expected).max() < 0.005
    terms = model.terms(y, None, torch.zeros(1, len(y), k))
    np.testing.assert_allclose(terms.reconstruction - terms.kl.sum(1), found, rtol=1e-12, atol=1e-6)


@pytest.mark.parametrize("make", [digits, odd_table])
@pytest.mark.parametrize("k", [2, 5])
def test_missing_elements_are_marginalised(make: Any, k: int) -> None:
    x = make()[:200].astype(np.float64)
    gaps = np.random.default_rng(1).random(x.shape) < 0.3
    gaps[:20] = False
    gaps[20, 1:] = True
    x[gaps] = np.nan
    model, y, observed = pca_model(scalar_table(x), k)
    mean, matrix = mean_and_covariance(model)
    found = model.exact_log_likelihood(y, observed).numpy()
    values, scores = raw(model, y), model.encode(y, observed)
    u = (model.components + model.components_rest).numpy()
    signal, noise = (v.numpy() * model.unit**2 for v in (model.signal, model.noise_variance))
    for row in range(0, 200, 7):
        o = ~gaps[row]
        own = matrix[np.ix_(o, o)]
        expected = log_normal(values[row, o], mean[o], own)
        assert found[row] == pytest.approx(expected, abs=1e-5)
        # E[x_missing | x_observed] fills the gaps; then the scores are those of a whole row.
        filled = values[row].copy()
        gain = matrix[:, o] @ np.linalg.inv(own)
        filled[~o] = (mean + gain @ (values[row, o] - mean[o]))[~o]
        size = np.sqrt(signal.max() + noise)
        np.testing.assert_allclose(scores.mu[row].numpy(), u @ (filled - mean), atol=1e-5 * size)
        sigma = np.sqrt(np.diag(posterior_covariance(u[:, o], signal, float(noise))))
        np.testing.assert_allclose(scores.sigma[row].numpy(), sigma, rtol=1e-5)
    terms = model.terms(y, observed, torch.zeros(1, 200, k))
    np.testing.assert_allclose(terms.reconstruction - terms.kl.sum(1), found, atol=1e-6)
    assert (terms.kl >= -1e-12).all()


def test_a_row_with_gaps_does_not_depend_on_its_company() -> None:
    x = odd_table(300, missing=0.3)
    model, y, observed = pca_model(scalar_table(x), 2)
    assert observed is not None
    whole = model.exact_log_likelihood(y, observed)
    for rows in (slice(0, 1), slice(17, 90)):
        assert torch.equal(model.exact_log_likelihood(y[rows], observed[rows]), whole[rows])


def test_sigma_is_the_posteriors_and_an_element_that_is_missing_widens_it() -> None:
    model, y, _ = pca_model(vector_table(digits()), 8)
    total = model.signal + model.noise_variance
    expected = (model.noise_variance * (1 - model.noise_variance / total)).sqrt() * model.unit
    posterior = model.encode(y)
    np.testing.assert_allclose(posterior.sigma[5], expected, rtol=1e-6)
    observed = torch.ones_like(y, dtype=torch.bool)
    observed[5, 20:40] = False
    wider = model.encode(y, observed).sigma
    assert (wider[5] > posterior.sigma[5]).all()
    assert torch.equal(wider[6], posterior.sigma[6])


def test_samples_have_the_models_moments() -> None:
    model, _, _ = pca_model(scalar_table(odd_table()), 3)
    rng, n = np.random.default_rng(0), 200_000
    eps = rng.normal(size=(n, 3)).astype(np.float32)
    z = torch.from_numpy(model.prior.sample(eps))
    noise = torch.from_numpy(rng.normal(size=(n, 6)).astype(np.float32))
    x = raw(model, model.sample_data(model.decode(z), noise))
    mean, matrix = mean_and_covariance(model)
    spread = np.sqrt(np.diag(matrix))
    assert (np.abs(x.mean(0) - mean) < 5 * spread / n**0.5).all()
    # Each entry of a sample covariance has a standard error of at most sqrt(2 / n) of the spreads.
    found = np.cov(x.T) / np.outer(spread, spread)
    assert np.abs(found - matrix / np.outer(spread, spread)).max() < 5 * (2 / n) ** 0.5


def test_importance_weights_over_the_scores_prior_reach_the_likelihood() -> None:
    model, y, _ = pca_model(vector_table(digits()), 3)
    noise = row_noise(0, "t", 0, 50, 3)
    exact = model.exact_log_likelihood(y[:50], None)
    few, many = (log_likelihood(model, y[:50], None, noise, s) for s in (10, 5000))
    # The proposal is centred at the scores, not at the posterior's mean, so it is not perfect.
    assert (exact - many).abs().mean() < 0.01
    assert (exact - many).abs().mean() < (exact - few).abs().mean()
    posterior = model.encode(y[:50])
    assert isinstance(posterior, Scores)
    q = torch.distributions.Normal(posterior.mu, posterior.sigma)
    p = torch.distributions.Normal(0.0, posterior.log_prior_sigma.exp().expand(50, 3))
    torch.testing.assert_close(posterior.kl(), torch.distributions.kl_divergence(q, p))
    torch.testing.assert_close(posterior.detach().kl(), posterior.kl())


def test_the_files_carry_every_digit() -> None:
    table = scalar_table(odd_table(missing=0.1))
    model, y, observed = pca_model(table, 4)
    files = ModelFiles(model.architecture, model.state_dict(), "codec")
    loaded = build(unpack(pack(files), "m"))
    assert isinstance(loaded, PcaModel)
    for ours, theirs in (
        (model.exact_log_likelihood(y, observed), loaded.exact_log_likelihood(y, observed)),
        (model.encode(y, observed).mu, loaded.encode(y, observed).mu),
        (model.prior.scale_trils, loaded.prior.scale_trils),
    ):
        assert np.array_equal(ours, theirs)
    assert model.parameter_count == 6 + 4 * 6 + 4 + 1
    assert list(model.parameters()) == []


def test_constant_columns_are_reconstructed_and_sampled_as_they_are() -> None:
    x = np.full((50, 3), 7.0)
    x[:, 1] = -2.5
    model, y, _ = pca_model(scalar_table(x), 2)
    assert np.array_equal(raw(model, model.decode(model.encode(y).mu)), x)
    assert torch.isfinite(model.exact_log_likelihood(y, None)).all()
    assert model.active_units() == 0


def test_active_components_are_those_above_the_noise() -> None:
    model, _, _ = pca_model(vector_table(digits()), 64)
    assert model.active_units() == int((model.signal > 0.01 * model.noise_variance / 0.99).sum())
    assert 50 < model.active_units() <= 61


def test_huge_rows_stay_finite() -> None:
    model, y, _ = pca_model(vector_table(digits()), 5)
    for size in (1e15, -1e15):
        rows = torch.full_like(y[:2], size)
        posterior = model.encode(rows)
        parts = (posterior.mu, posterior.sigma, model.exact_log_likelihood(rows, None))
        assert all(torch.isfinite(part).all() for part in parts)
        assert torch.isfinite(model.terms(rows, None, torch.zeros(1, 2, 5)).reconstruction).all()


def test_the_unit_of_measurement_changes_nothing_but_the_unit() -> None:
    x = odd_table()
    model, y, _ = pca_model(scalar_table(x), 3)
    for power in (-40, 40):
        other, z, _ = pca_model(scalar_table(np.where(x == 7, 7, x * 2.0**power)), 3)
        np.testing.assert_allclose(other.encode(z).mu, model.encode(y).mu * 2.0**power, rtol=1e-5)
        expected = model.exact_log_likelihood(y, None) - 6 * power * math.log(2)
        np.testing.assert_allclose(other.exact_log_likelihood(z, None), expected, atol=1e-4)


def test_binarising_and_elementwise() -> None:
    model, y, _ = pca_model(scalar_table(odd_table()), 2)
    assert model.binarize(y, y) is y
    params = model.decode(model.encode(y).mu)
    residual = raw(model, y) - raw(model, params)
    noise = float(model.noise_variance) * model.unit**2
    expected = -0.5 * (residual**2 / noise + math.log(2 * math.pi * noise))
    found = model.elementwise(y, None, params).numpy()
    np.testing.assert_allclose(found, expected, rtol=1e-3, atol=1e-2)
    observed = torch.zeros_like(y, dtype=torch.bool)
    assert (model.log_likelihood(y, observed, params) == 0).all()


def test_scores_that_float32_cannot_hold_are_refused() -> None:
    architecture, _ = architecture_of(scalar_table(odd_table()), 1, kind="pca")
    pca = Pca(np.zeros(6), np.eye(6)[:1], np.array([1e60]), 1e60)
    message = (
        "first principal component: has a standard deviation of 1e\\+30; scores are float32, "
        "at most 1e\\+20; rescale the columns"
    )
    with pytest.raises(DataError, match=message):
        PcaModel.from_pca(architecture, pca)
