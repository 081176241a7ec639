"""Training curves: one chart per loss term, training beside validation."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from distvae.report.inputs import Array, Columns, ReportInputs
from distvae.report.markup import Card, Html, cards, legend, missing, section
from distvae.report.theme import FIRST, SECOND, new_chart, tidy, to_svg
from distvae.report.words import number, plural

__all__ = ["training_section"]

_WIDTH, _HEIGHT = 340, 220
_TERMS = {
    "elbo": ("ELBO", "nats per row, higher is better"),
    "reconstruction": ("Reconstruction", "log p(x|z), nats per row, higher is better"),
    "kl": ("KL", "nats per row that the code holds"),
    "loss": ("Loss", "minimised by training, nats per row"),
}
_ALONE = {
    "kl_weight": ("KL weight", "warm-up"),
    "rows_per_second": ("Speed", "training rows per second"),
}


@dataclass(frozen=True)
class _Curve:
    title: str
    unit: str
    train: Array | None
    validation: Array | None


def training_section(inputs: ReportInputs) -> Html:
    """The section on training."""
    title, curves = "Training", _curves(inputs.history)
    if not curves or inputs.kind in ("pca", "kernel-pca"):
        return section("training", title, "", _no_history(inputs.kind))
    epochs = _epochs(inputs.history)
    lead = f"{plural(len(epochs), 'epoch')}. {_best(epochs, inputs.history)}".strip()
    key = legend(("line first", "training rows"), ("line second dashed", "validation rows"))
    return section("training", title, lead, key, cards(_card(epochs, curve) for curve in curves))


def _no_history(kind: str) -> Html:
    if kind in ("pca", "kernel-pca"):
        return missing("No training curves: this kind of model is solved in one step.")
    return missing("No training history: the model directory holds no history.parquet.")


def _epochs(history: Columns) -> Array:
    """The epoch of every row, counted from 1 where the history does not say."""
    if "epoch" in history:
        return np.asarray(history["epoch"], dtype=np.float64)
    rows = max((len(values) for values in history.values()), default=0)
    return np.arange(1.0, rows + 1.0)


def _series(history: Columns, name: str) -> Array | None:
    """A column of the history as float64, None if it is absent or holds no number."""
    if name not in history:
        return None
    values = np.asarray(history[name], dtype=np.float64)
    return values if np.isfinite(values).any() else None


def _elbo(history: Columns, side: str) -> Array | None:
    """ELBO = E log p(x|z) − KL, taken from the history if it is there."""
    given = _series(history, f"{side}_elbo")
    reconstruction, kl = (_series(history, f"{side}_{term}") for term in ("reconstruction", "kl"))
    if given is not None or reconstruction is None or kl is None:
        return given
    difference: Array = reconstruction - kl
    return difference


def _curves(history: Columns) -> list[_Curve]:
    """The charts worth drawing, in the order of ``_TERMS``, then any other pair of columns."""
    others = [name.removeprefix("train_") for name in history if name.startswith("train_")]
    curves = []
    for term in dict.fromkeys([*_TERMS, *others]):
        title, unit = _TERMS.get(term, (term.replace("_", " "), ""))
        if term == "elbo":
            train, validation = _elbo(history, "train"), _elbo(history, "validation")
        else:
            train = _series(history, f"train_{term}")
            validation = _series(history, f"validation_{term}")
        curves.append(_Curve(title, unit, train, validation))
    for name, (title, unit) in _ALONE.items():
        curves.append(_Curve(title, unit, _series(history, name), None))
    return [curve for curve in curves if _worth(curve, history)]


def _worth(curve: _Curve, history: Columns) -> bool:
    """Whether a chart says something: a constant KL weight, or a loss that is −ELBO, does not."""
    if curve.train is None and curve.validation is None:
        return False
    weight = _series(history, "kl_weight")
    if curve.title == _ALONE["kl_weight"][0]:
        return weight is not None and bool(np.nanmin(weight) < np.nanmax(weight))
    if curve.title == _TERMS["loss"][0] and _elbo(history, "train") is not None:
        return weight is None or bool(np.any(weight != 1.0))
    return True


def _best(epochs: Array, history: Columns) -> str:
    """Where validation was best, in words."""
    elbo = _elbo(history, "validation")
    if elbo is None:
        return ""
    best = int(np.nanargmax(elbo))
    if best == len(elbo) - 1:
        return "The last epoch is the best on validation rows: longer training may still help."
    return (
        f"Validation is best at epoch {number(epochs[best])} "
        f"(ELBO {number(elbo[best])} nats per row)."
    )


def _card(epochs: Array, curve: _Curve) -> Card:
    figure, axes = new_chart(_WIDTH, _HEIGHT)
    sides = (("training", curve.train, FIRST, "-"), ("validation", curve.validation, SECOND, "--"))
    shown = [side for side in sides if side[1] is not None]
    marker = "o" if len(epochs) == 1 else None
    for _, values, colour, style in shown:
        assert values is not None
        axes.plot(epochs, values, style, color=colour, linewidth=1.8, marker=marker, markersize=4)
    low, high, hidden = _limits(np.stack([values for _, values, *_ in shown if values is not None]))
    axes.set_ylim(low, high)
    tidy(axes, x_label="epoch", whole=True)
    last = ", ".join(f"{name} {number(_last(values))}" for name, values, *_ in shown)
    if curve.validation is None:
        last = number(_last(curve.train))
    reading = f"At the end: {last}."
    if hidden:
        reading += f" The first {plural(hidden, 'epoch')} run off the chart."
    svg = to_svg(figure, f"{curve.title} by epoch. {reading}")
    return Card(curve.title, svg, curve.unit, reading)


def _last(values: Array | None) -> float | None:
    if values is None:
        return None
    known = values[np.isfinite(values)]
    return float(known[-1]) if len(known) else None


def _limits(values: Array) -> tuple[float, float, int]:
    """Limits of the chart, and how many first epochs they leave out.

    values is (curves, epochs). The first epochs are left out only if they would squeeze the
    rest, the last nine tenths, into less than a quarter of the height (a rest that is constant
    needs no height).
    """
    finite = np.where(np.isfinite(values), values, np.nan)
    known = finite[np.isfinite(finite)]
    low, high = float(known.min()), float(known.max())
    first = int(np.ceil(values.shape[1] / 10))
    tail = finite[:, first:][np.isfinite(finite[:, first:])]
    hidden = 0
    spread = float(np.ptp(tail)) if len(tail) else 0.0
    if values.shape[1] >= 10 and 0 < spread < 0.25 * (high - low):
        low, high = max(low, tail.min() - spread), min(high, tail.max() + spread)
        outside = (finite < low) | (finite > high)
        hidden = int(np.flatnonzero(outside.any(axis=0)).max(initial=-1)) + 1
    margin = 0.06 * (high - low) or 0.5 * max(abs(high), 1e-3)
    return low - margin, high + margin, hidden
