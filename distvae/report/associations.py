"""How columns go together: a matrix of the real rows, of the synthetic ones, and their difference.

Two numbers: Pearson's correlation. A number and words: the correlation ratio, the square root of
the share of the number's variance that lies between the words' groups. Two columns of words:
Cramér's V = sqrt(chi² / (n (min(r, c) - 1))). Rows where either is missing are left out.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from distvae.report.inputs import Array, Columns
from distvae.report.markup import Card, Html, cards, join, missing, tag
from distvae.report.theme import CATEGORY_COLOURS, new_chart, to_svg
from distvae.report.values import is_words, numbers, short, words
from distvae.report.words import MINUS, number, plural

__all__ = ["association", "associations_part", "matrix"]

_MOST_COLUMNS, _MOST_GROUPS, _LISTED = 24, 50, 3
_WIDTH = 330
_LARGEST_GAP = 0.3  # of the difference: as strong a colour as an association of 1


def associations_part(real: Columns, synthetic: Columns, names: Sequence[str]) -> Html | None:
    """Three matrices and the pairs that differ the most; None for fewer than two columns."""
    if len(names) < 2:
        return None
    shown = list(names[:_MOST_COLUMNS])
    one, two = matrix(real, shown), matrix(synthetic, shown)
    gap = two - one
    heading = tag("h3", "Columns together", class_="column")
    if not np.isfinite(gap[~np.eye(len(shown), dtype=bool)]).any():
        return join([heading, missing("No pair of columns varies on both sides.")])
    lead = (
        "How strongly two columns go together, 0 not at all and 1 or "
        f"{MINUS}1 entirely: Pearson\u2019s correlation of numbers, the correlation ratio of a "
        "number and words, Cramér\u2019s V of words. Blue is positive, orange negative, grey "
        "unknown."
    )
    items = [
        Card("Real rows", _heat(one, shown, 1.0, "Associations of the real rows")),
        Card("Synthetic rows", _heat(two, shown, 1.0, "Associations of the synthetic rows")),
        Card(
            "Difference",
            _heat(gap, shown, _LARGEST_GAP, "Synthetic minus real associations"),
            f"synthetic minus real; full colour from {_LARGEST_GAP:g} on",
            _reading(one, two, shown),
        ),
    ]
    more = len(names) - len(shown)
    note = missing(f"{plural(more, 'more column')} not shown.") if more else None
    return join([heading, tag("p", lead, class_="above"), cards(items, level="h4"), note])


def matrix(columns: Columns, names: Sequence[str]) -> Array:
    """(c, c) association of every two of the columns, NaN where one does not vary."""
    known = [_prepared(columns[name]) for name in names]
    found = np.eye(len(names))
    for i in range(len(names)):
        for j in range(i):
            found[i, j] = found[j, i] = association(known[i], known[j])
    return found


def association(one: Array, two: Array) -> float:
    """Association of two columns, float64 numbers or int64 groups (-1 missing); NaN for none."""
    both = _there(one) & _there(two)
    one, two = one[both], two[both]
    if len(one) < 2:
        return float("nan")
    if one.dtype.kind == two.dtype.kind == "f":
        return _pearson(one, two)
    if one.dtype.kind == two.dtype.kind:
        return _cramer(one, two)
    return _ratio(one, two) if one.dtype.kind == "f" else _ratio(two, one)


def _prepared(values: Array) -> Array:
    """Numbers as they are; words as the number of their group, rare ones sharing one."""
    if not is_words(values):
        return numbers(values)
    texts = words(values)
    there = np.array([text is not None for text in texts], dtype=bool)
    groups = np.full(len(texts), -1, dtype=np.int64)
    found, codes, counts = np.unique(
        texts[there].astype(str), return_inverse=True, return_counts=True
    )
    rank = np.empty(len(found), dtype=np.int64)
    rank[np.argsort(-counts, kind="stable")] = np.arange(len(found))
    groups[there] = np.minimum(rank[codes], _MOST_GROUPS - 1)
    return groups


def _there(values: Array) -> Array:
    return np.isfinite(values) if values.dtype.kind == "f" else np.asarray(values >= 0)


def _pearson(one: Array, two: Array) -> float:
    one, two = _standardised(one), _standardised(two)
    return float(np.clip(np.mean(one * two), -1.0, 1.0))


def _standardised(values: Array) -> Array:
    """Mean 0, variance 1; NaN for a constant. Scaled first, so that nothing overflows."""
    scaled = values / max(float(np.abs(values).max()), np.finfo(np.float64).tiny)
    centred = scaled - scaled.mean()
    spread = float(np.sqrt(np.mean(centred * centred)))
    return centred / spread if spread > 1e-12 else np.full(len(values), np.nan)


def _ratio(values: Array, groups: Array) -> float:
    standard = _standardised(values)
    sizes = np.bincount(groups)
    if np.count_nonzero(sizes) < 2:
        return float("nan")
    sums = np.bincount(groups, standard)
    means = sums / np.maximum(sizes, 1)
    return float(np.sqrt(np.clip(np.sum(sizes * means * means) / len(values), 0.0, 1.0)))


def _cramer(one: Array, two: Array) -> float:
    wide = int(two.max()) + 1
    table = np.bincount(one * wide + two, minlength=(int(one.max()) + 1) * wide).reshape(-1, wide)
    table = table[table.any(axis=1)][:, table.any(axis=0)].astype(np.float64)
    least = min(table.shape) - 1
    if least < 1:
        return float("nan")
    rows = table.sum()
    expected = table.sum(axis=1)[:, None] * table.sum(axis=0)[None] / rows
    chi_squared = float(np.sum((table - expected) ** 2 / expected))
    return float(np.sqrt(min(chi_squared / (rows * least), 1.0)))


def _reading(one: Array, two: Array, names: Sequence[str]) -> str:
    """The pairs that differ the most, and the mean gap."""
    i, j = np.tril_indices(len(names), -1)
    gaps = np.abs(one[i, j] - two[i, j])
    known = np.flatnonzero(np.isfinite(gaps))
    order = known[np.argsort(-gaps[known], kind="stable")][:_LISTED]
    listed = "; ".join(
        f"{short(names[j[k]])} and {short(names[i[k]])} {number(one[i[k], j[k]], 2)} real, "
        f"{number(two[i[k], j[k]], 2)} synthetic"
        for k in order
    )
    return f"Mean gap {number(float(gaps[known].mean()), 2)}. Largest: {listed}."


def _heat(values: Array, names: Sequence[str], strongest: float, alt: str) -> Html:
    """Squares whose colour says the sign and whose strength says the size."""
    size = max(9, min(24, (_WIDTH - 150) // len(names)))
    figure, axes = new_chart(_WIDTH, size * len(names) + 60)
    axes.grid(False)
    axes.imshow(_colours(values, strongest), interpolation="nearest", aspect="auto")
    at = np.arange(len(names))
    font = max(7, min(11, size - 3))
    axes.set_yticks(
        at, [f"{short(name, 18)} {k + 1}" for k, name in enumerate(names)], parse_math=False
    )
    axes.set_xticks(at, [str(k + 1) for k in at])
    axes.tick_params(labelsize=font)
    for spine in axes.spines.values():
        spine.set_visible(False)
    return to_svg(figure, f"{alt}: a matrix of {plural(len(names), 'column')}.")


def _colours(values: Array, strongest: float) -> Array:
    """(c, c, 4) pixels: transparent at 0, so that the page's own ground shows through."""
    positive, negative, unknown = (
        [int(colour[k : k + 2], 16) / 255.0 for k in (1, 3, 5)]
        for colour in (CATEGORY_COLOURS[0], CATEGORY_COLOURS[1], CATEGORY_COLOURS[-1])
    )
    known = np.isfinite(values)
    filled = np.where(known, values, 0.0)
    pixels = np.empty((*values.shape, 4))
    pixels[..., :3] = np.where((filled >= 0.0)[..., None], positive, negative)
    pixels[..., 3] = np.clip(np.abs(filled) / strongest, 0.0, 1.0)
    pixels[~known] = [*unknown, 0.25]
    return pixels
