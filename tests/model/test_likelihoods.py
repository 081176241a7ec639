from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from distvae.errors import DataError, UsageError
from distvae.model.densities import (
    binarize,
    clipped_mean,
    gaussian_log_prob,
    log_interval_mass,
    log_normal_cdf,
)
from distvae.model.likelihoods import HEADS, Elements, Head, elements_of, make_head
from tests.model.helpers import spec


def elements(width: int = 1, *, discrete: bool = False, **changes: float) -> Elements:
    values = {"scale": 60.0 if discrete else 2.5, "shift": 33.0, "floor": 1e-3, **changes}
    tensors = {name: torch.full((width,), float(value)) for name, value in values.items()}
    return Elements(**tensors, discrete=discrete)


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def double(likelihood: str, known: Elements) -> Head:
    return make_head(likelihood, known).double()


def test_gaussian_by_hand() -> None:
    # At the mean with sigma 1 the density is 1 / sqrt(2 pi); one sigma off exp(-1/2) of it.
    y = torch.tensor([0.0, 1.0], dtype=torch.float64)
    found = gaussian_log_prob(y, torch.zeros(2), torch.zeros(2))
    top = -0.5 * math.log(2 * math.pi)
    assert found.tolist() == pytest.approx([top, top - 0.5], rel=1e-14)


@pytest.mark.parametrize("name", ["gaussian", "gaussian-row", "gaussian-fixed:0.7"])
def test_densities_integrate_to_one_in_raw_units(name: str) -> None:
    known = elements()
    head = double(name, known)
    x = torch.linspace(33 - 40, 33 + 40, 80_001, dtype=torch.float64)[:, None]
    y = (x - known.shift) / known.scale
    params = torch.full((1, head.parameters_per_element), 0.3, dtype=torch.float64)
    density = head.log_prob(y, params).exp()
    assert torch.trapezoid(density[:, 0], x[:, 0]).item() == pytest.approx(1, abs=1e-7)


def test_gaussian_row_against_numpy_in_raw_units() -> None:
    generator = np.random.default_rng(0)
    known = elements(3, scale=2.5)
    y, mean, raw = (generator.normal(size=(4, 3)) for _ in range(3))
    bounded = raw / np.sqrt(1 + (raw / 10) ** 2)
    sigma = np.sqrt(np.exp(2 * bounded) + 1e-6) * 2.5
    residual = (y - mean) * 2.5 / sigma
    expected = np.log(np.exp(-0.5 * residual**2) / (sigma * np.sqrt(2 * np.pi)))
    params = torch.from_numpy(np.concatenate([mean, raw], 1))
    found = double("gaussian-row", known).log_prob(torch.from_numpy(y), params)
    np.testing.assert_allclose(found.detach().numpy(), expected, rtol=1e-6)


def test_sigma_never_falls_below_the_floor_and_fixed_sigma_is_exact() -> None:
    head = make_head("gaussian", elements(floor=0.01))
    with torch.no_grad():
        head.scaled_log_sigma.fill_(-1e4)
    zero = torch.zeros(1, 1)
    draw = head.sample(zero, torch.ones(1, 1))
    assert draw.item() == pytest.approx(0.01, rel=1e-3)
    assert make_head("gaussian-fixed:0.1", elements()).sample(
        zero, zero + 1
    ).item() == pytest.approx(0.1)
    below = make_head("gaussian-fixed:0.0001", elements(floor=0.01))
    assert below.sample(zero, zero + 1).item() == pytest.approx(0.01)


def test_elements_have_the_floor_of_their_resolution() -> None:
    known = elements_of((spec("a", 0, 1, resolution=1.0, scale=4.0), spec("v", 1, 3)))
    assert known.floor.tolist() == pytest.approx(
        [1 / math.sqrt(12) / 4] + [1e-4 / math.sqrt(12)] * 2
    )


@pytest.mark.parametrize("key", ["scale", "resolution"])
def test_elements_refuse_a_scale_that_is_not_positive(key: str) -> None:
    with pytest.raises(DataError, match=f"features a: have a {key} that is not positive"):
        elements_of((spec("a", 0, 1, **{key: 0.0}),))


