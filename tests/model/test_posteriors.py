from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distvae.model import posteriors


def test_kl_by_hand() -> None:
    # sigma = 1: mu^2 / 2. sigma = e: (e^2 - 3) / 2.
    mu = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    log_sigma = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    expected = [0.0, 2.0, (math.e**2 - 3) / 2]
    assert posteriors.kl(mu, log_sigma).tolist() == pytest.approx(expected, rel=1e-14)


@given(st.floats(-20, 20), st.floats(-9, 9))
@settings(max_examples=200, deadline=None)
def test_kl_is_the_textbook_formula_and_not_negative(mu: float, log_sigma: float) -> None:
    expected = -0.5 * (1 + 2 * log_sigma - mu**2 - np.exp(2 * log_sigma))
    found = posteriors.kl(*torch.tensor([[mu], [log_sigma]], dtype=torch.float64)).item()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-13)
    assert found >= 0


def test_kl_by_monte_carlo_value_and_gradient() -> None:
    samples = 200_000
    mu = torch.tensor([0.7, -1.3], dtype=torch.float64, requires_grad=True)
    log_sigma = torch.tensor([-0.8, 0.4], dtype=torch.float64, requires_grad=True)
    eps = torch.from_numpy(np.random.default_rng(1).normal(size=(samples, 2)))
    z = posteriors.sample(mu, log_sigma, eps)
    draws = posteriors.log_prob(z[..., None], mu[..., None], log_sigma[..., None])
    draws = draws - posteriors.standard_normal_log_prob(z[..., None])
    error = 5 * draws.std(0).detach() / math.sqrt(samples)
    exact = posteriors.kl(mu, log_sigma)
    assert (draws.mean(0) - exact).abs().le(error).all()
    sampled = torch.autograd.grad(draws.mean(0).sum(), [mu, log_sigma])
    closed = torch.autograd.grad(exact.sum(), [mu, log_sigma])
    # d log q/d theta + d z/d theta terms have standard deviations below 5 here.
    for a, b in zip(sampled, closed, strict=True):
        assert (a - b).abs().le(5 * 5 / math.sqrt(samples)).all()


def test_log_ratio_is_the_difference_of_the_densities() -> None:
    generator = np.random.default_rng(2)
    mu, log_sigma, eps = (torch.from_numpy(generator.normal(size=(5, 3))) for _ in range(3))
    z = posteriors.sample(mu, log_sigma, eps)
    difference = posteriors.standard_normal_log_prob(z) - posteriors.log_prob(z, mu, log_sigma)
    torch.testing.assert_close(posteriors.log_ratio(z, log_sigma, eps), difference)


def test_log_prob_against_numpy() -> None:
    z, mu, sigma = np.array([[0.3, -2.0]]), np.array([[1.0, 0.5]]), np.array([[0.5, 3.0]])
    density = np.exp(-((z - mu) ** 2) / (2 * sigma**2)) / np.sqrt(2 * np.pi * sigma**2)
    found = posteriors.log_prob(*(torch.from_numpy(v) for v in (z, mu, np.log(sigma))))
    assert found.item() == pytest.approx(np.log(density).sum(), rel=1e-12)


@pytest.mark.parametrize("raw", [-1e30, -1e4, -30.0, 0.0, 30.0, 1e4])
@pytest.mark.parametrize("mu", [-1e4, 0.0, 1e4])
def test_values_and_gradients_are_finite_far_out(mu: float, raw: float) -> None:
    inputs = torch.tensor([[mu, raw]], requires_grad=True)
    location, log_sigma = posteriors.split(inputs)
    value = posteriors.kl(location, log_sigma).sum()
    (gradient,) = torch.autograd.grad(value, inputs)
    assert torch.isfinite(value)
    assert torch.isfinite(gradient).all()


def test_log_sigma_is_bounded_odd_and_has_slope_one() -> None:
    raw = torch.linspace(-1e3, 1e3, 20_001, dtype=torch.float64)
    bounded = posteriors.bounded_log_sigma(raw)
    assert bounded.abs().max() < posteriors.LOG_SIGMA_BOUND
    assert (bounded.diff() > 0).all()
    torch.testing.assert_close(bounded, -bounded.flip(0))
    assert posteriors.bounded_log_sigma(torch.tensor(1e-3)).item() == pytest.approx(1e-3, rel=1e-6)
