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


@dataclass(frozen=True)
class Pca:
    """A fitted PCA.

    Attributes:
        mean: ``(D,)`` column means.
        components: ``(k, D)`` orthonormal rows, largest variance first.
        variances: ``(k,)`` variance along each component.
        total_variance: trace of the covariance.
    """

    mean: Float64Array
    components: Float64Array
    variances: Float64Array
    total_variance: float


def fit_pca(mean: ArrayLike, covariance: ArrayLike, k: int) -> Pca:
    """Return the k leading eigenvectors of a covariance (Pearson 1901).

    Signs are fixed: the entry of largest magnitude in each component is positive. With k > D
    all D components are kept.

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
    ascending, vectors = np.linalg.eigh((matrix + matrix.T) / 2)
    kept = min(k, len(centre))
    components = np.ascontiguousarray(vectors[:, ::-1][:, :kept].T)
    variances = np.maximum(ascending[::-1][:kept], 0.0)
    return Pca(centre, _signed(components), variances, float(matrix.trace()))


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


def _signed(components: Float64Array) -> Float64Array:
    """The same directions, each with its entry of largest magnitude positive."""
    peak = components[np.arange(len(components)), np.abs(components).argmax(1)]
    signed: Float64Array = components * np.where(peak < 0, -1.0, 1.0)[:, None]
    return signed
