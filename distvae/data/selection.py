"""Which rows of the input a job uses: the user's expression, a sample, and what is held out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.fragments import Fragment
from distvae.data.inputs import InputFile
from distvae.data.reading import read_fragment
from distvae.data.sampling import held_out, mix
from distvae.data.where import columns_of, parse_where

__all__ = ["Batch", "Split", "read_batches", "split_rows"]

Rows = npt.NDArray[np.int64]
Mask = npt.NDArray[np.bool_]


@dataclass(frozen=True)
class Batch:
    """Some rows of a fragment.

    Attributes:
        table: the columns asked for, n rows.
        rows: (n,) absolute row numbers in the input, ascending.
        skipped: rows of the stretch that the expression left out.
    """

    table: pa.Table
    rows: Rows
    skipped: int


@dataclass(frozen=True)
class Split:
    """How rows divide into training rows, held-out rows and rows that are not sampled.

    A row's fate is a hash of its absolute number: the same whatever the fragments or workers.

    Attributes:
        seed: of the job.
        sample: share of rows that are used at all.
        validation: share of the used rows that is held out.
    """

    seed: int
    sample: float = 1.0
    validation: float = 0.0


def read_batches(
    files: Sequence[InputFile],
    fragment: Fragment,
    columns: Sequence[str],
    rows_per_batch: int,
    where: str | None = None,
) -> Iterator[Batch]:
    """The rows of ``fragment`` in order, those that ``where`` leaves out dropped.

    Raises:
        DataError: a page that cannot be decoded.
        StorageError: a file that cannot be read.
        UsageError: ``where`` names no column or is no expression.
    """
    wanted = list(columns)
    if where is None:
        start = fragment.first_row
        for table in read_fragment(files, fragment, wanted, rows_per_batch):
            yield Batch(table, np.arange(start, start + table.num_rows, dtype=np.int64), 0)
            start += table.num_rows
        return
    extra = [name for name in columns_of(where) if name not in wanted]
    start = fragment.first_row
    for table in read_fragment(files, fragment, [*wanted, *extra], rows_per_batch):
        numbered = table.append_column(_ROW, pa.array(np.arange(start, start + table.num_rows)))
        kept = numbered.filter(parse_where(where, table.schema))
        rows = kept.column(_ROW).to_numpy()
        yield Batch(kept.select(wanted), rows, table.num_rows - kept.num_rows)
        start += table.num_rows


_ROW = "__distvae_row"


def split_rows(rows: Rows, split: Split) -> tuple[Mask, Mask]:
    """(training, held out) masks over absolute row numbers ``rows`` (n,)."""
    if rows.size == 0:
        return np.zeros(0, np.bool_), np.zeros(0, np.bool_)
    first, span = int(rows[0]), int(rows[-1] - rows[0]) + 1
    used = ~held_out(first, span, 1.0 - split.sample, mix(split.seed, 1))
    validation = held_out(first, span, split.validation, mix(split.seed, 2)) & used
    local = rows - first
    return (used & ~validation)[local], validation[local]
