from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal
from torch import Tensor

from distvae.errors import DataError, UsageError
from distvae.model.architecture import Architecture
from distvae.model.densities import (
    binarize,
)
from distvae.model.likelihoods import HEADS, Elements, Head, elements_of, make_head
from distvae.model.vae import VAE
from tests.model.helpers import block, spec


def elements(width: int = 1, *, discrete: bool = False, **changes: float) -> Elements:
    values = {"scale": 60.0 if discrete else 2.5, "shift": 33.0, "floor": 1e-3, **changes}
    tensors = {name: torch.full((width,), float(value)) for name, value in values.items()}
    return Elements(**tensors, discrete=discrete)


def phi(x: float) -> float:
    return 0.5 * math.erfc(-x / math.sqrt(2))


def double(likelihood: str, known: Elements) -> Head:
    return make_head(likelihood, known).double()


@pytest.mark.parametrize(
    "name", ["gaussian", "gaussian-feature", "gaussian-row", "gaussian-fixed:0.7"]
)
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
    bounded = raw / np.sqrt(1 + (raw / 3) ** 2)  # the row's part; the learned one starts at 0
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


@pytest.mark.parametrize(
    "name", ["gaussian", "gaussian-feature", "gaussian-row", "gaussian-fixed:1e-8"]
)
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
@pytest.mark.parametrize(
    "name", ["gaussian", "gaussian-feature", "gaussian-row", "gaussian-fixed:1e-6"]
)
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


@pytest.mark.parametrize(
    "name", ["gaussian", "gaussian-feature", "gaussian-row", "gaussian-fixed", "bernoulli"]
)
def test_the_output_bias_starts_the_head_at_the_mean(name: str) -> None:
    head = make_head(name, elements(3))
    mean = torch.tensor([0.1, 0.5, 0.9])
    torch.testing.assert_close(head.mean(head.output_bias(mean)), mean)


def test_an_unknown_head_or_argument_is_refused_by_name() -> None:
    with pytest.raises(UsageError, match="likelihood: 'gaussian-fixed:'; nothing follows the colo"):
        make_head("gaussian-fixed:", elements())
    with pytest.raises(UsageError, match="likelihood: 'poisson'; must be one of gaussian, "):
        make_head("poisson", elements())
    with pytest.raises(UsageError, match="likelihood: ':2'; this head takes no argument"):
        make_head("gaussian:2", elements())
    for argument in ("x", "0", "-1", "inf", "nan"):
        with pytest.raises(UsageError, match=f"'gaussian-fixed:{argument}'; sigma must be"):
            make_head(f"gaussian-fixed:{argument}", elements())
    assert list(HEADS) == [
        "gaussian",
        "gaussian-feature",
        "gaussian-row",
        "gaussian-fixed",
        "gaussian-full",
        "gaussian-low-rank",
        "bernoulli",
        "categorical",
        "histogram",
        "negative-binomial",
        "zero-inflated-negative-binomial",
    ]


def test_a_feature_shares_one_sigma_the_noise_of_probabilistic_pca() -> None:
    """Against SciPy's N(mean, sigma^2 I) per feature, and by the maximum of the likelihood."""
    features = (spec("v", 0, 3, scale=2.0, resolution=1e-6), spec("a", 3, 4, resolution=1e-6))
    head = make_head("gaussian-feature", elements_of(features)).double()
    assert head.scaled_log_sigma.shape == (2,)
    with torch.no_grad():
        head.scaled_log_sigma.copy_(torch.tensor([-0.05, 0.07]))
    y, mean = torch.from_numpy(np.random.default_rng(8).normal(size=(2, 5, 4)))
    found = head.log_prob(y, mean)
    for columns, raw, scale in ((slice(0, 3), -0.5, 2.0), (slice(3, 4), 0.7, 1.0)):
        sigma = math.exp(raw / math.sqrt(1 + (raw / 10) ** 2)) * scale
        residual = (y - mean)[:, columns].numpy() * scale
        expected = multivariate_normal(np.zeros(residual.shape[1]), sigma**2).logpdf(residual)
        np.testing.assert_allclose(found[:, columns].sum(1).detach(), expected, rtol=1e-6)
    # d log p / d log sigma is 0 where sigma^2 is the feature's mean square: Tipping & Bishop's.
    (gradient,) = torch.autograd.grad(found.sum(), head.scaled_log_sigma)
    sigma = [math.exp(raw / math.sqrt(1 + (raw / 10) ** 2)) for raw in (-0.5, 0.7)]
    square = (y - mean).square().numpy()
    excess = [square[:, :3].sum() / sigma[0] ** 2 - 15, square[:, 3].sum() / sigma[1] ** 2 - 5]
    slope = [10 * (1 + (raw / 10) ** 2) ** -1.5 for raw in (-0.5, 0.7)]
    assert gradient.tolist() == pytest.approx(
        [e * s for e, s in zip(excess, slope, strict=True)], rel=1e-5
    )


class Laplace(Head):
    """A head of the test's own: exp(-|y - m|) / 2."""

    def log_prob(self, y: Tensor, params: Tensor, observed: Tensor | None = None) -> Tensor:
        return -(y - params).abs() - math.log(2) - torch.log(self.scale)

    def mean(self, params: Tensor) -> Tensor:
        return params

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        return params - noise.sign() * torch.log1p(-torch.erf(noise.abs() / math.sqrt(2)))

    def output_bias(self, mean: Tensor) -> Tensor:
        return mean


def test_another_head_plugs_in_by_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(HEADS, "laplace", Laplace)
    model = VAE.from_architecture(
        Architecture(2, (spec("v", 0, 3),), (block(3),), (4,), likelihoods={"v": "laplace"})
    )
    y = torch.from_numpy(np.random.default_rng(9).normal(size=(5, 3))).float()
    params = model.decode(torch.zeros(5, 2))
    expected = -(y - params).abs().sum(-1) - 3 * math.log(2)
    torch.testing.assert_close(model.log_likelihood(y, None, params), expected)
    with pytest.raises(UsageError, match="likelihood: ':2'; this head takes no argument"):
        make_head("laplace:2", elements())
