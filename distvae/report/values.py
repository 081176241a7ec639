"""A column's values as numbers or as words, whatever it holds; and as the text of a cell.

Numbers are arrays of numbers, of instants (``datetime64``) or of spans (``timedelta64``); words
are arrays of objects, of text or of truth values, None where missing.
"""

from __future__ import annotations

import math
from typing import Any

import numpy as np

from distvae.report.inputs import Array
from distvae.report.words import NONE, number

__all__ = [
    "cell",
    "instant",
    "is_instant",
    "is_words",
    "numbers",
    "share_missing",
    "short",
    "words",
]

_LONGEST = 22
_DAY = 86_400.0


def is_words(values: Array) -> bool:
    """Whether a column has no order and no distance."""
    return values.dtype.kind in "OUSTb"


def is_instant(values: Array) -> bool:
    """Whether a column's values are dates or times of the calendar."""
    return values.dtype.kind == "M"


def numbers(values: Array) -> Array:
    """(n,) or (n, w) float64, NaN where missing; instants and spans in seconds."""
    if values.dtype.kind in "mM":
        whole = values.astype(f"{values.dtype.kind}8[us]")
        return np.where(np.isnat(whole), np.nan, whole.astype(np.int64) / 1e6)
    return np.asarray(values, dtype=np.float64)


def words(values: Array) -> Array:
    """(n,) objects: text, None where missing."""
    texts = np.empty(len(values), dtype=object)
    texts[:] = [_word(value) for value in values.reshape(-1).tolist()]
    return texts


def _word(value: Any) -> str | None:
    if value is None or (isinstance(value, float) and math.isnan(value)):
        return None
    return str(value).lower() if isinstance(value, bool) else str(value)


def share_missing(values: Array) -> float:
    """Share of values that are missing, 0 of none."""
    if not len(values):
        return 0.0
    if is_words(values):
        return float(np.mean([text is None for text in words(values)]))
    return 1.0 - float(np.isfinite(numbers(values)).mean())


def instant(seconds: float, span: float = math.inf) -> str:
    """Seconds since 1970 as a date, with the time of day where ``span`` seconds are few days."""
    moment = np.datetime64(round(seconds), "s")
    if span > 5 * _DAY:
        return str(moment.astype("datetime64[D]"))
    return str(moment.astype("datetime64[m]")).replace("T", " ")


def cell(value: Any) -> str:
    """One value as the text of a table's cell."""
    if isinstance(value, np.datetime64):
        return NONE if np.isnat(value) else str(value.astype("datetime64[s]")).replace("T", " ")
    if isinstance(value, np.timedelta64):
        seconds = np.nan if np.isnat(value) else value.astype("m8[us]").astype(np.int64) / 1e6
        return f"{number(seconds)} s" if np.isfinite(seconds) else NONE
    if value is None or isinstance(value, str | bool | np.bool_):
        text = _word(bool(value) if isinstance(value, np.bool_) else value)
        return NONE if text is None else short(text, _LONGEST)
    return number(value)


def short(text: str, longest: int = _LONGEST) -> str:
    """Text cut to what a label has room for."""
    return text if len(text) <= longest else text[: longest - 1] + "…"
