"""Bounded samples of Parquet datasets, and the comparison of a synthetic dataset with real ones."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.draw import Drawn, draw, merge_draws
from distvae.data.fragments import Fragment, plan_input
from distvae.data.inputs import Inputs, scan
from distvae.data.sampling import mix
from distvae.data.selection import Split, read_batches, split_rows
from distvae.errors import DataError, UsageError
from distvae.fidelity.measure import MOST_ROWS, fidelity, require_available

__all__ = ["evaluate_synthetic", "sample_table"]

_ROWS_PER_BATCH = 1 << 16
_MOST_READ_ROWS = 4_000_000
_MOST_READ_BYTES = 2 << 30
_COPIED_FROM = 10  # training rows read per row that is compared: copies are sought among them
_STREAM_ROWS, _STREAM_FRAGMENTS = 1, 2

Rows = npt.NDArray[np.int64]
Chooser = Callable[[Rows], npt.NDArray[np.bool_]]


def sample_table(
    paths: str | Sequence[str],
    rows: int,
    seed: int,
    columns: Sequence[str] | None = None,
    where: str | None = None,
) -> pa.Table:
    """Up to ``rows`` rows, drawn without replacement, in the order of the input.

    Of at most 4 million rows and 2 GiB all are read; of more, as many row groups as reach that,
    drawn by the seed.

    Args:
        paths: Parquet files, folders or globs; a dataset that generate wrote is such a folder.
        rows: how many at most.
        seed: which ones.
        columns: which columns; None for all.
        where: expression that rows must fit.

    Raises:
        UsageError: a column or an expression that does not fit.
        DataError: no rows, or a file that cannot be read as Parquet.
        StorageError: a path that is missing or cannot be read.
    """
    inputs = _scanned(paths)
    return _sampled(inputs, {"all": rows}, seed, columns, where, {"all": _everything})["all"]


def evaluate_synthetic(
    data: Sequence[str],
    synthetic: str,
    training: Sequence[str] = (),
    target: str | None = None,
    seed: int = 0,
    split: Split | None = None,
    where: str | None = None,
) -> dict[str, Any]:
    """The figures of `fidelity` for datasets.

    Args:
        data: real rows: held-out ones, or those of the training with ``split``.
        synthetic: dataset that generate wrote, or any Parquet.
        training: rows that the model learned from; without them and without ``split`` there are
            no privacy figures.
        target: ``COL``, or ``COL=VALUE`` that names the value of interest.
        seed: see `fidelity`.
        split: how training divided ``data`` into rows to learn from and held-out rows.
        where: expression that rows of ``data`` must fit.

    Raises:
        UsageError, DataError, StorageError: see `fidelity` and `sample_table`.
    """
    require_available()
    made = _scanned(synthetic)
    real = _scanned(data)
    # z stands beside the columns of the data; a list that the data lacks is left out.
    columns = [
        field.name
        for field in made.schema
        if not pa.types.is_nested(field.type)
        or pa.types.is_struct(field.type)
        or field.name in real.schema.names
    ]
    _require_columns(data, real, columns)
    column, positive = _target(target, columns)
    drawn = _sampled(made, {"all": MOST_ROWS}, seed, columns, None, {"all": _everything})["all"]
    most = {"holdout": MOST_ROWS, "training": _COPIED_FROM * MOST_ROWS}
    if split is None or training:
        found = _sampled(
            real, {"holdout": MOST_ROWS}, seed, columns, where, {"holdout": _everything}
        )
        if training:
            learned = _scanned(training)
            _require_columns(training, learned, columns)
            wanted = {"training": most["training"]}
            found |= _sampled(learned, wanted, seed, columns, None, {"training": _everything})
    else:
        found = _halves(real, data, most, seed, columns, where, split)
    return fidelity(found.get("training"), found["holdout"], drawn, column, positive, seed)


def _target(target: str | None, columns: Sequence[str]) -> tuple[str | None, str | None]:
    """Column and value of ``COL`` or ``COL=VALUE``."""
    if target is None or target in columns or "=" not in target:
        return target, None
    column, _, value = target.partition("=")
    return column, value


def _halves(
    real: Inputs,
    data: Sequence[str],
    most: dict[str, int],
    seed: int,
    columns: Sequence[str],
    where: str | None,
    split: Split,
) -> dict[str, pa.Table]:
    """Training and held-out rows of the table that the model was trained on."""
    if split.validation <= 0.0:
        raise UsageError(
            "synthetic",
            "the model was trained on all rows of DATA",
            "unseen rows are needed beside the training rows",
            "give other rows as DATA and these with --training-data",
        )
    sides = {
        "training": lambda rows: split_rows(rows, split)[0],
        "holdout": lambda rows: split_rows(rows, split)[1],
    }
    found = _sampled(real, most, seed, columns, where, sides)
    if found["holdout"].num_rows == 0:
        raise DataError(", ".join(data[:3]), "holds no held-out row", "some are needed", "")
    return found


def _everything(rows: Rows) -> npt.NDArray[np.bool_]:
    return np.ones(len(rows), dtype=np.bool_)


def _scanned(paths: str | Sequence[str]) -> Inputs:
    given = [paths] if isinstance(paths, str) else list(paths)
    inputs = scan(given)
    if inputs.rows == 0:
        raise DataError(", ".join(given[:3]), "holds no rows", "at least one is needed")
    return inputs


def _require_columns(data: Sequence[str], inputs: Inputs, columns: Sequence[str]) -> None:
    for name in columns:
        if name not in inputs.schema.names:
            raise DataError(
                ", ".join(data[:3]),
                f"has no column {name!r}",
                "the synthetic rows have it",
                f"its columns are {', '.join(inputs.schema.names[:10])}",
            )


def _read(inputs: Inputs, seed: int) -> list[Fragment]:
    """The row groups to read, in order: all of them, or as many as reach the limit."""
    groups = plan_input(inputs, rows_per_fragment=1)
    order = draw(np.arange(len(groups)), len(groups), len(groups), mix(seed, _STREAM_FRAGMENTS))
    taken, rows, size = [], 0, 0
    for index in order.rows.tolist():
        group = groups[index]
        taken.append(group)
        rows += group.rows
        size += sum(
            inputs.files[piece.file].row_groups[i].uncompressed_bytes
            for piece in group.pieces
            for i in piece.row_groups
        )
        if rows >= _MOST_READ_ROWS or size >= _MOST_READ_BYTES:
            break
    return sorted(taken, key=lambda group: group.index)


class _Reservoir:
    """The rows with the smallest places so far, and their values."""

    def __init__(self, count: int, empty: pa.Table) -> None:
        self.count, self.table = count, empty
        self.drawn = Drawn(np.zeros(0, np.int64), np.zeros(0, np.int64))
        self.kept: Rows = np.zeros(0, np.int64)  # row numbers of ``table``
        self.waiting: list[pa.Table] = []

    def add(self, table: pa.Table, rows: Rows, total: int, key: int) -> None:
        """Take those of ``rows`` that belong to the sample as it now stands."""
        found = draw(rows, total, self.count, key)
        self.drawn = merge_draws(self.drawn, found, self.count)
        mine = np.isin(rows, self.drawn.rows)
        if mine.any():
            self.waiting.append(table.filter(pa.array(mine)))
            self.kept = np.concatenate([self.kept, rows[mine]])
        if len(self.kept) > 4 * self.count:
            self.settle()

    def settle(self) -> pa.Table:
        """The sample: what is no longer part of it is dropped."""
        table = pa.concat_tables([self.table, *self.waiting])
        still = np.isin(self.kept, self.drawn.rows)
        self.table = table.filter(pa.array(still)).unify_dictionaries().combine_chunks()
        self.kept, self.waiting = self.kept[still], []
        return self.table


def _sampled(
    inputs: Inputs,
    most: dict[str, int],
    seed: int,
    columns: Sequence[str] | None,
    where: str | None,
    sides: dict[str, Chooser],
) -> dict[str, pa.Table]:
    """A sample of each side, from one pass over the rows."""
    names = list(inputs.schema.names if columns is None else columns)
    schema = pa.schema([inputs.schema.field(name) for name in names])
    key = mix(seed, _STREAM_ROWS)
    kept = {side: _Reservoir(most[side], schema.empty_table()) for side in sides}
    for fragment in _read(inputs, seed):
        for batch in read_batches(inputs.files, fragment, names, _ROWS_PER_BATCH, where):
            for side, choose in sides.items():
                mask = choose(batch.rows)
                if mask.any():
                    part = batch.table.filter(pa.array(mask))
                    kept[side].add(part, batch.rows[mask], inputs.rows, key)
    return {side: reservoir.settle() for side, reservoir in kept.items()}
