"""All figures of one comparison, as plain numbers that JSON takes."""

from __future__ import annotations

import importlib.util
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import pyarrow as pa

from distvae.errors import UsageError
from distvae.fidelity import privacy
from distvae.fidelity.frames import Kind, common_kinds, flat_table, missing, require_rows, to_frame
from distvae.fidelity.quality import Quality, quality
from distvae.fidelity.utility import Task, learn, task_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["LEAST_ROWS", "MOST_ROWS", "available", "fidelity", "require_available"]

MOST_ROWS = 30_000
"""Rows of each table that are compared; exact copies are counted over all that are given."""
LEAST_ROWS = 10
"""Rows of each table below which nothing is compared."""
_SEARCHED, _SEARCHING = 20_000, 4_000  # training rows, and rows whose closest of them is found
_NEEDED = ("pandas", "sklearn", "sdmetrics")
_STREAMS = {"training": 1, "holdout": 2, "synthetic": 3, "searched": 4, "searching": 5}


def available() -> bool:
    """Whether the libraries that measure are installed."""
    return all(importlib.util.find_spec(name) is not None for name in _NEEDED)


def require_available() -> None:
    """Refuse to measure without the libraries.

    Raises:
        UsageError: naming the first that is not installed.
    """
    for name in _NEEDED:
        if importlib.util.find_spec(name) is None:
            raise UsageError(
                "fidelity", f"{name} is not installed", "", "pip install 'distvae[fidelity]'"
            )


def fidelity(
    training: pa.Table | None,
    holdout: pa.Table,
    synthetic: pa.Table,
    target: str | None = None,
    positive: str | None = None,
    seed: int = 0,
    most_rows: int = MOST_ROWS,
) -> dict[str, Any]:
    """Compare synthetic rows with real ones; the same figures for the same tables and seed.

    Struct columns are compared by their fields, under dotted names. Vectors count for copies
    alone. Shapes and pairs are those of the training rows, of the held-out rows where ``training``
    is None; there is then no privacy figure either.

    Args:
        training: rows that the model learned from.
        holdout: real rows that it did not see.
        synthetic: its rows; their columns are compared.
        target: column that learners trained on synthetic and on training rows tell.
        positive: its value of interest (its text); None for the rarer of two.
        seed: of the rows and the learners.
        most_rows: rows of each table that are compared.

    Returns:
        ``quality``, ``column_shapes``, ``column_pairs``, ``columns`` (by name: kind, score, share
        missing on both sides), ``pair_matrix``, ``missing_difference``, ``left_out``, ``real``
        (the same figures of the held-out rows: what a perfect model would get), ``target``,
        ``train_on_synthetic``, ``train_on_real``, ``privacy`` and ``rows``.

    Raises:
        UsageError: a library that is missing, or an unknown target or value of it.
        DataError: columns that are absent or do not fit, or too few rows.
    """
    require_available()
    given = {"training": training, "holdout": holdout, "synthetic": synthetic}
    tables = {part: flat_table(table) for part, table in given.items() if table is not None}
    require_rows(tables, LEAST_ROWS)
    kinds, left_out = common_kinds(tables)
    types = tables["holdout"].schema
    sampled = {part: _sample(table, part, seed, most_rows) for part, table in tables.items()}
    frames = {part: to_frame(table, kinds, types) for part, table in sampled.items()}
    task = None if target is None else task_of(frames["holdout"], kinds, target, positive)
    reference = "holdout" if training is None else "training"
    found = quality(frames[reference], frames["synthetic"], kinds)
    columns = _columns(found, kinds, tables[reference], tables["synthetic"])
    return {
        "rows": {part: table.num_rows for part, table in sampled.items()},
        "compared_with": reference,
        **_scores(found),
        "columns": columns,
        "missing_difference": float(np.mean([c["missing_difference"] for c in columns.values()])),
        "pair_matrix": {"columns": list(found.paired), "scores": found.matrix},
        "left_out": left_out,
        "real": None
        if training is None
        else _scores(quality(frames["training"], frames["holdout"], kinds)),
        **_utility(frames, task, seed),
        "privacy": None if training is None else _privacy(tables, frames, kinds, target, seed),
    }


