from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from torch import Tensor

from distvae.model.architecture import Architecture
from distvae.model.estimators import (
    active_units,
    explained_variance,
    log_likelihood,
    mean_and_standard_error,
    row_noise,
    squared_error,
)
from distvae.model.objectives import elbo
from distvae.model.vae import VAE
from tests.model.helpers import (
    block,
    exact_log_likelihood,
    linear_gaussian,
    set_exact_posterior,
    spec,
)

SIGMA = 0.5


def given_noise(eps: Tensor) -> Callable[[int, int], Tensor]:
    return lambda first, count: eps[first : first + count]


def rows(weight: np.ndarray, bias: np.ndarray, n: int) -> np.ndarray:
    generator = np.random.default_rng(9)
    z = generator.normal(size=(n, weight.shape[1]))
    return z @ weight.T + bias + SIGMA * generator.normal(size=(n, len(bias)))


def test_one_latent_and_the_exact_posterior_give_the_exact_likelihood_from_one_sample() -> None:
    """With one latent dimension the posterior is in the family: every weight equals p(x)."""
    model, weight, bias = linear_gaussian(4, 1, SIGMA)
    set_exact_posterior(model, weight, bias, SIGMA)
    x = rows(weight, bias, 20)
    exact = exact_log_likelihood(x, weight, bias, SIGMA)
    y = torch.from_numpy(x)
    eps = torch.randn(1, 20, 1, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    found = log_likelihood(model, y, None, given_noise(eps), 1)
    np.testing.assert_allclose(found.detach().numpy(), exact, rtol=1e-6)
    # Gauss-Hermite nodes integrate the quadratic inside the ELBO without error.
    nodes, weights = np.polynomial.hermite_e.hermegauss(8)
    bound = sum(
        w * elbo(model.terms(y, None, torch.full((1, 20, 1), e, dtype=torch.float64)))
        for e, w in zip(nodes, weights / weights.sum(), strict=True)
    )
    np.testing.assert_allclose(bound.detach().numpy(), exact, rtol=1e-6)


def test_the_importance_weighted_estimate_converges_and_the_elbo_stays_below() -> None:
    model, weight, bias = linear_gaussian(5, 2, SIGMA)
    set_exact_posterior(model, weight, bias, SIGMA)
    n, samples = 30, 3000
    x = rows(weight, bias, n)
    y, exact = torch.from_numpy(x), exact_log_likelihood(x, weight, bias, SIGMA)
    eps = torch.from_numpy(np.random.default_rng(1).normal(size=(samples, n, 2)))
    noise = given_noise(eps)
    with torch.no_grad():
        found = log_likelihood(model, y, None, noise, samples, 1000).numpy()
        logs = [log_likelihood(model, y, None, given_noise(e[None]), 1) for e in eps[:500]]
        ratios = np.exp(torch.stack(logs).numpy() - exact)  # weights over p(x): mean 1
        bound = elbo(model.terms(y, None, eps)).numpy()
    error = 5 * ratios.std(0) / math.sqrt(samples)
    assert error.max() < 0.2
    assert (np.abs(np.expm1(found - exact)) <= error + 1e-6).all()
    assert (bound < exact).all()
    five = np.log(ratios.reshape(100, 5, n).mean(1)).mean(0) + exact
    assert bound.mean() < five.mean() < exact.mean()


def test_passes_that_do_not_divide_give_the_same_estimate() -> None:
    model, weight, bias = linear_gaussian(5, 2, SIGMA)
    y = torch.from_numpy(rows(weight, bias, 4))
    noise = row_noise(3, "iw", 10, 4, 2)
    whole = log_likelihood(model, y, None, noise, 23, 23)
    for size in (1, 7, 16, 100):
        torch.testing.assert_close(log_likelihood(model, y, None, noise, 23, size), whole)
    with pytest.raises(ValueError, match="must be at least 1"):
        log_likelihood(model, y, None, noise, 0)


def test_the_jacobian_of_the_units_is_counted() -> None:
    """The same rows in units 1,000 times smaller have a density 1,000^D times as small."""
    model, weight, bias = linear_gaussian(3, 1, SIGMA)
    scaled = Architecture(
        latent_dim=1,
        hidden_dims=(),
        features=(spec("v", 0, 3, scale=1000.0, shift=[5.0] * 3, raw=True),),
        blocks=(block(3, raw=True),),
        likelihoods={"v": f"gaussian-fixed:{SIGMA}"},
    )
    other = VAE.from_architecture(scaled).double()
    other.load_state_dict(model.state_dict())
    x = torch.from_numpy(rows(weight, bias, 6))
    y, observed = other.prepare([x * 1000 + 5], [None])
    noise = row_noise(0, "iw", 0, 6, 1)
    first = log_likelihood(model, x, None, noise, 8)
    second = log_likelihood(other, y, observed, noise, 8)
    torch.testing.assert_close(second, first - 3 * math.log(1000))


def test_row_noise_is_the_same_however_it_is_cut() -> None:
    whole = row_noise(5, "s", 1000, 60, 3)(0, 6)
    assert whole.shape == (6, 60, 3)
    parts = torch.cat([row_noise(5, "s", 1000, 60, 3)(0, 2), row_noise(5, "s", 1000, 60, 3)(2, 4)])
    assert torch.equal(whole, parts)
    assert torch.equal(whole[:, 40:], row_noise(5, "s", 1040, 20, 3)(0, 6))


def test_squared_error_is_in_raw_units_over_observed_elements() -> None:
    architecture = Architecture(
        latent_dim=1,
        hidden_dims=(),
        features=(spec("a", 0, 1, scale=10.0), spec("b", 1, 2, scale=0.5)),
        blocks=(block(2),),
    )
    model = VAE.from_architecture(architecture)
    y, params = torch.tensor([[1.0, 2.0], [3.0, 0.0]]), torch.tensor([[0.0, 0.0], [1.0, 4.0]])
    total, count = squared_error(model, y, None, params)
    assert total.tolist() == [100 + 1, 400 + 4]
    assert count.tolist() == [2, 2]
    observed = torch.tensor([[True, False], [False, False]])
    total, count = squared_error(model, y, observed, params)
    assert total.tolist() == [100, 0]
    assert count.tolist() == [1, 0]


def test_active_units_counts_dimensions_that_vary() -> None:
    generator = np.random.default_rng(0)
    mu = generator.normal(size=(5000, 4)) * [1.0, 0.11, 0.09, 0.0] + [0, 1e4, -1e4, 3]
    assert active_units(mu.sum(0), (mu**2).sum(0), 5000) == 2


def test_mean_and_standard_error_against_numpy() -> None:
    x = np.random.default_rng(1).normal(size=50) - 100
    mean, error = mean_and_standard_error(x.sum(), (x**2).sum(), 50)
    assert mean == pytest.approx(x.mean())
    assert error == pytest.approx(x.std(ddof=1) / math.sqrt(50))
    assert math.isnan(mean_and_standard_error(3.0, 9.0, 1)[1])


def test_explained_variance_by_hand() -> None:
    assert explained_variance(1.0, 4.0) == 0.75
    assert math.isnan(explained_variance(0.0, 0.0))
