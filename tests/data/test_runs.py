from __future__ import annotations

import json
import signal
import subprocess
import sys
from pathlib import Path

import duckdb
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.dataset as ds
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from distvae.data.manifest import read_manifest
from distvae.data.runs import Mode, finish, prepare
from distvae.data.status import summarise
from distvae.data.storage import Location, locate
from distvae.data.verify import verify
from distvae.errors import DistvaeError, OutputError, StorageError, UsageError
from tests.data.example_run import (
    FRAGMENTS,
    ROWS,
    SCHEMA,
    STOPS,
    make_record,
    plan,
    rows_of,
    tree,
    write_fragment,
    write_run,
)

REJECTED = 13
ROWS_OUT = FRAGMENTS * ROWS - REJECTED


def start_child(path: Path, mode: Mode, batch: int, stop: str) -> subprocess.Popen[str]:
    """Start a run of its own process and wait until it stands at the named point."""
    command = [sys.executable, "-m", "tests.data.example_run", str(path), mode, str(batch), stop]
    root = Path(__file__).parents[2]
    child = subprocess.Popen(command, stdout=subprocess.PIPE, text=True, cwd=root)
    assert child.stdout is not None
    assert child.stdout.readline() == "READY\n"
    return child


def kill(child: subprocess.Popen[str]) -> None:
    assert child.poll() is None
    child.kill()
    assert child.wait(10) == -signal.SIGKILL
    assert child.stdout is not None
    child.stdout.close()


@pytest.fixture
def undisturbed(tmp_path: Path) -> dict[str, bytes]:
    write_run(tmp_path / "undisturbed", "error", make_record())
    return tree(tmp_path / "undisturbed")


def test_a_whole_run(tmp_path: Path) -> None:
    out = tmp_path / "out"
    sums, worked = write_run(out, "error", make_record())

    assert worked == [0, 1, 2, 3]
    assert sums is not None
    assert (sums.parts, sums.rows_in, sums.rows_out) == (FRAGMENTS, FRAGMENTS * ROWS, ROWS_OUT)
    files = tree(out)
    short = make_record()["fingerprint"][:8]
    parts = [f"part-{i:09d}-{short}.parquet" for i in range(FRAGMENTS)]
    assert sorted(files) == sorted(
        ["_SUCCESS", "_manifest.parquet", f"_rejected/{parts[1]}", "_run.json"]
        + [f"data/{part}" for part in parts]
    )
    assert files["_SUCCESS"] == b""
    assert json.loads(files["_run.json"]) == make_record()
    manifest = pq.read_table(out / "_manifest.parquet")
    assert manifest["part"].to_pylist() == parts
    assert manifest["summary_ids"].to_pylist() == [
        float(sum(rows_of(f)["id"].to_pylist())) for f in plan()
    ]
    assert json.loads(manifest["sources"][1].as_py()) == [["a.parquet", ROWS, ROWS]]
    assert verify(locate(str(out))).rows == ROWS_OUT


