"""The tables of the comparison: where they are, what is told, and their training and test rows."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

__all__ = ["TABLES", "Halves", "Table", "split"]


@dataclass(frozen=True)
class Table:
    """One table.

    Attributes:
        name: file name without ``.parquet``.
        target: column that the learners tell.
        positive: its value of interest.
        peer_epochs: passes over the training rows of TVAE, 300 by default in its package.
    """

    name: str
    target: str
    positive: str
    peer_epochs: int = 300


# 207,000 rows of 32 columns: 300 epochs would take hours, so TVAE gets as many steps as on Adult's
# 34,000 rows.
TABLES = {
    table.name: table
    for table in (
        Table("adult", "income", ">50K"),
        Table("bank_marketing", "y", "yes"),
        Table(
            "acs_income_2018", "Insurance through a current or former employer or union", "No", 50
        ),
    )
}


@dataclass(frozen=True)
class Halves:
    """Files of the two parts of a table, 70 % and 30 % of its rows."""

    train: Path
    test: Path
    train_rows: int


def split(table: Table, data: Path, folder: Path) -> Halves:
    """Write both parts: ``sample(frac=0.7, random_state=0)`` by pandas, in the table's types."""
    import pandas as pd

    whole = pq.read_table(data / f"{table.name}.parquet")
    numbers = pd.Series(range(whole.num_rows))
    train = numbers.sample(frac=0.7, random_state=0)
    test = numbers.drop(train.index)
    folder.mkdir(parents=True, exist_ok=True)
    halves = Halves(folder / "train.parquet", folder / "test.parquet", len(train))
    for path, rows in ((halves.train, train), (halves.test, test)):
        part = whole.take(pa.array(rows.to_numpy()))
        pq.write_table(part.replace_schema_metadata(None), path)
    return halves
