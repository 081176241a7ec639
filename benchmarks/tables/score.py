"""Score a synthetic table against real training and test halves: the figures of the comparison.

``python -m benchmarks.tables.score TRAIN TEST SYNTHETIC TARGET POSITIVE`` prints one JSON object.
The rows are drawn by pandas with fixed states, so that others' tools that do the same agree:

shapes, pairs, quality  SDMetrics' report on up to 30,000 rows of training and synthetic table
f1, f1_real             mean F1 of four learners trained on up to 40,000 rows, on the test half
auc, auc_real           ROC AUC of gradient boosting, likewise
dcr                     median distance to the closest of 20,000 training rows, 4,000 synthetic
                        rows over 4,000 test rows
copies, copies_real     share of all synthetic (test) rows that equal some training row
"""

from __future__ import annotations

import argparse
import json
from typing import Any

import numpy as np
import pandas as pd

from distvae.fidelity import privacy
from distvae.fidelity.frames import Kind
from distvae.fidelity.quality import quality
from distvae.fidelity.utility import Task, learn

_COMPARED, _LEARNED, _SEARCHED, _SEARCHING = 30_000, 40_000, 20_000, 4_000


def read(path: str) -> pd.DataFrame:
    """The table, words and truth values as objects of text, None where missing."""
    table = pd.read_parquet(path)
    columns: dict[str, Any] = {}
    for name in table:
        column = table[name]
        if pd.api.types.is_numeric_dtype(column) and column.dtype != bool:
            columns[name] = column
            continue
        texts = [None if pd.isna(value) else str(value) for value in column.astype(object)]
        columns[name] = pd.Series(texts, index=table.index, dtype=object)
    return pd.DataFrame(columns)


def drawn(table: pd.DataFrame, rows: int, state: int) -> pd.DataFrame:
    """``rows`` rows of the table, or all of them in another order."""
    return table.sample(min(len(table), rows), random_state=state)


def score(
    train: pd.DataFrame, test: pd.DataFrame, synthetic: pd.DataFrame, target: str, positive: str
) -> dict[str, Any]:
    """The figures of the module's docstring, rounded to four digits."""
    synthetic = synthetic[list(train.columns)]
    kinds: dict[str, Kind] = {
        name: "categorical" if train[name].dtype == object else "numeric" for name in train
    }
    rows = min(len(train), len(synthetic), _COMPARED)
    one, two = (drawn(table, rows, 0).reset_index(drop=True) for table in (train, synthetic))
    found = quality(one, two, kinds)
    inputs = [name for name in train if name != target]
    words = tuple(name for name in inputs if kinds[name] == "categorical")
    numbers = tuple(name for name in inputs if kinds[name] == "numeric")
    task = Task(target, ("", positive), numbers, words, rest=0)
    learned = {
        name: learn(drawn(table, _LEARNED, 3), test, task)
        for name, table in (("", synthetic), ("_real", train))
    }
    distances = privacy.distances(
        train[inputs],
        drawn(train, _SEARCHED, 1)[inputs],
        *(drawn(table, _SEARCHING, 2)[inputs] for table in (synthetic, test)),
    )
    keys = [privacy.row_keys(table[list(train.columns)], {}) for table in (synthetic, test, train)]
    figures = {
        "quality": found.score,
        "shapes": found.shapes,
        "pairs": found.pairs,
        **{f"f1{name}": figures["f1"] for name, figures in learned.items()},
        **{f"auc{name}": figures["roc_auc"] for name, figures in learned.items()},
        "dcr": float(np.median(distances[0])) / max(float(np.median(distances[1])), 1e-9),
        "copies": privacy.copies(keys[0], keys[2]),
        "copies_real": privacy.copies(keys[1], keys[2]),
    }
    return {"rows": len(synthetic), **{k: round(float(v), 4) for k, v in figures.items()}}


def main() -> None:
    """Print the figures of the tables that the command line names."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    for name in ("train", "test", "synthetic"):
        parser.add_argument(name, help="Parquet file or folder")
    parser.add_argument("target", help="column to tell")
    parser.add_argument("positive", help="its value of interest, as text")
    given = parser.parse_args()
    tables = [read(path) for path in (given.train, given.test, given.synthetic)]
    print(json.dumps(score(tables[0], tables[1], tables[2], given.target, given.positive)))


if __name__ == "__main__":
    main()
