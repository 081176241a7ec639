"""From the DATA arguments of a command to the list of files they name."""

from __future__ import annotations

import glob
import os
import posixpath
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace

import pyarrow.fs as pafs

from distvae.data.storage import (
    Found,
    Location,
    list_files,
    locate,
    locate_all,
    read_bytes,
    split_uri,
    storage_errors,
)
from distvae.errors import DataError, StorageError, UsageError

__all__ = ["THREADS", "Candidate", "expand"]

THREADS = 32
"""Concurrent requests to storage while planning; they wait far more than they compute."""

_SUFFIXES = (".parquet", ".parq", ".pq")
_GLOB = {"**/": "(?:.*/)?", "**": ".*", "*": "[^/]*", "?": "[^/]"}
_WILDCARD = re.compile(r"[*?\[]")


@dataclass(frozen=True)
class Candidate:
    """A file that DATA names.

    Attributes:
        location: where it is.
        relative: its path below DATA, with forward slashes.
        modified_ns: time of last modification, nanoseconds since 1970, where known.
    """

    location: Location
    relative: str
    modified_ns: int | None


@dataclass(frozen=True)
class _Expanded:
    """Files of one argument, and the path of the folder that their names are relative to."""

    base: str
    files: list[tuple[Location, int | None]]


def expand(data: Sequence[str]) -> list[Candidate]:
    """Return the files that DATA names, each once, sorted by relative path.

    An argument is a file, a directory (searched through and through for ``*.parquet``, ``*.parq``
    and ``*.pq``; names beginning with ``_`` or ``.`` are skipped), a glob (``**`` crosses
    directories), or ``@list.txt`` with one of these per line. With one argument, ``relative`` is
    the path below the directory, below the part of the glob before the first wildcard, or the
    file's name; with several, the path below their common parent.

    Raises:
        UsageError: no argument, or arguments on different kinds of storage.
        StorageError: a path that is absent, a glob that matches nothing, or storage that fails.
        DataError: a directory without Parquet files, or an empty list.
    """
    arguments = [line for argument in data for line in _lines(argument)]
    if not arguments:
        raise UsageError("DATA", "is empty", "it must name files, directories or globs", "name one")
    split = [_split_glob(argument) for argument in arguments]
    anchors = locate_all([anchor for anchor, _ in split])
    with ThreadPoolExecutor(min(THREADS, len(arguments))) as pool:
        expanded = list(pool.map(_expand_one, arguments, anchors, [glob for _, glob in split]))
    base = _common_base(anchors, [one.base for one in expanded])
    files = {
        location.path: Candidate(location, location.path.removeprefix(base), modified_ns)
        for one in expanded
        for location, modified_ns in one.files
    }
    return sorted(files.values(), key=lambda file: file.relative)


def _lines(argument: str) -> list[str]:
    if not argument.startswith("@"):
        return [argument]
    location = locate(argument[1:])
    try:
        text = read_bytes(location).decode("utf-8")
    except UnicodeDecodeError as error:
        rule = "a list of files must be UTF-8 text"
        raise DataError(location.uri, "is not text", rule, "put one path on each line") from error
    lines = [line.strip() for line in text.splitlines()]
    paths = [line for line in lines if line and not line.startswith("#")]
    if not paths:
        raise DataError(location.uri, "names no file", "", "put one path on each line")
    return paths


def _split_glob(argument: str) -> tuple[str, str]:
    """Return (folder, pattern below it) of a glob, and (argument, "") of anything else."""
    authority, path, query = split_uri(argument)
    wildcard = _WILDCARD.search(path)
    if wildcard is None or (not authority and os.path.exists(os.path.expanduser(path))):
        return argument, ""
    folder, slash, _ = path[: wildcard.start()].rpartition("/")
    pattern = path[len(folder + slash) :]
    if authority:
        return authority + folder + query, pattern
    return folder or slash or ".", pattern


