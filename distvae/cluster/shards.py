"""A training process's own rows: which they are, and how they come into its memory, once.

Training rows are numbered within a window (the fragments that are shuffled together). Rank r of N
owns the numbers ``shard(n, r, N)``, so that no row is held twice and none is left out; held-out
rows are cut at the same places, in proportion.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from distvae.data.codec import Codec, Encoded, Policies, block_layout, encode
from distvae.data.fingerprint import fingerprint
from distvae.data.fragments import Fragment
from distvae.data.inputs import InputFile
from distvae.data.sampling import shard
from distvae.data.selection import Split, read_batches, split_rows
from distvae.data.storage import Location
from distvae.defaults import TrainSettings
from distvae.model.vae import Architecture

__all__ = ["Rows", "TrainJob", "empty_rows", "join_rows", "load_window", "row_bytes"]

_ROWS_PER_BATCH = 16_384


@dataclass(frozen=True)
class TrainJob:
    """All that a training process needs to know; made by the driver, the same for every rank.

    Attributes:
        config: the command's options.
        files: the input.
        fragments: how it is cut.
        training_rows: training rows of each fragment.
        validation_rows: held-out rows of each fragment.
        rows_per_window: rows that are shuffled together and held in memory by all ranks.
        split: which rows are held out.
        codec: table to arrays.
        architecture: of the model.
        folder: where checkpoints go.
        items: what identifies the training: options and input, for the fingerprint.
        output_mean: (D,) mean of the training rows in standardised units, where the decoder starts.
        left_out: names of columns that are no features, and why.
    """

    config: TrainSettings
    files: tuple[InputFile, ...]
    fragments: tuple[Fragment, ...]
    training_rows: tuple[int, ...]
    validation_rows: tuple[int, ...]
    rows_per_window: int
    split: Split
    codec: Codec
    architecture: Architecture
    folder: Location
    items: Mapping[str, Any]
    output_mean: npt.NDArray[np.float32]
    left_out: tuple[tuple[str, str], ...] = ()

    @property
    def fingerprint(self) -> str:
        """Of the items; a checkpoint of another one is not resumed."""
        return fingerprint(self.items)

    @property
    def columns(self) -> list[str]:
        """The table's columns that hold the features."""
        return list(self.codec.sources)


@dataclass(frozen=True)
class Rows:
    """Encoded rows in memory.

    Attributes:
        blocks: per block of the codec, (n, w) values.
        masks: per block, (n, w) True where observed, or None when all is.
        numbers: (n,) number of each row within its window (training) or of all held-out rows.
    """

    blocks: tuple[npt.NDArray[np.generic], ...]
    masks: tuple[npt.NDArray[np.bool_] | None, ...]
    numbers: npt.NDArray[np.int64]

    def __len__(self) -> int:
        return len(self.numbers)

    def take(self, index: npt.NDArray[np.int64] | slice) -> Rows:
        """The rows at ``index``."""
        masks = tuple(None if mask is None else mask[index] for mask in self.masks)
        return Rows(tuple(b[index] for b in self.blocks), masks, self.numbers[index])


def row_bytes(codec: Codec) -> int:
    """Bytes that one encoded row takes in memory, its mask included where there may be one."""
    none = empty_rows(codec)
    values = sum(block.shape[1] * block.dtype.itemsize for block in none.blocks)
    masked = sum(column.stop - column.start for column in codec.columns if column.has_missing)
    return int(values + masked)


def empty_rows(codec: Codec) -> Rows:
    """No rows, in the layout of the codec."""
    layout = block_layout(codec)
    blocks = tuple(np.empty((0, int(b["width"])), np.dtype(b["dtype"])) for b in layout)
    return Rows(blocks, (None,) * len(blocks), np.empty(0, np.int64))


def join_rows(parts: Sequence[Rows]) -> Rows:
    """The rows of all ``parts`` (at least one), in order."""
    if len(parts) == 1:
        return parts[0]
    count = len(parts[0].blocks)
    blocks = tuple(np.concatenate([part.blocks[b] for part in parts]) for b in range(count))
    masks = tuple(
        _join_masks([(p.masks[b], p.blocks[b].shape) for p in parts]) for b in range(count)
    )
    return Rows(blocks, masks, np.concatenate([part.numbers for part in parts]))


def _join_masks(
    parts: Sequence[tuple[npt.NDArray[np.bool_] | None, tuple[int, ...]]],
) -> npt.NDArray[np.bool_] | None:
    if all(mask is None for mask, _ in parts):
        return None
    return np.concatenate([np.ones(shape, np.bool_) if m is None else m for m, shape in parts])


def load_window(job: TrainJob, window: Sequence[int], rank: int, size: int) -> tuple[Rows, Rows]:
    """(training rows, held-out rows) of the window's fragments that ``rank`` owns.

    Raises:
        DataError: a file that cannot be decoded.
        StorageError: a file that cannot be read.
    """
    total = sum(job.training_rows[index] for index in window)
    start, stop = shard(total, rank, size)
    held_out_before = np.concatenate([[0], np.cumsum(job.validation_rows)])
    training, validation = [empty_rows(job.codec)], [empty_rows(job.codec)]
    first = 0
    for index in window:
        rows = job.training_rows[index]
        low, high = max(start - first, 0), min(stop - first, rows)
        if low < high or (rows == 0 and rank == 0):
            held = job.validation_rows[index]
            cut = (held * low // rows, held * high // rows) if rows else (0, held)
            mine, theirs = _load_fragment(job, index, (low, max(low, high)), cut)
            training += [_numbered(part, first) for part in mine]
            validation += [_numbered(part, int(held_out_before[index])) for part in theirs]
        first += rows
    return join_rows(training), join_rows(validation)


def _numbered(rows: Rows, offset: int) -> Rows:
    return Rows(rows.blocks, rows.masks, rows.numbers + offset)


def _load_fragment(
    job: TrainJob, index: int, training: tuple[int, int], validation: tuple[int, int]
) -> tuple[list[Rows], list[Rows]]:
    """Of one fragment, the training rows and held-out rows whose running numbers lie in range."""
    policies = Policies(infinite="clip" if job.config.on_infinite == "clip" else "reject")
    seen, found = [0, 0], ([], [])  # type: tuple[list[int], tuple[list[Rows], list[Rows]]]
    batches = read_batches(
        job.files, job.fragments[index], job.columns, _ROWS_PER_BATCH, job.config.where
    )
    for batch in batches:
        encoded = None
        for kind, (mask, wanted) in enumerate(
            zip(split_rows(batch.rows, job.split), (training, validation), strict=True)
        ):
            places = np.flatnonzero(mask)
            numbers = np.arange(seen[kind], seen[kind] + len(places), dtype=np.int64)
            seen[kind] += len(places)
            inside = (numbers >= wanted[0]) & (numbers < wanted[1])
            if not inside.any():
                continue
            if encoded is None:
                encoded = encode(job.codec, batch.table, policies)
            found[kind].append(_select(encoded, places[inside], numbers[inside]))
    return found


def _select(
    encoded: Encoded, places: npt.NDArray[np.int64], numbers: npt.NDArray[np.int64]
) -> Rows:
    blocks = tuple(block[places] for block in encoded.blocks)
    masks = tuple(None if mask is None else mask[places] for mask in encoded.masks)
    return Rows(blocks, masks, numbers)
