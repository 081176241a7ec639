"""Columns of words, real beside synthetic: the frequent values, all others, and what is missing."""

from __future__ import annotations

from collections import Counter

import numpy as np

from distvae.report.inputs import Array
from distvae.report.markup import Card, Html, missing
from distvae.report.theme import FIRST, SECOND, new_chart, to_svg
from distvae.report.values import short
from distvae.report.words import number, percent, plural

__all__ = ["shares", "total_variation", "words_card"]

_WIDTH, _ROW, _MARGIN = 320, 24, 44
_MOST_BARS = 8


def total_variation(real: Array, synthetic: Array) -> float | None:
    """Half the sum of |p - q| over all values, missing ones apart; None when a side has none."""
    one, two = _counts(real), _counts(synthetic)
    rows = one.total(), two.total()
    if not all(rows):
        return None
    values = one.keys() | two.keys()
    return 0.5 * sum(abs(one[v] / rows[0] - two[v] / rows[1]) for v in values)


def shares(real: Array, synthetic: Array) -> list[tuple[str, float, float]]:
    """(name, real share, synthetic share) of the frequent values, of others and of missing ones.

    Shares are of all rows, so that each side's sum to one.
    """
    one, two = _counts(real), _counts(synthetic)
    rows = max(len(real), 1), max(len(synthetic), 1)
    every = {
        value: one[value] / rows[0] + two[value] / rows[1] for value in one.keys() | two.keys()
    }
    order = sorted(every, key=lambda value: (-every[value], value))
    shown = order if len(order) <= _MOST_BARS else order[: _MOST_BARS - 1]
    found = [(value, one[value] / rows[0], two[value] / rows[1]) for value in shown]
    rest = order[len(shown) :]
    if rest:
        sides = (sum(side[value] for value in rest) for side in (one, two))
        first, second = (total / count for total, count in zip(sides, rows, strict=True))
        found.append((f"{plural(len(rest), 'other value')}", first, second))
    gone = [1.0 - side.total() / count for side, count in zip((one, two), rows, strict=True)]
    if any(gone):
        found.append(("missing", gone[0], gone[1]))
    return found


def words_card(title: str, real: Array, synthetic: Array, distance: float | None) -> Card:
    """The bars of one column."""
    if distance is None:
        side = "real" if not _counts(real) else "synthetic"
        return Card(title, missing(f"The {side} rows hold no value here."))
    found = shares(real, synthetic)
    worst = max(found, key=lambda entry: abs(entry[1] - entry[2]))
    reading = (
        f"Largest gap: {short(worst[0])}, {percent(worst[1])} real and "
        f"{percent(worst[2])} synthetic."
    )
    known, new = set(_counts(real)), set(_counts(synthetic))
    if len(known) > len(known & new):
        reading += f" {plural(len(known & new), 'value')} of {len(known)} occur on both sides."
    unit = f"distance {number(distance, 2)} (total variation)"
    return Card(title, _bars(found, f"Bars of {title}: {unit}. {reading}"), unit, reading)


def _counts(values: Array) -> Counter[str]:
    return Counter(value for value in values.tolist() if value is not None)


def _bars(found: list[tuple[str, float, float]], alt: str) -> Html:
    figure, axes = new_chart(_WIDTH, _MARGIN + _ROW * max(len(found), 3))
    at = np.arange(len(found))
    axes.barh(at, [one for _, one, _ in found], 0.72, color=FIRST, alpha=0.45, linewidth=0)
    axes.barh(
        at, [two for *_, two in found], 0.72, fill=False, edgecolor=SECOND, linewidth=1.8
    )  # fmt: skip
    axes.invert_yaxis()
    axes.grid(False, axis="y")
    axes.set_yticks(at, [short(name) for name, *_ in found], parse_math=False)
    top = max(max(one, two) for _, one, two in found)
    axes.set_xlim(0.0, 1.04 * top)
    _percent_ticks(axes)
    return to_svg(figure, alt)


def _percent_ticks(axes: object) -> None:
    from matplotlib.axes import Axes
    from matplotlib.ticker import MaxNLocator

    assert isinstance(axes, Axes)
    axes.xaxis.set_major_locator(MaxNLocator(4, steps=[1, 2, 2.5, 5, 10]))
    axes.xaxis.set_major_formatter(lambda share, _: f"{100.0 * share:g} %")
