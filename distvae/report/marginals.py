"""Synthetic beside real: fidelity figures, one column at a time, and columns together."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distvae.report.associations import associations_part
from distvae.report.categories import total_variation, words_card
from distvae.report.fidelity import fidelity_part
from distvae.report.inputs import Array, Columns, ReportInputs
from distvae.report.markup import Card, Html, cards, join, legend, missing, section, tag
from distvae.report.theme import CATEGORY_COLOURS, FIRST, MUTED, SECOND, new_chart, tidy, to_svg
from distvae.report.values import instant, is_instant, is_words, numbers, share_missing, words
from distvae.report.words import number, percent, plural

__all__ = ["distance", "histogram", "marginals_section"]

_WIDTH, _HEIGHT = 320, 180
_MOST_COLUMNS, _MOST_VECTORS, _ELEMENTS = 12, 6, 3
_RASTER_FROM = 400
_LARGEST_COUNTED = 2.0**50  # beyond, neighbouring whole numbers are no longer apart in float64


@dataclass(frozen=True)
class _Pair:
    """One column's values, (n,) each, with their distance; None when one side has no values.

    Words are objects (None missing), all else float64: instants are seconds since 1970.
    """

    name: str
    real: Array
    synthetic: Array
    distance: float | None
    instant: bool = False


def marginals_section(inputs: ReportInputs) -> Html:
    """The section that compares distributions."""
    title = "Synthetic beside real"
    said = [
        None if inputs.real else missing("No data given: pass", command="--data DATA"),
        None
        if inputs.synthetic
        else missing("No synthetic rows given: pass", command="--synthetic DIR"),
    ]
    names = [name for name in inputs.real if name in inputs.synthetic]
    if not names:
        if inputs.real and inputs.synthetic:
            said.append(missing("The real and the synthetic rows share no column."))
        return section("marginals", title, "", fidelity_part(inputs.fidelity), *said)
    wide = {n for n in names if inputs.real[n].ndim == 2 and inputs.real[n].shape[1] > 1}
    scalars = {name: inputs.real[name].reshape(-1) for name in names if name not in wide}
    others = {name: inputs.synthetic[name].reshape(-1) for name in scalars}
    vectors = [name for name in names if name in wide]
    lead = (
        "The share of rows in each bin. The distance is Kolmogorov–Smirnov’s: the largest "
        "gap between the two cumulative curves, 0 when they agree and 1 when they never meet."
    )
    if any(is_words(values) for values in scalars.values()):
        lead += " Of words it is the total variation: the share of rows that would have to change."
    key = legend(("first", "real rows"), ("outline second", "synthetic rows"))
    body = [_scalars(scalars, others)] if scalars else []
    body += [_vector(n, inputs.real[n], inputs.synthetic[n]) for n in vectors[:_MOST_VECTORS]]
    if len(vectors) > _MOST_VECTORS:
        body.append(missing(f"{len(vectors) - _MOST_VECTORS} more vector columns are not shown."))
    together = associations_part(scalars, others, list(scalars))
    return section(
        "marginals", title, lead, fidelity_part(inputs.fidelity), key, *body, together, *said
    )


def _finite(values: Array) -> Array:
    numbers = np.asarray(values, dtype=np.float64)
    return numbers[np.isfinite(numbers)]


def _pair(name: str, real: Array, synthetic: Array) -> _Pair:
    if is_words(real) or is_words(synthetic):
        one, two = words(real), words(synthetic)
        return _Pair(name, one, two, total_variation(one, two))
    one, two = numbers(real), numbers(synthetic)
    return _Pair(name, one, two, distance(_finite(one), _finite(two)), is_instant(real))


def distance(one: Array, two: Array) -> float | None:
    """Kolmogorov–Smirnov distance sup |F₁ − F₂| of two samples, None when one is empty."""
    if not len(one) or not len(two):
        return None
    one, two = np.sort(one), np.sort(two)
    at = np.concatenate([one, two])
    below_one = np.searchsorted(one, at, side="right") / len(one)
    below_two = np.searchsorted(two, at, side="right") / len(two)
    return float(np.abs(below_one - below_two).max())


def histogram(real: Array, synthetic: Array) -> tuple[Array, Array, Array]:
    """Common bin edges and the share of each side per bin.

    Few whole numbers get a bin each. Otherwise the bins span the middle 99.8 % of both sides,
    and the ends hold what lies beyond, so that every share sums to one.
    """
    both = np.concatenate([real, synthetic])
    low, high = np.quantile(both, [0.001, 0.999])
    whole = bool(np.all(real == np.round(real)))
    if whole and high - low <= 40 and max(-low, high) < _LARGEST_COUNTED:
        edges = np.arange(np.floor(low) - 0.5, np.ceil(high) + 1.0)
    elif high > low:
        bins = int(np.clip(1.5 * len(real) ** (1 / 3), 10, 40))
        edges = np.linspace(low, high, bins + 1)
    else:
        edges = low + max(abs(low), 1.0) * np.array([-0.15, -0.05, 0.05, 0.15])
    inner = edges[1:-1]

    def shares(values: Array) -> Array:
        bin_of_row = np.searchsorted(inner, values, side="right")
        return np.bincount(bin_of_row, minlength=len(edges) - 1) / len(values)

    return edges, shares(real), shares(synthetic)


def _scalars(real: Columns, synthetic: Columns) -> Html:
    """Cards in the order of the table; of many columns, those that differ the most."""
    pairs = [_pair(name, real[name], synthetic[name]) for name in real]
    note, shown = None, pairs
    if len(pairs) > _MOST_COLUMNS:
        worst = sorted(pairs, key=lambda pair: -(pair.distance or 0.0))[:_MOST_COLUMNS]
        kept = {pair.name for pair in worst}
        shown = [pair for pair in pairs if pair.name in kept]
        note = tag(
            "p",
            f"{len(shown)} of {len(pairs)} columns: those that differ the most.",
            class_="above",
        )
    return join([note, cards(_card(pair, pair.name) for pair in shown)])


def _card(pair: _Pair, title: str) -> Card:
    if is_words(pair.real):
        return words_card(title, pair.real, pair.synthetic, pair.distance)
    return _histogram_card(pair, title)


def _histogram_card(pair: _Pair, title: str) -> Card:
    real, synthetic = _finite(pair.real), _finite(pair.synthetic)
    if pair.distance is None:
        side = "real" if not len(real) else "synthetic"
        return Card(title, missing(f"The {side} rows hold no value here."))
    reading = _moments(real, synthetic, instants=pair.instant)
    gone = share_missing(pair.real), share_missing(pair.synthetic)
    if any(gone):
        reading += f" Missing: {percent(gone[0])} and {percent(gone[1])}."
    unit = f"distance {number(pair.distance, 2)}"
    alt = f"Histograms of {title}: {unit}. {reading}"
    return Card(title, _histogram(real, synthetic, alt, instants=pair.instant), unit, reading)


def _moments(real: Array, synthetic: Array, *, instants: bool) -> str:
    if instants:
        ends = [
            f"{instant(float(side.min()))} to {instant(float(side.max()))}"
            for side in (real, synthetic)
        ]
        return f"From {ends[0]} real, {ends[1]} synthetic."
    with np.errstate(over="ignore", invalid="ignore"):  # too large to square: no figure then
        means = [number(side.mean(), 3) for side in (real, synthetic)]
        spreads = [number(side.std(), 3) for side in (real, synthetic)]
    return (
        f"Mean {means[0]} real, {means[1]} synthetic; "
        f"standard deviation {spreads[0]} and {spreads[1]}."
    )


def _histogram(real: Array, synthetic: Array, alt: str, *, instants: bool) -> Html:
    edges, one, two = histogram(real, synthetic)
    figure, axes = new_chart(_WIDTH, _HEIGHT)
    axes.stairs(one, edges, fill=True, color=FIRST, alpha=0.45, linewidth=0)
    axes.stairs(two, edges, color=SECOND, linewidth=1.8)
    top = float(max(one.max(), two.max()))
    axes.set_ylim(0.0, 1.06 * top)
    tidy(axes, x=3 if instants else 5, y=3)
    if instants:
        span = float(edges[-1] - edges[0])
        axes.xaxis.set_major_formatter(lambda seconds, _: instant(seconds, span))
    axes.yaxis.set_major_formatter(lambda share, _: f"{100.0 * share:g} %")
    return to_svg(figure, alt)


def _vector(name: str, real: Array, synthetic: Array) -> Html:
    """Mean and deviation of every element, real against synthetic, and a few elements whole."""
    heading = tag("h3", name, class_="column")
    if real.shape[1] != synthetic.shape[1]:
        words = f"{real.shape[1]} elements in the real rows, {synthetic.shape[1]} in the synthetic."
        return join([heading, missing(words)])
    one = np.where(np.isfinite(real), real, np.nan).astype(np.float64)
    two = np.where(np.isfinite(synthetic), synthetic, np.nan).astype(np.float64)
    known = np.isfinite(one).any(axis=0) & np.isfinite(two).any(axis=0)
    if not known.any():
        return join([heading, missing("No element holds values on both sides.")])
    kept = np.flatnonzero(known)
    one, two = one[:, kept], two[:, kept]
    means = np.nanmean(one, axis=0), np.nanmean(two, axis=0)
    deviations = np.nanstd(one, axis=0), np.nanstd(two, axis=0)
    items = [
        _agreement("Mean of each element", *means),
        _agreement("Deviation of each element", *deviations),
    ]
    for element in _spread(deviations[0]):
        pair = _pair("", one[:, element], two[:, element])
        items.append(_histogram_card(pair, f"{name}[{kept[element]}]"))
    return join([heading, cards(items, level="h4")])


def _spread(deviation: Array) -> list[int]:
    """A few elements that vary: the most varying one, and ones further down."""
    order = np.argsort(-deviation, kind="stable")
    order = order[deviation[order] > 0.0]
    if len(order) <= _ELEMENTS:
        return [int(i) for i in order]
    at = np.linspace(0, len(order) // 2, _ELEMENTS).astype(int)
    return [int(i) for i in order[at]]


def _agreement(title: str, real: Array, synthetic: Array) -> Card:
    figure, axes = new_chart(_WIDTH, 230, grid="both")
    low = float(min(real.min(), synthetic.min()))
    high = float(max(real.max(), synthetic.max()))
    pad = 0.05 * (high - low) or max(abs(high), 1.0) * 0.05
    ends = [low - pad, high + pad]
    axes.plot(ends, ends, color=MUTED, linewidth=1.0, linestyle=(0, (3, 3)))
    pixels = len(real) > _RASTER_FROM  # pixels cannot follow the theme: a fixed colour then
    axes.scatter(
        real, synthetic, s=16, alpha=0.6, linewidths=0,
        color=CATEGORY_COLOURS[1] if pixels else SECOND, rasterized=pixels,
    )  # fmt: skip
    axes.set_xlim(*ends)
    axes.set_ylim(*ends)
    tidy(axes, x=4, y=4, x_label="real", y_label="synthetic")
    gap = float(np.abs(real - synthetic).mean())
    reading = f"{plural(len(real), 'element')}; mean gap {number(gap, 3)}. On the line they agree."
    return Card(title, to_svg(figure, f"{title}, real against synthetic. {reading}"), "", reading)
