from __future__ import annotations

import itertools
import math
from collections.abc import Callable

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.distributions import MultivariateNormal, kl_divergence

from distvae.model.divergences import (
    DiagonalGaussian,
    FullGaussian,
    Gaussian,
    IsotropicGaussian,
    gaussian_cross_entropy,
    gaussian_entropy,
    gaussian_kl,
    gaussian_log_prob,
    gaussian_sample,
)
from distvae.model.posteriors import Diagonal, Full

FAMILIES = ("isotropic", "diagonal", "full")
PAIRS = list(itertools.product(FAMILIES, FAMILIES))
pairs = pytest.mark.parametrize(("q_family", "p_family"), PAIRS)
families = pytest.mark.parametrize("family", FAMILIES)


def _gaussian(family: str, k: int, seed: int, leading: tuple[int, ...] = ()) -> Gaussian:
    """A random member of a family, float64."""
    random = np.random.default_rng(seed)

    def normal(*shape: int) -> Tensor:
        return torch.from_numpy(random.normal(size=(*leading, *shape)))

    mean, log_sigma = normal(k), 0.7 * normal(k)
    if family == "isotropic":
        return IsotropicGaussian(mean, log_sigma[..., 0].exp())
    if family == "diagonal":
        return DiagonalGaussian(mean, log_sigma.exp())
    return FullGaussian(mean, normal(k, k).tril(-1) + torch.diag_embed(log_sigma.exp()))


def _as_full(q: Gaussian) -> FullGaussian:
    if isinstance(q, FullGaussian):
        return q
    return FullGaussian(q.mean, torch.diag_embed(q.scale.expand(q.mean.shape)))


def _torch(q: Gaussian) -> MultivariateNormal:
    full = _as_full(q)
    return MultivariateNormal(full.mean, scale_tril=full.scale_tril)


def _with(q: Gaussian, mean: Tensor, scale: Tensor) -> Gaussian:
    second = "scale_tril" if isinstance(q, FullGaussian) else "sigma"
    return type(q)(mean, **{second: scale})


def _scale(q: Gaussian) -> Tensor:
    return q.scale_tril if isinstance(q, FullGaussian) else q.sigma


