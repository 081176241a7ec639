"""With a fixed sigma the ELBO is squared error with a KL weight, and sigma^2 is that weight."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import Tensor

from distvae.model.architecture import Architecture
from distvae.model.objectives import elbo
from distvae.model.vae import VAE
from tests.model.helpers import block, spec

SCALE, WIDTH = 3.0, 4


def model(sigma: float) -> VAE:
    """The same weights for any sigma; every path of the model in float64."""
    architecture = Architecture(
        latent_dim=2,
        hidden_dims=(6,),
        activation="tanh",
        features=(spec("v", 0, WIDTH, scale=SCALE),),
        blocks=(block(WIDTH),),
        likelihoods={"v": f"gaussian-fixed:{sigma}"},
    )
    return VAE.from_architecture(architecture, seed=5).double()


def draws() -> tuple[Tensor, Tensor]:
    generator = np.random.default_rng(0)
    return tuple(torch.from_numpy(generator.normal(size=s)) for s in ((7, WIDTH), (3, 7, 2)))


def gradient(value: Tensor, of: VAE) -> list[Tensor]:
    return list(torch.autograd.grad(value, list(of.parameters()), retain_graph=True))


@pytest.mark.parametrize(("sigma", "weight"), [(0.1, 1.0), (0.5, 0.3), (2.0, 4.0)])
def test_sigma_squared_times_the_elbo_is_squared_error_with_that_kl_weight(
    sigma: float, weight: float
) -> None:
    """sigma^2 ELBO(sigma, lambda) = -E|y - g(z)|^2 / 2 - lambda sigma^2 KL - constant."""
    network = model(sigma)
    y, eps = draws()
    terms = network.terms(y, None, eps)
    posterior = network.encode(y)
    mean = network.reconstruction_mean(network.decode(posterior.sample(eps)))
    squared_error = (mean - y).square().sum(-1).mean(0)
    plain = -0.5 * squared_error - weight * sigma**2 * terms.kl.sum(-1)
    constant = sigma**2 * WIDTH * (math.log(sigma * SCALE) + 0.5 * math.log(2 * math.pi))
    scaled = sigma**2 * elbo(terms, weight)
    torch.testing.assert_close(scaled, plain - constant, rtol=1e-6, atol=1e-6)
    pairs = zip(gradient(scaled.sum(), network), gradient(plain.sum(), network), strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize(("sigma", "weight"), [(0.1, 1.0), (0.5, 0.3), (2.0, 4.0)])
def test_sigma_and_lambda_are_the_same_knob(sigma: float, weight: float) -> None:
    """sigma^2 ELBO(sigma, lambda) and ELBO(1, lambda sigma^2) differ by a constant."""
    first, second = model(sigma), model(1.0)
    y, eps = draws()
    left = sigma**2 * elbo(first.terms(y, None, eps), weight)
    right = elbo(second.terms(y, None, eps), weight * sigma**2)
    half_log = 0.5 * math.log(2 * math.pi)
    constant = WIDTH * (
        sigma**2 * (math.log(sigma * SCALE) + half_log) - math.log(SCALE) - half_log
    )
    torch.testing.assert_close(left, right - constant, rtol=1e-6, atol=1e-6)
    pairs = zip(gradient(left.sum(), first), gradient(right.sum(), second), strict=True)
    for found, expected in pairs:
        torch.testing.assert_close(found, expected, rtol=1e-6, atol=1e-8)


def test_another_weight_is_another_objective() -> None:
    """The knob turns something: with sigma changed alone the gradients differ."""
    y, eps = draws()
    first, second = model(0.5), model(1.0)
    left = gradient(0.25 * elbo(first.terms(y, None, eps)).sum(), first)
    right = gradient(elbo(second.terms(y, None, eps)).sum(), second)
    assert not all(torch.allclose(a, b, rtol=1e-2) for a, b in zip(left, right, strict=True))
