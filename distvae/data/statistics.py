"""One mergeable summary of the training rows: moments, ranges and second moments.

A summary is a deterministic function of the rows it saw and of how they were cut into tables;
merging in fragment order therefore gives the same bytes whatever the number of workers. All
arithmetic is float64 about the summary's own mean (Chan, Golub and LeVeque 1983, "Algorithms for
computing the sample variance", eq. 2.1 and its form for products), so that a mean far larger than
the spread costs no digits: 1e-9 relative is kept while |mean| / std stays below 1e7, beyond which
float64 cannot hold the data much better itself.
"""

from __future__ import annotations

import io
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.arrow_values import (
    Bools,
    Floats,
    Values,
    element_slices,
    read_values,
    row_slices,
)
from distvae.data.roles import Feature, total_width
from distvae.data.tally import Tally, add_rows, empty_tally
from distvae.errors import DataError

__all__ = [
    "LARGEST_PCA_WIDTH",
    "Summary",
    "covariance",
    "dense_rows",
    "merge",
    "select",
    "summarise",
    "summary_from_bytes",
    "summary_to_bytes",
]

LARGEST_PCA_WIDTH = 4096
"""Second moments are kept up to this many elements (3 D^2 float64 at most)."""


@dataclass(frozen=True)
class Summary:
    """What is known of the rows seen, per element (D of them, in the features' order).

    With x[r, i] the value, m[r, i] = 1 where observed, and d = m (x - mean):

    Attributes:
        rows: number of rows, observed or not.
        count: (D,) observed values.
        mean: (D,) mean of the observed values, 0 where there are none.
        m2: (D,) sum of d^2.
        minimum: (D,) smallest observed value, +inf where there are none.
        maximum: (D,) largest observed value, -inf where there are none.
        digits: (D,) decimal digits that the observed values need, 0 where all are whole numbers
            (see `distvae.data.tally.Tally`).
        products: (D, D) sum over rows of d_i d_j; None beyond `LARGEST_PCA_WIDTH` elements.
        cross: (D, D) sum of m_i d_j; None when nothing is missing (it is 0 then).
        pairs: (D, D) sum of m_i m_j; None when nothing is missing (it is ``rows`` then).
    """

    rows: int
    count: npt.NDArray[np.int64]
    mean: Floats
    m2: Floats
    minimum: Floats
    maximum: Floats
    digits: npt.NDArray[np.int8]
    products: Floats | None
    cross: Floats | None
    pairs: Floats | None

    @property
    def missing(self) -> npt.NDArray[np.int64]:
        """(D,) values that were null, NaN, or in a null list."""
        return self.rows - self.count

    @property
    def all_integer(self) -> Bools:
        """(D,) whether every observed value is a whole number."""
        return np.asarray(self.digits == 0)


def summarise(table: pa.Table, features: Sequence[Feature], skip_infinite: bool = False) -> Summary:
    """The summary of one table; null, NaN, null element and null list are missing.

    Args:
        table: flat or nested.
        features: those that are measured (`Feature.is_measured`); there may be none.
        skip_infinite: whether infinite values are missing too, instead of refused.

    Raises:
        DataError: an infinite or huge value, a list of wrong length, a column that is absent or
            of another type. The message names the column; the caller adds the file.
    """
    width = total_width(features)
    tally = empty_tally(width, second_moments=width <= LARGEST_PCA_WIDTH)
    if not features:
        tally.rows = table.num_rows
        return _summary_of(tally)
    # At least D rows at a time, for adding up D^2 sums costs as much as D rows of them.
    for x in dense_rows(table, features, at_least=width):
        if skip_infinite:
            x[np.isinf(x)] = np.nan
        add_rows(tally, x, features)
    return _summary_of(tally)


def dense_rows(table: pa.Table, features: Sequence[Feature], at_least: int) -> Iterator[Floats]:
    """Yield the rows in slices (n, D) of at least ``at_least``, the last excepted, NaN if missing.

    Raises:
        DataError: a list of wrong length, a column that is absent or of another type.
    """
    width = total_width(features)
    columns = [read_values(table, feature) for feature in features]
    for feature, column in zip(features, columns, strict=True):
        _refuse_wrong_length(feature, column)
    for rows in row_slices(table.num_rows, width, at_least=at_least):
        yield _gather(columns, features, rows, width)


def merge(a: Summary, b: Summary) -> Summary:
    """The summary of the rows of ``a`` and ``b``; exact but for rounding.

    With delta = mean_b - mean_a: mean = mean_a + delta n_b / n and
    m2 = m2_a + m2_b + delta^2 n_a n_b / n; products likewise, moved to the common mean.
    """
    count = a.count + b.count
    share = b.count / np.maximum(count, 1)
    delta = b.mean - a.mean
    mean = a.mean + delta * share
    moments = _merge_moments(a, b, mean)
    return Summary(
        rows=a.rows + b.rows,
        count=count,
        mean=mean,
        m2=a.m2 + b.m2 + delta * delta * (a.count * share),
        minimum=np.minimum(a.minimum, b.minimum),
        maximum=np.maximum(a.maximum, b.maximum),
        digits=np.maximum(a.digits, b.digits),
        products=moments[0],
        cross=moments[1],
        pairs=moments[2],
    )


