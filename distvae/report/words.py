"""Numbers in words: how figures are written everywhere on the page."""

from __future__ import annotations

import math
from typing import Any

import numpy as np

__all__ = ["MINUS", "NONE", "count", "finite", "number", "percent", "plain", "plural"]

NONE = "\u2013"
MINUS = "\u2212"
_LONGEST = 160


def finite(value: Any) -> float | None:
    """The value as a float, or None when it is absent, not a number or infinite."""
    if isinstance(value, bool) or not isinstance(value, (int, float, np.number)):
        return None
    number_ = float(value)
    return number_ if math.isfinite(number_) else None


def number(value: Any, digits: int = 4) -> str:
    """A figure with ``digits`` significant digits, a true minus sign and thin-space thousands."""
    figure = finite(value)
    if figure is None:
        return NONE
    if figure == 0.0:
        return "0"
    size = abs(figure)
    if size >= 1e9 or size < 1e-4:
        text = f"{figure:.{digits - 1}e}".replace("e+0", "e+").replace("e-0", "e-")
        mantissa, exponent = text.split("e")
        return f"{mantissa} × 10^{int(exponent)}".replace("-", MINUS)
    decimals = max(0, digits - 1 - math.floor(math.log10(size)))
    text = f"{figure:,.{decimals}f}"
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return text.replace(",", "\u202f").replace("-", MINUS)


def count(value: Any) -> str:
    """A whole number with thousands apart."""
    figure = finite(value)
    return NONE if figure is None else f"{figure:,.0f}".replace(",", "\u202f").replace("-", MINUS)


def percent(fraction: float) -> str:
    """A fraction as a percentage: two digits below one per cent and above 99, else whole."""
    share = 100.0 * fraction
    decimals = 1 if 0 < abs(share) < 10 or 99 < abs(share) < 100 else 0
    return f"{share:.{decimals}f}\u00a0%".replace("-", MINUS)


def plural(amount: int, noun: str) -> str:
    """``1 row``, ``2 rows``."""
    return f"{count(amount)} {noun}{'' if amount == 1 else 's'}"


def plain(value: Any) -> str:
    """Any value of a config as one short line."""
    if value is None:
        return "none"
    if isinstance(value, bool):
        return "yes" if value else "no"
    if isinstance(value, (int, np.integer)):
        return str(value)
    if isinstance(value, (float, np.floating)):
        return f"{float(value):g}"
    if isinstance(value, (list, tuple)):
        text = ", ".join(plain(item) for item in value[:32]) or "none"
    else:
        text = str(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 1] + "…"
