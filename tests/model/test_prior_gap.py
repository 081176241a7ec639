"""A fitted prior of a VAE: the KL to it, and ln p(x) under it, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from distvae.model.estimators import log_likelihood, row_noise
from distvae.model.objectives import Objective, elbo, lower_bound
from distvae.model.posteriors import Diagonal, standard_normal_log_prob
from distvae.model.priors import Prior
from distvae.model.vae import VAE
from tests.model.helpers import exact_log_likelihood, linear_gaussian, set_exact_posterior

SIGMA = 0.7


def mixture(k: int = 2) -> Prior:
    random = np.random.default_rng(3)
    lower = np.tril(0.4 * random.normal(size=(3, k, k)), -1)
    factors = lower + np.exp(0.3 * random.normal(size=(3, k)))[:, :, None] * np.eye(k)
    means = 1.5 * random.normal(size=(3, k))
    weights = np.array([0.2, 0.5, 0.3])
    return Prior(*(a.astype(np.float32) for a in (weights, means, factors)))


def model_with(prior: Prior, k: int = 2) -> tuple[VAE, np.ndarray, np.ndarray]:
    model, weight, bias = linear_gaussian(3, k, SIGMA)
    set_exact_posterior(model, weight, bias, SIGMA)
    model.prior = prior
    return model, weight, bias


def exact(prior: Prior, weight: np.ndarray, bias: np.ndarray, x: np.ndarray) -> np.ndarray:
    """ln p(x) of z ~ mixture, x = W z + b + noise: a mixture again."""
    shares = np.asarray(prior.weights, np.float64)
    parts = []
    for share, mean, factor in zip(shares, prior.means, prior.scale_trils, strict=True):
        inner = weight @ factor.astype(float) @ factor.astype(float).T @ weight.T
        covariance = inner + SIGMA**2 * np.eye(len(bias))
        place = weight @ mean.astype(float) + bias
        parts.append(
            np.log(share / shares.sum()) + multivariate_normal(place, covariance).logpdf(x)
        )
    return np.logaddexp.reduce(np.stack(parts), 0)


def test_the_density_on_the_device_is_torchs() -> None:
    prior = mixture(4)
    weights, means, factors = (t.double() for t in prior.to_tensors().values())
    other = MixtureSameFamily(Categorical(weights), MultivariateNormal(means, scale_tril=factors))
    z = 3 * torch.randn(5, 7, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z.requires_grad_()
    found, expected = prior.log_density(z), other.log_prob(z)
    torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-6)
    gradients = [torch.autograd.grad(v.sum(), z)[0] for v in (found, expected)]
    torch.testing.assert_close(gradients[0], gradients[1], rtol=1e-6, atol=1e-6)
    np.testing.assert_allclose(prior.log_prob(z.detach()[0].numpy()), found[0].detach().numpy())
    assert prior.log_density(z[:0]).shape == (0, 7)


def test_the_gap_is_the_difference_of_log_densities_and_0_for_the_standard_normal() -> None:
    model, *_ = model_with(mixture())
    z = torch.randn(6, 2, dtype=torch.float64)
    expected = standard_normal_log_prob(z) - model.prior.log_density(z)
    torch.testing.assert_close(model.prior_gap(z), expected)
    assert model.prior_gap(z.float()).dtype == torch.float32
    model.prior = Prior()
    assert not model.has_prior_gap
    assert (model.prior_gap(z) == 0).all()
    assert model.terms(torch.zeros(2, 3).double(), None, torch.zeros(1, 2, 2)).prior_gap is None
    standard = Prior(
        np.ones(1, np.float32), np.zeros((1, 2), np.float32), np.eye(2, dtype=np.float32)[None]
    )
    model.prior = standard
    assert model.has_prior_gap
    torch.testing.assert_close(model.prior_gap(z), torch.zeros(6).double(), atol=1e-12, rtol=0)


def test_the_importance_weighted_estimate_is_ln_p_of_x_under_the_mixture() -> None:
    prior = mixture()
    model, weight, bias = model_with(prior)
    random = np.random.default_rng(0)
    z = prior.sample(random.normal(size=(12, 2)).astype(np.float32), random.random(12))
    x = z @ weight.T + bias + SIGMA * random.normal(size=(12, 3))
    y = torch.from_numpy(x)
    near = model.encode(y).detach()
    # Wider than the posterior under N(0, I): the other prior's reaches beyond.
    proposal = Diagonal(near.mu, torch.full_like(near.mu, math.log(1.6)))
    noise = row_noise(0, "t", 0, 12, 2)
    found = log_likelihood(model, y, None, noise, 40_000, 4000, proposal)
    expected = exact(prior, weight, bias, x)
    np.testing.assert_allclose(found.detach().numpy(), expected, atol=0.05)
    assert np.abs(expected - exact_log_likelihood(x, weight, bias, SIGMA)).max() > 0.3
    bound = elbo(model.terms(y, None, row_noise(1, "t", 0, 12, 2)(0, 4000)))
    assert (bound.detach().numpy() < expected + 0.02).all()


def test_one_dimension_by_quadrature() -> None:
    prior = mixture(1)
    model, weight, bias = model_with(prior, 1)
    grid = torch.linspace(-12, 12, 24_001, dtype=torch.float64)[:, None]
    y = torch.tensor([[0.3, -0.5, 1.0]], dtype=torch.float64)
    log_joint = model.log_likelihood(y, None, model.decode(grid)) + prior.log_density(grid)
    by_quadrature = float(torch.logsumexp(log_joint.detach(), 0)) + math.log(24 / 24_000)
    found = log_likelihood(model, y, None, row_noise(0, "t", 0, 1, 1), 20_000, 5000)
    assert by_quadrature == pytest.approx(exact(prior, weight, bias, y.numpy()).item(), abs=1e-6)
    assert float(found.detach()) == pytest.approx(by_quadrature, abs=0.02)


def test_the_kl_to_the_prior_by_quadrature() -> None:
    prior = mixture(1)
    model, *_ = model_with(prior, 1)
    y = torch.tensor([[0.3, -0.5, 1.0]], dtype=torch.float64)
    posterior = model.encode(y).detach()
    grid = torch.linspace(-12, 12, 24_001, dtype=torch.float64)[:, None]
    log_q = posterior.log_prob(grid)
    kl = float((log_q.exp() * (log_q - prior.log_density(grid))).sum()) * 24 / 24_000
    terms = model.terms(y, None, row_noise(0, "t", 0, 1, 1)(0, 20_000).double())
    assert terms.prior_gap is not None
    assert float((terms.kl.sum() + terms.prior_gap).detach()) == pytest.approx(kl, abs=0.02)


def test_every_objective_has_the_prior_in_it() -> None:
    model, *_ = model_with(mixture())
    y = torch.randn(5, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    eps = row_noise(0, "t", 0, 5, 2)(0, 8).double()
    posterior = model.encode(y)
    z = posterior.sample(eps)
    log_p = model.log_likelihood(y, None, model.decode(z))
    log_weight = log_p + model.prior.log_density(z) - posterior.log_prob(z)
    sampled = lower_bound(model, posterior, y, None, eps, Objective(mc_samples=8, kl="sampled"))
    torch.testing.assert_close(sampled.value, log_weight.mean(0))
    torch.testing.assert_close(sampled.kl, (log_p - log_weight).mean(0))
    for doubly in (False, True):
        objective = Objective("iwae", 1, 8, doubly=doubly)
        found = lower_bound(model, posterior, y, None, eps, objective)
        expected = torch.logsumexp(log_weight, 0) - math.log(8)
        torch.testing.assert_close(found.value, expected)
    analytic = lower_bound(model, posterior, y, None, eps, Objective(mc_samples=8))
    terms = model.terms_of(posterior, y, None, eps)
    assert terms.prior_gap is not None
    torch.testing.assert_close(analytic.kl, terms.kl.sum(1) + terms.prior_gap)
    half = elbo(terms, 0.5)
    torch.testing.assert_close(half, terms.reconstruction - 0.5 * analytic.kl)
