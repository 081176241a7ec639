"""The figures of ``evaluate --synthetic``, in words."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from distvae.report.markup import Html, join, table, tag
from distvae.report.words import finite, number, percent

__all__ = ["fidelity_part"]

_Row = tuple[str, str, str, str]
_SCORES = {
    "quality": ("Quality", "Mean of the two below; 1 when nothing tells the tables apart."),
    "column_shapes": ("Column shapes", "How alike the columns are, one at a time."),
    "column_pairs": ("Column pairs", "How alike every two columns are together."),
}
_LEARNED = {"f1": "F1", "roc_auc": "ROC AUC", "r2": "R²"}


def fidelity_part(figures: Mapping[str, Any]) -> Html | None:
    """The table of figures; None where there is none."""
    rows = list(_rows(figures))
    if not rows:
        return None
    headers = ("figure", "synthetic rows", "real rows", "in words")
    reference = figures.get("compared_with")
    said = "training rows" if reference == "training" else "the real rows given"
    return join(
        [
            tag("h3", "Fidelity", class_="column"),
            tag("p", f"Compared with {said}, by SDMetrics\u2019 definitions.", class_="above"),
            table(headers, rows, caption="Fidelity of the synthetic rows", class_="figures"),
        ]
    )


def _rows(figures: Mapping[str, Any]) -> Iterator[_Row]:
    real = figures.get("real") or {}
    for key, (name, reading) in _SCORES.items():
        if finite(figures.get(key)) is not None:
            yield name, number(figures[key]), _shown(real.get(key)), reading
    if gap := finite(figures.get("missing_difference")):
        yield "Missing shares", percent(gap), "", "Mean gap between the shares that are missing."
    yield from _learned(figures)
    yield from _private(figures.get("privacy") or {})


def _learned(figures: Mapping[str, Any]) -> Iterator[_Row]:
    """Learners trained on either table and tested on rows that neither holds."""
    synthetic, real = figures.get("train_on_synthetic") or {}, figures.get("train_on_real") or {}
    column = (figures.get("target") or {}).get("column", "")
    for key, name in _LEARNED.items():
        if finite(synthetic.get(key)) is not None:
            reading = f"Learners told to predict {column}, tested on held-out real rows."
            yield f"{name} of {column}", number(synthetic[key]), _shown(real.get(key)), reading


def _private(privacy: Mapping[str, Any]) -> Iterator[_Row]:
    ratio = finite(privacy.get("closest_record_ratio"))
    if ratio is not None:
        reading = "Median distance to the closest training row, over that of unseen rows."
        if ratio < 0.9:
            reading += " Synthetic rows come nearer than unseen ones: a sign of copying."
        yield "Closest record", number(ratio, 3), "1", reading
    if finite(privacy.get("closer_share")) is not None:
        reading = "Rows nearer to a training row than all but 5\u00a0% of unseen rows are."
        yield "Close rows", percent(privacy["closer_share"]), "5\u00a0%", reading
    if finite(privacy.get("exact_copies")) is not None:
        chance = percent(float(privacy.get("exact_copies_of_holdout") or 0.0))
        reading = "Rows that equal a training row; unseen rows do so by chance."
        yield "Exact copies", percent(privacy["exact_copies"]), chance, reading


def _shown(value: Any) -> str:
    return number(value) if finite(value) is not None else ""
