from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal, Normal, kl_divergence

from distvae.errors import UsageError
from distvae.model import posteriors
from distvae.model.posteriors import Diagonal, Full, Point

FAMILIES = ("isotropic", "diagonal", "full")


def raw_rows(family: str, rows: int, k: int, seed: int = 0, scale: float = 0.7) -> Tensor:
    generator = np.random.default_rng(seed)
    return torch.from_numpy(generator.normal(size=(rows, posteriors.raw_width(family, k)))) * scale


def numpy_moments(family: str, raw: Tensor, k: int) -> tuple[np.ndarray, np.ndarray]:
    """A second reading of the raw numbers, row by row in plain loops: mean and L."""
    values = raw.numpy()

    def bounded(x: float, bound: float) -> float:
        return float(x / np.sqrt(1 + (x / bound) ** 2))

    factors = []
    for row in values:
        rest = row[k:]
        factor = np.zeros((k, k))
        if family == "isotropic":
            factor = np.eye(k) * np.exp(bounded(rest[0], 10.0))
        else:
            for i in range(k):
                factor[i, i] = np.exp(bounded(rest[i], 10.0))
        if family == "full":
            place = k
            for i in range(k):
                for j in range(i):
                    factor[i, j] = bounded(rest[place], math.exp(10.0))
                    place += 1
        factors.append(factor)
    return values[:, :k], np.stack(factors)


def test_kl_by_hand() -> None:
    # sigma = 1: mu^2 / 2. sigma = e: (e^2 - 3) / 2.
    mu = torch.tensor([0.0, 2.0, 0.0], dtype=torch.float64)
    log_sigma = torch.tensor([0.0, 0.0, 1.0], dtype=torch.float64)
    expected = [0.0, 2.0, (math.e**2 - 3) / 2]
    assert Diagonal(mu, log_sigma).kl().tolist() == pytest.approx(expected, rel=1e-14)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("k", [1, 2, 5])
def test_every_number_against_torch_distributions(family: str, k: int) -> None:
    raw = raw_rows(family, 7, k)
    posterior = posteriors.split(family, raw, k)
    mean, factor = numpy_moments(family, raw, k)
    other = MultivariateNormal(torch.from_numpy(mean), scale_tril=torch.from_numpy(factor))
    prior = MultivariateNormal(torch.zeros(k).double(), torch.eye(k).double())
    z = torch.from_numpy(np.random.default_rng(1).normal(size=(3, 7, k)))
    close = torch.testing.assert_close
    close(posterior.scale_tril(), other.scale_tril)
    close(posterior.sigma, other.variance.sqrt())
    close(posterior.kl().sum(-1), kl_divergence(other, prior))
    close(posterior.entropy(), other.entropy())
    close(posterior.log_prob(z), other.log_prob(z))
    close(posterior.sample(z), other.mean + (other.scale_tril @ z[..., None])[..., 0])
    close(posterior.sample(z[:1]), posterior.sample(z)[:1])
    sampled = posterior.sample(z)
    close(posterior.log_ratio(sampled, z), prior.log_prob(sampled) - other.log_prob(sampled))
    close(posterior.standardised(sampled), z)
    rows, columns = np.tril_indices(k)
    close(posterior.packed_scale_tril(), torch.from_numpy(factor[:, rows, columns]))
    assert (posterior.kl() >= -1e-15).all()


@pytest.mark.parametrize("family", FAMILIES)
def test_raw_zeros_are_the_prior(family: str) -> None:
    posterior = posteriors.split(family, torch.zeros(2, posteriors.raw_width(family, 4)), 4)
    assert posterior.kl().abs().max() == 0
    assert torch.equal(posterior.sigma, torch.ones(2, 4))


@given(st.floats(-20, 20), st.floats(-9, 9))
@settings(max_examples=200, deadline=None)
def test_kl_is_the_textbook_formula_and_not_negative(mu: float, log_sigma: float) -> None:
    expected = -0.5 * (1 + 2 * log_sigma - mu**2 - np.exp(2 * log_sigma))
    values = torch.tensor([[mu], [log_sigma]], dtype=torch.float64)
    found = Diagonal(values[0], values[1]).kl().item()
    assert found == pytest.approx(expected, rel=1e-9, abs=1e-13)
    assert found >= 0


@pytest.mark.parametrize("family", FAMILIES)
def test_kl_by_monte_carlo_value_and_gradient(family: str) -> None:
    samples, k = 200_000, 2
    raw = raw_rows(family, 1, k, 3).requires_grad_(True)
    posterior = posteriors.split(family, raw, k)
    eps = torch.from_numpy(np.random.default_rng(1).normal(size=(samples, 1, k)))
    draws = -posterior.log_ratio(posterior.sample(eps), eps)
    exact = posterior.kl().sum()
    error = 5 * draws.std().item() / math.sqrt(samples)
    assert abs(draws.mean().item() - exact.item()) < error
    sampled = torch.autograd.grad(draws.mean(), raw, retain_graph=True)[0]
    closed = torch.autograd.grad(exact, raw)[0]
    # The gradient's terms have standard deviations below 10 here.
    assert (sampled - closed).abs().max() < 5 * 10 / math.sqrt(samples)


