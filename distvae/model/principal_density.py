"""The density of probabilistic PCA, x - mean = U^T z + noise, row by row, with and without gaps.

z ~ N(0, S), noise ~ N(0, s2 I), U orthonormal rows (Tipping & Bishop 1999, "Probabilistic
principal component analysis", with W = U^T S^1/2): x - mean ~ N(0, C), C = U^T S U + s2 I. What a
row lacks is marginalised exactly. Everything is float64 and in one unit of measurement; values of
ln p are without the constant of the unit. Shapes: n rows, D elements, k components, c rows a chunk.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

__all__ = ["Figures", "PrincipalDensity"]

_LOG_TWO_PI = math.log(2 * math.pi)
_STEEP = 1e8
_ROWS_PER_CHUNK, _NUMBERS_PER_CHUNK = 256, 1 << 21


@dataclass(frozen=True)
class Figures:
    """Of each row, in nats; reconstruction - sum of kl = log_likelihood.

    Attributes:
        reconstruction: ``(n,)`` E[ln p(x|z)] under p(z|x).
        kl: ``(n, k)`` KL(p(z|x) || p(z)), split by dimension as in ``posteriors.Full``.
        log_likelihood: ``(n,)`` ln p(x).
    """

    reconstruction: Tensor
    kl: Tensor
    log_likelihood: Tensor


@dataclass(frozen=True)
class _Solved:
    """The posterior p(z|x) of rows with gaps.

    Attributes:
        factor: ``(c, k, k)`` upper triangular R, R^T R = A, the precision of S^-1/2 z.
        inverse: ``(c, k, k)`` R^-1: A^-1 = R^-1 R^-T is the covariance of S^-1/2 z.
        whitened: ``(c, k)`` mean of S^-1/2 z.
        mean: ``(c, k)`` of z.
    """

    factor: Tensor
    inverse: Tensor
    whitened: Tensor
    mean: Tensor


@dataclass(frozen=True)
class PrincipalDensity:
    """N(0, U^T S U + s2 I).

    Attributes:
        components: U ``(k, D)``, orthonormal rows.
        signal: S ``(k,)`` variances of z, > 0.
        noise: s2 ``()``, > 0.
    """

    components: Tensor
    signal: Tensor
    noise: Tensor

    def codes(self, centred: Tensor, observed: Tensor | None) -> tuple[Tensor, Tensor]:
        """Return the scores U (x - mean) and the posterior's variances, ``(n, k)`` each.

        Missing elements are at their conditional mean E[x_missing | x_observed] = U^T E[z|x].

        Args:
            centred: ``(n, D)`` x - mean, 0 where missing.
            observed: ``(n, D)`` what is observed, or None.
        """
        scores = centred @ self.components.T
        variances = self.signal * self.noise / (self.signal + self.noise)
        found = (scores, variances.expand(scores.shape).clone())
        scores, variances = self._over_gaps(centred, observed, found, self._codes_with_gaps)
        return scores, variances

    def figures(self, centred: Tensor, observed: Tensor | None) -> Figures:
        """Return the likelihood and its parts for rows as in ``codes``."""
        whole = self._whole_figures(centred)
        parts = (whole.reconstruction, whole.kl, whole.log_likelihood)
        return Figures(*self._over_gaps(centred, observed, parts, self._figures_with_gaps))

    def _over_gaps(
        self,
        centred: Tensor,
        observed: Tensor | None,
        results: tuple[Tensor, ...],
        function: Callable[[Tensor, Tensor], tuple[Tensor, ...]],
    ) -> tuple[Tensor, ...]:
        """Replace the rows of ``results`` that lack elements by ``function`` of them."""
        if observed is None:
            return results
        gaps = (~observed).any(1).nonzero()[:, 0]
        numbers = _NUMBERS_PER_CHUNK // self.components.numel()
        size = max(1, min(_ROWS_PER_CHUNK, numbers))
        for start in range(0, len(gaps), size):
            rows = gaps[start : start + size]
            # Always chunks of one size: which kernel a batched product takes depends on it.
            padded = torch.cat([rows, rows[:1].expand(size - len(rows))])
            parts = function(centred[padded], observed[padded])
            for whole, part in zip(results, parts, strict=True):
                whole[rows] = part[: len(rows)]
        return results

    def _whole_figures(self, centred: Tensor) -> Figures:
        """Rows without gaps: p(z|x) is diagonal, mean (S/L) b, variance S s2 / L, L = S + s2.

        |x - mean - U^T m|^2 = |x - mean - U^T b|^2 + |b - m|^2 as U is orthonormal.
        """
        signal, noise = self.signal, self.noise
        total, log_ratio = signal + noise, torch.log1p(signal / noise)
        b = centred @ self.components.T
        outside = (centred - b @ self.components).square().sum(1)
        left_over = (b * noise / total).square().sum(1) + (signal * noise / total).sum()
        normaliser = centred.shape[1] * self._log_noise()
        squares = outside / noise + (b.square() / total).sum(1)
        return Figures(
            reconstruction=-0.5 * ((outside + left_over) / noise + normaliser),
            kl=0.5 * (signal * (b / total).square() + torch.expm1(-log_ratio) + log_ratio),
            log_likelihood=-0.5 * (squares + log_ratio.sum() + normaliser),
        )

    def _solve(self, centred: Tensor, observed: Tensor) -> _Solved:
        """Each row has a k x k system of its own, A E[S^-1/2 z | x] = S^1/2 U_O x_O / s2.

        A = I + S^1/2 U_O U_O^T S^1/2 / s2. Where S / s2 is so large that I would be lost in it,
        its factor comes without it.
        """
        weighted = self.components * (self.signal.sqrt() / self.noise.sqrt())[:, None]
        target = torch.where(observed, centred, 0) / self.noise.sqrt()
        solve = _by_gram if float(self.signal.max() / self.noise) < _STEEP else _by_rows
        factor, whitened = solve(weighted, target, observed)
        eye = torch.eye(len(weighted), dtype=weighted.dtype, device=weighted.device)
        inverse = torch.linalg.solve_triangular(factor, eye.expand(factor.shape), upper=True)
        return _Solved(factor, inverse, whitened, self.signal.sqrt() * whitened)

    def _codes_with_gaps(self, centred: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
        solved = self._solve(centred, observed)
        filled = torch.where(observed, centred, solved.mean @ self.components)
        variances = self.signal * solved.inverse.square().sum(2)
        return filled @ self.components.T, variances

    def _figures_with_gaps(
        self, centred: Tensor, observed: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """|C_O| = s2^|O| |A| and x^T C_O^-1 x = |x - U_O^T m|^2 / s2 + |S^-1/2 m|^2 (Woodbury).

        The latter is least at the posterior's mean m, so that m's rounding counts squared.
        """
        solved = self._solve(centred, observed)
        spread = solved.inverse.square().sum(2)
        residual = torch.where(observed, centred - solved.mean @ self.components, 0)
        outside = residual.square().sum(1) / self.noise
        normaliser = observed.sum(1) * self._log_noise()
        log_det = 2 * solved.factor.diagonal(dim1=-2, dim2=-1).abs().log().sum(1)
        # A^-1 = L L^T with L^T from the QR of R^-T: the split of its determinant by dimension.
        own = torch.linalg.qr(solved.inverse.mT)[1].diagonal(dim1=-2, dim2=-1).abs().log()
        squares = solved.whitened.square()
        trace = (1 - spread).sum(1)  # of U_O^T Cov[z|x] U_O over s2
        return (
            -0.5 * (outside + trace + normaliser),
            0.5 * (squares + spread - 1 - 2 * own),
            -0.5 * (outside + squares.sum(1) + log_det + normaliser),
        )

    def _log_noise(self) -> Tensor:
        return _LOG_TWO_PI + self.noise.log()


def _by_gram(weighted: Tensor, target: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """R ``(c, k, k)`` and u ``(c, k)`` with R^T R u = B_O target, R^T R = I + B_O B_O^T = A.

    Args:
        weighted: B ``(k, D)``.
        target: ``(c, D)``, 0 where missing.
        observed: ``(c, D)``.
    """
    held = weighted * observed[:, None, :]
    precision = held @ held.mT
    precision.diagonal(dim1=-2, dim2=-1).add_(1)
    lower = torch.linalg.cholesky(precision)
    return lower.mT, torch.cholesky_solve((target @ weighted.T)[..., None], lower)[..., 0]


def _by_rows(weighted: Tensor, target: Tensor, observed: Tensor) -> tuple[Tensor, Tensor]:
    """The same from the QR of B_O^T stacked on I, for A has the squares of its scales.

    Rows in descending order keep the digits of each scale (Cox & Higham 1998, "Stability of
    Householder QR factorization for weighted least squares problems").
    """
    k, width = weighted.shape
    order = weighted.square().sum(0).argsort(descending=True, stable=True)
    eye = torch.eye(k, dtype=weighted.dtype, device=weighted.device).expand(len(target), -1, -1)
    q, factor = torch.linalg.qr(torch.cat([(weighted * observed[:, None, :]).mT[:, order], eye], 1))
    pulled = (target[:, None, order] @ q[:, :width]).mT
    return factor, torch.linalg.solve_triangular(factor, pulled, upper=True)[..., 0]
