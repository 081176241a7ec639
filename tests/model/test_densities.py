from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from distvae.model.densities import (
    clipped_mean,
    gaussian_log_prob,
    log_interval_mass,
    log_normal_cdf,
    normal_cdf,
)


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def test_gaussian_by_hand() -> None:
    # At the mean with sigma 1 the density is 1 / sqrt(2 pi); one sigma off exp(-1/2) of it.
    y = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = gaussian_log_prob(y, torch.zeros(2), torch.zeros(2))
    top = -0.5 * math.log(2 * math.pi)
    assert found.tolist() == pytest.approx([top, top - 0.5], rel=1e-14)


def test_interval_mass_float32_against_float64_everywhere() -> None:
    center = torch.tensor([0, 1e-3, 0.3, 1, 2.5, 6, 11, 40, 300, 1e4, 1e6])
    half = torch.tensor([1e-6, 1e-4, 1e-2, 0.03, 0.1, 0.24, 0.26, 0.5, 1.0, 1.7])
    c, h = (v.reshape(-1) for v in torch.meshgrid(center, half, indexing="ij"))
    fine = log_interval_mass(c.double(), h.double())
    coarse = log_interval_mass(c, h).double()
    assert ((coarse - fine).abs() <= 2e-5 + 1e-6 * fine.abs()).all()
    # Midpoint sums over 4,000 slices are good to 1e-7 where the density doesn't vary too fast.
    near = c * h < 20
    t = (torch.arange(4000, dtype=torch.float64) + 0.5) / 2000 - 1
    grid = -0.5 * (c[near, None].double() + h[near, None].double() * t).square()
    sums = torch.logsumexp(grid, 1) + torch.log(h[near].double() / 2000 / math.sqrt(2 * math.pi))
    torch.testing.assert_close(fine[near], sums, rtol=1e-5, atol=5e-6)


def test_interval_mass_gradient_against_the_densities_at_its_ends() -> None:
    # d log mass / dc = (phi(c + h) - phi(c - h)) / mass, d/dh = (phi(c + h) + phi(c - h)) / mass.
    pairs = itertools.product([-4.0, -0.9, 0.2, 1.5, 5.0], [0.02, 0.2, 0.3, 1.5])
    c, h = (torch.tensor(v, dtype=torch.float64) for v in zip(*pairs, strict=True))
    c.requires_grad_()
    h.requires_grad_()
    log_mass = log_interval_mass(c, h)
    found = torch.autograd.grad(log_mass.sum(), [c, h])
    with torch.no_grad():
        density = [torch.exp(-0.5 * e.square()) / math.sqrt(2 * math.pi) for e in (c + h, c - h)]
        mass = log_mass.exp()
        expected = [(density[0] - density[1]) / mass, (density[0] + density[1]) / mass]
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, rtol=2e-5, atol=2e-5)


def test_normal_cdf_in_float32_keeps_both_tails() -> None:
    x = torch.linspace(-9, 9, 2001)
    expected = torch.tensor([phi(value) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(normal_cdf(x).double(), expected, rtol=6e-6, atol=0)


def test_log_normal_cdf_gradient_in_float32() -> None:
    """Far out phi(x) / Phi(x) = -x + 1 / -x - ..., near by it is a ratio that NumPy can form."""
    near = torch.tensor([-4.0, -1.0, 0.0, 2.0, 5.0], requires_grad=True)
    (found,) = torch.autograd.grad(log_normal_cdf(near).sum(), near)
    expected = [math.exp(-0.5 * x * x) / math.sqrt(2 * math.pi) / phi(x) for x in near.tolist()]
    assert found.tolist() == pytest.approx(expected, rel=1e-5)
    far = torch.tensor([-1e2, -1e4, -1e8, 1e2, 1e8], requires_grad=True)
    (found,) = torch.autograd.grad(log_normal_cdf(far).sum(), far)
    assert found.tolist() == pytest.approx([1e2 + 1e-2, 1e4, 1e8, 0, 0], rel=1e-6)


def test_clipped_mean_is_the_average_of_clipped_draws() -> None:
    generator = torch.Generator().manual_seed(7)
    mean = torch.tensor([-40.0, -1.0, 0.3, 100.0, 254.5, 400.0], dtype=torch.float64)
    sigma = torch.tensor([2.0, 3.0, 0.5, 20.0, 4.0, 9.0], dtype=torch.float64)
    low, high = torch.zeros(6, dtype=torch.float64), torch.full((6,), 255.0, dtype=torch.float64)
    draws = 200_000
    noise = torch.randn(draws, 6, generator=generator, dtype=torch.float64)
    expected = (mean + sigma * noise).clamp(0, 255).mean(0)
    found = clipped_mean(mean, sigma, low, high)
    assert torch.allclose(found, expected, atol=float(5 * sigma.max() / draws**0.5), rtol=0)
    # Far inside the range it is the mean, far outside it is the edge.
    assert abs(found[0]) < 1e-50
    assert found[5] == 255
    assert abs(found[3] - 100) < 1e-5


@pytest.mark.parametrize("mean", [-1e4, -10.0, -0.6, 0.0, 2.0, 3.71, 10.0, 1e4])
def test_clipped_mean_in_float32_against_its_integral(mean: float) -> None:
    """E clip(X) = low + the integral of P(X > t) over [low, high], by 20,000 midpoints."""
    low, high, cells = -0.55, 3.7, 20_000
    t = low + (high - low) * (np.arange(cells) + 0.5) / cells
    for sigma in (1e-2, 0.5, 3.0):
        above = [phi((mean - value) / sigma) for value in t]
        expected = low + (high - low) * math.fsum(above) / cells
        bounds = (torch.tensor(v) for v in (mean, sigma, low, high))
        assert clipped_mean(*bounds).item() == pytest.approx(expected, abs=4e-7)


def test_log_normal_cdf_by_known_values() -> None:
    known = {-30.0: -454.3212439563432, -10.0: -53.23128515051247, -4.5: -12.592419735713909}
    for x, expected in known.items():
        for dtype, tolerance in ((torch.float32, 5e-7), (torch.float64, 1e-9)):
            found = log_normal_cdf(torch.tensor(x, dtype=dtype)).item()
            assert found == pytest.approx(expected, rel=tolerance)
    x = torch.linspace(-4, 6, 101, dtype=torch.float64)
    expected = torch.tensor([math.log(phi(value)) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(log_normal_cdf(x), expected, rtol=1e-12, atol=1e-15)
