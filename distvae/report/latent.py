"""The latent space in two dimensions, coloured by a column."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distvae.report.inputs import Array, ReportInputs
from distvae.report.markup import Card, Html, cards, join, missing, section, tag
from distvae.report.theme import (
    CATEGORY_COLOURS,
    INK,
    OTHER_COLOUR,
    both_sizes,
    gradient,
    gradient_css,
    new_chart,
    tidy,
    to_svg,
)
from distvae.report.words import count, number, percent, plural

__all__ = ["Colouring", "colouring", "latent_section", "project"]

_BROAD = (740, 560)
_CELLS = 12
_MOST_NUMBERS = 12  # whole numbers with more values than this are a scale, not categories
_LONGEST_LABEL = 12
_MISSING = "missing"


@dataclass(frozen=True)
class Colouring:
    """Colour of each row: either categories (named, with counts) or a scale with three labels."""

    colours: Array
    labels: Array | None = None
    categories: tuple[tuple[str, str, int], ...] = ()
    scale: tuple[str, str, str] | None = None
    missing: int = 0


def latent_section(inputs: ReportInputs) -> Html:
    """The section on the latent space."""
    title, mu = "Latent space", inputs.mu
    if mu is None or not len(mu):
        line = missing("No embeddings given: pass", command="--embeddings DIR")
        return section("latent", title, "", line)
    known: Array = np.asarray(np.isfinite(mu).all(axis=1))
    if not known.any():
        return section("latent", title, "", missing("No row of these embeddings is finite."))
    mu = np.asarray(mu[known], dtype=np.float64)
    points, names, how = project(mu)
    paint, key = (
        None,
        missing(
            "Not coloured: keep a column beside the embeddings with",
            command="distvae embed --keep COLUMN",
        ),
    )
    if inputs.colour is not None:
        paint = colouring(np.asarray(inputs.colour)[known])
        key = _key(paint, inputs.colour_name or "the column")
    name = "" if paint is None else f", coloured by {inputs.colour_name or 'a column'}"
    lead = f"Each point is one row at its posterior mean µ{name}. {how}"
    alt = f"Scatter plot of {plural(len(points), 'row')} in the latent space{name}."
    plot = both_sizes(
        lambda width, height: _scatter(points, names, paint, alt, (width, height)), _BROAD
    )
    chart = Card("Rows by their code", plot, _rows(known))
    aside = tag("div", key, class_="card key")
    return section("latent", title, lead, tag("div", cards([chart]), aside, class_="beside"))


def _rows(known: Array) -> str:
    dropped = int((~known).sum())
    text = f"a sample of {plural(int(known.sum()), 'row')}"
    return f"{text}; {plural(dropped, 'row')} not finite" if dropped else text


def project(mu: Array) -> tuple[Array, tuple[str, str], str]:
    """Two coordinates per row (n, 2), their names, and a line on how they were found.

    Up to two dimensions are shown as they are; more go onto their two principal axes (the
    singular vectors of the centred µ).
    """
    rows, dimensions = mu.shape
    if dimensions == 1:
        spread = np.random.default_rng(0).uniform(-1.0, 1.0, rows)
        how = "The code has one number; height is random, to keep the points apart."
        return np.stack([mu[:, 0], spread], axis=1), ("dimension 0", ""), how
    if dimensions == 2:
        return mu, ("dimension 0", "dimension 1"), "The two numbers of the code, as they are."
    centred = mu - mu.mean(axis=0)
    values, vectors = np.linalg.eigh(centred.T @ centred)
    axes = vectors[:, ::-1][:, :2]
    axes = axes * np.where(axes[np.abs(axes).argmax(axis=0), [0, 1]] < 0, -1.0, 1.0)
    total = float(values.sum())
    shares = [float(value) / total if total > 0 else 0.0 for value in values[::-1][:2]]
    names = (f"axis 1 ({percent(shares[0])})", f"axis 2 ({percent(shares[1])})")
    how = (
        f"The {dimensions} numbers of the code are shown along their two principal axes, "
        f"which hold {percent(sum(shares))} of the variance of µ."
    )
    return centred @ axes, names, how


def colouring(values: Array) -> Colouring:
    """Categories for words, truth values and few whole numbers; a scale for other numbers."""
    values = np.asarray(values)
    if values.dtype.kind == "O":
        values = _unboxed(values)
    if values.dtype.kind in "mM":
        seconds = values.astype(f"{values.dtype.kind}8[s]")
        known = ~np.isnat(seconds)
        return _scaled(np.where(known, seconds.astype(np.int64), np.nan), str(values.dtype.kind))
    if values.dtype.kind in "iuf":
        numbers = values.astype(np.float64)
        distinct = np.unique(numbers[np.isfinite(numbers)])
        if len(distinct) > _MOST_NUMBERS or np.any(distinct != np.round(distinct)):
            return _scaled(numbers, "f")
        words = np.array([f"{x:.0f}" if np.isfinite(x) else _MISSING for x in distinct])
        labels = np.full(len(numbers), _MISSING, dtype=object)
        for value, word in zip(distinct, words, strict=True):
            labels[numbers == value] = word
        return _categories(labels, [str(word) for word in words])
    labels = np.array([_MISSING if value is None else str(value) for value in values.tolist()])
    return _categories(labels, sorted(set(labels.tolist()) - {_MISSING}))


def _unboxed(values: Array) -> Array:
    """An array of Python objects as floats where every one is a number or None."""
    if all(
        value is None or (isinstance(value, (int, float)) and not isinstance(value, bool))
        for value in values
    ):
        return np.array([np.nan if value is None else value for value in values], dtype=float)
    return values


def _scaled(numbers: Array, kind: str) -> Colouring:
    known = np.isfinite(numbers)
    if not known.any():
        return _categories(np.full(len(numbers), _MISSING, dtype=object), [])
    low, high = np.quantile(numbers[known], [0.02, 0.98])
    middle = 0.5 * (low + high)
    share = np.full(len(numbers), 0.5)
    if high > low:
        share = np.clip((np.where(known, numbers, middle) - low) / (high - low), 0.0, 1.0)
    colours = gradient(share)
    colours[~known] = _rgb(OTHER_COLOUR)
    marks = (low, middle, high)
    if kind == "M":
        words = [str(np.datetime64(int(mark), "s")).replace("T", " ") for mark in marks]
    else:
        words = [number(float(mark), 3) + (" s" if kind == "m" else "") for mark in marks]
    return Colouring(colours, scale=(words[0], words[1], words[2]), missing=int((~known).sum()))


def _categories(labels: Array, names: list[str]) -> Colouring:
    """The most frequent values each in a colour, in their natural order; the rest in grey."""
    sizes = {name: int((labels == name).sum()) for name in names}
    room = len(CATEGORY_COLOURS)
    kept = set(sorted(names, key=lambda name: -sizes[name])[:room])
    shown = [name for name in names if name in kept]
    colours = np.tile(_rgb(OTHER_COLOUR), (len(labels), 1))
    entries = []
    for name, colour in zip(shown, CATEGORY_COLOURS, strict=False):
        colours[labels == name] = _rgb(colour)
        entries.append((name, colour, sizes[name]))
    others = sum(size for name, size in sizes.items() if name not in kept)
    if others:
        entries.append((f"{len(names) - len(shown)} other values", OTHER_COLOUR, others))
    return Colouring(colours, labels, tuple(entries), missing=int((labels == _MISSING).sum()))


def _rgb(colour: str) -> Array:
    return np.array([int(colour[i : i + 2], 16) for i in (1, 3, 5)]) / 255.0


def _key(paint: Colouring, name: str) -> Html:
    """The legend, as HTML: it wraps, it can be read aloud, and long names do no harm."""
    grey = f"background:{OTHER_COLOUR}"
    rows = [
        (label, f"background:{colour}", count(size)) for label, colour, size in paint.categories
    ]
    if paint.missing:
        rows.append((_MISSING, grey, count(paint.missing)))
    bar = None
    if paint.scale is not None:
        ends = tag("div", *(tag("span", word) for word in paint.scale), class_="ends")
        bar = join([tag("div", class_="bar", style=gradient_css()), ends])
    entries = (
        tag(
            "li",
            tag("span", class_="dot", style=style, aria_hidden="true"),
            tag("span", label, class_="name"),
            tag("span", size, class_="count"),
        )
        for label, style, size in rows
    )
    listed = tag("ul", *entries, class_="categories") if rows else None
    return join([tag("h3", name), bar, listed])


def _scatter(
    points: Array,
    names: tuple[str, str],
    paint: Colouring | None,
    alt: str,
    size: tuple[int, int],
) -> Html:
    figure, axes = new_chart(*size, grid="both")
    area = float(np.clip(0.05 * size[0] * size[1] / len(points), 5, 40))
    alpha = float(np.clip(40 / np.sqrt(len(points)), 0.55, 0.9))
    order = np.random.default_rng(0).permutation(len(points))  # no category hides another
    colours = CATEGORY_COLOURS[0] if paint is None else paint.colours[order]
    axes.scatter(
        points[order, 0],
        points[order, 1],
        s=area,
        c=colours,
        alpha=alpha,
        linewidths=0,
        rasterized=True,
    )
    tidy(axes, x=6, y=5, x_label=names[0], y_label=names[1])
    if not names[1]:
        axes.set_yticks([])
    else:
        axes.set_aspect("equal", adjustable="datalim")
    for label, x, y in _places(points, paint):
        axes.text(
            x, y, label, color=INK, fontsize=13, ha="center", va="center",
            gid="halo", parse_math=False,
        )  # fmt: skip
    return to_svg(figure, alt)


def _places(points: Array, paint: Colouring | None) -> list[tuple[str, float, float]]:
    """Where to write each category: in the cell of a coarse grid that it fills most purely."""
    if paint is None or paint.labels is None:
        return []
    low, spread = points.min(axis=0), np.ptp(points, axis=0)
    share = (points - low) / np.where(spread > 0.0, spread, 1.0)
    cells = np.minimum((share * _CELLS).astype(int), _CELLS - 1) @ np.array([1, _CELLS])
    everyone = np.maximum(np.bincount(cells, minlength=_CELLS**2), 1)
    places, taken = [], np.zeros(_CELLS**2, dtype=bool)
    for label, _, _ in paint.categories:
        own = paint.labels == label
        if not own.any() or len(label) > _LONGEST_LABEL:
            continue
        here = np.bincount(cells[own], minlength=_CELLS**2)
        best = int(np.argmax(np.where(taken, -1.0, here**2 / everyone)))
        if here[best]:
            taken[best] = True
            x, y = points[own & (cells == best)].mean(axis=0)
            places.append((label, float(x), float(y)))
    return places
