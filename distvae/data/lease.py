"""The lease on an output dataset: one live run at a time, and a dead one is not waited for.

``DIR/_lease.json`` names the holder and when it runs out. On a local disk it is read and written
under a lock of the kernel; elsewhere the writer waits and reads back who came last, because
pyarrow has no conditional write. Should a storage be slower than that wait and two believe that
they hold it, the next renewal leaves the later one, and ``check`` tells the other.
"""

from __future__ import annotations

import contextlib
import fcntl
import json
import os
import threading
import time
from collections.abc import Iterator
from dataclasses import asdict, fields, replace
from types import TracebackType
from typing import Self

from distvae.data.holder import Holder, is_alive, this_process
from distvae.data.layout import LEASE
from distvae.data.storage import (
    Location,
    delete_file,
    exists,
    make_directory,
    read_bytes,
    storage_errors,
    write_bytes,
)
from distvae.errors import OutputError, StorageError

__all__ = ["Lease", "read_holder", "refuse_live_holder"]

SECONDS = 60.0
RENEW_SECONDS = 15.0
SETTLE_SECONDS = 2.0


def read_holder(directory: Location) -> Holder | None:
    """Return the holder of a dataset's lease; None if there is none, or no readable one.

    Raises:
        StorageError: forbidden or unreachable.
    """
    place = directory.child(LEASE)
    if not exists(place):
        return None
    try:
        values = json.loads(read_bytes(place))
        return Holder(**{item.name: values[item.name] for item in fields(Holder)})
    except (ValueError, KeyError, TypeError):
        return None
    except StorageError:
        if exists(place):
            raise
        return None  # released since


def refuse_live_holder(directory: Location) -> None:
    """Do nothing if nobody alive holds the lease.

    Raises:
        OutputError: another run is writing there.
        StorageError: forbidden or unreachable.
    """
    holder = read_holder(directory)
    if holder is not None and is_alive(holder):
        raise _held(directory, holder)


class Lease:
    """Holds ``directory`` for this process, renewed by a thread until it is released.

    Args:
        directory: the dataset; made if absent.
        seconds: how long the lease is good for without renewal.
        renew_seconds: time between renewals.
        settle_seconds: where there is no lock, how long to wait before reading back.
    """

    def __init__(
        self,
        directory: Location,
        seconds: float = SECONDS,
        renew_seconds: float = RENEW_SECONDS,
        settle_seconds: float = SETTLE_SECONDS,
    ) -> None:
        self._directory = directory
        self._seconds = seconds
        self._renew_seconds = renew_seconds
        self._settle_seconds = settle_seconds
        self._stop = threading.Event()
        self._thread: threading.Thread | None = None
        self._holder: Holder | None = None
        self._taken_by: Holder | None = None

    def __enter__(self) -> Self:
        self.acquire()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.release()

    def acquire(self) -> None:
        """Take the lease.

        Raises:
            OutputError: another run that is alive holds it.
            StorageError: forbidden, unreachable or full.
        """
        make_directory(self._directory)
        holder = this_process(self._seconds)
        with _exclusive(self._directory) as locked:
            refuse_live_holder(self._directory)
            self._put(holder)
        if not locked:
            time.sleep(self._settle_seconds)
            last = read_holder(self._directory)
            if last is None or last.token != holder.token:
                raise _held(self._directory, last)
        self._holder = holder
        self._taken_by = None
        self._stop.clear()
        self._thread = threading.Thread(target=self._renew, name="lease", daemon=True)
        self._thread.start()

    def release(self) -> None:
        """Give the lease back, if it is still ours; without one, do nothing.

        Raises:
            StorageError: forbidden or unreachable.
        """
        if self._thread is None or self._holder is None:
            return
        self._stop.set()
        self._thread.join()
        self._thread = None
        with _exclusive(self._directory):
            last = read_holder(self._directory)
            if last is not None and last.token == self._holder.token:
                delete_file(self._directory.child(LEASE))
        self._holder = None

    def check(self) -> None:
        """Do nothing while the lease is held by this process.

        Raises:
            OutputError: another run has taken it, because renewals stopped for too long.
            StorageError: it ran out and cannot be renewed.
        """
        holder = self._holder
        if holder is not None and self._taken_by is None and time.time() > holder.expires:
            self._renew_once()
        if self._taken_by is not None:
            raise _held(self._directory, self._taken_by)

    def _renew(self) -> None:
        while not self._stop.wait(self._renew_seconds) and self._taken_by is None:
            # A storage that fails now is asked again; ``check`` reports one that goes on failing.
            with contextlib.suppress(StorageError):
                self._renew_once()

    def _renew_once(self) -> None:
        holder = self._holder
        if holder is None:
            return
        with _exclusive(self._directory):
            last = read_holder(self._directory)
            if last is not None and last.token != holder.token:
                self._taken_by = last
                return
            renewed = replace(holder, expires=time.time() + self._seconds)
            self._put(renewed)
            self._holder = renewed

    def _put(self, holder: Holder) -> None:
        text = json.dumps(asdict(holder), sort_keys=True)
        write_bytes(self._directory.child(LEASE), text.encode())


@contextlib.contextmanager
def _exclusive(directory: Location) -> Iterator[bool]:
    """Lock a local directory against other processes; yield whether that was possible."""
    if not directory.is_local:
        yield False
        return
    with storage_errors(directory):
        descriptor = os.open(directory.path, os.O_RDONLY | os.O_DIRECTORY)
    try:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX)
            locked = True
        except OSError:  # some network file systems cannot lock a directory
            locked = False
        yield locked
    finally:
        os.close(descriptor)


def _held(directory: Location, holder: Holder | None) -> OutputError:
    who = "another run" if holder is None else f"process {holder.pid} on {holder.host}"
    rule = "one run writes a dataset at a time"
    return OutputError(directory.uri, f"is being written by {who}", rule, "wait for it, or stop it")
