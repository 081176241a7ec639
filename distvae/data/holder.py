"""Who holds a lease: a process, told apart from a later one with its number, dead or alive."""

from __future__ import annotations

import os
import secrets
import socket
import time
from dataclasses import dataclass

__all__ = ["Holder", "is_alive", "this_process"]


@dataclass(frozen=True)
class Holder:
    """Who holds a lease.

    Attributes:
        host: its name; boot_id and pid_namespace tell apart reboots and containers ("" unknown).
        pid: process id; pid_start: its start in clock ticks since boot ("" unknown).
        token: random, one per lease taken.
        started: when it was taken, and expires, when it runs out: seconds since 1970.
    """

    host: str
    boot_id: str
    pid_namespace: str
    pid: int
    pid_start: str
    token: str
    started: float
    expires: float


def this_process(seconds: float) -> Holder:
    """Return a holder for this process with a fresh token, that runs out in ``seconds``."""
    now = time.time()
    pid = os.getpid()
    start = _stat_fields(pid)
    return Holder(
        host=socket.gethostname(),
        boot_id=_boot_id(),
        pid_namespace=_pid_namespace(),
        pid=pid,
        pid_start=start[1] if start else "",
        token=secrets.token_hex(16),
        started=now,
        expires=now + seconds,
    )


def is_alive(holder: Holder) -> bool:
    """Return whether a holder may still be at work.

    On this host its process decides, elsewhere the time at which its lease runs out.
    """
    here = (socket.gethostname(), _boot_id(), _pid_namespace())
    if not holder.boot_id or (holder.host, holder.boot_id, holder.pid_namespace) != here:
        return time.time() < holder.expires
    found = _stat_fields(holder.pid)
    if found is None:
        return _exists_unseen(holder.pid)
    state, start = found
    return state not in "ZX" and start == holder.pid_start


def _boot_id() -> str:
    try:
        with open("/proc/sys/kernel/random/boot_id", encoding="ascii") as file:
            return file.read().strip()
    except OSError:
        return ""


def _pid_namespace() -> str:
    try:
        return str(os.stat("/proc/self/ns/pid").st_ino)
    except OSError:
        return ""


def _stat_fields(pid: int) -> tuple[str, str] | None:
    """Return state and start time of a process, None if it is not seen in ``/proc``."""
    try:
        with open(f"/proc/{pid}/stat", encoding="utf-8", errors="replace") as file:
            after_name = file.read().rpartition(")")[2].split()
    except OSError:
        return None
    return after_name[0], after_name[19]


def _exists_unseen(pid: int) -> bool:
    # /proc may hide the processes of other users.
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except PermissionError:
        return True
    return True
