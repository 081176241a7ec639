"""The leading directions of rows too wide for a covariance, in one pass: a mergeable sketch.

Incremental singular value decomposition (Ross, Lim, Lin & Yang 2008, "Incremental learning for
robust visual tracking", section 3; scikit-learn's ``IncrementalPCA`` is the same algorithm): rows,
or another sketch's factor, are stacked under the factor so far, with one row that accounts for the
difference of the means, and of the stack the l leading singular directions are kept. Nothing is
lost while the rows span no more than l dimensions. With l = 4 k the k leading variances come out
within 1e-8 of the total for spectra that fall exponentially, 1e-7 for 1 / j^2 and 1e-4 for 1 / j,
a thousand times closer than a randomised sketch of the same size (Tropp et al. 2017).

Further passes over the rows bring them closer (Halko, Martinsson & Tropp 2011, "Finding structure
with randomness", algorithms 4.4 and 5.5): with Y = V C, C the sum of (x - mean)(x - mean)^T and V
the sketch's directions, Y^T (V Y^T)^+ Y replaces the sketch. The parts' Y add up. For 1 / j, 700
rows of 4,200 elements and k = 8, the error falls from 5e-5 of the total to 2e-7 after one pass and
2e-9 after two; of a variance itself, from 3e-3 to 1e-5 and 1e-7.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import pyarrow as pa

from distvae.data.arrow_values import Bools, Floats, element_slices
from distvae.data.roles import Feature
from distvae.data.statistics import dense_rows
from distvae.errors import DataError

__all__ = [
    "Sketch",
    "directions",
    "improved",
    "merge_sketches",
    "products_table",
    "sketch_from_bytes",
    "sketch_size",
    "sketch_table",
    "sketch_to_bytes",
]

_TIMES, _MORE = 4, 64
_ROWS_PER_FACTOR_ROW = 2
_ROUNDED = 1e-7  # singular values below this share of the first are rounding


@dataclass(frozen=True)
class Sketch:
    """What is kept of the rows seen, of D elements.

    Attributes:
        rows: number of rows.
        mean: (D,) their mean.
        factor: F (at most l, D): F^T F is the leading part of the sum of (x - mean)(x - mean)^T.
        size: l.
    """

    rows: int
    mean: Floats
    factor: Floats
    size: int


def sketch_size(components: int, width: int) -> int:
    """L, how many directions to keep for k of them to come out well."""
    return min(max(_TIMES * components, components + _MORE), width)


def sketch_table(table: pa.Table, features: Sequence[Feature], size: int) -> Sketch:
    """The sketch of one table with l = ``size``.

    Raises:
        DataError: a missing value, or what `distvae.data.statistics.summarise` refuses.
    """
    total: Sketch | None = None
    for x in dense_rows(table, features, at_least=_ROWS_PER_FACTOR_ROW * size):
        _refuse_missing(x, features)
        mean = x[0] + (x - x[0]).mean(axis=0)  # exact for constants
        part = Sketch(len(x), mean, _leading([x - mean], size), size)
        total = part if total is None else merge_sketches(total, part)
    if total is None:
        width = sum(feature.width for feature in features)
        return Sketch(0, np.zeros(width), np.zeros((0, width)), size)
    return total


def merge_sketches(a: Sketch, b: Sketch) -> Sketch:
    """The sketch of the rows of ``a`` and ``b``; both of one size."""
    rows = a.rows + b.rows
    delta = b.mean - a.mean
    between = np.sqrt(a.rows * b.rows / max(rows, 1)) * delta
    factor = _leading([a.factor, b.factor, between[np.newaxis]], a.size)
    return Sketch(rows, a.mean + delta * (b.rows / max(rows, 1)), factor, a.size)


def directions(sketch: Sketch) -> Floats:
    """V (at most l, D): orthonormal rows that span the factor's, what is rounding left out."""
    _, values, rows = np.linalg.svd(sketch.factor, full_matrices=False)
    held: Floats = rows[values > _ROUNDED * values.max(initial=0.0)]
    return held


def products_table(
    table: pa.Table, features: Sequence[Feature], mean: Floats, held: Floats
) -> Floats:
    """Y (l, D) = V times the sum of (x - mean)(x - mean)^T over one table; parts add up.

    Args:
        table: rows without missing values.
        features: of D elements.
        mean: (D,) of all rows.
        held: V (l, D), see `directions`.
    """
    total = np.zeros(held.shape)
    for x in dense_rows(table, features, at_least=len(held)):
        centred = x - mean
        total += (centred @ held.T).T @ centred
    return total


def improved(sketch: Sketch, held: Floats, products: Floats) -> Sketch:
    """The sketch after one more pass over its rows.

    Args:
        sketch: before.
        held: its V, see `directions`.
        products: Y of all its rows, see `products_table`.
    """
    inner = products @ held.T
    values, vectors = np.linalg.eigh((inner + inner.T) / 2)
    told = values > _ROUNDED**2 * values.max(initial=0.0)
    factor = (vectors[:, told] / np.sqrt(values[told])).T @ products
    return replace(sketch, factor=factor)


def sketch_to_bytes(sketch: Sketch) -> bytes:
    """The sketch as an ``npz`` archive (no pickle); the same sketch gives the same bytes."""
    target = io.BytesIO()
    np.savez(target, **vars(sketch))
    return target.getvalue()


def sketch_from_bytes(data: bytes) -> Sketch:
    """The sketch that `sketch_to_bytes` wrote.

    Raises:
        DataError: bytes that are no such archive.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            rows, size = int(archive["rows"]), int(archive["size"])
            return Sketch(rows, archive["mean"], archive["factor"], size)
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise DataError("sketch", f"cannot be read ({error})", "it must be whole") from error


def _leading(parts: Sequence[Floats], size: int) -> Floats:
    """The ``size`` leading singular directions of the stacked rows, times their singular values.

    From the eigenvectors of the rows' products, which are fewer than their elements: singular
    values below 1e-8 of the first are rounded away, variances below 1e-16 of its.
    """
    stack = np.concatenate(parts)
    if len(stack) <= size:
        return stack
    _, vectors = np.linalg.eigh(stack @ stack.T)
    leading: Floats = vectors[:, : -size - 1 : -1].T @ stack
    return leading


def _refuse_missing(x: Floats, features: Sequence[Feature]) -> None:
    missing: Bools = np.asarray(np.isnan(x).any(axis=0))
    if not missing.any():
        return
    for feature, place in zip(features, element_slices(features), strict=True):
        if missing[place].any():
            raise DataError(
                feature.label,
                "has missing values",
                f"pca of {x.shape[1]} elements, too many for their covariance, needs every value",
                f"fill them, or leave the column out with --exclude {feature.name}",
            )
