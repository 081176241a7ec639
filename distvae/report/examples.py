"""Originals beside reconstructions beside samples: pictures, small lines, or a table of values."""

from __future__ import annotations

import numpy as np

from distvae.report.inputs import Array, Columns, ReportInputs
from distvae.report.markup import Card, Html, cards, join, legend, missing, section, table, tag
from distvae.report.theme import FIRST, SECOND, new_chart, picture, tidy, to_svg
from distvae.report.values import cell, numbers
from distvae.report.words import NONE, number, plural

__all__ = ["examples_section"]

_PAIRS, _SAMPLES, _LINES, _TABLE_ROWS = 16, 32, 6, 6
_MOST_COLUMNS, _MOST_VECTORS, _MOST_POINTS = 16, 6, 200


def examples_section(inputs: ReportInputs) -> Html:
    """The section that shows rows: as they were, as the model gives them back, as it dreams."""
    columns = dict.fromkeys([*inputs.originals, *inputs.samples])
    widths = {
        name: _width(inputs.originals[name] if name in inputs.originals else inputs.samples[name])
        for name in columns
    }
    scalars = [name for name, width in widths.items() if width == 1]
    vectors = [name for name, width in widths.items() if width > 1]
    parts = [_vector(inputs, name) for name in vectors[:_MOST_VECTORS]]
    if len(vectors) > _MOST_VECTORS:
        parts.append(missing(f"{len(vectors) - _MOST_VECTORS} more vector columns are not shown."))
    if scalars:
        parts.append(_values(inputs, scalars))
    said = [
        None
        if inputs.originals and inputs.reconstructions
        else missing("No rows to reconstruct: pass", command="--data DATA"),
        None
        if inputs.samples
        else missing("No synthetic rows given: pass", command="--synthetic DIR"),
    ]
    lead = "What goes in, what comes back from its code alone, and rows that never existed."
    return section("examples", "Rows to look at", lead if columns else "", *parts, *said)


def _width(values: Array) -> int:
    return 1 if values.ndim == 1 else int(values.shape[1])


def _rows(columns: Columns, name: str, most: int) -> Array | None:
    """The first rows of a vector as float64 (n, w), or None when there are none."""
    if name not in columns or not len(columns[name]):
        return None
    values = numbers(columns[name][:most])
    return values.reshape(len(values), -1)


def _cells(columns: Columns, name: str) -> list[str] | None:
    """The first values of a column as text, or None when there are none."""
    if name not in columns or not len(columns[name]):
        return None
    return [cell(value) for value in columns[name][:_TABLE_ROWS].reshape(-1)]


def _vector(inputs: ReportInputs, name: str) -> Html:
    originals = _rows(inputs.originals, name, _PAIRS)
    reconstructions = _rows(inputs.reconstructions, name, _PAIRS)
    samples = _rows(inputs.samples, name, _SAMPLES)
    shape = inputs.image_shapes.get(name)
    heading = tag("h3", name, class_="column")
    if shape is not None:
        return join([heading, _pictures(originals, reconstructions, samples, shape)])
    return join([heading, _lines(originals, reconstructions, samples)])


def _range(*groups: Array | None) -> tuple[float, float]:
    """Black and white of the pictures: the originals' own range (or whatever comes first)."""
    first = next(group for group in groups if group is not None)
    known = first[np.isfinite(first)]
    if not len(known):
        return 0.0, 1.0
    low, high = float(known.min()), float(known.max())
    return (low, high) if high > low else (low, low + 1.0)


def _pixels(rows: Array, low: float, high: float, shape: tuple[int, ...]) -> Array:
    """Rows (n, w) as pictures (n, *shape) of uint8; what is missing is mid-grey."""
    grey = np.where(np.isfinite(rows), (rows - low) / (high - low), 0.5)
    return (np.clip(grey, 0.0, 1.0) * 255.0 + 0.5).astype(np.uint8).reshape(-1, *shape)


