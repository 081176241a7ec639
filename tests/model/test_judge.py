"""The judge: data of a linear-Gaussian model, where likelihood and posterior are in closed form."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from distvae.model.linear import fit_pca
from distvae.model.linear_gaussian import LinearGaussian
from distvae.model.objectives import elbo
from distvae.model.vae import VAE
from tests.model.helpers import exact_log_likelihood, linear_gaussian

SIGMA, WIDTH, LATENT = 0.6, 8, 3


def cubature(rows: int, k: int) -> Tensor:
    """2k points +-sqrt(k) e_i: mean 0, covariance I, so exact for what is quadratic in z.

    In a linear-Gaussian model that is the ELBO: no Monte-Carlo noise is left.
    """
    points = math.sqrt(k) * np.concatenate([np.eye(k), -np.eye(k)])
    return torch.from_numpy(np.broadcast_to(points[:, None], (2 * k, rows, k)).copy())


def drawn(rows: int = 200) -> tuple[VAE, LinearGaussian, Tensor, np.ndarray]:
    """A model whose decoder is the truth, the truth, rows of it, and their ln p(x)."""
    model, weight, bias = linear_gaussian(WIDTH, LATENT, SIGMA, 2)
    generator = np.random.default_rng(7)
    z = generator.normal(size=(rows, LATENT))
    x = z @ weight.T + bias + SIGMA * generator.normal(size=(rows, WIDTH))
    truth = LinearGaussian(*(torch.from_numpy(np.asarray(v)) for v in (weight, bias, SIGMA)))
    return model, truth, torch.from_numpy(x), exact_log_likelihood(x, weight, bias, SIGMA)


def with_posterior(model: VAE, family: str) -> VAE:
    """The same decoder with an untrained linear encoder of another family."""
    other = VAE(dataclasses.replace(model.architecture, posterior=family), 5).double()
    other.decoder.load_state_dict(model.decoder.state_dict())
    return other


def fitted(model: VAE, x: Tensor, parameters: list[torch.nn.Parameter]) -> Tensor:
    """ELBO per row after fitting ``parameters`` by L-BFGS on the exact mean ELBO."""
    eps = cubature(len(x), model.architecture.latent_dim)
    optimiser = torch.optim.LBFGS(
        parameters,
        max_iter=2000,
        tolerance_grad=1e-9,
        history_size=50,
        line_search_fn="strong_wolfe",
    )

    def loss() -> Tensor:
        optimiser.zero_grad()
        value = -elbo(model.terms(x, None, eps)).mean()
        value.backward()
        return value

    optimiser.step(loss)
    with torch.no_grad():
        return elbo(model.terms(x, None, eps))


def closed_form_gap(truth: LinearGaussian, family: str) -> float:
    """What the best posterior of a family lacks to ln p(x), Lambda = I + W^T W / sigma^2."""
    precision = truth.precision.numpy()
    log_det = np.linalg.slogdet(precision)[1]
    if family == "diagonal":
        return float(0.5 * (np.log(np.diag(precision)).sum() - log_det))
    if family == "isotropic":
        k = len(precision)
        return float(0.5 * (k * np.log(np.trace(precision) / k) - log_det))
    return 0.0


def set_full_posterior(model: VAE, truth: LinearGaussian) -> None:
    """Put the exact posterior into the encoder of a full-posterior model."""
    weight, bias, k = truth.weight, truth.bias, LATENT
    covariance = torch.linalg.inv(truth.precision)
    gain = covariance @ weight.T / SIGMA**2
    factor = torch.linalg.cholesky(covariance)
    log_diagonal = factor.diagonal().log()
    rows, columns = torch.tril_indices(k, k, -1)
    lower = factor[rows, columns]

    def unbounded(values: Tensor, bound: float) -> Tensor:
        return values / torch.sqrt(1 - (values / bound).square())

    with torch.no_grad():
        last = model.encoder.last
        last.weight.zero_()
        last.weight[:k] = gain
        last.bias[:k] = -gain @ bias
        last.bias[k : 2 * k] = unbounded(log_diagonal, 10.0)
        last.bias[2 * k :] = unbounded(lower, math.exp(10.0))


def test_full_posterior_in_closed_form_reaches_the_likelihood() -> None:
    model, truth, x, likelihood = drawn()
    full = with_posterior(model, "full")
    set_full_posterior(full, truth)
    with torch.no_grad():
        found = elbo(full.terms(x, None, cubature(len(x), LATENT)))
    assert np.abs(found.numpy() - likelihood).max() < 1e-5
    single = full.float()
    with torch.no_grad():
        found = elbo(single.terms(x.float(), None, cubature(len(x), LATENT).float()))
    assert np.abs(found.double().numpy() - likelihood).max() < 1e-3


@pytest.mark.parametrize("family", ["isotropic", "diagonal", "full"])
def test_a_fitted_encoder_falls_short_by_the_closed_form(family: str) -> None:
    model, truth, x, likelihood = drawn()
    other = with_posterior(model, family)
    assert other.encoder is not None
    found = fitted(other, x, list(other.encoder.parameters())).numpy()
    gap = closed_form_gap(truth, family)
    assert np.abs(likelihood - found - gap).max() < 1e-3
    if family != "full":
        assert gap > 0.05
    best = {"diagonal": truth.best_diagonal, "isotropic": truth.best_isotropic}
    if family in best:
        library = truth.elbo(x, best[family](x)).numpy()
        np.testing.assert_allclose(likelihood - library, gap, atol=1e-9)


def test_a_diagonal_model_free_to_rotate_loses_nothing() -> None:
    """With W free it turns until Lambda is diagonal: the gap of a fixed W is gone."""
    model, truth, x, _ = drawn(2000)
    other = with_posterior(model, "diagonal")
    found = fitted(other, x, list(other.parameters())).numpy()
    w, b = (t.detach().numpy() for t in (other.decoder.last.weight, other.decoder.last.bias))
    likelihood = exact_log_likelihood(x.numpy(), w, b, SIGMA)
    assert (likelihood - found).mean() < 1e-3
    precision = w.T @ w
    off = np.abs(precision - np.diag(np.diag(precision))).max()
    assert off < 0.02 * np.diag(precision).min()
    assert closed_form_gap(truth, "diagonal") > 0.05


def test_a_trained_linear_vae_is_probabilistic_pca() -> None:
    """Lucas et al. 2019: the ELBO's optimum has PCA's subspace, noise and likelihood."""
    _, _, x, _ = drawn(2000)
    start, _, _ = linear_gaussian(WIDTH, LATENT, 1.0, 3)
    architecture = dataclasses.replace(start.architecture, likelihoods={"v": "gaussian-feature"})
    model = VAE(architecture, 11).double()
    found = fitted(model, x, list(model.parameters())).numpy()
    values = x.numpy()
    covariance = np.cov(values.T, bias=True)
    pca = fit_pca(values.mean(0), covariance, LATENT)
    noise = (np.trace(covariance) - pca.variances.sum()) / (WIDTH - LATENT)
    loadings = pca.components.T * np.sqrt(pca.variances - noise)
    likelihood = exact_log_likelihood(values, loadings, pca.mean, math.sqrt(noise))
    assert abs(found.mean() - likelihood.mean()) < 1e-3
    basis, _ = np.linalg.qr(model.decoder.last.weight.detach().numpy())
    cosines = np.linalg.svd(basis.T @ pca.components.T)[1]
    assert cosines.min() > 1 - 1e-5
    _, log_sigma = model.observation.heads[0].location_and_log_sigma(torch.zeros(1, WIDTH).double())
    assert log_sigma.exp().square().mean().item() == pytest.approx(noise, rel=1e-3)
