from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal

from distvae.model.divergences import (
    DiagonalGaussian,
    FullGaussian,
    Gaussian,
    IsotropicGaussian,
    gaussian_kl,
    gaussian_log_prob,
    gaussian_sample,
)
from distvae.model.linear_gaussian import LinearGaussian


def _model(width: int = 6, k: int = 3, sigma: float = 0.7, seed: int = 0) -> LinearGaussian:
    random = np.random.default_rng(seed)
    weight, bias = (torch.from_numpy(random.normal(size=s)) for s in ((width, k), width))
    return LinearGaussian(weight, bias, torch.tensor(sigma, dtype=torch.float64))


def _rows(model: LinearGaussian, n: int, seed: int = 1) -> Tensor:
    random = np.random.default_rng(seed)
    z = torch.from_numpy(random.normal(size=(n, model.weight.shape[1])))
    eps = torch.from_numpy(random.normal(size=(n, len(model.bias))))
    return z @ model.weight.T + model.bias + model.sigma * eps


def _any_q(family: str, n: int, k: int, seed: int) -> Gaussian:
    random = np.random.default_rng(seed)
    mean, log_sigma = (torch.from_numpy(random.normal(size=(n, k))) for _ in range(2))
    if family == "isotropic":
        return IsotropicGaussian(mean, log_sigma[:, 0].exp())
    if family == "diagonal":
        return DiagonalGaussian(mean, log_sigma.exp())
    lower = torch.from_numpy(random.normal(size=(n, k, k))).tril(-1)
    return FullGaussian(mean, lower + torch.diag_embed(log_sigma.exp()))


def test_log_likelihood_is_the_marginal_gaussian() -> None:
    for width, k in ((6, 3), (2, 4), (1, 1)):
        model = _model(width, k)
        x = _rows(model, 9)
        covariance = model.weight @ model.weight.T + model.sigma**2 * torch.eye(
            width, dtype=torch.float64
        )
        expected = MultivariateNormal(model.bias, covariance).log_prob(x)
        torch.testing.assert_close(model.log_likelihood(x), expected, rtol=1e-12, atol=1e-12)


def test_posterior_is_the_conditional_of_the_joint() -> None:
    # z | x from the joint covariance [[I, W^T], [W, W W^T + sigma^2 I]].
    model, x = _model(), _rows(_model(), 5)
    posterior = model.posterior(x)
    marginal = model.weight @ model.weight.T + model.sigma**2 * torch.eye(6, dtype=torch.float64)
    gain = model.weight.T @ torch.linalg.inv(marginal)
    torch.testing.assert_close(posterior.mean, (x - model.bias) @ gain.T)
    covariance = torch.eye(3, dtype=torch.float64) - gain @ model.weight
    torch.testing.assert_close(posterior.scale_tril @ posterior.scale_tril.T, covariance)
    torch.testing.assert_close(posterior.scale_tril, posterior.scale_tril.tril())


def test_posterior_times_marginal_is_the_joint() -> None:
    # Bayes: ln p(x|z) + ln p(z) - ln p(z|x) is ln p(x), whatever z.
    model, x = _model(), _rows(_model(), 5)
    z = torch.from_numpy(np.random.default_rng(4).normal(size=(5, 3)))
    wide = model.sigma.expand(5)
    likelihood = IsotropicGaussian(z @ model.weight.T + model.bias, wide)
    prior = IsotropicGaussian(torch.zeros_like(z), torch.ones(5, dtype=torch.float64))
    joint = gaussian_log_prob(likelihood, x) + gaussian_log_prob(prior, z)
    found = joint - gaussian_log_prob(model.posterior(x), z)
    torch.testing.assert_close(found, model.log_likelihood(x))


@given(
    st.sampled_from(["isotropic", "diagonal", "full"]),
    st.integers(1, 5),
    st.integers(1, 4),
    st.floats(0.05, 20),
    st.integers(0, 10**6),
)
@settings(max_examples=100, deadline=None)
def test_evidence_is_kl_to_the_posterior_plus_elbo(
    family: str, width: int, k: int, sigma: float, seed: int
) -> None:
    model = _model(width, k, sigma, seed)
    x, q = _rows(model, 4, seed), _any_q(family, 4, k, seed)
    evidence, elbo = model.log_likelihood(x), model.elbo(x, q)
    gap = gaussian_kl(q, model.posterior(x))
    rounding = 1e-10 * (1 + elbo.abs().max().item())
    torch.testing.assert_close(gap + elbo, evidence, rtol=0, atol=rounding)
    assert (elbo <= evidence + rounding).all()


def test_elbo_by_monte_carlo() -> None:
    model, samples = _model(), 50_000
    x, q = _rows(model, 1), _any_q("full", 1, 3, 5)
    eps = torch.from_numpy(np.random.default_rng(6).normal(size=(samples, 1, 3)))
    z = gaussian_sample(q, eps)
    likelihood = IsotropicGaussian(z @ model.weight.T + model.bias, model.sigma.expand(samples, 1))
    prior = IsotropicGaussian(torch.zeros_like(z), torch.ones(samples, 1, dtype=torch.float64))
    draws = gaussian_log_prob(likelihood, x) + gaussian_log_prob(prior, z) - gaussian_log_prob(q, z)
    error = 5 * draws.std(0) / math.sqrt(samples)
    assert ((draws.mean(0) - model.elbo(x, q)).abs() < error).all()


def test_the_exact_posterior_leaves_no_gap() -> None:
    model, x = _model(), _rows(_model(), 8)
    elbo = model.elbo(x, model.posterior(x))
    torch.testing.assert_close(elbo, model.log_likelihood(x), rtol=1e-13, atol=1e-12)


def test_what_a_poorer_family_costs() -> None:
    model, x = _model(), _rows(_model(), 8)
    precision = torch.eye(3, dtype=torch.float64) + model.weight.T @ model.weight / model.sigma**2
    log_determinant = torch.linalg.slogdet(precision).logabsdet
    diagonal = 0.5 * (precision.diagonal().log().sum() - log_determinant)
    isotropic = 0.5 * (3 * (precision.trace() / 3).log() - log_determinant)
    assert 0 < diagonal < isotropic
    for best, gap in ((model.best_diagonal(x), diagonal), (model.best_isotropic(x), isotropic)):
        found = model.log_likelihood(x) - model.elbo(x, best)
        torch.testing.assert_close(found, gap.expand(8), rtol=1e-10, atol=1e-11)


@pytest.mark.parametrize("family", ["diagonal", "isotropic"])
def test_no_other_member_of_the_family_is_better(family: str) -> None:
    model, x = _model(), _rows(_model(), 8)
    q = model.best_diagonal(x) if family == "diagonal" else model.best_isotropic(x)
    mean, sigma = (v.clone().requires_grad_() for v in (q.mean, q.sigma))
    total = model.elbo(x, type(q)(mean, sigma)).sum()
    for gradient in torch.autograd.grad(total, [mean, sigma]):
        assert gradient.abs().max() < 1e-10
    for factor in (0.9, 1.1):
        assert (model.elbo(x, type(q)(q.mean, factor * q.sigma)) < model.elbo(x, q)).all()
