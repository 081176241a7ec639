"""The diagonal Gaussian posterior q(z|x) = N(mu, diag(sigma^2)) and the prior p(z) = N(0, I).

Kingma & Welling 2014, "Auto-Encoding Variational Bayes". ``log_sigma`` is the natural logarithm of
a standard deviation. Shapes: n rows, k latent dimensions, any leading dimensions.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

__all__ = [
    "LOG_SIGMA_BOUND",
    "POSTERIORS",
    "bounded_log_sigma",
    "kl",
    "log_prob",
    "log_ratio",
    "sample",
    "split",
    "standard_normal_log_prob",
]

POSTERIORS = ("diagonal",)
LOG_SIGMA_BOUND = 10.0
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)


def bounded_log_sigma(raw: Tensor, bound: float = LOG_SIGMA_BOUND) -> Tensor:
    """Bound a network's output smoothly: ``raw / sqrt(1 + (raw / bound)^2)``.

    Odd, slope 1 at 0, within (-bound, bound), so sigma stays within e^-10 = 4.5e-5 and e^10 = 2.2e4
    by default. Unlike tanh its gradient decays as a power, so a unit far out can still come back.
    """
    return raw * torch.rsqrt(1 + (raw / bound).square())


def split(raw: Tensor) -> tuple[Tensor, Tensor]:
    """Cut encoder outputs ``(..., 2k)`` into ``mu`` and bounded ``log_sigma``, ``(..., k)``."""
    mu, raw_log_sigma = raw.chunk(2, dim=-1)
    return mu, bounded_log_sigma(raw_log_sigma)


def kl(mu: Tensor, log_sigma: Tensor) -> Tensor:
    """KL(N(mu, sigma^2) || N(0, 1)) per dimension, in nats.

    ``(mu^2 + sigma^2 - 1 - 2 log sigma) / 2`` (Kingma & Welling 2014, appendix B), with
    ``sigma^2 - 1 = expm1(2 log sigma)``, exact near sigma = 1 and finite as sigma goes to 0.

    Returns:
        The shape of ``mu``; never below 0 but for rounding.
    """
    return 0.5 * (mu.square() + (torch.expm1(2 * log_sigma) - 2 * log_sigma))


def sample(mu: Tensor, log_sigma: Tensor, eps: Tensor) -> Tensor:
    """Return z = mu + sigma * eps for standard normal ``eps`` (reparameterisation)."""
    return mu + log_sigma.exp() * eps


def log_prob(z: Tensor, mu: Tensor, log_sigma: Tensor) -> Tensor:
    """Return log N(z; mu, sigma^2), summed over the last dimension, in nats."""
    eps = (z - mu) * torch.exp(-log_sigma)
    return (-0.5 * eps.square() - log_sigma - _HALF_LOG_TWO_PI).sum(-1)


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return log N(z; 0, I), summed over the last dimension, in nats."""
    return (-0.5 * z.square() - _HALF_LOG_TWO_PI).sum(-1)


def log_ratio(z: Tensor, log_sigma: Tensor, eps: Tensor) -> Tensor:
    """Return log p(z) - log q(z|x) at z = mu + sigma * eps, summed over dimensions.

    ``sum((eps^2 - z^2) / 2 + log sigma)``: taking ``eps`` as given avoids the division by sigma.
    """
    return (0.5 * (eps.square() - z.square()) + log_sigma).sum(-1)
