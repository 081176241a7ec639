"""Gaussian posteriors q(z|x) = N(mu, L L^T) and their KL to the prior p(z) = N(0, I).

Kingma & Welling 2014, "Auto-Encoding Variational Bayes"; the full family as in Kingma & Welling
2019, "An Introduction to Variational Autoencoders", section 2.5.1. A network gives raw numbers
``(..., P)``, any finite ones; a family turns them into a posterior. Raw zeros are the prior itself.
Shapes: n rows, k latent dimensions, m samples, any leading dimensions.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass

import torch
from torch import Tensor

from distvae.errors import UsageError
from distvae.model.triangle import fill_lower, lower_indices

__all__ = [
    "LOG_SIGMA_BOUND",
    "POSTERIORS",
    "Diagonal",
    "Full",
    "Point",
    "Posterior",
    "bounded_log_sigma",
    "raw_width",
    "split",
    "standard_normal_log_prob",
]

POSTERIORS = ("isotropic", "diagonal", "full", "point")
LOG_SIGMA_BOUND = 10.0
_HALF_LOG_TWO_PI = 0.5 * math.log(2 * math.pi)
# Off the diagonal a factor has as much room as e^10 gives sigma.
_LOWER_BOUND = math.exp(LOG_SIGMA_BOUND)


def bounded_log_sigma(raw: Tensor, bound: float = LOG_SIGMA_BOUND) -> Tensor:
    """Bound a network's output smoothly: ``raw / sqrt(1 + (raw / bound)^2)``.

    Odd, slope 1 at 0, within (-bound, bound), so sigma stays within e^-10 = 4.5e-5 and e^10 = 2.2e4
    by default. Unlike tanh its gradient decays as a power, so a unit far out can still come back.
    """
    return raw * torch.rsqrt(1 + (raw / bound).square())


def standard_normal_log_prob(z: Tensor) -> Tensor:
    """Return log N(z; 0, I), summed over the last dimension, in nats."""
    return (-0.5 * z.square() - _HALF_LOG_TWO_PI).sum(-1)


@dataclass(frozen=True)
class Posterior(ABC):
    """One posterior per row.

    Attributes:
        mu: ``(..., k)`` mean.
    """

    mu: Tensor

    @property
    @abstractmethod
    def sigma(self) -> Tensor:
        """Marginal standard deviation per dimension, ``(..., k)``."""

    @abstractmethod
    def sample(self, eps: Tensor) -> Tensor:
        """Return z = mu + L eps ``(m, ..., k)`` for standard normal ``eps`` of that shape."""

    @abstractmethod
    def kl(self) -> Tensor:
        """KL(q || N(0, I)) per dimension ``(..., k)``, in nats; the sum is the KL."""

    @abstractmethod
    def log_det(self) -> Tensor:
        """Return log |L| ``(...)``."""

    @abstractmethod
    def standardised(self, z: Tensor) -> Tensor:
        """Return eps = L^-1 (z - mu), ``(..., k)``."""

    @abstractmethod
    def scale_tril(self) -> Tensor:
        """Return the lower Cholesky factor L of the covariance, ``(..., k, k)``."""

    @abstractmethod
    def detach(self) -> Posterior:
        """Return the same posterior without its history."""

    def entropy(self) -> Tensor:
        """Return the differential entropy ``(...)``: k (1 + log 2 pi) / 2 + log |L|."""
        return self.log_det() + self.mu.shape[-1] * (0.5 + _HALF_LOG_TWO_PI)

    def log_prob(self, z: Tensor) -> Tensor:
        """Return log q(z|x), summed over the dimensions, in nats."""
        return standard_normal_log_prob(self.standardised(z)) - self.log_det()

    def log_ratio(self, z: Tensor, eps: Tensor) -> Tensor:
        """Return log p(z) - log q(z|x) at z = mu + L eps, summed over dimensions.

        ``sum((eps^2 - z^2) / 2) + log |L|``: taking ``eps`` as given avoids inverting L.
        """
        return 0.5 * (eps.square() - z.square()).sum(-1) + self.log_det()

    def packed_scale_tril(self) -> Tensor:
        """Return L's lower triangle row by row, ``(..., k (k + 1) / 2)``."""
        k = self.mu.shape[-1]
        rows, columns = lower_indices(k)
        return self.scale_tril()[..., rows, columns]


@dataclass(frozen=True)
class Diagonal(Posterior):
    """N(mu, diag(sigma^2)); isotropic where all ``log_sigma`` of a row are one.

    Attributes:
        log_sigma: ``(..., k)`` logarithm of the standard deviation.
    """

    log_sigma: Tensor

    @property
    def sigma(self) -> Tensor:
        """Return exp(log_sigma)."""
        return self.log_sigma.exp()

    def sample(self, eps: Tensor) -> Tensor:
        """Return mu + sigma eps."""
        return self.mu + self.log_sigma.exp() * eps

    def kl(self) -> Tensor:
        """``(mu^2 + sigma^2 - 1 - 2 log sigma) / 2`` (Kingma & Welling 2014, appendix B).

        ``sigma^2 - 1 = expm1(2 log sigma)``: exact near sigma = 1, finite as sigma goes to 0.
        """
        return 0.5 * (self.mu.square() + (torch.expm1(2 * self.log_sigma) - 2 * self.log_sigma))

    def log_det(self) -> Tensor:
        """Return the sum of log_sigma."""
        return self.log_sigma.sum(-1)

    def standardised(self, z: Tensor) -> Tensor:
        """Return (z - mu) / sigma."""
        return (z - self.mu) * torch.exp(-self.log_sigma)

    def scale_tril(self) -> Tensor:
        """Return diag(sigma)."""
        return torch.diag_embed(self.log_sigma.exp())

    def detach(self) -> Diagonal:
        """Return the same values without history."""
        return Diagonal(self.mu.detach(), self.log_sigma.detach())


