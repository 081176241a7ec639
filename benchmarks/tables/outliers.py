"""Outliers planted in held-out rows of Adult, and whether ``embed --with-elbo`` finds them.

Of each kind some held-out rows are changed, the others stay:

shuffled     every column permuted among the rows by itself: values that occur, not together
impossible   female husbands, years of education that are not the degree's, widowed doctors of 17
extreme      numbers drawn evenly from the range that training saw, the money of most rows is 0

The figure is the area under the ROC curve of -ELBO, planted rows against untouched ones: 1/2 for
a score that knows nothing, 1 when every planted row is odder than every real one.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

__all__ = ["KINDS", "PLANTED", "areas", "plant"]

KINDS = ("shuffled", "impossible", "extreme")
PLANTED = "planted"
"""Column that says what became of a row; empty where it stayed as it was."""

_SPREAD = ("capital_gain", "capital_loss", "hours_per_week", "age")
_FALSE: tuple[dict[str, Any], ...] = (
    {"relationship": "Husband", "sex": "Female"},
    {"education": "Masters", "education_num": 3},
    {"age": 17, "marital_status": "Widowed", "education": "Doctorate", "education_num": 16},
)


def plant(train: pa.Table, test: pa.Table, rows: int, seed: int) -> pa.Table:
    """The held-out rows in another order, ``rows`` of each kind changed, and `PLANTED`."""
    random = np.random.default_rng(seed)
    mixed = test.take(pa.array(random.permutation(len(test))))
    first, second, third = (mixed.slice(place * rows, rows) for place in range(len(KINDS)))
    changed = [_shuffled(first, random), _impossible(second), _extreme(third, train, random)]
    kinds = [kind for kind in KINDS for _ in range(rows)]
    kinds += [""] * (len(test) - len(kinds))
    whole = pa.concat_tables([*changed, mixed.slice(len(KINDS) * rows)])
    return whole.append_column(PLANTED, pa.array(kinds))


def areas(embedded: Path) -> dict[str, float]:
    """The figure of each kind, from what ``embed --key planted --with-elbo`` wrote."""
    from sklearn.metrics import roc_auc_score

    table = pq.read_table(embedded, columns=[PLANTED, "elbo"])
    kinds = np.array(table.column(PLANTED).to_pylist())
    odd = -table.column("elbo").to_numpy()
    found = {}
    for kind in KINDS:
        seen = (kinds == kind) | (kinds == "")
        found[kind] = float(roc_auc_score(kinds[seen] == kind, odd[seen]))
    return found


def _shuffled(table: pa.Table, random: np.random.Generator) -> pa.Table:
    columns = [c.take(pa.array(random.permutation(len(table)))) for c in table.columns]
    return pa.Table.from_arrays(columns, schema=table.schema)


def _impossible(table: pa.Table) -> pa.Table:
    turn = np.arange(len(table)) % len(_FALSE)
    for number, values in enumerate(_FALSE):
        for name, value in values.items():
            held = table.column(name)
            forced = pc.if_else(pa.array(turn == number), pa.scalar(value, held.type), held)
            table = _replaced(table, name, forced)
    return table


def _extreme(table: pa.Table, train: pa.Table, random: np.random.Generator) -> pa.Table:
    for name in _SPREAD:
        ends = pc.min_max(train.column(name)).as_py()
        drawn: npt.NDArray[np.int64] = random.integers(
            ends["min"], ends["max"], len(table), endpoint=True
        )
        table = _replaced(table, name, pa.array(drawn).cast(table.schema.field(name).type))
    return table


def _replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    place = table.schema.get_field_index(name)
    return table.set_column(place, table.schema.field(place), values)
