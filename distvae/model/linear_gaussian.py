"""The linear-Gaussian model, where every quantity of variational inference has a closed form.

z ~ N(0, I), x = W z + b + noise of variance sigma^2 per element: probabilistic PCA (Tipping &
Bishop 1999, "Probabilistic principal component analysis"). It is the judge of all that is
estimated elsewhere, through the identity that variational inference rests on (Jordan et al. 1999,
"An introduction to variational methods for graphical models"): for any q(z),

    ln p(x) = KL(q(z) || p(z|x)) + ELBO(q),  ELBO(q) = E_q[ln p(x|z)] - KL(q(z) || p(z)).

Shapes: D elements of x, k latent dimensions, any leading dimensions of x.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distvae.model.divergences import (
    DiagonalGaussian,
    FullGaussian,
    Gaussian,
    IsotropicGaussian,
    gaussian_kl,
)

__all__ = ["LinearGaussian"]

_LOG_TWO_PI = math.log(2 * math.pi)


@dataclass(frozen=True)
class LinearGaussian:
    """p(z) = N(0, I), p(x|z) = N(W z + b, sigma^2 I).

    Attributes:
        weight: W ``(D, k)``.
        bias: b ``(D,)``.
        sigma: ``()`` standard deviation of the noise, > 0.
    """

    weight: Tensor
    bias: Tensor
    sigma: Tensor

    @property
    def precision(self) -> Tensor:
        """Lambda = I + W^T W / sigma^2 ``(k, k)``, the precision of every row's p(z|x)."""
        scaled = self.weight / self.sigma
        return torch.eye(scaled.shape[1]).to(scaled) + scaled.T @ scaled

    def posterior(self, x: Tensor) -> FullGaussian:
        """Return p(z|x) = N(Lambda^-1 W^T (x - b) / sigma^2, Lambda^-1) (Tipping & Bishop, eq. 7).

        Args:
            x: ``(..., D)``.
        """
        upper = _upper_factor(self.precision)
        # Lambda = U U^T with U upper triangular, so that U^-T is the lower factor of Lambda^-1.
        inverse = torch.linalg.solve_triangular(upper, torch.eye(len(upper)).to(upper), upper=True)
        pulled = (x - self.bias) @ self.weight / self.sigma.square()
        return FullGaussian(pulled @ inverse.T @ inverse, inverse.T)

    def log_likelihood(self, x: Tensor) -> Tensor:
        """Return ln p(x) = ln N(x; b, W W^T + sigma^2 I) ``(...)`` for ``x (..., D)``, in nats.

        With m the posterior mean, ``(x-b)^T C^-1 (x-b) = |x - b - W m|^2 / sigma^2 + |m|^2`` and
        ``|C| = sigma^2D |Lambda|`` (the matrix inversion and determinant lemmas), so the cost is
        in k, not in D, and no term is negative.
        """
        mean = self.posterior(x).mean
        residual = (x - self.bias - mean @ self.weight.T) / self.sigma
        squares = residual.square().sum(-1) + mean.square().sum(-1)
        log_determinant = 2 * _upper_factor(self.precision).diagonal().log().sum()
        return -0.5 * (squares + log_determinant) - self._log_normaliser()

    def expected_log_likelihood(self, x: Tensor, q: Gaussian) -> Tensor:
        """Return E_q[ln p(x|z)] ``(...)`` for ``x (..., D)``.

        ``-(|x - b - W m|^2 + |W L|_F^2) / (2 sigma^2) - D/2 ln(2 pi sigma^2)`` for q = N(m, L L^T).
        """
        residual = (x - self.bias - q.mean @ self.weight.T) / self.sigma
        spread = self._spread(q)
        return -0.5 * (residual.square().sum(-1) + spread) - self._log_normaliser()

    def elbo(self, x: Tensor, q: Gaussian) -> Tensor:
        """Return ELBO(q) = E_q[ln p(x|z)] - KL(q || N(0, I)) ``(...)`` = ln p(x) - KL(q || p(z|x)).

        Args:
            x: ``(..., D)``.
            q: any Gaussian over z, with the leading dimensions of ``x``.
        """
        prior = IsotropicGaussian(torch.zeros_like(q.mean), self.sigma.new_ones(()))
        return self.expected_log_likelihood(x, q) - gaussian_kl(q, prior)

    def best_diagonal(self, x: Tensor) -> DiagonalGaussian:
        """Return the diagonal q of the largest ELBO: sigma_i^2 = 1 / Lambda_ii.

        It falls short of ln p(x) by ``(sum ln Lambda_ii - ln |Lambda|) / 2``, the same for all x.
        """
        mean = self.posterior(x).mean
        return DiagonalGaussian(mean, self.precision.diagonal().rsqrt().expand_as(mean))

    def best_isotropic(self, x: Tensor) -> IsotropicGaussian:
        """Return the isotropic q of the largest ELBO: sigma^2 = k / tr Lambda.

        It falls short of ln p(x) by ``(k ln(tr Lambda / k) - ln |Lambda|) / 2``.
        """
        mean = self.posterior(x).mean
        return IsotropicGaussian(
            mean, self.precision.diagonal().mean().rsqrt().expand(x.shape[:-1])
        )

    def _spread(self, q: Gaussian) -> Tensor:
        """|W L|_F^2 / sigma^2, ``(...)``."""
        scaled = self.weight / self.sigma
        if isinstance(q, FullGaussian):
            return (scaled @ q.scale_tril.tril()).square().sum((-2, -1))
        return (scaled.square().sum(0) * q.scale.square()).sum(-1)

    def _log_normaliser(self) -> Tensor:
        return len(self.bias) * (0.5 * _LOG_TWO_PI + self.sigma.log())


def _upper_factor(matrix: Tensor) -> Tensor:
    """U upper triangular with U U^T = matrix: the Cholesky factor, both axes reversed."""
    reversed_factor: Tensor = torch.linalg.cholesky(matrix.flip(0, 1))
    return reversed_factor.flip(0, 1)
