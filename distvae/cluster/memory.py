"""What glibc does with freed memory: keep it for the next batch."""

from __future__ import annotations

import ctypes

__all__ = ["keep_freed_memory"]

_M_TRIM_THRESHOLD, _M_TOP_PAD, _M_MMAP_THRESHOLD = -1, -2, -3
_KEPT_BYTES, _PAD_BYTES = 256 << 20, 64 << 20


def keep_freed_memory() -> None:
    """Ask glibc to reuse freed blocks of megabytes instead of giving them back each time.

    A batch's arrays are freed and wanted again at once; each time, page faults cost CPU time.
    """
    libc = ctypes.CDLL(None)
    if hasattr(libc, "mallopt"):
        libc.mallopt(_M_MMAP_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TRIM_THRESHOLD, _KEPT_BYTES)
        libc.mallopt(_M_TOP_PAD, _PAD_BYTES)
