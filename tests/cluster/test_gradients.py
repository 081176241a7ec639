"""The classical two steps, against the closed form of the linear-Gaussian model; no Ray."""

from __future__ import annotations

import dataclasses
import math

import numpy as np
import pytest
import torch
from torch import Tensor

from distvae.cluster.batches import Batch
from distvae.cluster.gradients import add_gradient, add_two_step_gradient
from distvae.model.linear_gaussian import LinearGaussian
from distvae.model.objectives import Objective
from distvae.model.refinement import Climb, Moments
from distvae.model.vae import VAE
from tests.model.helpers import linear_gaussian

pytestmark = pytest.mark.ray  # the floor's modules import what needs Ray

SIGMA, WIDTH, K, ROWS = 0.7, 6, 3, 20


def cubature(rows: int) -> Tensor:
    """Points with mean 0 and covariance I: exact where the integrand is quadratic."""
    points = math.sqrt(K) * np.concatenate([np.eye(K), -np.eye(K)])
    return torch.from_numpy(np.broadcast_to(points[:, None], (2 * K, rows, K)).copy())


def setting(inference: str) -> tuple[VAE, LinearGaussian, Batch, Tensor]:
    """A model, the truth of its decoder, rows, and the raw numbers of their exact posteriors."""
    start, weight, bias = linear_gaussian(WIDTH, K, SIGMA)
    changes = {"posterior": "full", "inference": inference}
    model = VAE(dataclasses.replace(start.architecture, **changes), 1).double()
    model.decoder.load_state_dict(start.decoder.state_dict())
    truth = LinearGaussian(*(torch.from_numpy(np.asarray(v)) for v in (weight, bias, SIGMA)))
    x = torch.from_numpy(np.random.default_rng(3).normal(size=(ROWS, WIDTH)) * 2)
    posterior = truth.posterior(x)
    factor = posterior.scale_tril.expand(ROWS, K, K)
    log_diagonal = factor.diagonal(dim1=1, dim2=2).log()
    rows, columns = torch.tril_indices(K, K, -1)
    lower = factor[:, rows, columns]

    def unbounded(values: Tensor, bound: float) -> Tensor:
        return values / torch.sqrt(1 - (values / bound).square())

    parts = [posterior.mean, unbounded(log_diagonal, 10.0), unbounded(lower, math.exp(10.0))]
    for parameter in model.parameters():
        parameter.grad = torch.zeros_like(parameter)
    return model, truth, Batch(x, None, cubature(ROWS)), torch.cat(parts, 1)


def no_noise(step: int) -> Tensor:
    del step
    return torch.zeros(1, ROWS, K).double()


def test_the_decoder_follows_the_closed_form_at_given_posteriors() -> None:
    """At q = p(z|x), d/dW E_q[ln p(x|z)] is d ln p(x) / dW (Fisher's identity)."""
    model, truth, batch, raw = setting("per-row")
    climb = Climb(Objective(), 1.0, Moments.like(raw))
    bound, reached, _ = add_two_step_gradient(model, batch, no_noise, [], climb, ROWS, raw)
    assert torch.equal(reached, raw)
    torch.testing.assert_close(bound.value, truth.log_likelihood(batch.y), rtol=0, atol=1e-9)
    weight, bias = (value.clone().requires_grad_(True) for value in (truth.weight, truth.bias))
    exact = LinearGaussian(weight, bias, truth.sigma).log_likelihood(batch.y).sum() / ROWS
    expected = torch.autograd.grad(-exact, (weight, bias))
    torch.testing.assert_close(model.decoder.last.weight.grad, expected[0])
    torch.testing.assert_close(model.decoder.last.bias.grad, expected[1])


def test_the_decoder_feels_nothing_through_the_samples() -> None:
    """Without reparameterisation the encoder gets no gradient from the decoder's step."""
    model, _, batch, _ = setting("semi-amortised")
    climb = Climb(Objective(), 1.0)
    add_two_step_gradient(model, batch, no_noise, [], climb, ROWS, None)
    assert model.encoder is not None
    two_step = {name: p.grad.clone() for name, p in model.named_parameters()}
    for parameter in model.parameters():
        parameter.grad.zero_()
    # No climb: both schemes stand at the encoder's answer, where the gradients must agree.
    add_gradient(model, batch, Objective(mc_samples=2 * K), 1.0, ROWS)
    for name, parameter in model.named_parameters():
        torch.testing.assert_close(two_step[name], parameter.grad, msg=name)


@pytest.mark.parametrize("inference", ["per-row", "semi-amortised"])
def test_the_climb_follows_the_weight_and_the_free_bits(inference: str) -> None:
    model, _, batch, raw = setting(inference)
    own = raw * 0 if inference == "per-row" else None
    reached = []
    for objective, weight in (
        (Objective(), 1.0),
        (Objective(), 30.0),
        (Objective(free_bits=2.0), 1.0),
        (Objective(kl="sampled"), 1.0),
    ):
        generator = np.random.default_rng(0)

        def noise(step: int, source: np.random.Generator = generator) -> Tensor:
            del step
            return torch.from_numpy(source.normal(size=(1, ROWS, K)))

        before = Moments.like(raw) if own is not None else None
        climb = Climb(objective, weight, before)
        found = add_two_step_gradient(model, batch, noise, [0.05] * 20, climb, ROWS, own)
        reached.append((found[1], model.posterior(found[1]).kl().sum().item()))
    assert reached[1][1] < reached[0][1]  # a heavier KL stays nearer to the prior
    for raw_other, _ in reached[1:]:
        assert not torch.equal(raw_other, reached[0][0])
