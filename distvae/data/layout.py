"""Names inside an output dataset: what lies where in ``DIR``, and what a part is called."""

from __future__ import annotations

import re

import pyarrow.fs as pafs

from distvae.data.storage import Location, storage_errors

__all__ = [
    "DATA",
    "LEASE",
    "MANIFEST",
    "RECEIPTS",
    "REJECTED",
    "RUN",
    "STAGING",
    "SUCCESS",
    "entries",
    "is_leftover",
    "is_part",
    "part_name",
    "receipt_name",
    "short",
]

DATA = "data"
REJECTED = "_rejected"
RECEIPTS = "_receipts"
STAGING = "_staging"
RUN = "_run.json"
MANIFEST = "_manifest.parquet"
SUCCESS = "_SUCCESS"
LEASE = "_lease.json"

_PART = re.compile(r"part-\d{9,}-[0-9a-f]{8}\.parquet")
_LEFTOVER = re.compile(r"\..*\.tmp")


def short(fingerprint: str) -> str:
    """Return the eight digits of a fingerprint that names carry."""
    return fingerprint[:8]


def part_name(index: int, fingerprint: str) -> str:
    """Return the file name of fragment ``index``: nine digits in order, then the fingerprint."""
    return f"part-{index:09d}-{short(fingerprint)}.parquet"


def receipt_name(index: int, fingerprint: str) -> str:
    """Return the file name of the receipt of fragment ``index``."""
    return f"{index:09d}-{short(fingerprint)}.json"


def is_part(name: str) -> bool:
    """Return whether ``name`` is one that ``part_name`` gives, of whatever run."""
    return _PART.fullmatch(name) is not None


def is_leftover(name: str) -> bool:
    """Return whether ``name`` is a temporary file that a killed write left behind."""
    return _LEFTOVER.fullmatch(name) is not None


def entries(directory: Location) -> frozenset[str]:
    """Return the names of the files and folders right below ``directory``; none if it is absent.

    Raises:
        StorageError: forbidden, unreachable, or not a directory.
    """
    selector = pafs.FileSelector(directory.path, allow_not_found=True, recursive=False)
    with storage_errors(directory):
        return frozenset(info.base_name for info in directory.fs.get_file_info(selector))