def _expand_one(argument: str, anchor: Location, pattern: str) -> _Expanded:
    if pattern:
        return _expand_glob(argument, anchor, pattern)
    with storage_errors(anchor):
        info = anchor.fs.get_file_info(anchor.path)
    if info.type == pafs.FileType.NotFound:
        raise StorageError(anchor.uri, "not found", "DATA must exist", "check the path")
    if info.type == pafs.FileType.File:
        return _Expanded(posixpath.dirname(anchor.path), [(anchor, info.mtime_ns)])
    found = [file for file in list_files(anchor) if _is_taken(file.relative)]
    if not found:
        rule = "a directory must hold *.parquet, *.parq or *.pq files"
        raise DataError(anchor.uri, "holds no Parquet file", rule, "name the files themselves")
    return _located(anchor, found)


def _expand_glob(argument: str, folder: Location, pattern: str) -> _Expanded:
    found = _match_local(folder, pattern) if folder.is_local else _match_remote(folder, pattern)
    found = [file for file in found if _is_shown(file.relative)]
    if not found:
        raise StorageError(argument, "matches no file", "DATA must exist", "check the pattern")
    return _located(folder, found)


def _located(folder: Location, found: list[Found]) -> _Expanded:
    files = [(folder.child(file.relative), file.modified_ns) for file in found]
    return _Expanded(folder.path, files)


def _match_local(folder: Location, pattern: str) -> list[Found]:
    """Walk no further than the pattern reaches; a directory that it names is taken whole."""
    found: list[Found] = []
    for relative in glob.glob(pattern, root_dir=folder.path, recursive=True):
        place = folder.child(relative.rstrip("/"))
        info = folder.fs.get_file_info(place.path)
        if info.type == pafs.FileType.Directory:
            stem = place.path[len(folder.path.rstrip("/")) + 1 :]
            below = [file for file in list_files(place) if _is_taken(file.relative)]
            found += [replace(file, relative=f"{stem}/{file.relative}") for file in below]
        elif info.type == pafs.FileType.File:
            found.append(Found(relative, int(info.size or 0), info.mtime_ns))
    return found


def _match_remote(folder: Location, pattern: str) -> list[Found]:
    """List all below the folder, which an object store answers fastest, and then match."""
    named = re.compile(_glob_regex(pattern.rstrip("/")))
    below = re.compile(_glob_regex(pattern.rstrip("/")) + "/(.*)", re.DOTALL)
    found: list[Found] = []
    for file in list_files(folder):
        inside = below.fullmatch(file.relative)
        if named.fullmatch(file.relative) or (inside and _is_taken(inside[inside.lastindex or 0])):
            found.append(file)
    return found


def _glob_regex(pattern: str) -> str:
    parts = re.split(r"(\*\*/|\*\*|\*|\?|\[[!^]?\]?[^\]]*\])", pattern)
    return "".join(_GLOB.get(part) or _class_regex(part) for part in parts)


def _class_regex(part: str) -> str:
    if len(part) < 3 or not (part.startswith("[") and part.endswith("]")):
        return re.escape(part)
    inside = part[1:-1].replace("\\", "\\\\")
    return f"[^{inside[1:]}/]" if inside[0] in "!^" else f"[{inside}]"


def _is_shown(relative: str) -> bool:
    return not any(part.startswith(("_", ".")) for part in relative.split("/"))


def _is_taken(relative: str) -> bool:
    return relative.lower().endswith(_SUFFIXES) and _is_shown(relative)


def _common_base(anchors: list[Location], bases: list[str]) -> str:
    """Return the path, with a slash at its end, that all files lie below."""
    kinds = sorted({anchor.fs.type_name for anchor in anchors})
    if len(kinds) > 1:
        rule = "the files of one run must lie on one kind of storage"
        raise UsageError("DATA", f"lies on {' and '.join(kinds)}", rule, "copy them together")
    common = posixpath.commonpath(bases)
    return common if common in ("", "/") else common + "/"
