from __future__ import annotations

import json
import os
import subprocess
import sys
import threading
import time
from dataclasses import asdict, replace
from pathlib import Path

import pyarrow.fs as pafs
import pytest

from distvae.data.holder import Holder, is_alive, this_process
from distvae.data.lease import Lease, read_holder, refuse_live_holder
from distvae.data.storage import Location, locate
from distvae.errors import OutputError, StorageError


def put(folder: Path, holder: Holder) -> None:
    (folder / "_lease.json").write_text(json.dumps(asdict(holder)))


def dead_process() -> Holder:
    child = subprocess.Popen([sys.executable, "-c", ""])
    child.wait(30)
    return replace(this_process(60), pid=child.pid, pid_start="1")


def unlocked(folder: Path) -> Location:
    fs = pafs.SubTreeFileSystem(str(folder), pafs.LocalFileSystem())
    return Location(fs, "out", "test://out")


def check_for(lease: Lease, seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        lease.check()
        time.sleep(0.01)


def test_taken_and_given_back(tmp_path: Path) -> None:
    directory = locate(str(tmp_path / "out"))
    with Lease(directory) as lease:
        holder = read_holder(directory)
        assert holder is not None
        assert (holder.pid, is_alive(holder)) == (os.getpid(), True)
        lease.check()
        with pytest.raises(OutputError, match=f"process {os.getpid()} on"):
            Lease(directory).acquire()
    assert read_holder(directory) is None
    refuse_live_holder(directory)


def test_the_dead_on_this_host_are_taken_over_at_once(tmp_path: Path) -> None:
    put(tmp_path, dead_process())
    start = time.monotonic()
    with Lease(locate(str(tmp_path))):
        assert time.monotonic() - start < 1


def test_a_reused_process_id_is_not_the_holder(tmp_path: Path) -> None:
    put(tmp_path, replace(this_process(60), pid_start="1"))
    with Lease(locate(str(tmp_path))):
        pass


def test_the_living_on_this_host_hold_it_even_when_late() -> None:
    assert is_alive(replace(this_process(60), expires=0.0))


@pytest.mark.parametrize(
    "elsewhere", [{"host": "other"}, {"boot_id": "other"}, {"pid_namespace": "other"}]
)
def test_elsewhere_time_decides(elsewhere: dict[str, str], tmp_path: Path) -> None:
    holder = replace(dead_process(), **elsewhere)  # type: ignore[arg-type]
    put(tmp_path, holder)
    with pytest.raises(OutputError, match="one run writes a dataset at a time"):
        Lease(locate(str(tmp_path))).acquire()
    put(tmp_path, replace(holder, expires=time.time() - 1))
    with Lease(locate(str(tmp_path))):
        pass


def test_an_unreadable_lease_is_none(tmp_path: Path) -> None:
    (tmp_path / "_lease.json").write_text('{"host"')
    with Lease(locate(str(tmp_path))):
        pass


def test_renewed_while_held(tmp_path: Path) -> None:
    directory = locate(str(tmp_path))
    with Lease(directory, seconds=60, renew_seconds=0.02):
        first = read_holder(directory)
        deadline = time.monotonic() + 10
        while read_holder(directory) == first and time.monotonic() < deadline:
            time.sleep(0.01)
        last = read_holder(directory)
    assert first is not None
    assert last is not None
    assert last.expires > first.expires
    assert replace(last, expires=first.expires) == first


def test_a_lost_lease_is_noticed_and_not_given_back(tmp_path: Path) -> None:
    directory = locate(str(tmp_path))
    lease = Lease(directory, renew_seconds=0.02)
    lease.acquire()
    put(tmp_path, replace(this_process(60), host="other", token="theirs"))
    with pytest.raises(OutputError, match="on other"):
        check_for(lease, seconds=10)
    lease.release()
    holder = read_holder(directory)
    assert holder is not None
    assert holder.token == "theirs"


def test_check_renews_what_ran_out_in_a_pause(tmp_path: Path) -> None:
    directory = locate(str(tmp_path))
    with Lease(directory, seconds=0.0) as lease:
        first = read_holder(directory)
        time.sleep(0.01)
        lease.check()
        assert read_holder(directory) != first


def race(directory: Location, contenders: int = 8) -> list[Lease]:
    """Let several take the lease at once; return those that got it."""
    won: list[Lease] = []
    lost: list[OutputError] = []
    barrier = threading.Barrier(contenders)

    def contend() -> None:
        lease = Lease(directory, renew_seconds=0.05, settle_seconds=0.3)
        barrier.wait()
        try:
            lease.acquire()
        except OutputError as error:
            lost.append(error)
        else:
            won.append(lease)

    threads = [threading.Thread(target=contend) for _ in range(contenders)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(won) + len(lost) == contenders
    return won


def holds(lease: Lease) -> bool:
    try:
        lease.check()
    except OutputError:
        return False
    return True


def test_of_eight_in_a_race_one_wins(tmp_path: Path) -> None:
    put(tmp_path, dead_process())
    (winner,) = race(locate(str(tmp_path)))
    winner.check()
    winner.release()
    assert read_holder(locate(str(tmp_path))) is None


def test_without_a_lock_one_is_left_after_the_next_renewal(tmp_path: Path) -> None:
    """On a storage slower than the settling time several may win at first; the last one stays."""
    directory = unlocked(tmp_path)
    (tmp_path / "out").mkdir()
    put(tmp_path / "out", dead_process())
    won = race(directory)
    deadline = time.monotonic() + 20
    while sum(map(holds, won)) > 1 and time.monotonic() < deadline:
        time.sleep(0.05)
    assert sum(map(holds, won)) == 1
    for lease in won:
        lease.release()
    assert read_holder(directory) is None


def test_a_folder_that_cannot_be_made(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError):
        Lease(locate(str(tmp_path / "file" / "out"))).acquire()
