"""Kullback-Leibler divergence, entropy and cross entropy of Gaussians, in closed form, in nats.

KL(q || p) = E_q[ln q(z) - ln p(z)] (Kullback & Leibler 1951). For q = N(m_q, L_q L_q^T) and
p = N(m_p, L_p L_p^T), with lower triangular L, M = L_p^-1 L_q and w = L_p^-1 (m_q - m_p):

    KL(q || p) = 1/2 (sum_i (M_ii^2 - 1 - 2 ln M_ii) + sum_{i>j} M_ij^2 + |w|^2)

which is Cover & Thomas 2006, "Elements of Information Theory", exercise 9.2, with the trace and
both determinants written out in the entries of M (ln M_ii is a difference of log scales). Each
term is at least 0 and is 0 only where q and p agree, so the sum is never negative, and M is
triangular, so nothing is inverted; M is diagonal or a number where q and p are.

KL(q || p) is not KL(p || q): the first punishes q for mass where p has none, the second for
missing mass that p has. Cross entropy H(q, p) = H(q) + KL(q || p).

Shapes: k dimensions, any leading dimensions, which broadcast between q and p.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = [
    "DiagonalGaussian",
    "FullGaussian",
    "Gaussian",
    "IsotropicGaussian",
    "gaussian_cross_entropy",
    "gaussian_entropy",
    "gaussian_kl",
    "gaussian_log_prob",
    "gaussian_sample",
]

_LOG_TWO_PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class IsotropicGaussian:
    """N(mean, sigma^2 I).

    Attributes:
        mean: ``(..., k)``.
        sigma: ``(...)`` standard deviation, > 0.
    """

    mean: Tensor
    sigma: Tensor

    @property
    def scale(self) -> Tensor:
        """Diagonal of the Cholesky factor, ``(..., 1)``: one number for all dimensions."""
        return self.sigma[..., None]


@dataclass(frozen=True)
class DiagonalGaussian:
    """N(mean, diag(sigma^2)).

    Attributes:
        mean: ``(..., k)``.
        sigma: ``(..., k)`` standard deviations, > 0.
    """

    mean: Tensor
    sigma: Tensor

    @property
    def scale(self) -> Tensor:
        """Diagonal of the Cholesky factor, ``(..., k)``."""
        return self.sigma


@dataclass(frozen=True)
class FullGaussian:
    """N(mean, L L^T).

    Attributes:
        mean: ``(..., k)``.
        scale_tril: L ``(..., k, k)``, of which the lower triangle is read; diagonal > 0.
    """

    mean: Tensor
    scale_tril: Tensor

    @property
    def scale(self) -> Tensor:
        """Diagonal of the Cholesky factor, ``(..., k)``."""
        return self.scale_tril.diagonal(dim1=-2, dim2=-1)


Gaussian = IsotropicGaussian | DiagonalGaussian | FullGaussian


def gaussian_kl(q: Gaussian, p: Gaussian) -> Tensor:
    """Return KL(q || p) ``(...)`` for any two families; never negative but for rounding.

    Its form is the module's formula with ``M_ii^2 - 1 = expm1(2 ln M_ii)``, exact where q is
    near p and finite as a sigma goes to 0. One triangular solve where p is full, none elsewhere.
    """
    difference = q.scale.log() - p.scale.log()
    diagonal = _sum(torch.expm1(2 * difference) - 2 * difference, q)
    return 0.5 * (diagonal + _off_diagonal_squares(q, p) + _mahalanobis(q.mean, p))


def gaussian_entropy(q: Gaussian) -> Tensor:
    """Return H(q) = k/2 (1 + ln 2 pi) + sum ln L_ii, ``(...)`` (Cover & Thomas 2006, th. 8.4.1)."""
    return 0.5 * q.mean.shape[-1] * (1 + _LOG_TWO_PI) + _sum(q.scale.log(), q)


def gaussian_cross_entropy(q: Gaussian, p: Gaussian) -> Tensor:
    """Return H(q, p) = -E_q[ln p(z)] ``(...)``.

    ``k/2 ln 2 pi + sum ln (L_p)_ii + (|M|_F^2 + |w|^2) / 2`` in the module's symbols.
    """
    squares = _sum((2 * (q.scale.log() - p.scale.log())).exp(), q)
    squares = squares + _off_diagonal_squares(q, p) + _mahalanobis(q.mean, p)
    return 0.5 * (q.mean.shape[-1] * _LOG_TWO_PI + squares) + _sum(p.scale.log(), p)


def gaussian_log_prob(p: Gaussian, z: Tensor) -> Tensor:
    """Return ln p(z) ``(...)`` for ``z (..., k)``: the density of N(m, L L^T)."""
    normaliser = 0.5 * p.mean.shape[-1] * _LOG_TWO_PI + _sum(p.scale.log(), p)
    return -0.5 * _mahalanobis(z, p) - normaliser


def gaussian_sample(q: Gaussian, eps: Tensor) -> Tensor:
    """Return z = m + L eps ``(..., k)`` for standard normal ``eps (..., k)``."""
    if isinstance(q, FullGaussian):
        return q.mean + (q.scale_tril.tril() @ eps[..., None])[..., 0]
    return q.mean + q.scale * eps


def _sum(per_dimension: Tensor, q: Gaussian) -> Tensor:
    """Sum over the k dimensions what is given for each, or once for all of them."""
    repeats = q.mean.shape[-1] // per_dimension.shape[-1]
    return per_dimension.sum(-1) * repeats


def _mahalanobis(z: Tensor, p: Gaussian) -> Tensor:
    """|L_p^-1 (z - m_p)|^2, ``(...)``."""
    difference = z - p.mean
    if isinstance(p, FullGaussian):
        if p.scale_tril.ndim == 2:  # one factor for all: one solve, and no copies of the factor
            white = _solve(p.scale_tril, difference.reshape(-1, difference.shape[-1]).T)
            return white.square().sum(0).view(difference.shape[:-1])
        return _solve(p.scale_tril, difference[..., None]).square().sum((-2, -1))
    return (difference / p.scale).square().sum(-1)


def _off_diagonal_squares(q: Gaussian, p: Gaussian) -> Tensor:
    """sum_{i>j} M_ij^2 of M = L_p^-1 L_q, ``(...)``; a plain 0 where both are diagonal."""
    if isinstance(p, FullGaussian):
        factor = q.scale_tril.tril() if isinstance(q, FullGaussian) else _diagonal_matrix(q)
        lower = _solve(p.scale_tril, factor).tril(-1)
    elif isinstance(q, FullGaussian):
        lower = q.scale_tril.tril(-1) / p.scale[..., None]
    else:
        return q.mean.new_zeros(())
    return lower.square().sum((-2, -1))


def _solve(lower: Tensor, columns: Tensor) -> Tensor:
    """L^-1 B by forward substitution, ``(..., k, m)``; leading dimensions broadcast."""
    result: Tensor = torch.linalg.solve_triangular(lower, columns, upper=False)
    return result


def _diagonal_matrix(q: IsotropicGaussian | DiagonalGaussian) -> Tensor:
    return torch.diag_embed(q.scale.expand(*q.scale.shape[:-1], q.mean.shape[-1]))
