"""KL per latent dimension: what each number of the code holds, and which are switched off."""

from __future__ import annotations

import math

import numpy as np

from distvae.report.inputs import Array, ReportInputs
from distvae.report.markup import Card, Html, cards, legend, missing, section
from distvae.report.theme import FIRST, GRID, MUTED, both_sizes, new_chart, tidy, to_svg
from distvae.report.words import finite, number, percent, plural

__all__ = ["active_dimensions", "latent_dimensions", "units_section"]

_BROAD = (1000, 280)
_LABEL_WIDTH = 19
_MOST_BARS = 100  # more are one shape: separate bars would be thinner than a pixel on a phone
_ACTIVE_VARIANCE = 0.01  # Burda et al. 2016: active when the variance of µ over rows exceeds it


def latent_dimensions(inputs: ReportInputs) -> Array | None:
    """KL of every latent dimension (k,), mean nats per row, or None where there is none."""
    given = inputs.metrics.get("kl_per_dimension")
    if given is None:
        return None
    values = np.array([finite(value) for value in given], dtype=np.float64)
    return values if len(values) and np.isfinite(values).all() else None


def active_dimensions(inputs: ReportInputs, kl: Array) -> Array:
    """Which dimensions are active (k,): as many as the metrics count, the ones that move most."""
    variance = None
    if inputs.mu is not None and inputs.mu.shape[1] == len(kl) and len(inputs.mu) > 1:
        variance = np.nanvar(np.asarray(inputs.mu, dtype=np.float64), axis=0)
    moves = kl if variance is None else variance
    counted = finite(inputs.metrics.get("active_units"))
    if counted is None:
        return np.asarray(moves > _ACTIVE_VARIANCE)
    active = np.zeros(len(kl), dtype=bool)
    active[np.argsort(-moves, kind="stable")[: int(counted)]] = True
    return active


def units_section(inputs: ReportInputs) -> Html:
    """The section on latent dimensions."""
    title, kl = "Latent dimensions", latent_dimensions(inputs)
    if kl is None:
        if inputs.kind != "vae":
            line = missing(f"A model of kind {inputs.kind} has no KL per dimension.")
        else:
            line = missing(
                "No KL per dimension in the metrics:", command="distvae evaluate", after="gives it."
            )
        return section("dimensions", title, "", line)
    active = active_dimensions(inputs, kl)
    lead = "How many nats each number of the code holds, on average over rows, largest first."
    key = legend(("first", "active"), ("off", "switched off: it says nothing about the row"))
    chart = both_sizes(lambda width, height: _chart(kl, active, width, height), _BROAD)
    card = Card("KL per dimension", chart, "nats per row", _reading(kl, active))
    return section("dimensions", title, lead, key, cards([card], size="wide"))


def _reading(kl: Array, active: Array) -> str:
    total, on, all_ = float(kl.sum()), int(active.sum()), len(kl)
    if on == 0:
        return "No dimension is active: the decoder ignores the code (posterior collapse)."
    text = f"{on} of {plural(all_, 'dimension')} active"
    if total <= 0.0:
        return f"{text}."
    share = np.cumsum(np.sort(kl)[::-1]) / total
    most = int(np.searchsorted(share, 0.8)) + 1
    bits = number(total / math.log(2.0), 3)
    return (
        f"{text}. The code holds {number(total, 3)} nats ({bits} bits) per row; "
        f"the largest {most} of the dimensions hold {percent(float(share[min(most, all_) - 1]))}."
    )


def _chart(kl: Array, active: Array, width: int, height: int) -> Html:
    order = np.argsort(-kl, kind="stable")
    figure, axes = new_chart(width, height)
    at = np.arange(1, len(kl) + 1)
    on = active[order]
    heights = kl[order]
    if len(kl) <= _MOST_BARS:
        axes.bar(at[on], heights[on], 0.78, color=FIRST)
        axes.bar(at[~on], heights[~on], 0.78, color=GRID, edgecolor=MUTED, linewidth=0.6)
    else:
        edges = np.arange(len(kl) + 1) + 0.5
        axes.stairs(np.where(on, heights, 0.0), edges, fill=True, color=FIRST)
        axes.stairs(np.where(on, 0.0, heights), edges, fill=True, color=MUTED)
    axes.set_xlim(0.4, len(kl) + 0.6)
    axes.set_ylim(min(0.0, float(kl.min())), max(float(kl.max()) * 1.05, 1e-3))
    labelled = len(kl) * _LABEL_WIDTH <= width
    tidy(axes, x_label="dimension of the code" if labelled else "rank of the dimension")
    if labelled:
        axes.set_xticks(at, [str(dimension) for dimension in order])
    alt = f"Bars of KL per latent dimension, sorted. {_reading(kl, active)}"
    return to_svg(figure, alt)