def test_kl_by_hand() -> None:
    # One dimension, sigma 1 against sigma e, means 0 and 2: ln e + (1 + 4) / 2e^2 - 1/2.
    zero, one = torch.zeros(1, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    q, p = IsotropicGaussian(zero, one), IsotropicGaussian(zero + 2, one * math.e)
    assert gaussian_kl(q, p).item() == pytest.approx(1 + 5 / (2 * math.e**2) - 0.5, rel=1e-14)
    # Correlation rho against independence, unit variances: -ln(1 - rho^2) / 2.
    factor = torch.tensor([[1.0, 0.0], [0.6, 0.8]], dtype=torch.float64)
    full = FullGaussian(torch.zeros(2, dtype=torch.float64), factor)
    unit = IsotropicGaussian(full.mean, one)
    assert gaussian_kl(full, unit).item() == pytest.approx(-0.5 * math.log(0.64), rel=1e-14)


@pairs
def test_all_agree_with_torch(q_family: str, p_family: str) -> None:
    q, p = _gaussian(q_family, 5, 1, (7, 3)), _gaussian(p_family, 5, 2, (3,))
    z = torch.from_numpy(np.random.default_rng(3).normal(size=(7, 3, 5)))
    close = {"rtol": 1e-12, "atol": 1e-12}
    torch.testing.assert_close(gaussian_kl(q, p), kl_divergence(_torch(q), _torch(p)), **close)
    torch.testing.assert_close(gaussian_entropy(q), _torch(q).entropy(), **close)
    torch.testing.assert_close(gaussian_log_prob(p, z), _torch(p).log_prob(z), **close)
    cross = gaussian_entropy(q) + gaussian_kl(q, p)
    torch.testing.assert_close(gaussian_cross_entropy(q, p), cross, **close)


@pairs
def test_a_structured_pair_equals_its_dense_form(q_family: str, p_family: str) -> None:
    q, p = _gaussian(q_family, 4, 4), _gaussian(p_family, 4, 5)
    for function in (gaussian_kl, gaussian_cross_entropy):
        dense = function(_as_full(q), _as_full(p))
        torch.testing.assert_close(function(q, p), dense, rtol=1e-12, atol=1e-12)


@pairs
def test_kl_and_cross_entropy_by_monte_carlo(q_family: str, p_family: str) -> None:
    samples = 100_000
    q, p = _gaussian(q_family, 3, 6), _gaussian(p_family, 3, 7)
    z = gaussian_sample(q, torch.from_numpy(np.random.default_rng(8).normal(size=(samples, 3))))
    log_p, log_q = gaussian_log_prob(p, z), gaussian_log_prob(q, z)
    for draws, exact in (
        (log_q - log_p, gaussian_kl(q, p)),
        (-log_p, gaussian_cross_entropy(q, p)),
        (-log_q, gaussian_entropy(q)),
    ):
        error = draws.std() / math.sqrt(samples)
        assert abs(draws.mean() - exact) < 5 * error


@families
def test_samples_have_the_moments(family: str) -> None:
    samples = 200_000
    q = _gaussian(family, 3, 9)
    z = gaussian_sample(q, torch.from_numpy(np.random.default_rng(1).normal(size=(samples, 3))))
    factor = _as_full(q).scale_tril
    sigma = (factor @ factor.T).diagonal().sqrt()
    assert ((z.mean(0) - q.mean).abs() < 5 * sigma / math.sqrt(samples)).all()
    # The standard error of a covariance is at most sqrt(2) sigma_i sigma_j / sqrt(samples).
    bound = 5 * math.sqrt(2 / samples) * sigma[:, None] * sigma
    assert ((z.T.cov() - factor @ factor.T).abs() < bound).all()


@pairs
def test_gradients(q_family: str, p_family: str) -> None:
    q, p = _gaussian(q_family, 3, 10, (2,)), _gaussian(p_family, 3, 11)

    def kl(q_mean: Tensor, q_scale: Tensor, p_mean: Tensor, p_scale: Tensor) -> Tensor:
        return gaussian_kl(_with(q, q_mean, q_scale), _with(p, p_mean, p_scale))

    inputs = [q.mean, _scale(q), p.mean, _scale(p)]
    torch.autograd.gradcheck(kl, [value.clone().requires_grad_() for value in inputs])


@given(st.sampled_from(PAIRS), st.integers(1, 6), st.integers(0, 10**6))
@settings(max_examples=150, deadline=None)
def test_kl_is_not_negative(pair: tuple[str, str], k: int, seed: int) -> None:
    q, p = _gaussian(pair[0], k, seed), _gaussian(pair[1], k, seed + 1)
    assert gaussian_kl(q, p) > 0
    near = _with(q, q.mean * (1 + 1e-9), _scale(q) * (1 - 1e-9))
    assert gaussian_kl(q, near) >= 0


@given(st.sampled_from(FAMILIES), st.integers(1, 8), st.integers(0, 10**6), st.floats(1e-30, 1e3))
@settings(max_examples=100, deadline=None)
def test_kl_is_zero_where_both_agree(family: str, k: int, seed: int, width: float) -> None:
    q = _gaussian(family, k, seed)
    narrow = _with(q, q.mean, _scale(q) * width)
    assert gaussian_kl(narrow, narrow).item() == pytest.approx(0, abs=1e-12)
    moved = _with(q, q.mean + 1e-3, _scale(q))
    assert gaussian_kl(q, moved) > 0
    assert gaussian_kl(q, _with(q, q.mean, 1.001 * _scale(q))) > 0


@pairs
def test_kl_is_not_symmetric(q_family: str, p_family: str) -> None:
    q, p = _gaussian(q_family, 3, 12), _gaussian(p_family, 3, 13)
    assert abs(gaussian_kl(q, p) - gaussian_kl(p, q)) > 0.01
    # Only where one scale serves both is it symmetric: half the squared distance of the means.
    wide = _with(q, q.mean + 1.0, _scale(q))
    torch.testing.assert_close(gaussian_kl(q, wide), gaussian_kl(wide, q))


@given(st.sampled_from(PAIRS), st.integers(1, 5), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_kl_is_invariant_under_affine_maps(pair: tuple[str, str], k: int, seed: int) -> None:
    q, p = _gaussian(pair[0], k, seed), _gaussian(pair[1], k, seed + 1)
    random = np.random.default_rng(seed + 2)
    matrix = torch.from_numpy(np.eye(k) + 0.3 * random.normal(size=(k, k)) / math.sqrt(k))
    shift = torch.from_numpy(random.normal(size=k))

    def mapped(g: Gaussian) -> FullGaussian:
        factor = matrix @ _as_full(g).scale_tril
        return FullGaussian(matrix @ g.mean + shift, torch.linalg.cholesky(factor @ factor.T))

    condition = float(torch.linalg.cond(matrix)) ** 2
    expected = gaussian_kl(q, p).item()
    rounding = 1e-11 * condition * (1 + expected)
    assert gaussian_kl(mapped(q), mapped(p)).item() == pytest.approx(expected, abs=rounding)


@given(st.integers(1, 4), st.integers(1, 4), st.integers(0, 10**6))
@settings(max_examples=60, deadline=None)
def test_kl_obeys_the_chain_rule(a: int, b: int, seed: int) -> None:
    # KL(q(u, v) || p(u, v)) = KL(q(u) || p(u)) + E_q(u) KL(q(v|u) || p(v|u)).
    q, p = (_as_full(_gaussian("full", a + b, seed + i)) for i in range(2))

    def first(g: FullGaussian) -> FullGaussian:
        return FullGaussian(g.mean[:a], g.scale_tril[:a, :a])

    def gain(g: FullGaussian) -> Tensor:  # E[v|u] = m_v + G (u - m_u), covariance L_vv L_vv^T
        return g.scale_tril[a:, :a] @ torch.linalg.inv(g.scale_tril[:a, :a])

    rest = [g.scale_tril[a:, a:] for g in (q, p)]
    at_mean = p.mean[a:] + gain(p) @ (q.mean - p.mean)[:a]
    inner = gaussian_kl(FullGaussian(q.mean[a:], rest[0]), FullGaussian(at_mean, rest[1]))
    spread = torch.linalg.solve(rest[1], (gain(q) - gain(p)) @ q.scale_tril[:a, :a])
    chained = gaussian_kl(first(q), first(p)) + inner + 0.5 * spread.square().sum()
    torch.testing.assert_close(gaussian_kl(q, p), chained, rtol=1e-8, atol=1e-10)


def test_kl_of_independent_parts_adds_up() -> None:
    q, p = _gaussian("diagonal", 6, 14), _gaussian("diagonal", 6, 15)
    parts = [
        gaussian_kl(*(DiagonalGaussian(g.mean[s], _scale(g)[s]) for g in (q, p)))
        for s in (slice(0, 2), slice(2, 6))
    ]
    torch.testing.assert_close(gaussian_kl(q, p), parts[0] + parts[1])


@pairs
@pytest.mark.parametrize(("dtype", "small"), [(torch.float64, 1e-30), (torch.float32, 1e-6)])
@pytest.mark.parametrize("distance", [0.0, 1e4])
def test_finite_where_sigma_vanishes_and_means_are_far(
    q_family: str, p_family: str, dtype: torch.dtype, small: float, distance: float
) -> None:
    for q_width, p_width in ((small, 1.0), (1.0, small), (small, small)):
        values = []
        for family, width, mean in ((q_family, q_width, distance), (p_family, p_width, -distance)):
            random = _gaussian(family, 3, 16)
            values += [(random.mean + mean).to(dtype), (_scale(random) * width).to(dtype)]
        inputs = [value.requires_grad_() for value in values]
        q = _with(_gaussian(q_family, 3, 16), *inputs[:2])
        p = _with(_gaussian(p_family, 3, 16), *inputs[2:])
        results: list[Callable[[], Tensor]] = [
            lambda q=q, p=p: gaussian_kl(q, p),
            lambda q=q, p=p: gaussian_cross_entropy(q, p),
            lambda q=q: gaussian_entropy(q),
            lambda q=q, p=p: gaussian_log_prob(p, q.mean),
        ]
        for result in results:
            value = result()
            gradients = torch.autograd.grad(value, inputs, allow_unused=True)
            assert torch.isfinite(value)
            assert all(torch.isfinite(g).all() for g in gradients if g is not None)


def test_near_equality_is_resolved() -> None:
    # KL = delta^2 for a relative change delta of one sigma, to second order, in one dimension.
    one = torch.ones((), dtype=torch.float64)
    q, p = (IsotropicGaussian(one[None], one * s) for s in (1.0, 1 + 1e-6))
    assert gaussian_kl(q, p).item() == pytest.approx(1e-12, rel=1e-3)


def test_posteriors_of_the_model_agree() -> None:
    random = torch.Generator().manual_seed(1)
    mu, log_sigma = (torch.randn(4, 3, dtype=torch.float64, generator=random) for _ in range(2))
    lower = torch.randn(4, 3, 3, dtype=torch.float64, generator=random).tril(-1)
    unit = IsotropicGaussian(
        torch.zeros(3, dtype=torch.float64), torch.ones((), dtype=torch.float64)
    )
    diagonal, full = Diagonal(mu, log_sigma), Full(mu, log_sigma, lower)
    exact = gaussian_kl(DiagonalGaussian(mu, log_sigma.exp()), unit)
    torch.testing.assert_close(diagonal.kl().sum(-1), exact)
    torch.testing.assert_close(
        full.kl().sum(-1), gaussian_kl(FullGaussian(mu, full.scale_tril()), unit)
    )
