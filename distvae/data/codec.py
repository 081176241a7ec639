"""The codec: fitted once on what is known of the training rows, then table to arrays and back.

Standard columns are standardised one by one, y = (x - mean) / std. A vector keeps the shape of
its covariance: each element is centred, all share the scale sqrt(mean over elements of variance).
Columns of a Bernoulli head keep the unit interval instead, those of a count head their numbers;
all others are cut into cells (see `distvae.data.cells`), and missing values of any of them give
it a companion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace

import numpy as np

from distvae.data.arrow_values import Floats, element_slices
from distvae.data.codec_categories import cells_of_states, fit_category_cells
from distvae.data.codec_columns import (
    CODINGS,
    LARGEST_COUNT,
    Codec,
    Column,
    block_layout,
    feature_specs,
)
from distvae.data.codec_companions import companion_of
from distvae.data.codec_cut import fit_number_cells
from distvae.data.codec_decode import decode
from distvae.data.codec_encode import Encoded, encode
from distvae.data.codec_fill import fills
from distvae.data.codec_measures import numbers
from distvae.data.policies import Policies
from distvae.data.profile import ColumnProfile, Profile
from distvae.data.roles import Feature, presence_of, require_known, total_width
from distvae.data.statistics import Summary
from distvae.data.tally import MOST_DIGITS
from distvae.errors import DataError, UsageError

__all__ = [
    "Codec",
    "Column",
    "Encoded",
    "Policies",
    "block_layout",
    "cells_of_states",
    "decode",
    "encode",
    "feature_specs",
    "fills",
    "fit_codec",
    "numbers",
]


def fit_codec(
    features: Sequence[Feature],
    summary: Summary,
    profile: Profile | None = None,
    codings: Mapping[str, str] | None = None,
    companions: bool = True,
) -> Codec:
    """The codec of ``features`` for rows like those that ``summary`` and ``profile`` saw.

    Args:
        features: scalars first, then vectors.
        summary: of all training rows, with the elements of the measured features in their order.
        profile: of all training rows; without it there are neither cells nor companions.
        codings: by feature name; ``standard`` for measured features and ``cells`` for others if
            not told.
        companions: whether to model what is missing.

    Raises:
        DataError: values that a coding cannot hold, a column without values that needs some, or no
            training rows.
        UsageError: codings of a name that is no feature, or that its role cannot have.
    """
    told = dict(codings or {})
    measured = [feature for feature in features if feature.is_measured]
    width = total_width(measured)
    if width != len(summary.mean):
        raise ValueError(f"{width} elements, a summary of {len(summary.mean)}")
    require_known("likelihood", sorted(told), [feature.name for feature in features])
    if not features:
        raise DataError("features", "there are none", "at least one is needed", "see --include")
    if summary.rows == 0 and (profile is None or profile.rows == 0):
        raise DataError("training data", "has no rows", "at least one is needed", "check DATA")
    places = dict(zip(measured, element_slices(measured), strict=True))
    columns = [
        _fit(
            f,
            told.get(f.name),
            summary,
            places.get(f),
            profile.columns.get(f.name) if profile else None,
        )
        for f in features
    ]
    return arrange(columns, _companions(columns, profile if companions else None))


def arrange(columns: Sequence[Column], companions: Sequence[Column]) -> Codec:
    """The columns in element order, with their blocks and places."""
    scalars = [c for c in columns if c.feature.is_scalar] + list(companions)
    vectors = [c for c in columns if not c.feature.is_scalar]
    placed: list[Column] = []
    start = 0
    for index, column in enumerate([*scalars, *vectors]):
        block = 0 if index < len(scalars) else index - len(scalars) + bool(scalars)
        stop = start + column.feature.width
        placed.append(replace(column, block=block, start=start, stop=stop))
        start = stop
    return Codec(tuple(placed))


def _companions(columns: Sequence[Column], profile: Profile | None) -> list[Column]:
    if profile is None:
        return []
    features = [column.feature for column in columns]
    names = {feature.name for feature in features}
    found = []
    for feature in features:
        if feature.name in profile.columns:
            presence = presence_of(feature, features)
            absent = 0 if presence is None else _absent(profile.columns[presence.name])
            column = profile.columns[feature.name]
            found.append(companion_of(feature, column, names, absent))
    return [column for column in found if column is not None]


def _absent(presence: ColumnProfile) -> int:
    """Rows in which a struct is null."""
    assert presence.values is not None
    assert presence.counts is not None
    places = zip(presence.values.to_pylist(), presence.counts.tolist(), strict=True)
    return sum(count for value, count in places if not value)


def _fit(
    feature: Feature,
    coding: str | None,
    summary: Summary,
    place: slice | None,
    profile: ColumnProfile | None,
) -> Column:
    coding = coding or ("standard" if place is not None else "cells")
    if coding not in CODINGS or (coding != "cells" and place is None):
        raise UsageError(
            "likelihood", f"coding {coding!r} of {feature.label}", f"its role is {feature.role}"
        )
    if coding in ("cells", "count") and not feature.is_scalar:
        raise UsageError("likelihood", f"coding {coding!r} of {feature.label}", "it is a vector")
    if coding == "cells":
        return _celled(feature, summary, place, profile)
    assert place is not None
    column = _standard(feature, summary, place, coding == "unit")
    return _counted(column) if coding == "count" else column


def _celled(
    feature: Feature, summary: Summary, place: slice | None, profile: ColumnProfile | None
) -> Column:
    if profile is None:
        raise DataError(
            feature.label, "has no profile", "its cells are fitted to one", "profile the rows first"
        )
    low = high = 0.0
    if feature.is_number:
        digits = MOST_DIGITS + 1 if place is None else int(summary.digits[place].max())
        cells = fit_number_cells(feature, profile, digits)
        low, high = cells.limits
    else:
        cells = fit_category_cells(feature, profile)
    return Column(
        feature=feature,
        block=0,
        start=0,
        stop=1,
        shift=np.zeros(1),
        scale=1.0,
        minimum=low,
        maximum=high,
        integer=cells.whole,
        resolution=1.0,
        has_missing=bool(profile.nulls or profile.nans),
        coding="cells",
        cells=cells,
    )


def _counted(column: Column) -> Column:
    """The same column with its numbers as they are."""
    held = column.integer and column.minimum >= 0 and column.maximum <= LARGEST_COUNT
    if not held:
        raise DataError(
            column.feature.label,
            f"has values in [{column.minimum:g}, {column.maximum:g}]"
            + ("" if column.integer else ", not all whole"),
            f"a count is a whole number in [0, {LARGEST_COUNT}]",
            "use histogram or gaussian",
        )
    return replace(column, shift=np.zeros(1), scale=1.0, resolution=1.0, coding="count")


def _standard(feature: Feature, summary: Summary, place: slice, unit: bool) -> Column:
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
        block=0,
        start=0,
        stop=feature.width,
        shift=shift,
        scale=scale,
        minimum=low,
        maximum=high,
        integer=integer,
        resolution=_resolution(integer, std, max(abs(low), abs(high))),
        has_missing=bool((summary.missing[place] > 0).any()),
        coding="unit" if unit else "standard",
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
