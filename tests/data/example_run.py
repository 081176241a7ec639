"""A small run, written by the tests in-process or as a program that stops at a named point."""

from __future__ import annotations

import json
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distvae.data import parts, runs
from distvae.data.fingerprint import fingerprint
from distvae.data.fragments import Fragment
from distvae.data.manifest import Receipt, Totals
from distvae.data.parts import PartWriter
from distvae.data.runs import Mode, finish, running
from distvae.data.storage import Location, locate

FRAGMENTS = 4
ROWS = 90
VECTOR = pa.list_(pa.field("element", pa.float32(), nullable=False), 4)
SCHEMA = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("name", pa.string()),
        pa.field("mu", VECTOR, nullable=False),
    ]
)
FOOTER = {"distvae.model_id": "m" * 64, "distvae.version": "0"}
STOPS = ("record", "mid-part", "receipt", "part", "manifest", "clearing", "success")


def make_record(batch: int = 32, modified_ns: int = 1) -> dict[str, Any]:
    """Return the record of a run; ``batch`` is covered by its fingerprint."""
    items = {"model_id": "m" * 64, "options": {"batch_rows": batch}}
    return {
        "fingerprint": fingerprint(items),
        "items": items,
        "fragments": FRAGMENTS,
        "inputs": [{"path": "a.parquet", "modified_ns": modified_ns}],
        "model_id": "m" * 64,
        "version": "0",
    }


def plan() -> tuple[Fragment, ...]:
    return tuple(Fragment(i, i * ROWS, ROWS, ()) for i in range(FRAGMENTS))


def rows_of(fragment: Fragment, batch: int = 32) -> pa.Table:
    ids = np.arange(fragment.first_row, fragment.first_row + fragment.rows)
    values = np.sin(ids[:, None] * np.arange(1, 5) + batch).astype(np.float32)
    mu = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), type=VECTOR)
    return pa.Table.from_arrays([pa.array(ids), pa.array(map(str, ids)), mu], schema=SCHEMA)


def write_fragment(
    directory: Location,
    fragment: Fragment,
    record: dict[str, Any],
    halfway: Callable[[], None] = lambda: None,
) -> Receipt:
    """Write one fragment; in fragment 1, rows whose id divides by 7 are rejected."""
    table = rows_of(fragment, record["items"]["options"]["batch_rows"])
    ids = table["id"].to_numpy()
    bad = (ids % 7 == 0) & (fragment.index == 1)
    with PartWriter(directory, fragment, record["fingerprint"], SCHEMA, FOOTER, 40) as writer:
        good = table.filter(pa.array(~bad))
        writer.write(good.slice(0, 50))
        halfway()
        writer.write(good.slice(50))
        rejected = table.filter(pa.array(bad)).select(["id"])
        writer.reject(rejected.append_column("reason", pa.array(["no"] * rejected.num_rows)))
        total = float(pc.sum(table["id"]).as_py())
        sources = json.dumps([["a.parquet", fragment.first_row, fragment.rows]])
        return writer.commit(fragment.rows, sources, {"ids": total})


def write_run(
    path: Path | Location,
    mode: Mode,
    record: dict[str, Any],
    halfway: Callable[[], None] = lambda: None,
) -> tuple[Totals | None, list[int]]:
    """Run the whole protocol; return the totals and the fragments that were worked on."""
    directory = path if isinstance(path, Location) else locate(str(path))
    worked = []
    with running(directory, mode, record) as (prepared, lease):
        if prepared.finished:
            return None, []
        receipts = dict(prepared.done)
        for fragment in plan():
            if fragment.index not in receipts:
                worked.append(fragment.index)
                last = fragment.index == 2
                stop = halfway if last else (lambda: None)
                receipts[fragment.index] = write_fragment(directory, fragment, record, stop)
        lease.check()
        return finish(directory, record, plan(), receipts.values()), worked


def tree(path: Path) -> dict[str, bytes]:
    """Return all files below a folder."""
    files = sorted(file for file in path.rglob("*") if file.is_file())
    return {file.relative_to(path).as_posix(): file.read_bytes() for file in files}


def _wait() -> None:
    print("READY", flush=True)
    signal.pause()


def _pausing(module: Any, name: str, applies: Callable[[Location], bool]) -> None:
    real = getattr(module, name)

    def stand_in(*args: Any) -> Any:
        if any(applies(arg) for arg in args if isinstance(arg, Location)):
            _wait()
        return real(*args)

    setattr(module, name, stand_in)


def _arm(stop: str) -> None:
    if stop == "record":
        _pausing(runs, "write_bytes", lambda place: place.name == "_run.json")
    elif stop == "receipt":
        _pausing(parts, "write_bytes", lambda place: "_receipts/000000002" in place.path)
    elif stop == "part":
        _pausing(parts, "publish", lambda place: "data/part-000000002" in place.path)
    elif stop == "manifest":
        _pausing(runs, "write_manifest", lambda _: True)
    elif stop == "clearing":
        _pausing(runs, "_delete_unnamed", lambda _: True)
    elif stop == "success":
        _pausing(runs, "write_bytes", lambda place: place.name == "_SUCCESS")


def main(path: str, mode: Mode, batch: str, stop: str) -> None:
    _arm(stop)
    halfway = _wait if stop == "mid-part" else (lambda: None)
    write_run(Path(path), mode, make_record(int(batch)), halfway)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2], sys.argv[3], sys.argv[4])  # type: ignore[arg-type]
