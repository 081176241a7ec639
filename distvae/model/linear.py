"""Principal component analysis in closed form, the linear baseline beside every model.

Everything is float64 and in the data's own units: PCA here centres and never scales.
Shapes: D columns, k components, n rows.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import ArrayLike, NDArray

from distvae.errors import DataError

__all__ = [
    "Pca",
    "explained_variance_ratio",
    "fit_pca",
    "pca_of_factor",
    "project",
    "reconstruct",
]

Float64Array = NDArray[np.float64]
IntArray = NDArray[np.intp]

_RESOLVED = 1e-8
_ONE_SCALE = 1e-2


@dataclass(frozen=True)
class Pca:
    """A fitted PCA.

    Attributes:
        mean: ``(D,)`` column means.
        components: ``(k, D)`` orthonormal rows, largest variance first.
        variances: ``(k,)`` variance along each component.
        total_variance: trace of the covariance.
        discarded_variance: what the components leave of it, where that is known on its own: the
            difference of large numbers would have lost it. None for the difference.
    """

    mean: Float64Array
    components: Float64Array
    variances: Float64Array
    total_variance: float
    discarded_variance: float | None = None

    @property
    def left_over(self) -> float:
        """The variance outside the components, summed over all directions, >= 0."""
        if self.discarded_variance is not None:
            return self.discarded_variance
        return max(self.total_variance - float(self.variances.sum()), 0.0)


def fit_pca(mean: ArrayLike, covariance: ArrayLike, k: int) -> Pca:
    """Return the k leading eigenvectors of a covariance (Pearson 1901).

    Signs are fixed: the entry of largest magnitude in each component is positive. With k > D
    all D components are kept.

    Where columns differ so much in scale that the eigenvectors of the covariance would lose its
    small eigenvalues beside the large ones, they come from the covariance's factor, and are as
    close as those of a float64 decomposition of the rows themselves: variances of 1e-18 of the
    first to 1e-6 relative, where the columns are not collinear (found on columns with standard
    deviations from 1e-3 to 1e6).

    Args:
        mean: ``(D,)``.
        covariance: ``(D, D)``, symmetric.
        k: number of components, >= 1.

    Raises:
        DataError: a mean or covariance that is not finite.
    """
    centre = np.asarray(mean, np.float64)
    matrix = np.asarray(covariance, np.float64)
    if not (np.isfinite(centre).all() and np.isfinite(matrix).all()):
        raise DataError("covariance", "is not finite", "PCA needs finite moments")
    kept = min(k, len(centre))
    variances, directions = _eigen((matrix + matrix.T) / 2, kept)
    return Pca(
        mean=centre,
        components=_signed(np.ascontiguousarray(directions[:kept])),
        variances=variances[:kept],
        total_variance=float(matrix.trace()),
        discarded_variance=float(variances[kept:][::-1].sum()),
    )


def pca_of_factor(
    mean: ArrayLike, factor: ArrayLike, rows: int, total_variance: float, k: int
) -> Pca:
    """Return the PCA of a covariance F^T F / rows that is known by a factor F alone.

    Args:
        mean: ``(D,)``.
        factor: F ``(l, D)`` with l >= k, as ``data.sketch`` keeps it for wide rows.
        rows: number of rows, >= 1.
        total_variance: trace of the covariance, what the factor left out included.
        k: number of components, <= l.

    Raises:
        DataError: a factor that is not finite.
    """
    matrix = np.asarray(factor, np.float64)
    if not np.isfinite(matrix).all():
        raise DataError("covariance", "is not finite", "PCA needs finite moments")
    _, values, components = np.linalg.svd(matrix, full_matrices=False)
    variances = np.square(values[:k]) / rows
    return Pca(np.asarray(mean, np.float64), _signed(components[:k]), variances, total_variance)


def project(pca: Pca, x: ArrayLike) -> Float64Array:
    """Return the coordinates ``(n, k)`` of rows ``(n, D)``: (x - mean) C^T."""
    coordinates: Float64Array = (np.asarray(x, np.float64) - pca.mean) @ pca.components.T
    return coordinates


def reconstruct(pca: Pca, x: ArrayLike) -> Float64Array:
    """Return the orthogonal projection ``(n, D)`` of rows: mean + (x - mean) C^T C."""
    projection: Float64Array = project(pca, x) @ pca.components + pca.mean
    return projection


def explained_variance_ratio(pca: Pca) -> Float64Array:
    """Return each component's share of the total variance, ``(k,)``; 0 where all is constant."""
    if pca.total_variance <= 0:
        return np.zeros_like(pca.variances)
    ratio: Float64Array = pca.variances / pca.total_variance
    return ratio


def _eigen(matrix: Float64Array, kept: int) -> tuple[Float64Array, Float64Array]:
    """Eigenvalues ``(D,)``, >= 0 and descending, and eigenvectors as rows ``(D, D)``.

    The solver's error is a few 1e-16 of the largest eigenvalue. That is too much for a smallest
    kept, or a mean of the discarded, that is not 1e-8 of it, unless all columns are of one scale:
    then the covariance itself knows no better.
    """
    ascending, vectors = np.linalg.eigh(matrix)
    values, directions = np.maximum(ascending[::-1], 0.0), vectors[:, ::-1].T
    needed = [values[kept - 1]]
    if kept < len(values):
        needed.append(values[kept:].mean())
    scales = np.sqrt(np.maximum(matrix.diagonal(), 0.0))
    varying = np.flatnonzero(scales)
    if len(varying) == 0 or min(needed) > _RESOLVED * values[0]:
        return values, directions
    if scales[varying].min() > _ONE_SCALE * scales.max():
        return values, directions
    return _eigen_of_scaled(matrix, scales, varying)


def _eigen_of_scaled(
    matrix: Float64Array, scales: Float64Array, varying: IntArray
) -> tuple[Float64Array, Float64Array]:
    """The same from C = F^T F, F = T^1/2 W^T diag(scales), W T W^T the correlations.

    Each entry of C is exact to 1e-16 of its two scales, and so are the correlations; F then has
    F's digits where C would have their squares (Demmel & Veselic 1992, "Jacobi's method is more
    accurate than QR", for the scaling).
    """
    width, s = len(scales), scales[varying]
    correlations = matrix[np.ix_(varying, varying)] / s / s[:, np.newaxis]
    shares, turned = np.linalg.eigh(correlations)
    shares[shares < len(s) * np.finfo(np.float64).eps] = 0.0  # rounding of what is collinear
    _, singular, found = np.linalg.svd(np.sqrt(shares)[:, np.newaxis] * turned.T * s)
    values, directions = np.zeros(width), np.zeros((width, width))
    values[: len(s)] = np.square(singular)
    directions[: len(s), varying] = found
    constant = np.setdiff1d(np.arange(width), varying)
    directions[np.arange(len(s), width), constant] = 1.0
    return values, directions


def _signed(components: Float64Array) -> Float64Array:
    """The same directions, each with its entry of largest magnitude positive."""
    peak = components[np.arange(len(components)), np.abs(components).argmax(1)]
    signed: Float64Array = components * np.where(peak < 0, -1.0, 1.0)[:, None]
    return signed