def covariance(summary: Summary) -> tuple[Floats, Floats]:
    """Mean (D,) and covariance (D, D) of the rows with missing values set to their column's mean.

    An imputed value is 0 once centred, so the covariance is ``products / rows`` (divisor n).

    Raises:
        DataError: no rows, or more elements than `LARGEST_PCA_WIDTH`.
    """
    if summary.products is None or summary.rows == 0:
        found = f"{summary.rows} rows of {len(summary.mean)} elements"
        raise DataError("covariance", found, f"needs 1 row and at most {LARGEST_PCA_WIDTH}")
    return summary.mean, summary.products / summary.rows


def select(summary: Summary, places: npt.ArrayLike) -> Summary:
    """The summary of some elements, in the order of ``places`` (indices among the D)."""
    at = np.asarray(places, np.intp)

    def square(held: Floats | None) -> Floats | None:
        return None if held is None else held[np.ix_(at, at)]

    return Summary(
        rows=summary.rows,
        count=summary.count[at],
        mean=summary.mean[at],
        m2=summary.m2[at],
        minimum=summary.minimum[at],
        maximum=summary.maximum[at],
        digits=summary.digits[at],
        products=square(summary.products),
        cross=square(summary.cross),
        pairs=square(summary.pairs),
    )


def summary_to_bytes(summary: Summary) -> bytes:
    """The summary as an ``npz`` archive (no pickle); the same summary gives the same bytes."""
    held: dict[str, Any] = {f.name: getattr(summary, f.name) for f in fields(summary)}
    target = io.BytesIO()
    np.savez(target, **{name: value for name, value in held.items() if value is not None})
    return target.getvalue()


def summary_from_bytes(data: bytes) -> Summary:
    """The summary that `summary_to_bytes` wrote.

    Raises:
        DataError: bytes that are no such archive.
    """
    try:
        with np.load(io.BytesIO(data), allow_pickle=False) as archive:
            held: dict[str, Any] = dict.fromkeys(("products", "cross", "pairs"))
            held |= {name: archive[name] for name in archive.files}
        held["rows"] = int(held["rows"])
        return Summary(**held)
    except (OSError, EOFError, KeyError, TypeError, ValueError, zipfile.BadZipFile) as error:
        raise DataError("summary", f"cannot be read ({error})", "it must be whole") from error


def _summary_of(tally: Tally) -> Summary:
    """The tally's sums moved from its base to the mean."""
    offset = tally.total / np.maximum(tally.count, 1)
    products, cross, pairs = tally.products, tally.cross, tally.pairs
    if products is not None:
        if cross is None or pairs is None:
            products = products - np.multiply.outer(tally.total, offset)
        else:
            products, cross, pairs = _moved(products, cross, pairs, -offset)
    return Summary(
        rows=tally.rows,
        count=tally.count,
        mean=tally.base + offset,
        m2=np.maximum(tally.squares - tally.total * offset, 0.0),
        minimum=tally.minimum,
        maximum=tally.maximum,
        digits=tally.digits,
        products=products,
        cross=cross,
        pairs=pairs,
    )


def _gather(
    columns: Sequence[Values], features: Sequence[Feature], rows: slice, width: int
) -> Floats:
    """Rows as one (rows, D) float64 array, NaN where missing."""
    x = np.empty((rows.stop - rows.start, width))
    for feature, column, place in zip(features, columns, element_slices(features), strict=True):
        part = x[:, place] if feature.role == "vector" else x[:, place.start]
        part[...] = column.values[rows]
        if column.valid is not None:
            part[~column.valid[rows]] = np.nan
    return x


def _merge_moments(
    a: Summary, b: Summary, mean: Floats
) -> tuple[Floats | None, Floats | None, Floats | None]:
    """Products, cross and pairs of both about the common ``mean``."""
    if a.products is None or b.products is None:
        return None, None, None
    if a.pairs is None and b.pairs is None:
        rows = max(1, a.rows + b.rows)
        delta = b.mean - a.mean
        between = np.multiply.outer(delta, delta * (a.rows * b.rows / rows))
        between += a.products
        between += b.products
        return between, None, None
    left, right = (_moved(*_moments(part), part.mean - mean) for part in (a, b))
    return left[0] + right[0], left[1] + right[1], left[2] + right[2]


def _moments(part: Summary) -> tuple[Floats, Floats, Floats]:
    """Products, cross and pairs, written out where nothing is missing."""
    assert part.products is not None
    shape = part.products.shape
    cross = np.zeros(shape) if part.cross is None else part.cross
    return (
        part.products,
        cross,
        np.full(shape, float(part.rows)) if part.pairs is None else part.pairs,
    )


def _moved(
    products: Floats, cross: Floats, pairs: Floats, e: Floats
) -> tuple[Floats, Floats, Floats]:
    """The same sums with every d replaced by d + m e: about a centre lower by e."""
    lifted = e[:, np.newaxis] * cross
    moved = products + lifted + lifted.T + np.multiply.outer(e, e) * pairs
    return moved, cross + pairs * e, pairs


def _refuse_wrong_length(feature: Feature, column: Values) -> None:
    if column.lengths is not None:
        row = int(np.flatnonzero(column.lengths != feature.width)[0])
        raise DataError(
            feature.label,
            f"has a list of length {column.lengths[row]} (row {row} of its batch)",
            f"every list must have the length of the first, {feature.width}",
            f"leave it out with --exclude {feature.name}",
        )
