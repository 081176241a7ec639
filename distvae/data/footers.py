"""Parquet footers: one ranged read of a file's tail, checked before any value is built."""

from __future__ import annotations

import base64
import binascii
import hashlib
from collections import Counter
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distvae.data.failures import first_line, is_storage_failure
from distvae.data.storage import Location, storage_errors
from distvae.errors import DataError

__all__ = ["Footer", "RowGroup", "open_parquet", "read_footer"]

_TAIL = 64 << 10
_REFUSED = (b"ray.data.arrow_pickled_object", b"arrow.py_extension_type")
_EXTENSION = b"ARROW:extension:name"
_PLAIN = b"arrow_extension_name"
_ONLY_PARQUET = "name Parquet files only"


@dataclass(frozen=True)
class RowGroup:
    """Sizes of one row group.

    Attributes:
        rows: number of rows.
        bytes: bytes in the file, which the file's size is shared out for by uncompressed size.
        uncompressed_bytes: bytes of all its columns, encoded but not compressed.
    """

    rows: int
    bytes: int
    uncompressed_bytes: int


@dataclass(frozen=True)
class Footer:
    """What the tail of a Parquet file says.

    Attributes:
        metadata: the parsed footer; extension types in it are plain storage types.
        sha256: hash of the raw footer: the metadata, its length and the magic bytes.
        size: bytes of the whole file.
        etag: the object store's own tag of the content, where it has one.
    """

    metadata: pq.FileMetaData
    sha256: str
    size: int
    etag: str | None

    def row_groups(self) -> tuple[RowGroup, ...]:
        """Return the sizes of all row groups, in order."""
        groups = [self.metadata.row_group(i) for i in range(self.metadata.num_row_groups)]
        sizes = [int(group.total_byte_size) for group in groups]
        total = max(1, sum(sizes))
        return tuple(
            RowGroup(int(group.num_rows), self.size * size // total, size)
            for group, size in zip(groups, sizes, strict=True)
        )

    def schema(self, location: Location, known: pa.Schema | None = None) -> pa.Schema:
        """Return the Arrow schema without metadata; ``known`` itself when it is the same.

        Raises:
            DataError: a column's type is one that Arrow cannot read, or two columns have one name.
        """
        try:
            schema = self.metadata.schema.to_arrow_schema()
        except (pa.ArrowException, OSError) as error:
            raise DataError(location.uri, first_line(error), remedy="write it again") from error
        if known is not None and schema.equals(known):
            return known
        twice = [name for name, times in Counter(schema.names).items() if times > 1]
        if twice:
            rule = f"names of columns must differ, in {location.uri} too"
            raise DataError(f"column {twice[0]!r}", "is there twice", rule, "rename one of them")
        return pa.schema([pa.field(f.name, _bare(f.type), f.nullable) for f in schema])


def read_footer(location: Location) -> Footer:
    """Read and check the footer of a Parquet file; no values are read.

    Raises:
        StorageError: missing, forbidden or unreachable.
        DataError: not Parquet, truncated, encrypted, damaged, or holding pickled objects.
    """
    with storage_errors(location), location.fs.open_input_file(location.path) as stream:
        return _footer_of(stream, location)


def open_parquet(
    location: Location, footer_sha256: str, buffer_bytes: int = 1 << 20, whole: bool = False
) -> pq.ParquetFile:
    """Open a Parquet file for reading values: bounded buffers, page checksums verified.

    Args:
        location: where it is.
        footer_sha256: hash of its raw footer when the run was planned.
        buffer_bytes: size of each read, for each column.
        whole: fetch all that is asked for in few large reads and hold it, which suits small row
            groups far away.

    Raises:
        StorageError: missing, forbidden or unreachable.
        DataError: the footer is no longer the one with this hash, or is damaged.
    """
    with storage_errors(location):
        stream = location.fs.open_input_file(location.path)
        footer = _footer_of(stream, location)
    if footer.sha256 != footer_sha256:
        rule = "inputs must stay as they were when the run was planned"
        raise DataError(location.uri, "has changed", rule, "start again on the new file")
    return pq.ParquetFile(
        stream,
        metadata=footer.metadata,
        pre_buffer=whole,
        buffer_size=buffer_bytes,
        page_checksum_verification=True,
    )


def _footer_of(stream: Any, location: Location) -> Footer:
    size = int(stream.size())
    tail = _read_at(stream, max(0, size - _TAIL), min(size, _TAIL))
    _check_magic(stream, tail, size, location)
    length = int.from_bytes(tail[-8:-4], "little") + 8
    if length + 4 > size:
        raise DataError(location.uri, "is truncated or damaged", "", "fetch it again")
    if length > len(tail):
        tail = _read_at(stream, size - length, length - len(tail)) + tail
    raw = tail[len(tail) - length :]
    tags = {str(key).lower(): value for key, value in (stream.metadata() or {}).items()}
    etag = tags.get("etag")
    return Footer(
        _parse(raw, location),
        hashlib.sha256(raw).hexdigest(),
        size,
        None if etag is None else _text(etag).strip('"'),
    )


def _read_at(stream: Any, offset: int, length: int) -> bytes:
    return bytes(stream.read_at(length, offset))


def _check_magic(stream: Any, tail: bytes, size: int, location: Location) -> None:
    if size == 0:
        raise DataError(location.uri, "is empty (0 bytes)", "it must be Parquet", _ONLY_PARQUET)
    if size >= 12 and tail[-4:] == b"PAR1":
        return
    if tail[-4:] == b"PARE":
        raise DataError(location.uri, "is encrypted", "keys are not supported", "decrypt it first")
    if _read_at(stream, 0, 4) == b"PAR1":
        raise DataError(location.uri, "is truncated", "its footer is missing", "fetch it again")
    raise DataError(
        location.uri, "is not Parquet", "it must begin and end with PAR1", _ONLY_PARQUET
    )


def _parse(raw: bytes, location: Location) -> pq.FileMetaData:
    try:
        metadata = pq.read_metadata(pa.BufferReader(raw))
        plain = _without_extensions(raw, (metadata.metadata or {}).get(b"ARROW:schema"), location)
        return metadata if plain is raw else pq.read_metadata(pa.BufferReader(plain))
    except (pa.ArrowException, OSError, binascii.Error) as error:
        if isinstance(error, DataError) or is_storage_failure(error):
            raise
        value = f"has a damaged footer ({first_line(error)})"
        raise DataError(location.uri, value, "", "fetch it again") from error


def _without_extensions(raw: bytes, encoded: bytes | None, location: Location) -> bytes:
    """Return the footer with every extension type turned to its storage type.

    A type that a library has registered in this process would otherwise be built from bytes of
    the file, and the types read would depend on what is imported.
    """
    if encoded is None:
        return raw
    message = base64.b64decode(encoded)
    for name in _REFUSED:
        if name in message:
            value = f"holds the extension type {name.decode()}"
            rule = "reading it runs code that the file brings along"
            raise DataError(location.uri, value, rule, "write that column as a plain Arrow type")
    if _EXTENSION not in message:
        return raw
    return raw.replace(encoded, base64.b64encode(message.replace(_EXTENSION, _PLAIN)))


def _bare(kind: pa.DataType) -> pa.DataType:
    """Return a type without the field metadata that its list elements may carry."""
    if pa.types.is_fixed_size_list(kind):
        return pa.list_(_bare_field(kind.value_field), kind.list_size)
    if pa.types.is_large_list(kind):
        return pa.large_list(_bare_field(kind.value_field))
    if pa.types.is_list(kind):
        return pa.list_(_bare_field(kind.value_field))
    return kind


def _bare_field(field: pa.Field) -> pa.Field:
    return pa.field(field.name, _bare(field.type), field.nullable)


def _text(value: Any) -> str:
    return value.decode("utf-8", "replace") if isinstance(value, bytes) else str(value)
