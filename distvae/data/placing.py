"""How a whole file comes to its place: rename on a disk, one unbroken upload to an object store."""

from __future__ import annotations

import contextlib
import errno
import os
import secrets
import shutil
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor

import pyarrow.fs as pafs

__all__ = ["OBJECT_STORES", "fsync", "put", "replace", "upload", "write_local"]

OBJECT_STORES = frozenset({"s3", "gcs", "abfs"})
"""``type_name`` of the file systems that have no directories of their own."""


def write_local(path: str, data: bytes) -> None:
    """Write a local file durably, under its name only when it is whole. Raises OSError."""
    temporary = _beside(path)
    try:
        with open(temporary, "xb") as stream:
            stream.write(data)
            stream.flush()
            os.fsync(stream.fileno())
        replace(temporary, path)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)


def replace(source: str, target: str) -> None:
    """Move a local file, atomically at the target and durably; makes parents. Raises OSError."""
    folder = os.path.dirname(target)
    os.makedirs(folder, exist_ok=True)
    try:
        os.replace(source, target)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        _replace_from_other_disk(source, target)
    fsync(folder)


def fsync(path: str) -> None:
    """Force a local file's content, or a directory's names, to the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def put(fs: pafs.FileSystem, path: str, data: bytes) -> None:
    """Write a remote file in one piece; ``data`` is there whole or not at all. Raises OSError."""

    def action() -> None:
        stream = fs.open_output_stream(path)
        stream.write(data)
        stream.close()

    _make_parents(fs, path)
    _unbroken(action)


def upload(local_file: str, fs: pafs.FileSystem, path: str) -> None:
    """Stream a local file to a remote path, whole or not at all. Raises OSError."""

    def action() -> None:
        pafs.copy_files(
            os.path.abspath(local_file),
            path,
            source_filesystem=pafs.LocalFileSystem(),
            destination_filesystem=fs,
        )

    _make_parents(fs, path)
    _unbroken(action)


def _beside(path: str) -> str:
    folder, name = os.path.split(path)
    os.makedirs(folder, exist_ok=True)
    return os.path.join(folder, f".{name}.{os.getpid()}.{secrets.token_hex(4)}.tmp")


def _replace_from_other_disk(source: str, target: str) -> None:
    temporary = _beside(target)
    try:
        shutil.copyfile(source, temporary)
        fsync(temporary)
        os.replace(temporary, target)
    finally:
        with contextlib.suppress(FileNotFoundError):
            os.unlink(temporary)
    os.unlink(source)


def _make_parents(fs: pafs.FileSystem, path: str) -> None:
    folder = path.rpartition("/")[0]
    if folder and fs.type_name not in OBJECT_STORES:
        fs.create_dir(folder, recursive=True)


def _unbroken(action: Callable[[], None]) -> None:
    """Run ``action`` in a thread of its own, where no KeyboardInterrupt can land.

    A remote stream that an exception leaves half-way publishes what it has: pyarrow closes it when
    it is collected, and it has no way to abort.
    """
    with ThreadPoolExecutor(1) as pool:
        pool.submit(action).result()
