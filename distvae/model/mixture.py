"""Mixtures of Gaussians with full covariances, fitted by expectation maximisation.

Dempster, Laird & Rubin 1977, "Maximum likelihood from incomplete data via the EM algorithm";
Bishop 2006, "Pattern Recognition and Machine Learning", section 9.2. A component's log density is
linear in the products of a row's numbers, so that both steps are one matrix product with the same
features of the rows. Shapes: n rows, k dimensions, M components, F = 1 + k + k (k + 1) / 2.
"""

from __future__ import annotations

import math
from concurrent.futures import Executor, ThreadPoolExecutor
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.linalg import LinAlgError  # type: ignore[attr-defined]

from distvae.model import noise
from distvae.model.inference import one_intra_op_thread
from distvae.model.priors import (
    VARIANCE_FLOOR,
    Prior,
    fit_gaussian,
    from_standardised,
    standardise_codes,
)

__all__ = ["Mixture", "fit_mixture"]

_NUMBERS_AT_A_TIME = 1 << 20
_STRETCHES_AT_ONCE = 8
# Rows on which the mixture climbs before its last steps on all of them.
_CLIMBING_ROWS = 30_000
_MOST_STEPS, _CLIMBING_STEPS, _LAST_STEPS = 40, 20, 4
_KMEANS_STEPS = 8
# A step that raises the log-likelihood per row by less is the last.
_LEAST_GAIN = 1e-4
# Multiplications and additions after which no further step is started.
_MOST_OPERATIONS = 1e12
# A component that explains less than this many rows is left out.
_FEWEST_ROWS = 1.0


@dataclass(frozen=True, eq=False)
class Mixture:
    """A mixture over standardised codes, float64.

    Attributes:
        weights: ``(M,)`` shares, > 0.
        means: ``(M, k)``.
        covariances: ``(M, k, k)``.
    """

    weights: Tensor
    means: Tensor
    covariances: Tensor

    def coefficients(self) -> Tensor:
        """Return A ``(F, M)``, so that features @ A = log w_m + log N(y; m_m, S_m)."""
        count, k = self.means.shape
        factors = torch.linalg.cholesky(self.covariances)
        inverse = torch.linalg.solve_triangular(factors, torch.eye(k).double(), upper=False)
        precision = inverse.mT @ inverse
        linear = (precision @ self.means[:, :, None])[..., 0]
        log_det = 2 * factors.diagonal(dim1=1, dim2=2).log().sum(1)
        square = (linear * self.means).sum(1)
        constant = self.weights.log() - 0.5 * (log_det + square + k * math.log(2 * math.pi))
        rows, columns = torch.tril_indices(k, k)
        # An entry off the diagonal stands for itself and its mirror image.
        twice = torch.where(rows == columns, 0.5, 1.0)
        quadratic = -twice * precision[:, rows, columns]
        return torch.cat([constant[:, None], linear, quadratic], 1).T.reshape(-1, count)

    @classmethod
    def from_moments(cls, moments: Tensor, floor: float) -> Mixture:
        """Return the mixture of largest penalised likelihood for summed features.

        A component of N rows gets the covariance of its rows plus ``floor / N`` on the diagonal:
        the maximum of the likelihood times prod_m exp(-floor tr(S_m^-1) / 2).

        Args:
            moments: ``(F, M)`` responsibilities times features, summed over the rows.
            floor: the penalty's weight, > 0.
        """
        mass = moments[0]
        kept = mass >= _FEWEST_ROWS
        moments, mass = moments[:, kept], mass[kept]
        k = (math.isqrt(8 * len(moments) + 1) - 3) // 2
        means = (moments[1 : k + 1] / mass).T.contiguous()
        rows, columns = torch.tril_indices(k, k)
        second = torch.empty(len(mass), k, k, dtype=torch.float64)
        second[:, rows, columns] = (moments[k + 1 :] / mass).T
        second[:, columns, rows] = (moments[k + 1 :] / mass).T
        covariances = second - means[:, :, None] * means[:, None, :]
        covariances.diagonal(dim1=1, dim2=2).clamp_(min=0).add_((floor / mass)[:, None])
        return cls(mass / mass.sum(), means, covariances)

    def penalty(self, floor: float) -> float:
        """Return floor / 2 times the sum of the traces of the precisions."""
        return 0.5 * floor * float(torch.linalg.inv(self.covariances).diagonal(0, 1, 2).sum())


def fit_mixture(
    codes: NDArray[np.floating], components: int, seed: int, history: list[float] | None = None
) -> Prior:
    """Fit a mixture of Gaussians with full covariances to ``codes (n, k)``.

    Expectation maximisation from k-means, first on 30,000 of the codes and in float32, then a few
    steps on all in float64.
    Codes are standardised, and a component's variances are raised by ``VARIANCE_FLOOR`` times
    n / M over its rows, so that constant or repeated codes are no obstacle. Components without
    rows are left out. The same codes and seed give the same prior on one kind of machine, whatever
    the threads that torch may use: they take turns at stretches of the rows.

    Args:
        codes: the codes.
        components: M, >= 1; no more than there are rows.
        seed: of the start.
        history: is filled with the penalised log-likelihood per row before every step on all the
            codes, which never falls.

    Raises:
        DataError: no row, or a code that is not finite.
    """
    count = min(components, len(codes))
    if count <= 1:
        return fit_gaussian(codes)
    y, mean, scale = standardise_codes(codes)
    random = noise.generator(seed, "code-mixture", 0)
    rows = torch.from_numpy(y[random.permutation(len(y))])
    threads = torch.get_num_threads()
    with torch.no_grad(), one_intra_op_thread(), ThreadPoolExecutor(threads) as pool:
        some = rows[:_CLIMBING_ROWS]
        start = _start(some, count, random)

        def climbed(first: Tensor) -> Mixture:
            near = _climb(first, start, _CLIMBING_STEPS, None, pool)
            return _climb(rows, near, _LAST_STEPS, history, pool)

        if len(some) == len(rows):
            mixture = _climb(rows, start, _MOST_STEPS, history, pool)
        else:
            try:
                mixture = climbed(some.float())
            except LinAlgError:  # clusters so narrow that they need all digits
                mixture = climbed(some)
    parts = (mixture.weights, mixture.means, mixture.covariances)
    weights, means, covariances = (part.numpy() for part in parts)
    return from_standardised(weights, means, covariances, mean=mean, scale=scale)


