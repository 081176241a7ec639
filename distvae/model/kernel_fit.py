"""Fitting a kernel PCA through Nystroem features: what is summed over rows, and what is solved.

Kernel PCA (Schoelkopf, Smola & Mueller 1998, "Nonlinear component analysis as a kernel eigenvalue
problem") is PCA of features that an inner product k(x, x') defines. Here the features are the
projections on the span of m landmark rows (Williams & Seeger 2001, "Using the Nystroem method to
speed up kernel machines"), phi(x) = L^-1/2 Q^T k_m(x) with K_mm = Q L Q^T, so that the fit needs
their mean and covariance only: one streaming pass, sums that merge. With all rows as landmarks it
is exact. Everything is float64. Shapes: n rows, D elements, m landmarks, r features, k components.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "FeatureSums",
    "KernelFit",
    "Landmarks",
    "PreImage",
    "fit_kernel_pca",
    "fit_pre_image",
    "merge_sums",
    "rbf",
]

Floats = NDArray[np.float64]

_RANK_TOLERANCE = 1e-10
_WIDTHS = (0.25, 0.5, 1.0, 2.0, 4.0, 8.0, 16.0)
_RIDGES = tuple(10.0**power for power in range(-8, 2))
_MOST_CODES_TRIED = 1024


def rbf(a: Floats, b: Floats, gamma: float) -> Floats:
    """Return exp(-gamma |a_i - b_j|^2) ``(n, m)`` for ``a (n, D)`` and ``b (m, D)``."""
    squares = np.square(a).sum(1)[:, None] + np.square(b).sum(1) - 2 * (a @ b.T)
    kernel: Floats = np.exp(-gamma * np.maximum(squares, 0.0))
    return kernel


@dataclass(frozen=True)
class Landmarks:
    """The rows that span the features.

    Attributes:
        rows: ``(m, D)`` standardised.
        gamma: of the kernel.
        whitening: ``(r, m)`` L^-1/2 Q^T; directions of K_mm below 1e-10 of its largest
            eigenvalue, which duplicates make, are left out.
    """

    rows: Floats
    gamma: float
    whitening: Floats

    @classmethod
    def of_rows(cls, rows: Floats, gamma: float) -> Landmarks:
        """Prepare the features of m rows."""
        values, vectors = np.linalg.eigh(rbf(rows, rows, gamma))
        kept = values > _RANK_TOLERANCE * values[-1]
        whitening = vectors[:, kept].T / np.sqrt(values[kept])[:, None]
        return cls(rows, gamma, whitening)

    def features(self, y: Floats) -> Floats:
        """Return phi ``(n, r)`` of standardised rows ``y (n, D)``; |phi|^2 <= k(y, y) = 1."""
        phi: Floats = rbf(y, self.rows, self.gamma) @ self.whitening.T
        return phi

    def sums(self, y: Floats) -> FeatureSums:
        """Return what rows ``y (n >= 1, D)`` add."""
        phi = self.features(y)
        mean = phi.mean(0)
        centred = phi - mean
        return FeatureSums(len(y), mean, centred.T @ centred)


@dataclass(frozen=True)
class FeatureSums:
    """Of the rows seen: their number, ``mean (r,)``, and ``products (r, r)`` about the mean."""

    rows: int
    mean: Floats
    products: Floats


def merge_sums(a: FeatureSums, b: FeatureSums) -> FeatureSums:
    """Return the sums over both (Chan, Golub & LeVeque 1983)."""
    rows = a.rows + b.rows
    delta = b.mean - a.mean
    between = np.multiply.outer(delta, delta * (a.rows * b.rows / rows))
    return FeatureSums(rows, a.mean + delta * (b.rows / rows), a.products + b.products + between)


@dataclass(frozen=True)
class KernelFit:
    """Scores are ``projection k_m(x) - offset``.

    Attributes:
        projection: ``(k, m)``.
        offset: ``(k,)``.
        variances: ``(k,)`` of the scores over the training rows, largest first.
        total_variance: of the features themselves, 1 - |mean|^2: the trace of the centred kernel
            matrix over the number of rows.
    """

    projection: Floats
    offset: Floats
    variances: Floats
    total_variance: float


def fit_kernel_pca(landmarks: Landmarks, sums: FeatureSums, k: int) -> KernelFit:
    """Return the k leading components; those beyond the features' rank are zero.

    Signs are fixed: the entry of largest magnitude in each component is positive.
    """
    values, vectors = np.linalg.eigh(sums.products / sums.rows)
    kept = min(k, len(values))
    components, variances = np.zeros((k, len(values))), np.zeros(k)
    components[:kept] = vectors[:, ::-1][:, :kept].T
    variances[:kept] = np.maximum(values[::-1][:kept], 0.0)
    peak = components[np.arange(k), np.abs(components).argmax(1)]
    components *= np.where(peak < 0, -1.0, 1.0)[:, None]
    return KernelFit(
        projection=components @ landmarks.whitening,
        offset=components @ sums.mean,
        variances=variances,
        total_variance=max(1.0 - float(sums.mean @ sums.mean), 0.0),
    )


@dataclass(frozen=True)
class PreImage:
    """The way back from codes to rows: y = mean + k(z, codes) dual.

    Attributes:
        gamma: of the kernel between codes.
        dual: ``(m, D)``.
        mean: ``(D,)`` of the landmarks.
        residual: ``(D,)`` root mean square of what a landmark's own row misses by when it is left
            out.
    """

    gamma: float
    dual: Floats
    mean: Floats
    residual: Floats


def fit_pre_image(codes: Floats, rows: Floats) -> PreImage:
    """Learn rows from codes by kernel ridge regression (Bakir, Weston & Schoelkopf 2004).

    As scikit-learn's ``KernelPCA(fit_inverse_transform=True)``, but the kernel's width, a multiple
    of the codes' spread, and the ridge are those of least leave-one-out error, which has a closed
    form: (K + a I)^-1 y over the diagonal of (K + a I)^-1. At most 1,024 codes choose them.

    Args:
        codes: ``(m, k)`` of the landmarks.
        rows: ``(m, D)`` the landmarks, standardised.
    """
    mean = rows.mean(0)
    tried = slice(0, _MOST_CODES_TRIED)
    spread = 2 * float(codes.var(0).sum()) or 1.0
    gamma, ridge = _least_error(codes[tried], (rows - mean)[tried], spread)
    inverse = np.linalg.inv(rbf(codes, codes, gamma) + ridge * np.eye(len(codes)))
    dual = inverse @ (rows - mean)
    left_out = dual / inverse.diagonal()[:, None]
    return PreImage(gamma, dual, mean, np.sqrt(np.square(left_out).mean(0)))


def _least_error(codes: Floats, targets: Floats, spread: float) -> tuple[float, float]:
    """(gamma, ridge) of least leave-one-out squared error, all elements alike."""
    best = (np.inf, 0.0, 0.0)
    for width in _WIDTHS:
        gamma = width / spread
        values, vectors = np.linalg.eigh(rbf(codes, codes, gamma))
        turned = vectors.T @ targets
        for ridge in _RIDGES:
            shrink = 1 / (np.maximum(values, 0.0) + ridge)
            dual = vectors @ (shrink[:, None] * turned)
            left_out = dual / (np.square(vectors) @ shrink)[:, None]
            best = min(best, (float(np.square(left_out).sum()), gamma, ridge))
    return best[1], best[2]
