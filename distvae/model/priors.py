"""What the codes of synthetic rows are drawn from: N(0, I), a Gaussian, or a mixture of Gaussians.

p(z) = sum_m w_m N(z; m_m, L_m L_m^T) (Bishop 2006, "Pattern Recognition and Machine Learning",
section 9.2). A variational autoencoder's is N(0, I); an autoencoder has none, so one is fitted to
its codes afterwards, as in Ghosh et al. 2020, "From variational to deterministic autoencoders".
Shapes: n rows, k latent dimensions, M components.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from distvae.errors import DataError
from distvae.model.posteriors import standard_normal_log_prob

__all__ = ["VARIANCE_FLOOR", "Prior", "fit_gaussian", "from_standardised", "standardise_codes"]

VARIANCE_FLOOR = 1e-6
"""Added to each variance of a fitted Gaussian, as a share of the codes' own."""

_LEAST_SCALE = 1e-30
_ROWS_AT_A_TIME = 4096
# A block of float64 that fits into the cache: 5 times the speed of blocks of 16 MB.
_NUMBERS_AT_A_TIME = 1 << 19
_NAMES = ("prior.weights", "prior.means", "prior.scale_trils")

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]


@dataclass(frozen=True, eq=False)
class Prior:
    """A distribution over codes; without arguments N(0, I), in any number of dimensions.

    The numbers are float32, as they are stored; densities are computed in float64.

    Attributes:
        weights: ``(M,)`` share of each component; they sum to 1.
        means: ``(M, k)``.
        scale_trils: ``(M, k, k)`` lower Cholesky factors of the covariances.

    Raises:
        DataError: arrays that describe no such distribution.
    """

    weights: Float32Array | None = None
    means: Float32Array | None = None
    scale_trils: Float32Array | None = None

    def __post_init__(self) -> None:
        arrays = (self.weights, self.means, self.scale_trils)
        if not all(array is None for array in arrays):
            _check(*arrays)

    @property
    def components(self) -> int:
        """M, 1 for N(0, I)."""
        return 1 if self.weights is None else len(self.weights)

    @property
    def is_standard(self) -> bool:
        """Whether this is N(0, I)."""
        return self.weights is None

    @property
    def chooses(self) -> bool:
        """Whether a row needs a uniform number that chooses its component."""
        return self.components > 1

    def sample(self, eps: Float32Array, u: Float64Array | None = None) -> Float32Array:
        """Return z = m_c + L_c eps with c the component whose share of [0, 1) holds u.

        A row's bits depend on its own eps and u alone: no matrix product of rows is made, whose
        way of summing changes with their number.

        Args:
            eps: ``(n, k)`` standard normal.
            u: ``(n,)`` uniform in [0, 1); may be None unless the prior ``chooses``.

        Returns:
            ``(n, k)`` float32; ``eps`` itself for N(0, I).
        """
        if self.weights is None or self.means is None or self.scale_trils is None:
            return eps
        chosen = np.zeros(len(eps), np.int64) if u is None else self._choose(u)
        if u is None and self.chooses:
            raise ValueError("a mixture needs a uniform number per row to choose the component")
        z = np.empty(eps.shape, np.float32)
        trils, k = self.scale_trils, eps.shape[1]
        columns = [np.ascontiguousarray(trils[:, j:, j].T) for j in range(k)]
        for start in range(0, len(z), _ROWS_AT_A_TIME):
            part = slice(start, start + _ROWS_AT_A_TIME)
            z[part] = _moved(eps[part], chosen[part], self.means, columns)
        return z

    def log_prob(self, z: NDArray[np.floating]) -> Float64Array:
        """Return ln p(z) ``(n,)`` in nats for ``z (n, k)``."""
        return np.asarray(self.log_density(torch.from_numpy(np.asarray(z, np.float64))).numpy())

    def log_density(self, z: Tensor) -> Tensor:
        """Return ln p(z) ``(...)`` float64 in nats for ``z (..., k)``, on its device, with history.

        A component's log density is that of e = L^-1 (z - m); all components' e are one product.
        The history is good for first derivatives.
        """
        where = z.double()
        if self.weights is None or self.means is None or self.scale_trils is None:
            return standard_normal_log_prob(where)
        inverse, shift, constant = (part.to(where.device) for part in self._whitening)
        flat = where.reshape(-1, where.shape[-1])
        size = max(1, _NUMBERS_AT_A_TIME // shift.numel())
        parts = []
        for start in range(0, len(flat), size):
            e = torch.addmm(-shift, flat[start : start + size], inverse)
            distance = torch.linalg.vector_norm(e.unflatten(1, (len(constant), -1)), dim=-1)
            parts.append(torch.logsumexp(constant - 0.5 * distance.square(), -1))
        return torch.cat(parts).reshape(where.shape[:-1]) if parts else where.sum(-1)

    def to_tensors(self) -> dict[str, Tensor]:
        """Return the float32 tensors by name, for safetensors; none for N(0, I)."""
        arrays = (self.weights, self.means, self.scale_trils)
        named = zip(_NAMES, arrays, strict=True)
        return {name: torch.tensor(array) for name, array in named if array is not None}

    @classmethod
    def from_tensors(cls, tensors: Mapping[str, Tensor]) -> Prior:
        """Return the prior that ``to_tensors`` wrote; other names are ignored.

        Raises:
            DataError: one of several tensors is missing, or they describe no distribution.
        """
        found = [tensors[name].float().numpy() for name in _NAMES if name in tensors]
        if found and len(found) < len(_NAMES):
            missing = ", ".join(name for name in _NAMES if name not in tensors)
            raise DataError("prior", f"lacks {missing}", f"it has {', '.join(_NAMES)}")
        return cls(*found)

    def _shares(self) -> Float64Array:
        assert self.weights is not None
        weights = self.weights.astype(np.float64)
        shares: Float64Array = weights / weights.sum()
        return shares

    @cached_property
    def _whitening(self) -> tuple[Tensor, Tensor, Tensor]:
        """All L^-T side by side ``(k, M k)``, all L^-1 m ``(M k,)``, log constants ``(M,)``."""
        assert self.means is not None
        assert self.scale_trils is not None
        factors = torch.tensor(self.scale_trils, dtype=torch.float64)
        count, k = factors.shape[:2]
        inverse = torch.linalg.solve_triangular(factors, torch.eye(k).double(), upper=False)
        means = torch.tensor(self.means, dtype=torch.float64)
        shift = (inverse @ means[:, :, None]).flatten()
        shares = np.maximum(self._shares(), np.finfo(np.float64).tiny)
        log_det = factors.diagonal(dim1=1, dim2=2).log().sum(-1)
        constant = torch.from_numpy(np.log(shares)) - log_det - 0.5 * k * math.log(2 * math.pi)
        joined = inverse.reshape(count * k, k).T.contiguous()
        return joined, shift, constant

    def _choose(self, u: Float64Array) -> NDArray[np.int64]:
        """Inverse of the cumulative shares; u in [c_m-1, c_m) gives m."""
        return np.searchsorted(np.cumsum(self._shares())[:-1], u, side="right")


def fit_gaussian(codes: NDArray[np.floating]) -> Prior:
    """Return the Gaussian of largest likelihood for ``codes (n, k)``.

    Mean and covariance over n (Bishop 2006, equations 2.121 and 2.122), with ``VARIANCE_FLOOR``
    of each dimension's variance added, so that constant or dependent dimensions and a single row
    are no obstacle.

    Raises:
        DataError: no row, or a code that is not finite.
    """
    y, mean, scale = standardise_codes(codes)
    covariance = y.T @ y / len(y) + VARIANCE_FLOOR * np.eye(y.shape[1])
    return from_standardised(
        np.ones(1), np.zeros((1, y.shape[1])), covariance[None], mean=mean, scale=scale
    )


def standardise_codes(
    codes: NDArray[np.floating],
) -> tuple[Float64Array, Float64Array, Float64Array]:
    """Return ``y = (codes - mean) / scale`` ``(n, k)``, ``mean (k,)`` and ``scale (k,)`` > 0.

    The scale is the standard deviation, but at least a millionth of the dimension's largest code.

    Raises:
        DataError: no row, or a code that is not finite.
    """
    values = np.asarray(codes, np.float64)
    if len(values) == 0:
        raise DataError("codes", "there are none", "a prior is fitted to at least one")
    if not np.isfinite(values).all():
        rule = "a prior is fitted to finite codes"
        raise DataError("codes", "some are not finite", rule, "train again with a smaller step")
    mean = values.mean(0)
    least = np.maximum(1e-6 * np.abs(values).max(0), _LEAST_SCALE)
    scale = np.maximum(values.std(0), least)
    return (values - mean) / scale, mean, scale


def from_standardised(
    weights: Float64Array,
    means: Float64Array,
    covariances: Float64Array,
    *,
    mean: Float64Array,
    scale: Float64Array,
) -> Prior:
    """Return the prior over codes ``mean + scale y`` for a mixture over y.

    Args:
        weights: ``(M,)``.
        means: ``(M, k)`` of y.
        covariances: ``(M, k, k)`` of y, positive definite.
        mean: ``(k,)`` of the codes.
        scale: ``(k,)`` of the codes.
    """
    factors = scale[:, None] * np.linalg.cholesky(covariances)
    return Prior(
        weights.astype(np.float32),
        (mean + scale * means).astype(np.float32),
        factors.astype(np.float32),
    )


def _moved(
    eps: Float32Array, chosen: NDArray[np.int64], means: Float32Array, columns: list[Float32Array]
) -> Float32Array:
    """Return m_c + L_c eps ``(n, k)``, summed over L's columns in order, each row by itself.

    ``columns[j]`` is column j of all factors from the diagonal down, ``(k - j, M)``.
    """
    # What is chosen is in range; to clip it is cheaper than to make sure.
    result = np.ascontiguousarray(means.T).take(chosen, axis=1, mode="clip")
    for j, (values, column) in enumerate(zip(np.ascontiguousarray(eps.T), columns, strict=True)):
        step = column.take(chosen, axis=1, mode="clip")
        step *= values
        result[j:] += step
    return np.asarray(result.T)


def _check(
    weights: Float32Array | None, means: Float32Array | None, factors: Float32Array | None
) -> None:
    if weights is None or means is None or factors is None:
        raise DataError("prior", "is incomplete", "it has weights, means and scale_trils, or none")
    count, k = weights.size, means.shape[-1] if means.ndim else 0
    shapes = [weights.shape, means.shape, factors.shape]
    if count == 0 or shapes != [(count,), (count, k), (count, k, k)]:
        raise DataError("prior", f"has shapes {shapes}", "they are (M,), (M, k) and (M, k, k)")
    if not all(np.isfinite(array).all() for array in (weights, means, factors)):
        raise DataError("prior", "holds values that are not finite", "train again")
    if (weights < 0).any() or abs(float(weights.sum(dtype=np.float64)) - 1) > 1e-4:
        raise DataError("prior", "has weights that are no shares", "they are >= 0 and sum to 1")
    diagonal = np.diagonal(factors, axis1=1, axis2=2)
    if (diagonal <= 0).any() or np.triu(factors, 1).any():
        rule = "each is lower triangular with a positive diagonal"
        raise DataError("prior", "has scale_trils that are no Cholesky factors", rule)
