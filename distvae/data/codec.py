"""The codec: fitted once on the summary of the training rows, then table to arrays and back.

Continuous columns are standardised one by one, y = (x - mean) / std. A vector keeps the shape of
its covariance: each element is centred, all share the scale sqrt(mean over elements of variance).
Columns of a Bernoulli head keep the unit interval instead.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from distvae.data.arrow_values import Floats, element_slices
from distvae.data.codec_columns import Codec, Column, block_layout, feature_specs
from distvae.data.codec_decode import decode
from distvae.data.codec_encode import Encoded, encode
from distvae.data.roles import Feature, require_known, total_width
from distvae.data.statistics import Summary
from distvae.errors import DataError

__all__ = [
    "Codec",
    "Column",
    "Encoded",
    "block_layout",
    "decode",
    "encode",
    "feature_specs",
    "fit_codec",
]


def fit_codec(
    features: Sequence[Feature],
    summary: Summary,
    unit_interval: frozenset[str] = frozenset(),
) -> Codec:
    """The codec of ``features`` for rows like those that ``summary`` saw.

    Args:
        features: in the order in which ``summary`` has its elements.
        summary: of all training rows.
        unit_interval: names whose encoded values must lie in [0, 1] (Bernoulli heads).

    Raises:
        DataError: a column of ``unit_interval`` with other values, or no training rows.
        UsageError: a name in ``unit_interval`` that is no feature.
    """
    if total_width(features) != len(summary.mean):
        raise ValueError(f"{total_width(features)} elements, a summary of {len(summary.mean)}")
    require_known("likelihood", sorted(unit_interval), [feature.name for feature in features])
    if summary.rows == 0:
        raise DataError("training data", "has no rows", "at least one is needed", "check DATA")
    vectors = int(any(feature.role == "continuous" for feature in features))
    columns = []
    for feature, place in zip(features, element_slices(features), strict=True):
        block = 0
        if feature.role == "vector":
            block, vectors = vectors, vectors + 1
        columns.append(_fit(feature, block, place, summary, feature.name in unit_interval))
    return Codec(tuple(columns))


def _fit(feature: Feature, block: int, place: slice, summary: Summary, unit: bool) -> Column:
    count = summary.count[place]
    seen = count > 0
    low, high = 0.0, 0.0
    if seen.any():
        low = float(summary.minimum[place][seen].min())
        high = float(summary.maximum[place][seen].max())
    integer = bool(summary.all_integer[place].all())
    constant = summary.minimum[place] >= summary.maximum[place]
    variance = np.where(constant, 0.0, summary.m2[place] / np.maximum(count, 1))
    std = float(np.sqrt(variance.mean()))
    shift = np.where(constant & seen, summary.minimum[place], summary.mean[place])
    scale = std if std > 0 else 1.0
    if unit:
        shift, scale = np.zeros(feature.width), _unit_scale(feature, low, high)
    raw = Column(
        feature=feature,
        block=block,
        start=place.start,
        stop=place.stop,
        shift=shift,
        scale=scale,
        minimum=low,
        maximum=high,
        integer=integer,
        resolution=_resolution(integer, std, max(abs(low), abs(high))),
        has_missing=bool((summary.missing[place] > 0).any()),
        unit_interval=unit,
    )
    return _as_on_device(raw)


def _as_on_device(column: Column) -> Column:
    """Raw vectors are standardised in float32: the codec must hold the very same numbers."""
    if not column.raw:
        return column
    shift: Floats = column.shift.astype(np.float32).astype(np.float64)
    scale = float(np.maximum(np.float32(column.scale), np.finfo(np.float32).tiny))
    return replace(column, shift=shift, scale=scale)


def _resolution(integer: bool, std: float, largest: float) -> float:
    """The smallest difference that means something, in raw units; never 0."""
    if integer:
        return 1.0
    return max(1e-3 * std, 1e-6 * largest) if std > 0 else 1e-3 * max(1.0, largest)


def _unit_scale(feature: Feature, low: float, high: float) -> float:
    """1 when the values lie in [0, 1] already, 255 for bytes that do not."""
    if low >= 0 and high <= 1:
        return 1.0
    if feature.element == np.uint8:
        return 255.0
    raise DataError(
        feature.label,
        f"has values in [{low:g}, {high:g}]",
        "a bernoulli likelihood needs values in [0, 1]",
        "use gaussian or rescale",
    )
