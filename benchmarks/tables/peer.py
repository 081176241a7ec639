"""TVAE of the ctgan package on one table; runs in the peer's own virtual environment.

``python peer.py TRAIN OUT ROWS EPOCHS SEED`` prints its seconds as JSON. Missing numbers are
filled with the column's median and missing words with a word of their own, since TVAE takes none.
"""

from __future__ import annotations

import json
import sys
import time

import numpy as np
import pandas as pd
import torch
from ctgan import TVAE

_MISSING = "missing"


def filled(table: pd.DataFrame) -> tuple[pd.DataFrame, list[str], int]:
    """The table without missing values, the names of its words, and how many were filled."""
    words, gaps = [], int(table.isna().sum().sum())
    for name in table:
        if pd.api.types.is_numeric_dtype(table[name]) and table[name].dtype != bool:
            if table[name].isna().any():
                table[name] = table[name].fillna(table[name].median())
        else:
            words.append(name)
            column = table[name].astype(object)
            table[name] = column.where(column.notna(), _MISSING).map(str)
    return table, words, gaps


def main(train: str, out: str, rows: int, epochs: int, seed: int) -> None:
    """Fit, sample and write; the figures on standard output."""
    torch.manual_seed(seed)
    np.random.seed(seed)  # noqa: NPY002 - ctgan draws from NumPy's global generator
    table, words, gaps = filled(pd.read_parquet(train))
    model = TVAE(epochs=epochs)
    started = time.perf_counter()
    model.fit(table, words)
    fitted = time.perf_counter()
    synthetic = model.sample(rows)
    sampled = time.perf_counter()
    synthetic.to_parquet(out)
    figures = {
        "fit_seconds": fitted - started,
        "sample_seconds": sampled - fitted,
        "rows": rows,
        "filled_values": gaps,
    }
    print(json.dumps(figures))


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], *(int(text) for text in sys.argv[3:6]))
