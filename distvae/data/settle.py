"""Free text, identifiers and empty columns: recognised from a profile and left out.

A model cannot learn from values of which each stands in few rows, and would repeat what should
not be repeated: texts and identifiers of persons.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence

import numpy as np
import pyarrow as pa

from distvae.data.profile import MOST_VALUES, ColumnProfile, Profile
from distvae.data.roles import Feature, LeftOut
from distvae.errors import DataError

__all__ = ["settle"]

_FEW_ROWS = 100
_IDENTIFIER_ROWS = 1_000
_LONG_TEXT = 64  # bytes
_SHARE_OF_TEXTS = 0.05
_DENSE = 1.5  # span of numbers per row; some rows may be held out
_IDENTIFIER_WORDS = frozenset({"id", "uuid", "guid", "key"})
_WORD = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+|\d+")


def settle(
    features: Sequence[Feature], profile: Profile, explicit: Collection[str] = frozenset()
) -> tuple[tuple[Feature, ...], tuple[LeftOut, ...]]:
    """The features that can be learned, in the same order, and the others with the reason.

    Left out are columns without any value, texts of which more than half differ, long texts of
    which more than 5 % do, categories too many to be counted, and whole numbers that all differ
    and are dense or named like an identifier. Of fewer than 100 rows only empty columns and
    categories too many are. A struct's presence goes when all beneath it has gone.

    Args:
        features: as inferred.
        profile: of the training rows, with these features.
        explicit: names that the user asked for; they stay if they can be learned at all.

    Raises:
        DataError: no feature is left, or one of ``explicit`` cannot be learned.
    """
    reasons: dict[str, str] = {}
    for feature in features:
        column = profile.columns[feature.name]
        reason = _impossible(column, feature)
        if reason and feature.name in explicit:
            rule = "such a column cannot be learned"
            raise DataError(feature.label, reason, rule, f"add --exclude {feature.name}")
        if not reason and feature.name not in explicit:
            reason = _useless(column, feature, profile.rows)
        if reason:
            reasons[feature.name] = reason
    kept = [feature for feature in features if feature.name not in reasons]
    held = {f.path[:d] for f in kept if not f.is_presence for d in range(1, len(f.path))}
    kept = [feature for feature in kept if not feature.is_presence or feature.path in held]
    if not kept:
        told = ", ".join(f"{name!r} {reason}" for name, reason in reasons.items())
        empty = all(_impossible(profile.columns[f.name], f) for f in features)
        remedy = (
            "add columns with values"
            if empty
            else "name those to learn all the same with --include"
        )
        raise DataError("features", "no column is left", told, remedy)
    return tuple(kept), tuple(LeftOut(name, reason) for name, reason in reasons.items())


def _impossible(column: ColumnProfile, feature: Feature) -> str:
    if column.nulls + column.nans >= column.rows:
        return "has no value"
    if feature.role in ("boolean", "categorical") and column.values is None:
        return f"has more than {MOST_VALUES:,} different values"
    return ""


def _useless(column: ColumnProfile, feature: Feature, rows: int) -> str:
    if rows < _FEW_ROWS:
        return ""
    present = column.rows - column.nulls - column.nans
    if feature.role == "categorical" and column.values is not None:
        return _useless_categories(column, len(column.values), present)
    if feature.is_measured and feature.is_scalar and present >= _IDENTIFIER_ROWS:
        return _identifier(column, feature, rows)
    return ""


def _useless_categories(column: ColumnProfile, different: int, present: int) -> str:
    length = column.text_bytes / present
    told = f"{different:,} different values in {present:,} rows"
    if length > _LONG_TEXT and different > _SHARE_OF_TEXTS * present:
        return f"looks like free text ({told}, {length:.0f} bytes on average)"
    return f"looks like an identifier ({told})" if 2 * different > present else ""


def _identifier(column: ColumnProfile, feature: Feature, rows: int) -> str:
    """Judged by the drawn rows, but for the range, which is that of all rows."""
    if column.sample is None or column.minimum is None or column.maximum is None:
        return ""
    dense = column.maximum.as_py() - column.minimum.as_py() < _DENSE * rows
    words = _WORD.findall(feature.name)
    named = bool(words) and words[-1].lower() in _IDENTIFIER_WORDS
    if not (dense or named) or not _whole_and_different(column.sample):
        return ""
    return "looks like an identifier (whole numbers that all differ)"


def _whole_and_different(sample: pa.Array) -> bool:
    values = sample.drop_null()
    if pa.types.is_decimal(values.type):
        values = values.cast(pa.float64())
    numbers = values.to_numpy(zero_copy_only=False)
    numbers = numbers[np.isfinite(numbers)]
    whole = numbers.dtype.kind != "f" or bool((numbers == np.rint(numbers)).all())
    return whole and numbers.size > 1 and len(np.unique(numbers)) == numbers.size
