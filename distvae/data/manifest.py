"""Receipts, what a finished fragment durably recorded, and the manifest they are folded into."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distvae.data.layout import MANIFEST
from distvae.data.storage import Location, read_bytes, write_bytes
from distvae.errors import DamageError, DistvaeError

__all__ = [
    "FILTERED",
    "FINGERPRINT_KEY",
    "MODEL_KEY",
    "SUMMARY_PREFIX",
    "VERSION_KEY",
    "Manifest",
    "Receipt",
    "Totals",
    "manifest_bytes",
    "parse_manifest",
    "read_manifest",
    "receipt_from_json",
    "receipt_to_json",
    "totals",
    "write_manifest",
]

FINGERPRINT_KEY = "distvae.fingerprint"
MODEL_KEY = "distvae.model_id"
VERSION_KEY = "distvae.version"
SUMMARY_PREFIX = "summary_"
_CONTENT_KEY = "distvae.content_sha256"
FILTERED = "rows_filtered"
"""Name of the summary figure that counts the rows of a fragment that were not asked for."""

_OPTIONS = {"compression": "zstd", "write_page_checksum": True, "store_schema": False}


@dataclass(frozen=True)
class Receipt:
    """What one finished fragment recorded; a row of the manifest.

    Attributes:
        fragment: index of the fragment in the plan.
        fingerprint: the run's, 64 hexadecimal digits.
        part: file name in ``DIR/data``.
        first_row: absolute row of the input (or of the endless synthetic table).
        rows_in: ``rows_out + rows_rejected``: the rows that the job was asked to use.
        bytes: size of the part; sha256: of its bytes, 64 hexadecimal digits.
        rejected_part: file name in ``DIR/_rejected``, None if no row was rejected; its size and
            sha256 (0 and None then) follow.
        sources: JSON list of ``[file, first row in the file, rows]``.
        summary: figures of the fragment by name; `FILTERED` counts what ``--where`` left out.
    """

    fragment: int
    fingerprint: str
    part: str
    first_row: int
    rows_in: int
    rows_out: int
    rows_rejected: int
    bytes: int
    sha256: str
    rejected_part: str | None = None
    rejected_bytes: int = 0
    rejected_sha256: str | None = None
    sources: str = "[]"
    summary: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True)
class Manifest:
    """A manifest read back: the fingerprint of its last run and its rows, in fragment order."""

    fingerprint: str
    receipts: tuple[Receipt, ...]


@dataclass(frozen=True)
class Totals:
    """Sums over receipts; ``bytes`` are those of the parts, without the rejected ones."""

    parts: int
    rows_in: int
    rows_out: int
    rows_rejected: int
    bytes: int


_NAMES = tuple(item.name for item in fields(Receipt))
_SCHEMA = pa.schema(
    [
        pa.field("fragment", pa.int64(), nullable=False),
        pa.field("fingerprint", pa.string(), nullable=False),
        pa.field("part", pa.string(), nullable=False),
        pa.field("first_row", pa.int64(), nullable=False),
        pa.field("rows_in", pa.int64(), nullable=False),
        pa.field("rows_out", pa.int64(), nullable=False),
        pa.field("rows_rejected", pa.int64(), nullable=False),
        pa.field("bytes", pa.int64(), nullable=False),
        pa.field("sha256", pa.string(), nullable=False),
        pa.field("rejected_part", pa.string()),
        pa.field("rejected_bytes", pa.int64(), nullable=False),
        pa.field("rejected_sha256", pa.string()),
        pa.field("sources", pa.string(), nullable=False),
    ]
)


def receipt_to_json(receipt: Receipt) -> bytes:
    """Return the one JSON text of a receipt."""
    summary = {name: float(value) for name, value in receipt.summary.items()}
    values = {**asdict(receipt), "summary": summary}
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def receipt_from_json(data: bytes) -> Receipt:
    """Return the receipt of a JSON text.

    Raises:
        ValueError: not the text of a receipt.
    """
    values = json.loads(data)
    if not isinstance(values, dict) or sorted(values) != sorted(_NAMES):
        raise ValueError("not a receipt")
    return Receipt(**values)


def totals(receipts: Iterable[Receipt]) -> Totals:
    """Return the sums over ``receipts``."""
    rows = [(1, r.rows_in, r.rows_out, r.rows_rejected, r.bytes) for r in receipts]
    return (
        Totals(*(sum(column) for column in zip(*rows, strict=True))) if rows else Totals(*[0] * 5)
    )


def manifest_bytes(receipts: Iterable[Receipt], footer: Mapping[str, str]) -> bytes:
    """Return the manifest file: a row per receipt in fragment order, in one row group.

    Summary figures become float64 columns named ``summary_NAME``.

    Args:
        receipts: in any order.
        footer: key-value metadata; must hold ``distvae.fingerprint``.

    Raises:
        DistvaeError: the footer lacks the fingerprint.
    """
    if FINGERPRINT_KEY not in footer:
        raise DistvaeError(MANIFEST, "no fingerprint", f"its footer needs {FINGERPRINT_KEY}")
    rows = sorted(receipts, key=lambda receipt: receipt.fragment)
    columns = [
        pa.array([getattr(row, item.name) for row in rows], type=item.type) for item in _SCHEMA
    ]
    figures = sorted({name for row in rows for name in row.summary})
    schema = _SCHEMA
    for name in figures:
        schema = schema.append(pa.field(SUMMARY_PREFIX + name, pa.float64()))
        columns.append(pa.array([row.summary.get(name) for row in rows], type=pa.float64()))
    metadata = {**footer, _CONTENT_KEY: _content_sha256(rows)}
    sink = pa.BufferOutputStream()
    writer = pq.ParquetWriter(sink, schema, **_OPTIONS)
    writer.write_table(pa.table(columns, schema=schema), row_group_size=max(1, len(rows)))
    writer.add_key_value_metadata(dict(sorted(metadata.items())))
    writer.close()
    return bytes(sink.getvalue())


def parse_manifest(data: bytes, name: str = MANIFEST) -> Manifest:
    """Return the manifest that ``manifest_bytes`` gave.

    Args:
        data: the file.
        name: what to call it in an error.

    Raises:
        DamageError: it cannot be read, or it is not what was written.
    """
    remedy = "rerun the job with --mode overwrite"
    try:
        return _checked(*_plain_rows(data))
    except (pa.ArrowException, OSError, KeyError, TypeError, ValueError) as error:
        value = f"cannot be read ({str(error).strip()[:100]})"
        raise DamageError(name, value, "must be a manifest of distvae", remedy) from error


def write_manifest(
    directory: Location, receipts: Iterable[Receipt], footer: Mapping[str, str]
) -> None:
    """Write ``DIR/_manifest.parquet`` in one step: readers see the old one or the new one.

    Raises:
        StorageError: forbidden, unreachable or full.
    """
    write_bytes(directory.child(MANIFEST), manifest_bytes(receipts, footer))


def read_manifest(directory: Location) -> Manifest:
    """Return the manifest of a dataset.

    Raises:
        StorageError: missing, forbidden or unreachable.
        DamageError: it is not what was written.
    """
    place = directory.child(MANIFEST)
    return parse_manifest(read_bytes(place), place.uri)


def _checked(footer: Mapping[bytes, bytes], rows: list[dict[str, Any]]) -> Manifest:
    receipts = tuple(_receipt(row) for row in rows)
    if footer[_CONTENT_KEY.encode()].decode() != _content_sha256(receipts):
        raise ValueError("its rows are not those that were written")
    return Manifest(footer[FINGERPRINT_KEY.encode()].decode(), receipts)


def _plain_rows(data: bytes) -> tuple[dict[bytes, bytes], list[dict[str, Any]]]:
    """Return footer and rows; only of plain types: an extension type may run code when read."""
    footer: dict[bytes, bytes] = pq.read_metadata(pa.BufferReader(data)).metadata or {}
    if b"ARROW:schema" in footer:
        raise ValueError("it has a schema that was not written")
    file = pq.ParquetFile(pa.BufferReader(data), page_checksum_verification=True)
    columns = list(file.schema_arrow)
    figures = columns[len(_SCHEMA) :]
    plain = all(f.name.startswith(SUMMARY_PREFIX) and f.type == pa.float64() for f in figures)
    if not (plain and pa.schema(columns[: len(_SCHEMA)]).equals(_SCHEMA)):
        raise ValueError("its columns are not those that were written")
    return footer, file.read(use_threads=False).to_pylist()


def _receipt(row: dict[str, Any]) -> Receipt:
    values = {name: row[name] for name in _SCHEMA.names}
    summary = {
        name.removeprefix(SUMMARY_PREFIX): value
        for name, value in row.items()
        if name.startswith(SUMMARY_PREFIX) and value is not None
    }
    return Receipt(**values, summary=summary)


def _content_sha256(receipts: Iterable[Receipt]) -> str:
    # Page checksums do not cover the Parquet footer, which holds types and counts.
    digest = hashlib.sha256()
    for receipt in receipts:
        digest.update(receipt_to_json(receipt) + b"\n")
    return digest.hexdigest()
