from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from scipy.stats import multivariate_normal
from torch import Tensor

from distvae.model.likelihoods import Elements, Head, make_head

JOINT = ["gaussian-full", "gaussian-low-rank:2", "gaussian-low-rank:1", "gaussian-low-rank"]
Float64Array = NDArray[np.float64]


def elements(width: int, floor: float = 1e-3, **changes: object) -> Elements:
    scale = torch.linspace(0.5, 2.5, width, dtype=torch.float64)
    shift = torch.full((width,), 33.0, dtype=torch.float64)
    known = {"scale": scale, "shift": shift, "floor": shift * 0 + floor, "discrete": False}
    return Elements(**{**known, **changes})


def double(likelihood: str, known: Elements) -> Head:
    """In float64 throughout: heads keep their constants in the default dtype."""
    torch.set_default_dtype(torch.float64)
    try:
        return make_head(likelihood, known).requires_grad_(False)
    finally:
        torch.set_default_dtype(torch.float32)


def draw(shape: tuple[int, ...], seed: int, spread: float = 1.0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape) * spread)


def bounded(raw: Float64Array, bound: float) -> Float64Array:
    return raw / np.sqrt(1 + (raw / bound) ** 2)


def mean_and_covariance(
    likelihood: str, params: Tensor, known: Elements, learned: float = 0.0
) -> tuple[Float64Array, Float64Array]:
    """What the decoder's outputs of one row mean, in plain NumPy and raw units."""
    w, p = known.width, params.numpy()
    mean, raw, rest = p[:w], p[w : 2 * w], p[2 * w :]
    variance = np.exp(2 * (learned + bounded(raw, 3))) + known.floor.numpy() ** 2
    if likelihood == "gaussian-full":
        m = np.eye(w)
        m[np.tril_indices(w, -1)] = bounded(rest, 10) / math.sqrt(w)
        covariance = m @ np.diag(variance) @ m.T
    else:
        u = rest.reshape(-1, w).T / math.sqrt(len(rest) // w)
        sigma = np.sqrt(variance)[:, None]
        u = sigma * bounded(u / sigma, 1e5)
        covariance = np.diag(variance) + u @ u.T
    scale = known.scale.numpy()
    return mean * scale + known.shift.numpy(), covariance * np.outer(scale, scale)


def log_density(x: Float64Array, mean: Float64Array, covariance: Float64Array) -> float:
    return float(multivariate_normal(mean, covariance, allow_singular=False).logpdf(x))


def test_two_elements_by_hand() -> None:
    """The bivariate normal density, and a variance that is a sum of two."""
    one = torch.ones(2, dtype=torch.float64)
    known = Elements(one, 0 * one, 1e-9 * one, discrete=False)
    slope, x, y = 0.75, 0.4, -0.3
    params = torch.tensor([0, 0, 0, math.log(0.5), slope * math.sqrt(2)], dtype=torch.float64)
    params[3] /= math.sqrt(1 - (math.log(0.5) / 3) ** 2)
    params[4] /= math.sqrt(1 - (slope * math.sqrt(2) / 10) ** 2)
    sd = math.hypot(slope, 0.5)
    rho = slope / sd
    exponent = (x * x - 2 * rho * x * y / sd + (y / sd) ** 2) / (2 * (1 - rho**2))
    expected = -exponent - math.log(2 * math.pi * sd * math.sqrt(1 - rho**2))
    found = double("gaussian-full", known).log_prob(torch.tensor([[x, y]]).double(), params[None])
    assert found.sum().item() == pytest.approx(expected, rel=1e-7)
    known = Elements(one[:1], 0 * one[:1], 1e-9 * one[:1], discrete=False)
    params = torch.tensor([[0.0, 0.0, 0.75]], dtype=torch.float64)
    found = double("gaussian-low-rank", known).log_prob(torch.tensor([[0.4]]).double(), params)
    expected = -0.5 * (0.4 / 1.25) ** 2 - math.log(1.25 * math.sqrt(2 * math.pi))
    assert found.item() == pytest.approx(expected, rel=1e-8)


@pytest.mark.parametrize("width", [1, 2, 5, 64])
@pytest.mark.parametrize("likelihood", JOINT)
def test_the_sum_is_the_joint_density_of_scipy(likelihood: str, width: int) -> None:
    known = elements(width)
    head = double(likelihood, known)
    torch.nn.init.constant_(head.scaled_log_sigma, 0.03)
    learned = 0.3 / math.sqrt(1 + (0.3 / 10) ** 2)
    y, params = draw((3, width), 0), draw((2, 3, head.outputs), 1)
    found = head.log_prob(y, params)
    assert found.shape == (2, 3, width)
    for sample, row in itertools.product(range(2), range(3)):
        mean, covariance = mean_and_covariance(likelihood, params[sample, row], known, learned)
        expected = log_density((y[row] * known.scale + known.shift).numpy(), mean, covariance)
        assert found[sample, row].sum().item() == pytest.approx(expected, rel=1e-9, abs=1e-8)
    everything = torch.ones(3, width, dtype=torch.bool)
    assert torch.equal(head.log_prob(y, params, everything), found)
    head = make_head(likelihood, known)
    torch.nn.init.constant_(head.scaled_log_sigma, 0.03)
    single = head.log_prob(y.float(), params.float())
    assert single.dtype == torch.float32
    torch.testing.assert_close(single, found.float(), rtol=2e-4, atol=2e-4)


@pytest.mark.parametrize("likelihood", JOINT)
def test_missing_elements_are_marginalised_exactly(likelihood: str) -> None:
    """All 16 patterns of four elements at once, against SciPy's density of what is left."""
    known = elements(4)
    head = double(likelihood, known)
    observed = torch.tensor(list(itertools.product([True, False], repeat=4)))
    y, params = draw((16, 4), 2), draw((2, 16, head.outputs), 3, spread=2.0)
    found = torch.where(observed, head.log_prob(y, params, observed), 0)
    other = torch.where(observed, y, 1e6)
    torch.testing.assert_close(
        torch.where(observed, head.log_prob(other, params, observed), 0), found
    )
    for sample, row in itertools.product(range(2), range(16)):
        seen = observed[row].numpy()
        mean, covariance = mean_and_covariance(likelihood, params[sample, row], known)
        x = (y[row] * known.scale + known.shift).numpy()[seen]
        expected = log_density(x, mean[seen], covariance[np.ix_(seen, seen)]) if seen.any() else 0
        assert found[sample, row].sum().item() == pytest.approx(expected, rel=1e-9, abs=1e-9)
    for row in range(16):
        alone = head.log_prob(y[[row]], params[:, [row]], observed[[row]])[:, 0]
        torch.testing.assert_close(
            torch.where(observed[row], alone, 0), found[:, row], rtol=1e-14, atol=1e-14
        )


def test_a_full_head_gives_each_element_its_conditional_density() -> None:
    known = elements(5)
    head = double("gaussian-full", known)
    observed = torch.tensor([[True] * 5, [True, False, True, False, True]])
    y, params = draw((2, 5), 4), draw((2, head.outputs), 5)
    found = head.log_prob(y, params, observed)
    for row in range(2):
        mean, covariance = mean_and_covariance("gaussian-full", params[row], known)
        x = (y[row] * known.scale + known.shift).numpy()
        before, seen = 0.0, []
        for element in observed[row].nonzero()[:, 0].tolist():
            seen.append(element)
            upto = log_density(x[seen], mean[seen], covariance[np.ix_(seen, seen)])
            assert found[row, element].item() == pytest.approx(upto - before, rel=1e-8)
            before = upto


@pytest.mark.parametrize("likelihood", JOINT)
def test_samples_are_an_exact_map_of_as_many_normals_and_log_prob_inverts_it(
    likelihood: str,
) -> None:
    known = elements(6)
    head = double(likelihood, known)
    params = draw((head.outputs,), 6)
    mean, covariance = mean_and_covariance(likelihood, params, known)
    root = head.sample(params, torch.eye(6, dtype=torch.float64)) - head.mean(params)
    root = (root * known.scale).numpy().T
    np.testing.assert_allclose(root @ root.T, covariance, rtol=1e-9, atol=1e-12)
    np.testing.assert_allclose(
        head.mean(params) * known.scale + known.shift, mean, rtol=1e-12, atol=0
    )
    noise = draw((4, 6), 7)
    found = head.log_prob(head.sample(params, noise), params)
    entropy = 0.5 * (np.linalg.slogdet(covariance)[1] + 6 * math.log(2 * math.pi))
    expected = -0.5 * noise.square().sum(-1) - entropy
    torch.testing.assert_close(found.sum(-1), expected, rtol=1e-9, atol=1e-9)
    constant = found + 0.5 * noise.square()
    torch.testing.assert_close(constant, constant[:1].expand(4, 6), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("likelihood", JOINT)
def test_samples_covary_as_they_should_by_monte_carlo(likelihood: str) -> None:
    samples, known = 200_000, elements(3)
    head = make_head(likelihood, known).requires_grad_(False)
    params = draw((head.outputs,), 8).float()
    mean, covariance = mean_and_covariance(likelihood, params.double(), known)
    x = head.sample(params, draw((samples, 3), 9).float()).double() * known.scale + known.shift
    spread = np.sqrt(np.diag(covariance))
    assert (np.abs(x.mean(0).numpy() - mean) <= 5 * spread / math.sqrt(samples)).all()
    # Var of x_i x_j is s_ii s_jj + s_ij^2, at most twice the first.
    error = 5 * math.sqrt(2 / samples) * np.outer(spread, spread)
    assert (np.abs(np.cov(x.numpy().T) - covariance) <= error).all()


@pytest.mark.parametrize("likelihood", JOINT)
def test_two_elements_integrate_to_one_in_raw_units(likelihood: str) -> None:
    known = elements(2)
    head = double(likelihood, known)
    params = draw((1, head.outputs), 10, spread=0.5)
    mean, covariance = mean_and_covariance(likelihood, params[0], known)
    steps = torch.linspace(-10, 10, 401, dtype=torch.float64)
    axes = [m + s * steps for m, s in zip(mean, np.sqrt(np.diag(covariance)), strict=True)]
    x = torch.cartesian_prod(*axes)
    density = head.log_prob((x - known.shift) / known.scale, params).sum(-1).exp()
    grid = density.reshape(401, 401)
    total = torch.trapezoid(torch.trapezoid(grid, axes[1], dim=1), axes[0])
    assert total.item() == pytest.approx(1, abs=1e-9)


@pytest.mark.parametrize("with_holes", [False, True])
@pytest.mark.parametrize("likelihood", JOINT)
def test_gradients_by_finite_differences(likelihood: str, with_holes: bool) -> None:
    head = double(likelihood, elements(3))
    y, params = draw((3, 3), 11).requires_grad_(), draw((2, 3, head.outputs), 12).requires_grad_()
    observed = torch.tensor([[True] * 3, [False, True, True], [True, False, False]])

    def log_prob(y: Tensor, params: Tensor) -> Tensor:
        if not with_holes:
            return head.log_prob(y, params)
        return torch.where(observed, head.log_prob(y, params, observed), 0)

    assert torch.autograd.gradcheck(log_prob, (y, params))
    noise = draw((3, 3), 13)
    assert torch.autograd.gradcheck(lambda p: head.sample(p, noise), (params,))
