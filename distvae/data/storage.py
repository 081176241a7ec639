"""Local disks and object stores behind one surface: every path of the package is a Location."""

from __future__ import annotations

import contextlib
import os
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal
from urllib.parse import quote

import pyarrow as pa
import pyarrow.fs as pafs

from distvae.data import placing
from distvae.data.failures import first_line, is_storage_failure, translated
from distvae.errors import StorageError

__all__ = [
    "Found",
    "Location",
    "delete_file",
    "delete_tree",
    "exists",
    "is_storage_failure",
    "kind",
    "list_files",
    "locate",
    "locate_all",
    "make_directory",
    "publish",
    "read_bytes",
    "split_uri",
    "storage_errors",
    "write_bytes",
]

# scheme://authority, the path, and options such as ?endpoint_override=... for the file system
_URI = re.compile(r"([A-Za-z][A-Za-z0-9+.\-]*://[^/?]*)(.*?)(\?[a-z_]+=[^?/*]*)?", re.DOTALL)


@dataclass(frozen=True)
class Location:
    """A file or directory on a file system; can be pickled and sent to a worker.

    Attributes:
        fs: the file system.
        path: the path that ``fs`` understands (absolute for a local file system).
        uri: what the user wrote, to print; secrets in it are blanked, so locate no second time.
    """

    fs: pafs.FileSystem
    path: str
    uri: str

    def child(self, *names: str) -> Location:
        """Return the location of ``names`` below this one; each name may hold slashes."""
        tail = "/".join(name.strip("/") for name in names)
        if not tail:
            return self
        authority, path, query = split_uri(self.uri)
        stem = authority + (path or "/") if authority else path
        return Location(self.fs, _join(self.path, tail), _join(stem, tail) + query)

    @property
    def is_local(self) -> bool:
        """Whether ``path`` can be given to ``open`` and ``os``."""
        return bool(self.fs.type_name == "local")

    @property
    def name(self) -> str:
        """The last component of the path."""
        return self.path.rstrip("/").rsplit("/", 1)[-1]

    def __str__(self) -> str:
        """Return the URI, so that a message can name the place."""
        return self.uri


@dataclass(frozen=True)
class Found:
    """A file that a listing found.

    Attributes:
        relative: path below the listed directory, with forward slashes.
        size: bytes.
        modified_ns: time of last modification, nanoseconds since 1970, where the storage has it.
    """

    relative: str
    size: int
    modified_ns: int | None = None


def locate(uri: str) -> Location:
    """Return the location of a local path (relative or with ``~`` allowed) or of a URI.

    The path of a URI is taken letter by letter, as the aws command does (``%20`` is no space),
    except for ``file://``. Nothing is read, but an ``s3://`` URI without region or endpoint asks
    AWS for the bucket's region.

    Raises:
        StorageError: unknown scheme, malformed URI, or unreachable storage.
    """
    return locate_all([uri])[0]


def locate_all(uris: Sequence[str]) -> list[Location]:
    """Return ``locate`` of each; URIs of one bucket or host share one file system.

    Raises:
        StorageError: like ``locate``.
    """
    roots: dict[str, Location] = {}
    return [_locate(uri, roots) for uri in uris]


def split_uri(uri: str) -> tuple[str, str, str]:
    """Return (scheme and authority, path, query) of a URI; a local path is ("", path, "").

    ``s3://bucket/a/*.parquet?region=eu-west-1`` is
    ``("s3://bucket", "/a/*.parquet", "?region=eu-west-1")``.
    """
    match = _URI.fullmatch(uri)
    return (match[1], match[2], match[3] or "") if match else ("", uri, "")


def read_bytes(location: Location) -> bytes:
    """Return the whole content of a file.

    Raises:
        StorageError: missing, forbidden or unreachable.
    """
    with storage_errors(location), location.fs.open_input_file(location.path) as stream:
        return bytes(stream.read())


def kind(location: Location) -> Literal["file", "directory", "absent"]:
    """Return what is at a location.

    Raises:
        StorageError: forbidden or unreachable.
    """
    with storage_errors(location):
        found = location.fs.get_file_info(location.path).type
    if found == pafs.FileType.NotFound:
        return "absent"
    return "directory" if found == pafs.FileType.Directory else "file"


def exists(location: Location) -> bool:
    """Return whether something is there; raises StorageError like ``kind``."""
    return kind(location) != "absent"


