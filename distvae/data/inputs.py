"""The input of a run: its files, their row groups and their common schema, from footers alone."""

from __future__ import annotations

from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property, partial

import pyarrow as pa

from distvae.data.expand import THREADS, Candidate, expand
from distvae.data.footers import RowGroup, read_footer
from distvae.data.schemas import common_type, merge_schemas, partition_of, with_partitions
from distvae.data.storage import Location

__all__ = ["InputFile", "Inputs", "RowGroup", "scan"]


@dataclass(frozen=True)
class InputFile:
    """One Parquet file of the input; can be pickled and sent to a worker.

    Attributes:
        location: where it is.
        relative: its path below DATA, with forward slashes; the same wherever DATA is mounted.
        size: bytes.
        footer_sha256: hash of its raw footer.
        modified_ns: time of last modification, nanoseconds since 1970, where known.
        row_groups: sizes of its row groups, in order.
        partition: Hive partition columns of its path: (name, text of the value).
        schema: the common schema of all files of the input, partition columns included.
        etag: the object store's own tag of the content, where it has one.
        wrong: columns that it holds in another type, where that was asked to be no error; they
            read as null.
    """

    location: Location
    relative: str
    size: int
    footer_sha256: str
    modified_ns: int | None
    row_groups: tuple[RowGroup, ...]
    partition: tuple[tuple[str, str], ...]
    schema: pa.Schema
    etag: str | None = None
    wrong: tuple[str, ...] = ()

    @cached_property
    def rows(self) -> int:
        """Number of rows."""
        return sum(group.rows for group in self.row_groups)


@dataclass(frozen=True)
class Inputs:
    """All files of the input, sorted by ``relative``.

    Attributes:
        files: the files.
        schema: their common schema: the first file's columns, then the Hive partition columns.
    """

    files: tuple[InputFile, ...]
    schema: pa.Schema

    @cached_property
    def rows(self) -> int:
        """Number of rows in all files."""
        return sum(file.rows for file in self.files)


def scan(data: Sequence[str], expected: pa.Schema | None = None) -> Inputs:
    """Return the input that DATA names; reads footers only, many at a time.

    Directories, globs, ``@list.txt`` and names are as in ``expand``. ``key=value`` directories in
    a file's relative path are columns unless the files hold a column of that name: int32 when
    every value is such a number, else string.

    Args:
        data: what to read.
        expected: where given, a file that holds one of its columns in another type is no error,
            see ``InputFile.wrong``; files must still have the same columns.

    Raises:
        UsageError: no DATA, or on different kinds of storage.
        StorageError: missing, forbidden or unreachable.
        DataError: a file that is not Parquet, truncated, encrypted or damaged, that holds pickled
            objects, or whose columns are not those of the first file.
    """
    candidates = expand(data)
    first = _scan_one(candidates[0])
    with ThreadPoolExecutor(min(THREADS, len(candidates))) as pool:
        others = pool.map(partial(_scan_one, known=first.schema), candidates[1:])
        scanned = [first, *others]
    names = [candidate.location.uri for candidate in candidates]
    stored = first.schema if expected is None else _with_types(first.schema, expected)
    wrong: list[set[str]] = [set() for _ in scanned]
    for one, name, found in zip(scanned, names, wrong, strict=True):
        told = None if expected is None else found
        stored = merge_schemas(stored, one.schema, names[0], name, told)
    columns = frozenset(stored.names)
    partitions = [partition_of(candidate.relative, columns) for candidate in candidates]
    schema = with_partitions(stored, partitions, names)
    files = tuple(
        _input_file(candidate, one, partition, schema, tuple(sorted(found)))
        for candidate, one, partition, found in zip(
            candidates, scanned, partitions, wrong, strict=True
        )
    )
    return Inputs(files, schema)


def _with_types(schema: pa.Schema, expected: pa.Schema) -> pa.Schema:
    """The schema with the types of the expected columns where they differ in more than width."""
    fields = []
    for field in schema:
        kind = field.type
        if field.name in expected.names:
            other = expected.field(field.name).type
            kind = kind if common_type(kind, other) is not None else other
        fields.append(field.with_type(kind))
    return pa.schema(fields)


@dataclass(frozen=True)
class _Scanned:
    """The parts of a footer that stay."""

    schema: pa.Schema
    size: int
    sha256: str
    etag: str | None
    row_groups: tuple[RowGroup, ...]


def _scan_one(candidate: Candidate, known: pa.Schema | None = None) -> _Scanned:
    footer = read_footer(candidate.location)
    schema = footer.schema(candidate.location, known)
    return _Scanned(schema, footer.size, footer.sha256, footer.etag, footer.row_groups())


def _input_file(
    candidate: Candidate,
    one: _Scanned,
    partition: tuple[tuple[str, str], ...],
    schema: pa.Schema,
    wrong: tuple[str, ...],
) -> InputFile:
    return InputFile(
        candidate.location,
        candidate.relative,
        one.size,
        one.sha256,
        candidate.modified_ns,
        one.row_groups,
        partition,
        schema,
        one.etag,
        wrong,
    )