def _scores(found: Quality) -> dict[str, float | None]:
    return {
        "quality": found.score,
        "column_shapes": found.shapes,
        "column_pairs": found.pairs,
    }


def _columns(
    found: Quality, kinds: Mapping[str, Kind], real: pa.Table, synthetic: pa.Table
) -> dict[str, dict[str, Any]]:
    result = {}
    for name, kind in kinds.items():
        (null, nan), (null_2, nan_2) = (missing(t.column(name)) for t in (real, synthetic))
        result[name] = {
            "kind": kind,
            "score": found.by_column[name],
            "missing_real": null + nan,
            "missing_synthetic": null_2 + nan_2,
            # A null in NaN's place is a difference as well.
            "missing_difference": max(
                abs(null + nan - null_2 - nan_2), abs(null - null_2), abs(nan - nan_2)
            ),
        }
    return result


def _utility(frames: Mapping[str, pd.DataFrame], task: Task | None, seed: int) -> dict[str, Any]:
    if task is None:
        return {"target": None, "train_on_synthetic": None, "train_on_real": None}
    state = seed % 2**32
    test = frames["holdout"]
    return {
        "target": {
            "column": task.target,
            "classes": [f"{v:g}" if isinstance(v, float) else str(v) for v in task.classes],
            "measure": "r2" if not task.classes else "f1, roc_auc",
        },
        "train_on_synthetic": learn(frames["synthetic"], test, task, state),
        "train_on_real": learn(frames["training"], test, task, state)
        if "training" in frames
        else None,
    }


def _privacy(
    tables: Mapping[str, pa.Table],
    frames: Mapping[str, pd.DataFrame],
    kinds: Mapping[str, Kind],
    target: str | None,
    seed: int,
) -> dict[str, Any]:
    # The judge's definition: the target is no part of the distance.
    names = [name for name in kinds if name != target] or list(kinds)
    training = frames["training"][names]
    searched = _take(training, "searched", seed, _SEARCHED)
    searching = [
        _take(frames[part][names], "searching", seed, _SEARCHING)
        for part in ("synthetic", "holdout")
    ]
    keys = {part: _keys(table, tables, kinds) for part, table in tables.items()}
    return {
        **privacy.closest(*privacy.distances(training, searched, *searching)),
        "exact_copies": privacy.copies(keys["synthetic"], keys["training"]),
        "copies_among": tables["training"].num_rows,
        "exact_copies_of_holdout": privacy.copies(keys["holdout"], keys["training"]),
    }


def _keys(table: pa.Table, tables: Mapping[str, pa.Table], kinds: Mapping[str, Kind]) -> Any:
    """One key per row over all columns that every table has, lists of numbers included."""
    lists = (pa.types.is_list, pa.types.is_large_list, pa.types.is_fixed_size_list)
    vectors = {
        field.name: table.column(field.name)
        for field in tables["synthetic"].schema
        if any(test(field.type) for test in lists)
        and (
            pa.types.is_integer(field.type.value_type)
            or pa.types.is_floating(field.type.value_type)
        )
        and all(field.name in other.schema.names for other in tables.values())
    }
    return privacy.row_keys(to_frame(table, kinds, tables["holdout"].schema), vectors)


def _chosen(rows: int, stream: str, seed: int, most: int) -> Any:
    """Numbers of ``most`` of ``rows`` rows, ascending; all of them where there are no more."""
    if rows <= most:
        return np.arange(rows)
    random = np.random.default_rng(np.random.SeedSequence([seed, _STREAMS[stream]]))
    return np.sort(random.permutation(rows)[:most])


def _sample(table: pa.Table, part: str, seed: int, most: int) -> pa.Table:
    if table.num_rows <= most:
        return table
    return table.take(pa.array(_chosen(table.num_rows, part, seed, most)))


def _take(frame: pd.DataFrame, stream: str, seed: int, most: int) -> pd.DataFrame:
    return frame.iloc[_chosen(len(frame), stream, seed, most)]
