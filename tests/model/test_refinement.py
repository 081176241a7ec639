from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from distvae.model.posteriors import POSTERIORS
from distvae.model.refinement import Climb, Moments, ascend, falling, refine, row_elbo
from distvae.model.vae import VAE
from tests.model.helpers import exact_log_likelihood, linear_gaussian

SIGMA = 0.7
FAMILIES = tuple(family for family in POSTERIORS if family != "point")


def setting(family: str, rows: int = 40, k: int = 3) -> tuple[VAE, Tensor, np.ndarray]:
    """A linear decoder, an encoder that knows nothing, rows, and their ln p(x)."""
    start, weight, bias = linear_gaussian(6, k, SIGMA)
    model = VAE(dataclasses.replace(start.architecture, posterior=family), 3).double()
    model.decoder.load_state_dict(start.decoder.state_dict())
    generator = np.random.default_rng(1)
    x = generator.normal(size=(rows, k)) @ weight.T + bias
    x = x + SIGMA * generator.normal(size=x.shape)
    return model, torch.from_numpy(x), exact_log_likelihood(x, weight, bias, SIGMA)


def normal(shape: tuple[int, ...], seed: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=shape))


def refined(
    model: VAE, y: Tensor, steps: int, rate: float = 0.1, seed: int = 100
) -> tuple[Tensor, Tensor, Tensor]:
    raw = model.encode_raw(y).detach()
    k = model.architecture.latent_dim
    judge = normal((1, len(y), k), 1)
    judge = torch.cat([judge, -judge])

    def noise(step: int) -> Tensor:
        return normal((1, len(y), k), seed + step)

    return raw, refine(model, y, None, raw, noise, falling(rate, steps), judge), judge


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("steps", [1, 3, 30])
@pytest.mark.parametrize("rate", [0.05, 3.0])
def test_no_row_falls_on_its_own_noise(family: str, steps: int, rate: float) -> None:
    model, y, _ = setting(family)
    before, after, judge = refined(model, y, steps, rate)
    gain = row_elbo(model, y, None, after, judge) - row_elbo(model, y, None, before, judge)
    assert (gain >= 0).all()
    assert (gain > 0).any()


@pytest.mark.parametrize("family", FAMILIES)
def test_it_closes_the_amortisation_gap(family: str) -> None:
    """To the best of the family, whose distance to ln p(x) is known in closed form."""
    model, y, likelihood = setting(family)
    _, raw, _ = refined(model, y, 1500)
    with torch.no_grad():
        eps = cubature(len(y), model.architecture.latent_dim)
        found = row_elbo(model, y, None, raw, eps).numpy()
        start = row_elbo(model, y, None, model.encode_raw(y), eps).numpy()
    weight = model.decoder.last.weight.detach().numpy()
    precision = np.eye(weight.shape[1]) + weight.T @ weight / SIGMA**2
    k = len(precision)
    log_det = np.linalg.slogdet(precision)[1]
    gaps = {
        "full": 0.0,
        "diagonal": 0.5 * (np.log(np.diag(precision)).sum() - log_det),
        "isotropic": 0.5 * (k * np.log(np.trace(precision) / k) - log_det),
    }
    best = likelihood - gaps[family]
    assert (found <= best + 1e-9).all()
    assert (best - start).mean() > 5
    assert np.median(best - found) < 0.03  # the last steps' noise
    assert (best - found).mean() < 0.01 * (best - start).mean()


def cubature(rows: int, k: int) -> Tensor:
    """Points with mean 0 and covariance I: exact for quadratic functions of z."""
    points = np.sqrt(k) * np.concatenate([np.eye(k), -np.eye(k)])
    return torch.from_numpy(np.broadcast_to(points[:, None], (2 * k, rows, k)).copy())


def test_a_row_does_not_depend_on_its_company() -> None:
    model, y, _ = setting("full")
    k = model.architecture.latent_dim
    eps = [normal((1, len(y), k), step) for step in range(5)]
    judge = normal((1, len(y), k), 9)
    raw = model.encode_raw(y).detach()
    whole = refine(model, y, None, raw, lambda s: eps[s], falling(0.1, 5), judge)
    few = slice(7, 12)
    part = refine(
        model, y[few], None, raw[few], lambda s: eps[s][:, few], falling(0.1, 5), judge[:, few]
    )
    torch.testing.assert_close(whole[few], part, rtol=1e-12, atol=1e-12)


def test_no_steps_change_nothing_and_weights_get_no_gradient() -> None:
    model, y, _ = setting("diagonal")
    before, after, _ = refined(model, y, 0)
    assert after is before
    refined(model, y, 2)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_a_diverging_climb_keeps_the_start() -> None:
    model, y, _ = setting("diagonal")
    before, after, judge = refined(model, y, 3, rate=1e30)
    assert torch.isfinite(row_elbo(model, y, None, after, judge)).all()
    assert (after == before).all(1).any()


def test_missing_elements_do_not_pull() -> None:
    model, y, _ = setting("diagonal", rows=4)
    observed = torch.ones_like(y, dtype=torch.bool)
    observed[0] = False
    raw = model.encode_raw(y).detach()
    k = model.architecture.latent_dim
    rates = falling(0.1, 400)
    moved, _ = ascend(model, y, observed, raw, lambda s: normal((1, 4, k), s), rates)
    posterior = model.posterior(moved)
    assert posterior.kl()[0].sum() < 1e-2  # nothing seen: the prior
    assert posterior.kl()[1].sum() > 1


def test_moments_carry_on() -> None:
    model, y, _ = setting("diagonal", rows=5)
    k = model.architecture.latent_dim
    raw = model.encode_raw(y).detach()

    def noise(step: int) -> Tensor:
        return normal((1, 5, k), step)

    whole, _ = ascend(model, y, None, raw, noise, [0.1] * 6)
    half, moments = ascend(model, y, None, raw, noise, [0.1] * 3)
    assert moments.steps == 3
    rest, _ = ascend(
        model, y, None, half, lambda s: noise(3 + s), [0.1] * 3, Climb(moments=moments)
    )
    assert torch.equal(whole, rest)
    assert Moments.like(raw).mean.abs().max() == 0


def test_first_step_against_finite_differences() -> None:
    """Adam's first step is the rate times the gradient's sign, number by number."""
    model, y, _ = setting("full", rows=2)
    k = model.architecture.latent_dim
    eps = normal((1, 2, k), 4)
    raw = model.encode_raw(y).detach()
    moved, moments = ascend(model, y, None, raw, lambda _: eps, [0.01])
    step = 1e-6
    for place in np.ndindex(*raw.shape):
        shifted = raw.clone()
        shifted[place] += step
        low = raw.clone()
        low[place] -= step
        high_value = row_elbo(model, y, None, shifted, eps).sum()
        slope = (high_value - row_elbo(model, y, None, low, eps).sum()) / (2 * step)
        found = moments.mean[place] / 0.1
        assert found.item() == pytest.approx(slope.item(), rel=1e-5, abs=1e-6)
    expected = raw + 0.01 * torch.sign(moments.mean)
    torch.testing.assert_close(moved, expected, rtol=0, atol=1e-6)
