"""The comparison as one Markdown table: medians over seeds, and the spread."""

from __future__ import annotations

from collections.abc import Sequence
from statistics import median
from typing import Any

__all__ = ["comparison"]

_FIGURES = {
    "quality": "quality",
    "shapes": "shapes",
    "pairs": "pairs",
    "f1": "F1",
    "auc": "AUC",
    "dcr": "DCR ratio",
    "copies": "copies",
}


def comparison(runs: Sequence[dict[str, Any]]) -> str:
    """Markdown; a figure is its median over seeds, lowest to highest in brackets."""
    lines = [
        f"| table | who | seeds | {' | '.join(_FIGURES.values())} | fit, s | of TVAE | rows/s |",
        f"|{'---|' * (len(_FIGURES) + 6)}",
    ]
    for table in dict.fromkeys(run["table"] for run in runs):
        mine = [run for run in runs if run["table"] == table]
        lines.append(_real(table, mine))
        peers = [run["fit_seconds"] for run in mine if run["who"] == "TVAE"]
        lines += [
            _line(table, who, [run for run in mine if run["who"] == who], peers)
            for who in dict.fromkeys(run["who"] for run in mine)
        ]
    notes = [
        "",
        "Seconds of distvae are those of the whole command, the start of Python and Ray included;",
        "TVAE's are those of fit() alone. Rows/s: generate to Parquet, start included, and once",
        "running; TVAE's are those of sample(). Real rows: learners trained on the training half,",
        "and the share of test rows that equal a training row.",
    ]
    epochs = {run["table"]: run["epochs"] for run in runs if "epochs" in run}
    filled = {run["table"]: run["filled_values"] for run in runs if run.get("filled_values")}
    if epochs:
        notes.append(f"TVAE's epochs: {', '.join(f'{t} {n}' for t, n in epochs.items())}.")
    for table, values in filled.items():
        notes.append(f"TVAE had {values:,} missing values of {table} filled; distvae had not.")
    return "\n".join([*lines, *notes, *_outliers(runs)])


def _outliers(runs: Sequence[dict[str, Any]]) -> list[str]:
    """How well planted outliers are found, one line per table that has some."""
    lines = []
    for table in dict.fromkeys(run["table"] for run in runs if "outliers" in run):
        held = [r["outliers"] for r in runs if r["table"] == table and "outliers" in r]
        shown = ", ".join(f"{kind} {_spread([h[kind] for h in held], 'auc')}" for kind in held[0])
        lines.append(f"Outliers planted in {table}, area under the ROC curve of -ELBO: {shown}.")
    return lines


def _real(table: str, runs: Sequence[dict[str, Any]]) -> str:
    """The line of the real rows: the figures that synthetic ones can hope for."""
    known = {"f1": "f1_real", "auc": "auc_real", "copies": "copies_real"}
    cells = [
        _spread([run[known[key]] for run in runs], key) if key in known else "" for key in _FIGURES
    ]
    return f"| {table} | real rows | | {' | '.join(cells)} | | | |"


def _line(table: str, who: str, runs: Sequence[dict[str, Any]], peers: Sequence[float]) -> str:
    cells = [_spread([run[key] for run in runs], key) for key in _FIGURES]
    seconds = [run["fit_seconds"] for run in runs]
    share = f"{median(seconds) / median(peers):.3f}" if peers and who != "TVAE" else ""
    return (
        f"| {table} | {who} | {len(runs)} | {' | '.join(cells)} | {_spread(seconds, 'seconds')} "
        f"| {share} | {_speed(runs)} |"
    )


def _speed(runs: Sequence[dict[str, Any]]) -> str:
    long = [run["writing"] for run in runs if "writing" in run]
    if long:
        running = long[0]["rows_per_second_running"]
        shown = f"{long[0]['rows_per_second']:,.0f}"
        return f"{shown} ({running:,.0f} running)" if running else shown
    if runs[0]["who"] == "TVAE":
        return f"{median(run['rows'] / run['sample_seconds'] for run in runs):,.0f}"
    return ""


def _spread(values: Sequence[float], key: str) -> str:
    form = {"seconds": "{:.0f}", "copies": "{:.4f}", "dcr": "{:.2f}"}.get(key, "{:.3f}")
    middle, low, high = (form.format(v) for v in (median(values), min(values), max(values)))
    return middle if low == high else f"{middle} ({low} to {high})"