def _climb(
    rows: Tensor, mixture: Mixture, steps: int, history: list[float] | None, pool: Executor
) -> Mixture:
    """Take steps of expectation maximisation until they gain little."""
    floor = VARIANCE_FLOOR * len(rows) / len(mixture.weights)
    width = 1 + rows.shape[1] * (rows.shape[1] + 3) // 2
    operations = 4.0 * len(rows) * width * len(mixture.weights)
    before = -math.inf
    for _ in range(max(1, min(steps, int(_MOST_OPERATIONS / operations)))):
        moments, likelihood = _expect(rows, mixture, pool)
        value = (likelihood - mixture.penalty(floor)) / len(rows)
        if not math.isfinite(value):
            raise LinAlgError("the mixture's densities are not finite")
        if history is not None:
            history.append(value)
        if value - before < _LEAST_GAIN:
            break
        mixture, before = Mixture.from_moments(moments, floor), value
    return mixture


def _expect(rows: Tensor, mixture: Mixture, pool: Executor) -> tuple[Tensor, float]:
    """Return responsibilities times features, summed, ``(F, M)``, and the log-likelihood."""
    coefficients = mixture.coefficients()
    moments, likelihood = torch.zeros_like(coefficients), 0.0
    coefficients = coefficients.to(rows.dtype)
    width, count = coefficients.shape
    size = max(1, _NUMBERS_AT_A_TIME // width, 4 * count)  # a stretch is more than its sums
    starts = range(0, len(rows), size)

    def of_stretch(start: int) -> tuple[Tensor, float]:
        with torch.no_grad(), one_intra_op_thread():
            features = _features(rows[start : start + size])
            joint = features @ coefficients
            total = joint.logsumexp(1, keepdim=True)
            own = (features.T @ joint.sub_(total).exp_()).double()
            return own, float(total.double().sum())

    # Stretch by stretch, in order, whatever thread has summed each up.
    for first in range(0, len(starts), _STRETCHES_AT_ONCE):
        for own, value in pool.map(of_stretch, starts[first : first + _STRETCHES_AT_ONCE]):
            moments += own
            likelihood += value
    return moments, likelihood


def _features(rows: Tensor) -> Tensor:
    """Return 1, the numbers and their products y_i y_j, j <= i, ``(n, F)``."""
    n, k = rows.shape
    result = rows.new_empty(n, 1 + k * (k + 3) // 2)
    result[:, 0] = 1
    result[:, 1 : k + 1] = rows
    at = k + 1
    for i in range(k):
        torch.mul(rows[:, : i + 1], rows[:, i, None], out=result[:, at : at + i + 1])
        at += i + 1
    return result


def _start(rows: Tensor, count: int, random: np.random.Generator) -> Mixture:
    """Return the mixture of k-means' clusters."""
    centers = _spread(rows, count, random)
    nearest = _nearest(rows, centers)
    for _ in range(_KMEANS_STEPS):
        members = torch.zeros(len(centers), dtype=torch.float64)
        members.index_add_(0, nearest, torch.ones(len(rows), dtype=torch.float64))
        sums = torch.zeros_like(centers).index_add_(0, nearest, rows)
        centers = torch.where(members[:, None] > 0, sums / members.clamp(min=1)[:, None], centers)
        nearest = _nearest(rows, centers)
    width = 1 + rows.shape[1] * (rows.shape[1] + 3) // 2
    moments = torch.zeros(count, width, dtype=torch.float64)
    size = max(1, _NUMBERS_AT_A_TIME // width)
    for start in range(0, len(rows), size):
        stretch = slice(start, start + size)
        moments.index_add_(0, nearest[stretch], _features(rows[stretch]))
    # A cluster of a few rows has no covariance to speak of: a share of everybody's is mixed in.
    everybody = moments.sum(0, keepdim=True)
    moments += everybody * (rows.shape[1] + 1) / len(rows)
    return Mixture.from_moments(moments.T, VARIANCE_FLOOR * len(rows) / count)


def _spread(rows: Tensor, count: int, random: np.random.Generator) -> Tensor:
    """Return rows drawn with chances by squared distance to those drawn before.

    Arthur & Vassilvitskii 2007, "k-means++: the advantages of careful seeding".
    """
    chosen = [int(random.integers(len(rows)))]
    distance = (rows - rows[chosen[0]]).square().sum(1)
    for u in random.random(count - 1).tolist():
        upto = distance.cumsum(0)
        place = int(torch.searchsorted(upto, u * upto[-1], right=True).clamp(max=len(rows) - 1))
        chosen.append(place)
        distance = torch.minimum(distance, (rows - rows[place]).square().sum(1))
    return rows[chosen]


def _nearest(rows: Tensor, centers: Tensor) -> Tensor:
    return (0.5 * centers.square().sum(1) - rows @ centers.T).argmin(1)