@dataclass(frozen=True)
class Full(Posterior):
    """N(mu, L L^T) with a Cholesky factor L per row.

    Attributes:
        log_diagonal: ``(..., k)`` logarithm of L's diagonal.
        lower: ``(..., k, k)`` L below its diagonal, 0 elsewhere.
    """

    log_diagonal: Tensor
    lower: Tensor

    @property
    def sigma(self) -> Tensor:
        """Return the marginal standard deviations: lengths of L's rows."""
        variance = self.lower.square().sum(-1) + torch.exp(2 * self.log_diagonal)
        return variance.sqrt()

    def sample(self, eps: Tensor) -> Tensor:
        """Return mu + L eps."""
        if len(eps) == 1:  # ten times as fast as n products of a matrix and one vector
            moved = (self.lower * eps[0][..., None, :]).sum(-1)
        else:
            moved = torch.matmul(self.lower, eps.movedim(0, -1)).movedim(-1, 0)
        return self.mu + self.log_diagonal.exp() * eps + moved

    def kl(self) -> Tensor:
        """``(mu_i^2 + Sigma_ii - 1 - log L_ii^2) / 2``, the closed form split by dimension.

        Sums to (mu^2 + tr Sigma - k - log |Sigma|) / 2; no term is below 0, as Sigma_ii >= L_ii^2.
        """
        own = torch.expm1(2 * self.log_diagonal) - 2 * self.log_diagonal
        return 0.5 * (self.mu.square() + self.lower.square().sum(-1) + own)

    def log_det(self) -> Tensor:
        """Return the sum of L's log diagonal."""
        return self.log_diagonal.sum(-1)

    def standardised(self, z: Tensor) -> Tensor:
        """Return L^-1 (z - mu) by forward substitution."""
        difference = (z - self.mu)[..., None]
        factor = self.scale_tril().expand(*difference.shape[:-1], z.shape[-1])
        solved: Tensor = torch.linalg.solve_triangular(factor, difference, upper=False)
        return solved[..., 0]

    def scale_tril(self) -> Tensor:
        """Return L."""
        return self.lower + torch.diag_embed(self.log_diagonal.exp())

    def detach(self) -> Full:
        """Return the same values without history."""
        return Full(self.mu.detach(), self.log_diagonal.detach(), self.lower.detach())


@dataclass(frozen=True)
class Point(Posterior):
    """All mass at mu: the code of a deterministic autoencoder, without KL, entropy or density."""

    @property
    def sigma(self) -> Tensor:
        """Return zeros."""
        return torch.zeros_like(self.mu)

    def sample(self, eps: Tensor) -> Tensor:
        """Return mu, once per sample."""
        return self.mu.expand(eps.shape)

    def kl(self) -> Tensor:
        """Return zeros: an autoencoder pays nothing for its code."""
        return torch.zeros_like(self.mu)

    def log_det(self) -> Tensor:
        """Return minus infinity."""
        return torch.full_like(self.mu[..., 0], -math.inf)

    def standardised(self, z: Tensor) -> Tensor:  # noqa: ARG002
        """Raise: there is no density to standardise by.

        Raises:
            UsageError: always.
        """
        raise UsageError("posterior", "got point", "an autoencoder's code has no density")

    def scale_tril(self) -> Tensor:
        """Return zeros."""
        return torch.diag_embed(torch.zeros_like(self.mu))

    def detach(self) -> Point:
        """Return the same values without history."""
        return Point(self.mu.detach())


def raw_width(family: str, k: int) -> int:
    """Return P, the raw numbers per row of a family with k dimensions.

    Raises:
        UsageError: unknown family.
    """
    widths = {"isotropic": k + 1, "diagonal": 2 * k, "full": k + k * (k + 1) // 2, "point": k}
    if family not in widths:
        raise UsageError("posterior", repr(family), "must be one of " + ", ".join(POSTERIORS))
    return widths[family]


def split(family: str, raw: Tensor, k: int) -> Posterior:
    """Turn raw numbers ``(..., P)`` into a posterior; finite for any finite ones.

    Raises:
        UsageError: unknown family.
    """
    raw_width(family, k)
    mu, rest = raw[..., :k], raw[..., k:]
    if family == "point":
        return Point(mu)
    if family == "isotropic":
        return Diagonal(mu, bounded_log_sigma(rest).expand(mu.shape))
    if family == "diagonal":
        return Diagonal(mu, bounded_log_sigma(rest))
    return Full(
        mu,
        bounded_log_sigma(rest[..., :k]),
        fill_lower(bounded_log_sigma(rest[..., k:], _LOWER_BOUND), k),
    )