def test_every_reader_opens_it(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    out = tmp_path / "undisturbed"
    data = out / "data"
    ids = [i for i in range(FRAGMENTS * ROWS) if not (ROWS <= i < 2 * ROWS and i % 7 == 0)]
    assert ds.dataset(out).to_table()["id"].to_pylist() == ids
    assert ds.dataset(data).to_table().schema.remove_metadata().equals(SCHEMA)
    assert pq.read_table(out)["id"].to_pylist() == ids
    assert pq.read_table(data)["id"].to_pylist() == ids
    assert pd.read_parquet(out)["id"].tolist() == ids
    assert pd.read_parquet(data)["id"].tolist() == ids
    assert pl.read_parquet(data)["id"].to_list() == ids
    assert pl.scan_parquet(f"{data}/*.parquet").collect()["mu"].dtype == pl.Array(pl.Float32, 4)
    connection = duckdb.connect()
    rows = connection.execute(f"select id, mu[1] from '{data}/*.parquet' order by id").fetchall()
    connection.close()
    assert [row[0] for row in rows] == ids


def test_data_holds_nothing_but_parts_at_any_time(tmp_path: Path) -> None:
    child = start_child(tmp_path / "out", "error", 32, "part")
    names = [file.name for file in (tmp_path / "out" / "data").iterdir()]
    kill(child)
    assert sorted(names) == [
        f"part-{i:09d}-{make_record()['fingerprint'][:8]}.parquet" for i in (0, 1)
    ]


@pytest.mark.parametrize("stop", STOPS)
def test_killed_anywhere_resume_ends_with_the_same_bytes(
    stop: str, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    kill(start_child(out, "error", 32, stop))
    assert not (out / "_SUCCESS").exists()
    assert (out / "_lease.json").exists()

    sums, worked = write_run(out, "resume", make_record())

    done_before = {"record": 0, "mid-part": 2, "receipt": 2, "part": 2}.get(stop, FRAGMENTS)
    assert worked == list(range(done_before, FRAGMENTS))
    assert sums is not None
    assert tree(out) == undisturbed


@pytest.mark.parametrize("stop", STOPS)
def test_killed_overwrite_leaves_the_old_or_the_new_manifest_whole(
    stop: str, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    write_run(out, "error", make_record(batch=64))
    old = tree(out)
    kill(start_child(out, "overwrite", 32, stop))

    assert not (out / "_SUCCESS").exists()
    manifest = read_manifest(locate(str(out)))
    switched = stop in ("clearing", "success")
    assert manifest.fingerprint == make_record(32 if switched else 64)["fingerprint"]
    files = tree(out)
    snapshot = undisturbed if switched else old
    for receipt in manifest.receipts:
        name = f"data/{receipt.part}"
        assert files[name] == snapshot[name]
    # Before its own record stood there, the run left that of the old one.
    write_run(out, "overwrite" if stop == "record" else "resume", make_record())
    assert tree(out) == undisturbed


def test_resume_of_the_old_run_after_an_overwrite_that_did_not_start(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out, "error", make_record(batch=64))
    old = tree(out)
    kill(start_child(out, "overwrite", 32, "record"))
    sums, worked = write_run(out, "resume", make_record(batch=64))
    assert sums is not None
    assert worked == []
    assert tree(out) == old


def test_resume_of_a_finished_run_does_nothing(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out, "resume", make_record())
    before = {file: file.stat().st_mtime_ns for file in out.rglob("*")}
    assert write_run(out, "resume", make_record()) == (None, [])
    assert {file: file.stat().st_mtime_ns for file in out.rglob("*")} == before
    prepared = prepare(locate(str(out)), "resume", make_record())
    assert sorted(prepared.done) == list(range(FRAGMENTS))


def test_resume_names_the_item_that_differs(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out, "error", make_record(batch=64))
    before = tree(out)
    with pytest.raises(OutputError, match=r"options\.batch_rows was 64, is 32") as caught:
        write_run(out, "resume", make_record(batch=32))
    assert caught.value.exit_code == 5
    assert "--mode overwrite" in caught.value.message
    assert tree(out) == before


def test_modification_times_only_warn(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out, "error", make_record(modified_ns=1))
    prepared = prepare(locate(str(out)), "resume", make_record(modified_ns=2))
    assert prepared.finished
    assert prepared.warnings[0].startswith("a.parquet: modified since")


def test_error_mode_refuses_and_names_the_remedy(tmp_path: Path) -> None:
    out = tmp_path / "out"
    write_run(out, "error", make_record())
    with pytest.raises(OutputError, match=r"--mode resume.*--mode overwrite"):
        write_run(out, "error", make_record())
    (tmp_path / "foreign").mkdir()
    (tmp_path / "foreign" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match="name another folder"):
        write_run(tmp_path / "foreign", "error", make_record())


@pytest.mark.parametrize("mode", ["resume", "overwrite"])
def test_a_folder_that_is_not_ours_is_refused_and_left_alone(mode: Mode, tmp_path: Path) -> None:
    (tmp_path / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"holds 'notes\.txt' and no _run\.json"):
        write_run(tmp_path, mode, make_record())
    assert tree(tmp_path) == {"notes.txt": b"mine"}


@pytest.mark.parametrize("mode", ["resume", "overwrite"])
def test_a_foreign_file_beside_the_parts_is_refused(mode: Mode, tmp_path: Path) -> None:
    write_run(tmp_path, "error", make_record())
    (tmp_path / "data" / "notes.txt").write_text("mine")
    with pytest.raises(OutputError, match=r"data/notes\.txt: is not ours"):
        write_run(tmp_path, mode, make_record())


def test_a_file_in_the_way_and_an_unknown_mode(tmp_path: Path) -> None:
    (tmp_path / "out").write_text("")
    with pytest.raises(OutputError, match="is a file"):
        write_run(tmp_path / "out", "error", make_record())
    with pytest.raises(UsageError, match="must be one of error, resume, overwrite"):
        prepare(locate(str(tmp_path)), "append", make_record())  # type: ignore[arg-type]


def test_overwrite_repairs_the_same_run(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    write_run(out, "error", make_record())
    flip(next((out / "data").iterdir()))
    write_run(out, "overwrite", make_record())
    assert tree(out) == undisturbed


@pytest.mark.parametrize("stop", ["mid-part", "part", "success"])
def test_overwrite_of_the_same_damaged_run_killed_and_resumed(
    stop: str, tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    """Sizes are right, receipts are there, the bytes are not: they are hashed again."""
    out = tmp_path / "out"
    write_run(out, "error", make_record())
    flip(sorted((out / "data").iterdir())[2])
    kill(start_child(out, "overwrite", 32, stop))
    write_run(out, "resume", make_record())
    assert tree(out) == undisturbed


def test_resume_does_again_what_is_short_missing_or_unreadable(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    kill(start_child(out, "error", 32, "manifest"))
    parts = sorted((out / "data").iterdir())
    receipts = sorted((out / "_receipts").iterdir())
    parts[0].write_bytes(parts[0].read_bytes()[:-1])
    parts[1].unlink()
    receipts[2].write_bytes(receipts[2].read_bytes()[:-5])
    sums, worked = write_run(out, "resume", make_record())
    assert worked == [0, 1, 2]
    assert sums is not None
    assert tree(out) == undisturbed


def test_a_damaged_record_is_refused_by_resume_and_replaced_by_overwrite(
    tmp_path: Path, undisturbed: dict[str, bytes]
) -> None:
    out = tmp_path / "out"
    write_run(out, "error", make_record())
    (out / "_run.json").write_text("{")
    with pytest.raises(OutputError, match=r"_run\.json: cannot be read"):
        write_run(out, "resume", make_record())
    write_run(out, "overwrite", make_record())
    assert tree(out) == undisturbed


def test_finish_refuses_an_incomplete_run(tmp_path: Path) -> None:
    directory = locate(str(tmp_path / "out"))
    record = make_record()
    prepare(directory, "error", record)
    receipts = [write_fragment(directory, fragment, record) for fragment in plan()]
    with pytest.raises(DistvaeError, match="1 of 4 have no receipt, the first is 2"):
        finish(directory, record, plan(), [r for r in receipts if r.fragment != 2])
    (tmp_path / "out" / "data" / receipts[3].part).unlink()
    with pytest.raises(DistvaeError, match="is not there, whole"):
        finish(directory, record, plan(), receipts)
    assert not (tmp_path / "out" / "_SUCCESS").exists()


def test_two_live_runs_and_a_dead_holder(tmp_path: Path, undisturbed: dict[str, bytes]) -> None:
    out = tmp_path / "out"
    child = start_child(out, "error", 32, "mid-part")
    for mode in ("resume", "overwrite", "error"):
        with pytest.raises(OutputError, match=f"is being written by process {child.pid}") as caught:
            write_run(out, mode, make_record())
        assert caught.value.exit_code == 5
    status = summarise(locate(str(out)))
    assert (status.running, status.finished, status.done, status.left) == (True, False, 2, 2)
    assert status.rows == 2 * ROWS - REJECTED
    assert status.rows_per_second is not None
    child.kill()
    while child_is_running(child.pid):
        pass
    # Not waited for yet: a zombie, which is dead.
    write_run(out, "resume", make_record())
    kill_finished(child)
    assert tree(out) == undisturbed
    assert summarise(locate(str(out))).finished


def test_status_of_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not found"):
        summarise(locate(str(tmp_path / "none")))
    with pytest.raises(OutputError, match=r"has no _run\.json"):
        summarise(locate(str(tmp_path)))


def test_the_protocol_on_a_storage_without_locks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, undisturbed: dict[str, bytes]
) -> None:
    monkeypatch.setattr("distvae.data.lease.Lease.__init__.__defaults__", (60.0, 15.0, 0.01))
    fs = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    directory = Location(fs, "remote", "test://remote")
    write_run(directory, "error", make_record(batch=64))
    write_run(directory, "overwrite", make_record())
    assert tree(tmp_path / "remote") == undisturbed
    assert write_run(directory, "resume", make_record()) == (None, [])
    assert verify(directory).parts == FRAGMENTS


def test_no_rows_at_all(tmp_path: Path) -> None:
    directory = locate(str(tmp_path / "out"))
    record = {**make_record(), "fragments": 0}
    prepare(directory, "error", record)
    assert finish(directory, record, (), ()).parts == 0
    assert verify(directory).parts == 0
    assert pa.types.is_int64(pq.read_schema(tmp_path / "out" / "_manifest.parquet").field(0).type)


def flip(file: Path) -> None:
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 4
    file.write_bytes(data)


def child_is_running(pid: int) -> bool:
    return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"


def kill_finished(child: subprocess.Popen[str]) -> None:
    assert child.wait(10) == -signal.SIGKILL
    assert child.stdout is not None
    child.stdout.close()