@pytest.mark.parametrize("sigma", [0.003, 0.02, 0.3, 3.0])
@pytest.mark.parametrize("location", [-2.0, 0.11, 3.0, 50.0])
def test_byte_masses_add_to_one(location: float, sigma: float) -> None:
    head = make_head(f"gaussian-fixed:{sigma}", elements(discrete=True))
    y = (torch.arange(256.0)[:, None] - 33) / 60
    mass = head.log_prob(y, torch.full((1, 1), location)).double().exp().sum().item()
    assert mass == pytest.approx(1, abs=2e-5)


def test_byte_masses_against_the_error_function() -> None:
    sigma, location = 0.2, 0.4
    head = double(f"gaussian-fixed:{sigma}", elements(discrete=True))
    for x in (0, 1, 20, 57, 80, 255):
        lower = -math.inf if x == 0 else (x - 0.5 - 33 - location * 60) / (sigma * 60)
        upper = math.inf if x == 255 else (x + 0.5 - 33 - location * 60) / (sigma * 60)
        a, b = (-upper, -lower) if lower > 0 else (lower, upper)
        expected = math.log(phi(b) - phi(a))
        y = torch.tensor([[(x - 33) / 60]], dtype=torch.float64)
        found = head.log_prob(y, torch.tensor([[location]], dtype=torch.float64)).item()
        assert found == pytest.approx(expected, rel=2e-6), x


def test_byte_masses_by_monte_carlo() -> None:
    samples = 400_000
    head = make_head("gaussian-fixed:0.5", elements(discrete=True))
    noise = torch.from_numpy(np.random.default_rng(3).normal(size=(samples, 1))).float()
    drawn = head.sample(torch.full((1, 1), -0.4), noise)[:, 0] * 60 + 33
    counts = np.bincount(drawn.round().clamp(0, 255).long().numpy(), minlength=256)
    y = (torch.arange(256.0)[:, None] - 33) / 60
    mass = head.log_prob(y, torch.full((1, 1), -0.4)).exp()[:, 0].numpy()
    error = 5 * np.sqrt(mass / samples) + 1 / samples
    assert (np.abs(counts / samples - mass) <= error).all()


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


def test_bernoulli_by_hand_in_numpy_and_as_a_distribution() -> None:
    head = double("bernoulli", elements())
    logits = torch.tensor([[0.0], [math.log(3)]], dtype=torch.float64)
    ones, zeros = torch.ones(2, 1, dtype=torch.float64), torch.zeros(2, 1, dtype=torch.float64)
    assert head.log_prob(ones, logits).exp().flatten().tolist() == pytest.approx([0.5, 0.75])
    total = head.log_prob(ones, logits).exp() + head.log_prob(zeros, logits).exp()
    torch.testing.assert_close(total, ones)
    y, raw = np.random.default_rng(4).uniform(size=(2, 50, 1))
    p = 1 / (1 + np.exp(-raw))
    expected = y * np.log(p) + (1 - y) * np.log1p(-p)
    found = head.log_prob(torch.from_numpy(y), torch.from_numpy(raw))
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-12)


@pytest.mark.parametrize("probability", [0.02, 0.5, 0.9])
def test_bernoulli_samples_and_binarize_have_the_right_mean(probability: float) -> None:
    samples = 200_000
    generator = np.random.default_rng(5)
    error = 5 * math.sqrt(probability * (1 - probability) / samples)
    logit = torch.full((1, 1), math.log(probability / (1 - probability)))
    noise = torch.from_numpy(generator.normal(size=(samples, 1))).float()
    drawn = make_head("bernoulli", elements()).sample(logit, noise)
    assert set(drawn.unique().tolist()) <= {0.0, 1.0}
    assert abs(drawn.mean().item() - probability) <= error
    u = torch.from_numpy(generator.uniform(size=samples)).float()
    assert (
        abs(binarize(torch.full((samples,), probability), u).mean().item() - probability) <= error
    )
    assert binarize(torch.tensor([0.0, 1.0]), torch.tensor([0.0, 1 - 2**-24])).tolist() == [0, 1]


