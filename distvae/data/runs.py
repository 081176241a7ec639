"""The protocol of a run: prepare an output dataset, continue or replace one, and finish it.

Order of a run: ``_run.json``, then the fragments (see ``parts``), then the manifest, which is the
single switch from an old dataset to the new one, then the clearing away, then ``_SUCCESS``.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from typing import Any, Literal

from distvae.data import layout
from distvae.data.fingerprint import first_difference
from distvae.data.fragments import Fragment
from distvae.data.lease import Lease, refuse_live_holder
from distvae.data.manifest import (
    FILTERED,
    FINGERPRINT_KEY,
    MODEL_KEY,
    VERSION_KEY,
    Receipt,
    Totals,
    read_manifest,
    totals,
    write_manifest,
)
from distvae.data.receipts import THREADS, Sizes, file_sizes, has_files, recover
from distvae.data.storage import (
    Location,
    delete_file,
    delete_tree,
    kind,
    make_directory,
    read_bytes,
    write_bytes,
)
from distvae.errors import DamageError, DistvaeError, OutputError, UsageError

__all__ = ["Mode", "Prepared", "finish", "prepare", "read_run", "running"]

Mode = Literal["error", "resume", "overwrite"]
_MODES = ("error", "resume", "overwrite")


@dataclass(frozen=True)
class Prepared:
    """A dataset that is ready to be written.

    Attributes:
        done: receipts of the fragments that need no work, by fragment.
        finished: whether the whole dataset is there already; then nothing is to be done.
        warnings: one line each.
    """

    done: Mapping[int, Receipt] = field(default_factory=dict)
    finished: bool = False
    warnings: tuple[str, ...] = ()


def read_run(directory: Location) -> dict[str, Any] | None:
    """Return the record ``DIR/_run.json``, None if there is none.

    Raises:
        OutputError: it cannot be read as the record of a run.
        StorageError: forbidden or unreachable.
    """
    if layout.RUN not in layout.entries(directory):
        return None
    place = directory.child(layout.RUN)
    try:
        record: dict[str, Any] = {**json.loads(read_bytes(place))}
        record["fingerprint"] = str(record["fingerprint"])
    except (ValueError, KeyError, TypeError) as error:
        value = f"cannot be read ({str(error)[:80]})"
        remedy = "replace the dataset with --mode overwrite, or use another folder"
        raise OutputError(place.uri, value, "must be the record of a run", remedy) from error
    return record


@contextlib.contextmanager
def running(
    directory: Location, mode: Mode, run_record: Mapping[str, Any]
) -> Iterator[tuple[Prepared, Lease]]:
    """Hold the lease on a dataset and prepare it; a refusal leaves the folder as it was.

    A finished dataset is only read: the lease is not taken then. Call ``lease.check()`` now and
    then, and before ``finish``.

    Raises:
        OutputError: held by another live run, or as in ``prepare``.
        StorageError: forbidden, unreachable or full.
    """
    refuse_live_holder(directory)
    lease = Lease(directory)
    finished = _inspect(directory, mode, run_record)
    if finished:
        yield prepare(directory, mode, run_record), lease
        return
    with lease:
        yield prepare(directory, mode, run_record), lease


def prepare(directory: Location, mode: Mode, run_record: Mapping[str, Any]) -> Prepared:
    """Make ``directory`` ready for a run and say what of it is done already.

    * ``error``: an absent or empty directory only.
    * ``resume``: that, or a dataset with the same fingerprint: finished, or broken off.
    * ``overwrite``: that, or any dataset of ours: ``_SUCCESS`` goes first, the old manifest and
      the parts that it names stay until ``finish``.

    Args:
        directory: the dataset.
        mode: see above.
        run_record: becomes ``_run.json``; plain JSON with ``fingerprint`` (hex), ``items`` (what
            the fingerprint covers) and ``fragments`` (their number); for messages also
            ``inputs``, a list of objects with ``path`` and ``modified_ns``.

    Raises:
        OutputError: the folder is not ours, not empty, damaged, or holds another run.
        StorageError: forbidden, unreachable or full.
        UsageError: unknown mode.
    """
    finished = _inspect(directory, mode, run_record)
    old = read_run(directory) if mode == "resume" else None
    if finished:
        return Prepared(_finished(directory), True, tuple(_touched(old, run_record)))
    if mode == "overwrite":
        delete_file(directory.child(layout.SUCCESS))
        delete_tree(directory.child(layout.RECEIPTS))
    _sweep(directory)
    if old is None:
        make_directory(directory)
        text = json.dumps(run_record, indent=1, sort_keys=True, allow_nan=False) + "\n"
        write_bytes(directory.child(layout.RUN), text.encode())
        return Prepared()
    done, warnings = recover(directory, run_record["fingerprint"], file_sizes(directory))
    return Prepared(done, False, (*_touched(old, run_record), *warnings))


def finish(
    directory: Location,
    run_record: Mapping[str, Any],
    fragments: Sequence[Fragment],
    receipts: Iterable[Receipt],
) -> Totals:
    """Check that the run is complete, switch to its manifest, clear away, write ``_SUCCESS``.

    Parts that the manifest does not name, receipts and temporary files are deleted. It may be
    called again after it broke off.

    Args:
        directory: the dataset.
        run_record: as given to ``prepare``; ``model_id`` and ``version`` go into the manifest.
        fragments: the whole plan.
        receipts: one per fragment, those that ``prepare`` found done included.

    Raises:
        DistvaeError: a fragment has no receipt, a receipt no part, or rows are missing.
        StorageError: forbidden, unreachable or full.
    """
    by_fragment = {receipt.fragment: receipt for receipt in receipts}
    sizes = file_sizes(directory)
    _check_complete(fragments, by_fragment, sizes)
    names = {FINGERPRINT_KEY: "fingerprint", MODEL_KEY: "model_id", VERSION_KEY: "version"}
    footer = {key: str(run_record[name]) for key, name in names.items() if name in run_record}
    write_manifest(directory, by_fragment.values(), footer)
    _delete_unnamed(directory, by_fragment.values(), sizes)
    delete_tree(directory.child(layout.RECEIPTS))
    _sweep(directory)
    write_bytes(directory.child(layout.SUCCESS), b"")
    return totals(by_fragment.values())


def _inspect(directory: Location, mode: Mode, run_record: Mapping[str, Any]) -> bool:
    """Refuse what ``prepare`` must refuse; return whether all is done. Changes nothing."""
    if mode not in _MODES:
        raise UsageError("--mode", repr(mode), f"must be one of {', '.join(_MODES)}")
    if kind(directory) == "file":
        raise OutputError(directory.uri, "is a file", "must be a folder", "name another one")
    names = layout.entries(directory)
    content = {name for name in names if name != layout.LEASE and not layout.is_leftover(name)}
    if not content:
        return False
    ours = layout.RUN in content
    if mode == "error":
        remedy = "continue it with --mode resume, replace it with --mode overwrite, or"
        remedy = f"{remedy if ours else ''} name another folder".strip()
        raise OutputError(directory.uri, "is not empty", "must be absent or empty", remedy)
    if not ours:
        value = f"holds {min(content)!r} and no {layout.RUN}"
        rule = f"--mode {mode} works on an empty folder or a dataset of distvae"
        raise OutputError(directory.uri, value, rule, "name another folder")
    _refuse_foreign(directory)
    if mode == "overwrite":
        return False
    _refuse_other_run(directory, run_record)
    return layout.SUCCESS in content


def _refuse_foreign(directory: Location) -> None:
    data = directory.child(layout.DATA)
    foreign = sorted(
        name
        for name in layout.entries(data)
        if not layout.is_part(name) and not layout.is_leftover(name)
    )
    if foreign:
        rule = "that folder holds nothing but parts"
        raise OutputError(data.child(foreign[0]).uri, "is not ours", rule, "move it away")


def _refuse_other_run(directory: Location, run_record: Mapping[str, Any]) -> None:
    old = read_run(directory)
    if old is None or old["fingerprint"] == run_record["fingerprint"]:
        return
    change = first_difference(old.get("items", {}), run_record["items"])
    prints = (layout.short(old["fingerprint"]), layout.short(run_record["fingerprint"]))
    change = change or "fingerprint was {}, is {}".format(*prints)
    rule = "--mode resume continues only the same run"
    remedy = "undo the change, replace the dataset with --mode overwrite, or name another folder"
    raise OutputError(directory.uri, f"holds another run ({change})", rule, remedy)


def _finished(directory: Location) -> dict[int, Receipt]:
    try:
        manifest = read_manifest(directory)
    except DamageError as error:
        remedy = "replace the dataset with --mode overwrite"
        raise OutputError(directory.uri, f"is damaged ({error.message})", "", remedy) from error
    return {receipt.fragment: receipt for receipt in manifest.receipts}


def _touched(old: Mapping[str, Any] | None, new: Mapping[str, Any]) -> Iterator[str]:
    """Yield warnings about inputs that look the same and have another modification time."""
    before = {item["path"]: item.get("modified_ns") for item in (old or {}).get("inputs", [])}
    changed = [
        item["path"]
        for item in new.get("inputs", [])
        if before.get(item["path"], item.get("modified_ns")) != item.get("modified_ns")
    ]
    if changed:
        more = f" and {len(changed) - 1:,} more" if len(changed) > 1 else ""
        yield f"{changed[0]}{more}: modified since; size and footer are the same, so it is used"


def _check_complete(
    fragments: Sequence[Fragment], receipts: Mapping[int, Receipt], sizes: Sizes
) -> None:
    plan = {fragment.index: fragment for fragment in fragments}
    missing = sorted(plan.keys() - receipts.keys())
    if missing:
        value = f"{len(missing):,} of {len(plan):,} have no receipt, the first is {missing[0]}"
        raise DistvaeError("fragments", value, "all must be done", "run again with --mode resume")
    if len(plan) != len(receipts):
        unknown = min(receipts.keys() - plan.keys())
        raise DistvaeError(f"fragment {unknown}", "has a receipt", "is not in the plan")
    for index, fragment in plan.items():
        receipt = receipts[index]
        counted = (receipt.first_row, receipt.rows_in, receipt.rows_out + receipt.rows_rejected)
        wanted = fragment.rows - int(receipt.summary.get(FILTERED, 0))
        if counted != (fragment.first_row, wanted, wanted):
            value = f"first row, rows in, rows out + rejected are {counted}"
            raise DistvaeError(receipt.part, value, f"{wanted:,} of the plan's rows were asked for")
        if not has_files(receipt, sizes):
            raise DistvaeError(receipt.part, "is not there, whole", "its receipt says it is")


def _delete_unnamed(directory: Location, receipts: Iterable[Receipt], sizes: Sizes) -> None:
    rows = list(receipts)
    keep_data = {row.part for row in rows}
    keep_rejected = {row.rejected_part for row in rows}
    unnamed = [directory.child(layout.DATA, n) for n in sizes.data if n not in keep_data]
    unnamed += [
        directory.child(layout.REJECTED, n) for n in sizes.rejected if n not in keep_rejected
    ]
    with ThreadPoolExecutor(THREADS) as pool:
        list(pool.map(delete_file, unnamed))


def _sweep(directory: Location) -> None:
    """Delete what killed writers left: unfinished parts and temporary files."""
    delete_tree(directory.child(layout.STAGING))
    for name in layout.entries(directory):
        if layout.is_leftover(name):
            delete_file(directory.child(name))