def _pictures(
    originals: Array | None,
    reconstructions: Array | None,
    samples: Array | None,
    shape: tuple[int, ...],
) -> Html:
    low, high = _range(originals, samples)
    blocks = []
    if originals is not None and reconstructions is not None:
        pairs = zip(
            _pixels(originals, low, high, shape),
            _pixels(reconstructions, low, high, shape),
            strict=True,
        )
        tiles = (
            tag("span", picture(one, f"original {i}"), picture(two, f"reconstruction {i}"))
            for i, (one, two) in enumerate(pairs, 1)
        )
        gap = originals - reconstructions
        error = float(np.sqrt(np.nanmean(gap * gap))) if np.isfinite(gap).any() else None
        blocks.append(
            Card(
                "Originals and reconstructions",
                tag("div", *tiles, class_="tiles pairs"),
                "top: the original, bottom: decoded from its code",
                f"Root mean squared error of these pixels: {number(error, 3)}.",
            )
        )
    if samples is not None:
        tiles = (
            tag("span", picture(one, f"sample {i}"))
            for i, one in enumerate(_pixels(samples, low, high, shape), 1)
        )
        blocks.append(
            Card("Samples", tag("div", *tiles, class_="tiles"), "decoded from random codes")
        )
    return cards(blocks, level="h4", size="half")


def _lines(originals: Array | None, reconstructions: Array | None, samples: Array | None) -> Html:
    blocks, entries = [], []
    if originals is not None and reconstructions is not None:
        entries += [("line first", "original"), ("line second dashed", "reconstruction")]
        for i, (one, two) in enumerate(
            zip(originals[:_LINES], reconstructions[:_LINES], strict=True), 1
        ):
            svg = _line_chart([(one, FIRST, "-"), (two, SECOND, "--")], f"Row {i}, both lines.")
            blocks.append(Card(f"Row {i}", svg))
    if samples is not None:
        entries.append(("line second", "sample"))
        for i, one in enumerate(samples[:_LINES], 1):
            svg = _line_chart([(one, SECOND, "-")], f"Sample {i} as a line.")
            blocks.append(Card(f"Sample {i}", svg))
    return join([legend(*entries), cards(blocks, level="h4", size="tiny")])


def _line_chart(lines: list[tuple[Array, str, str]], alt: str) -> Html:
    figure, axes = new_chart(250, 120)
    for values, colour, style in lines:
        step = -(-len(values) // _MOST_POINTS)
        at = np.arange(0, len(values), step)
        axes.plot(at, values[at], style, color=colour, linewidth=1.4)
    tidy(axes, x=4, y=3)
    return to_svg(figure, alt)


def _values(inputs: ReportInputs, names: list[str]) -> Html:
    """Columns of one value each: a row per column, a pair of values per example."""
    shown = names[:_MOST_COLUMNS]
    parts: list[Html] = []
    known = {}
    for name in shown:
        one = _cells(inputs.originals, name)
        two = _cells(inputs.reconstructions, name)
        if one is not None and two is not None:
            known[name] = one, two
    if known:
        most = max(len(a) for a, _ in known.values())
        rows = [[name, *_pair_cells(a, b, most)] for name, (a, b) in known.items()]
        headers = ["column", *(f"row {i + 1}" for i in range(most))]
        caption = "Each value, and below it the same value decoded from the row\u2019s code"
        parts += _titled(caption, table(headers, rows, caption=caption, class_="values"))
    dreams = {name: _cells(inputs.samples, name) for name in shown}
    found = {name: texts for name, texts in dreams.items() if texts is not None}
    if found:
        most = max(len(texts) for texts in found.values())
        headers = ["column", *(f"sample {i + 1}" for i in range(most))]
        cells = [[name, *texts, *[NONE] * (most - len(texts))] for name, texts in found.items()]
        caption = "Synthetic rows"
        parts += _titled(caption, table(headers, cells, caption=caption, class_="values"))
    if len(names) > len(shown):
        parts.append(missing(f"{plural(len(names) - len(shown), 'more column')} not shown."))
    heading = tag("h3", "Columns of one value", class_="column")
    return join([heading, *parts])


def _titled(words: str, body: Html) -> list[Html]:
    return [tag("p", words, class_="above", aria_hidden="true"), body]


def _pair_cells(one: list[str], two: list[str], most: int) -> list[str]:
    cells: list[str] = [
        join([a, tag("br"), tag("span", b, class_="back")]) for a, b in zip(one, two, strict=True)
    ]
    return cells + [NONE] * (most - len(cells))