def list_files(location: Location, recursive: bool = True) -> list[Found]:
    """Return the files below a directory, sorted by relative path; empty when it is absent.

    Raises:
        StorageError: forbidden, unreachable, or not a directory.
    """
    selector = pafs.FileSelector(location.path, allow_not_found=True, recursive=recursive)
    with storage_errors(location):
        infos = location.fs.get_file_info(selector)
    base = location.path.rstrip("/") + "/"
    files = [info for info in infos if info.type == pafs.FileType.File]
    found = [
        Found(info.path.removeprefix(base), int(info.size or 0), info.mtime_ns) for info in files
    ]
    return sorted(found, key=lambda file: file.relative)


def delete_file(location: Location) -> None:
    """Delete a file; one that is absent already is no error.

    Raises:
        StorageError: forbidden or unreachable.
    """
    with storage_errors(location):
        if location.is_local:
            with contextlib.suppress(FileNotFoundError):
                os.unlink(location.path)
        elif exists(location):
            location.fs.delete_file(location.path)


def delete_tree(location: Location) -> None:
    """Delete a directory and all below it, if it is there; raises StorageError like ``kind``."""
    with storage_errors(location):
        if kind(location) == "directory":
            location.fs.delete_dir(location.path)


def make_directory(location: Location) -> None:
    """Make a directory and its parents; object stores need none and are left alone.

    Raises:
        StorageError: forbidden, unreachable, or a file is in the way.
    """
    if location.fs.type_name not in placing.OBJECT_STORES:
        with storage_errors(location):
            location.fs.create_dir(location.path, recursive=True)


def write_bytes(location: Location, data: bytes) -> None:
    """Write a whole file so that a reader sees the old content, or all of the new, or none.

    Missing parent directories are made.

    Raises:
        StorageError: forbidden, unreachable or full.
    """
    with storage_errors(location):
        if location.is_local:
            placing.write_local(location.path, data)
        else:
            placing.put(location.fs, location.path, data)


def publish(local_file: str, location: Location) -> None:
    """Move a finished local file to its final place, durably, and whole or not at all.

    On one disk by ``fsync`` and ``rename``; from another disk through a copy beside the target; to
    an object store by upload and a comparison of sizes. Missing parent directories are made.

    Raises:
        StorageError: forbidden, unreachable or full, or the upload arrived short.
    """
    with storage_errors(location):
        if location.is_local:
            placing.fsync(local_file)
            placing.replace(local_file, location.path)
            return
        size = os.path.getsize(local_file)
        placing.upload(local_file, location.fs, location.path)
        arrived = location.fs.get_file_info(location.path).size
        if arrived != size:
            rule = f"must be {size:,} bytes"
            raise StorageError(location.uri, f"arrived with {arrived} bytes", rule, "try again")
        os.unlink(local_file)


@contextlib.contextmanager
def storage_errors(location: Location) -> Iterator[None]:
    """Turn errors of the file systems into one-line StorageErrors inside a ``with``."""
    with translated(location.uri):
        yield


def _locate(uri: str, roots: dict[str, Location]) -> Location:
    authority, path, query = split_uri(uri)
    if not authority:
        if not uri:
            raise StorageError("path", "is empty", "a path or URI is needed", "name one")
        local = os.path.abspath(os.path.expanduser(uri))
        return Location(pafs.LocalFileSystem(), local, uri)
    shown = _blanked(authority, path, query)
    if authority == "file://":
        fs, decoded = _from_uri(authority + quote(path, safe="/%"), shown)
        return Location(fs, decoded, shown)
    key = authority + query
    if key not in roots:
        fs, base = _from_uri(authority + ("/" if path else "") + _options(authority, query), shown)
        roots[key] = Location(fs, base, shown)
    root = roots[key]
    below = path.strip("/")
    return Location(root.fs, _join(root.path, below) if below else root.path, shown)


def _options(authority: str, query: str) -> str:
    if not authority.startswith("s3") or "allow_delayed_open" in query:
        return query
    # A small object is then one PUT instead of a multipart upload: a tenth of the time, and a
    # killed process leaves no upload pending.
    return f"{query}{'&' if query else '?'}allow_delayed_open=true"


def _blanked(authority: str, path: str, query: str) -> str:
    if authority.startswith("s3"):
        authority = re.sub("//.*@", "//***@", authority)
    return authority + path + re.sub("(key|secret|token)=[^&]*", r"\1=***", query)


def _from_uri(uri: str, shown: str) -> tuple[pafs.FileSystem, str]:
    with translated(shown):
        try:
            fs, path = pafs.FileSystem.from_uri(uri)
        except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
            rule = "use a local path, s3://, gs://, hdfs:// or abfs://"
            raise StorageError(shown, first_line(error), rule) from error
    return fs, path


def _join(stem: str, tail: str) -> str:
    return f"{stem.rstrip('/')}/{tail}" if stem.rstrip("/") else f"{stem}{tail}"