@pytest.mark.parametrize("name", ["gaussian", "gaussian-row", "gaussian-fixed:1e-8"])
def test_samples_have_the_density_they_claim(name: str) -> None:
    """E[log p(x)] over samples is minus the entropy, log(sigma_raw) + log(2 pi e) / 2."""
    samples = 100_000
    head = make_head(name, elements())
    params = torch.full((1, head.parameters_per_element), -0.2)
    noise = torch.from_numpy(np.random.default_rng(6).normal(size=(samples, 1))).float()
    y = head.sample(params, noise).detach()
    log_sigma = torch.log(head.sample(params, noise * 0 + 1) - head.mean(params)).mean()
    entropy = log_sigma.item() + math.log(2.5) + 0.5 * math.log(2 * math.pi * math.e)
    found = head.log_prob(y, params).mean().item()
    assert abs(found + entropy) <= 5 * math.sqrt(0.5 / samples) + 1e-3


EXTREMES = [-1e4, -1e2, -1.0, 0.0, 1e-8, 1.0, 1e2, 1e4]


def assert_finite(head: Head, y: Tensor, params: Tensor) -> None:
    params.requires_grad_()
    learned = [params, *head.parameters()]
    value = head.log_prob(y, params)
    gradients = torch.autograd.grad(value.sum(), learned, allow_unused=True)
    assert torch.isfinite(value).all()
    for gradient in gradients:
        assert gradient is None or torch.isfinite(gradient).all()


@pytest.mark.parametrize("discrete", [False, True])
@pytest.mark.parametrize("name", ["gaussian", "gaussian-row", "gaussian-fixed:1e-6"])
def test_gaussians_are_finite_far_out(name: str, discrete: bool) -> None:
    head = make_head(name, elements(discrete=discrete, floor=1e-7))
    for start in (-1e4, 0.0, 1e4):
        for parameter in head.parameters():
            torch.nn.init.constant_(parameter, start)
        columns = [EXTREMES] * head.parameters_per_element
        params = torch.tensor(list(itertools.product(*columns)))
        # Encoded bytes, among them both open ends; and values no byte has.
        for y in [(0 - 33) / 60, (7 - 33) / 60, (255 - 33) / 60, *EXTREMES]:
            assert_finite(head, torch.full((len(params), 1), y), params.detach().clone())


def test_bernoulli_is_finite_far_out() -> None:
    params = torch.tensor(EXTREMES)[:, None]
    for y in (0.0, 0.5, 1.0):
        assert_finite(
            make_head("bernoulli", elements()), torch.full_like(params, y), params.clone()
        )


@pytest.mark.parametrize("name", ["gaussian", "gaussian-row", "gaussian-fixed", "bernoulli"])
def test_the_output_bias_starts_the_head_at_the_mean(name: str) -> None:
    head = make_head(name, elements(3))
    mean = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(head.mean(head.output_bias(mean)), mean)


def test_an_unknown_head_or_argument_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="likelihood: 'poisson'; must be one of gaussian, "):
        make_head("poisson", elements())
    with pytest.raises(UsageError, match="likelihood: ':2'; this head takes no argument"):
        make_head("gaussian:2", elements())
    for argument in ("x", "0", "-1", "inf", "nan"):
        with pytest.raises(UsageError, match=f"'gaussian-fixed:{argument}'; sigma must be"):
            make_head(f"gaussian-fixed:{argument}", elements())
    assert list(HEADS) == ["gaussian", "gaussian-row", "gaussian-fixed", "bernoulli"]


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


def test_log_normal_cdf_by_known_values() -> None:
    known = {-30.0: -454.3212439563432, -10.0: -53.23128515051247, -4.5: -12.592419735713909}
    for x, expected in known.items():
        for dtype, tolerance in ((torch.float32, 5e-7), (torch.float64, 1e-9)):
            found = log_normal_cdf(torch.tensor(x, dtype=dtype)).item()
            assert found == pytest.approx(expected, rel=tolerance)
    x = torch.linspace(-4, 6, 101, dtype=torch.float64)
    expected = torch.tensor([math.log(phi(value)) for value in x.tolist()], dtype=torch.float64)
    torch.testing.assert_close(log_normal_cdf(x), expected, rtol=1e-12, atol=1e-15)