@pytest.mark.parametrize("family", FAMILIES)
def test_samples_have_the_moments(family: str) -> None:
    k, samples = 3, 400_000
    posterior = posteriors.split(family, raw_rows(family, 1, k, 5), k)
    eps = torch.from_numpy(np.random.default_rng(2).normal(size=(samples, 1, k)))
    z = posterior.sample(eps)[:, 0].numpy()
    factor = posterior.scale_tril()[0].numpy()
    spread = np.diag(factor @ factor.T)
    assert np.abs(z.mean(0) - posterior.mu[0].numpy()).max() < 5 * np.sqrt(spread.max() / samples)
    limit = 8 * spread.max() / math.sqrt(samples)
    assert np.abs(np.cov(z.T) - factor @ factor.T).max() < limit


@pytest.mark.parametrize("family", [*FAMILIES, "point"])
def test_gradients_against_finite_differences(family: str) -> None:
    k = 3
    raw = raw_rows(family, 2, k, 4).requires_grad_(True)
    eps = torch.from_numpy(np.random.default_rng(3).normal(size=(2, 2, k)))

    def figures(values: Tensor) -> tuple[Tensor, ...]:
        posterior = posteriors.split(family, values, k)
        z = posterior.sample(eps)
        if family == "point":
            return z, posterior.kl()
        fixed = eps.roll(1, 0)
        return (
            z,
            posterior.kl(),
            posterior.sigma,
            posterior.entropy(),
            posterior.log_prob(fixed),
            posterior.log_ratio(z, eps),
        )

    assert torch.autograd.gradcheck(figures, raw)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("value", [-1e30, -1e4, -30.0, 0.0, 30.0, 1e4])
@pytest.mark.parametrize("mu", [-1e4, 0.0, 1e4])
def test_values_and_gradients_are_finite_far_out(family: str, mu: float, value: float) -> None:
    k = 3
    inputs = torch.full((1, posteriors.raw_width(family, k)), value)
    inputs[:, :k] = mu
    inputs.requires_grad_(True)
    posterior = posteriors.split(family, inputs, k)
    eps = torch.ones(1, 1, k)
    total = posterior.kl().sum() + posterior.sample(eps).sum() + posterior.entropy().sum()
    (gradient,) = torch.autograd.grad(total, inputs)
    assert torch.isfinite(total)
    assert torch.isfinite(gradient).all()


def test_log_sigma_is_bounded_odd_and_has_slope_one() -> None:
    raw = torch.linspace(-1e3, 1e3, 20_001, dtype=torch.float64)
    bounded = posteriors.bounded_log_sigma(raw)
    assert bounded.abs().max() < posteriors.LOG_SIGMA_BOUND
    assert (bounded.diff() > 0).all()
    torch.testing.assert_close(bounded, -bounded.flip(0))
    slope = (posteriors.bounded_log_sigma(torch.tensor(1e-4)) / 1e-4).item()
    assert slope == pytest.approx(1, rel=1e-6)


def test_standard_normal_against_torch() -> None:
    z = torch.tensor([[0.3, -2.0], [50.0, 1e4]], dtype=torch.float64)
    expected = Normal(0.0, 1.0).log_prob(z).sum(-1)
    torch.testing.assert_close(posteriors.standard_normal_log_prob(z), expected)


def test_detach_cuts_the_history() -> None:
    for family in (*FAMILIES, "point"):
        raw = raw_rows(family, 2, 2).requires_grad_(True)
        posterior = posteriors.split(family, raw, 2)
        cut = posterior.detach()
        assert type(cut) is type(posterior)
        assert all(not value.requires_grad for value in vars(cut).values())
        assert torch.equal(cut.sigma, posterior.sigma)


def test_a_point_has_a_place_and_nothing_else() -> None:
    point = posteriors.split("point", torch.tensor([[1.0, -2.0]]), 2)
    assert isinstance(point, Point)
    assert torch.equal(point.sample(torch.ones(3, 1, 2))[2], point.mu)
    assert point.kl().sum() == 0
    assert point.sigma.sum() == 0
    assert point.scale_tril().sum() == 0
    assert point.log_det().item() == -math.inf
    with pytest.raises(UsageError, match="no density"):
        point.standardised(point.mu)


def test_unknown_family() -> None:
    with pytest.raises(UsageError, match="isotropic, diagonal, full"):
        posteriors.raw_width("flow", 3)
    assert isinstance(posteriors.split("full", torch.zeros(1, 9), 3), Full)
