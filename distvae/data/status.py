"""How far an output dataset is: being written, broken off, or finished."""

from __future__ import annotations

import time
from dataclasses import dataclass

from distvae.data import layout
from distvae.data.holder import is_alive
from distvae.data.lease import read_holder
from distvae.data.manifest import Receipt, read_manifest, totals
from distvae.data.receipts import file_sizes, has_files, read_receipts
from distvae.data.runs import read_run
from distvae.data.storage import Location, kind, list_files
from distvae.errors import OutputError, StorageError

__all__ = ["Status", "summarise"]


@dataclass(frozen=True)
class Status:
    """A dataset, seen from outside.

    Attributes:
        finished: ``_SUCCESS`` is there.
        running: a live run holds the lease.
        fragments: in the plan; done and left add up to it.
        rows: in finished parts; rows_rejected: set aside in them; bytes: of these parts.
        rows_per_second: of the live run since it started, None when there is none or nothing yet.
    """

    finished: bool
    running: bool
    fragments: int
    done: int
    left: int
    rows: int
    rows_rejected: int
    bytes: int
    rows_per_second: float | None


def summarise(directory: Location) -> Status:
    """Return how far the dataset is; reads the record, the receipts or the manifest, no part.

    Raises:
        StorageError: absent, forbidden or unreachable.
        OutputError: not a dataset of ours.
        DamageError: finished, but its manifest cannot be read.
    """
    if kind(directory) == "absent":
        raise StorageError(directory.uri, "not found", "must be a dataset", "check the path")
    record = read_run(directory)
    if record is None:
        value = f"has no {layout.RUN}"
        raise OutputError(directory.uri, value, "must be a dataset of distvae", "check the path")
    fingerprint = str(record["fingerprint"])
    finished = layout.SUCCESS in layout.entries(directory)
    receipts = _finished(directory) if finished else _done(directory, fingerprint)
    sums = totals(receipts)
    fragments = int(record.get("fragments", 0))
    rate = None if finished else _rows_per_second(directory, receipts)
    holder = read_holder(directory)
    return Status(
        finished=finished,
        running=holder is not None and is_alive(holder),
        fragments=fragments,
        done=sums.parts,
        left=fragments - sums.parts,
        rows=sums.rows_out,
        rows_rejected=sums.rows_rejected,
        bytes=sums.bytes,
        rows_per_second=rate,
    )


def _finished(directory: Location) -> list[Receipt]:
    return list(read_manifest(directory).receipts)


def _done(directory: Location, fingerprint: str) -> list[Receipt]:
    sizes = file_sizes(directory)
    receipts, _ = read_receipts(directory, fingerprint)
    return [receipt for receipt in receipts.values() if has_files(receipt, sizes)]


def _rows_per_second(directory: Location, receipts: list[Receipt]) -> float | None:
    """Rows of the parts published since the live run started, over the time since then."""
    holder = read_holder(directory)
    if holder is None or not is_alive(holder):
        return None
    files = list_files(directory.child(layout.DATA))
    fresh = {f.relative for f in files if (f.modified_ns or 0) >= holder.started * 1e9}
    rows = sum(receipt.rows_in for receipt in receipts if receipt.part in fresh)
    seconds = time.time() - holder.started
    return rows / seconds if rows and seconds > 0 else None
