"""Re-checks an output dataset against its manifest, to the byte."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from distvae.data import layout
from distvae.data.digest import file_sha256
from distvae.data.manifest import FINGERPRINT_KEY, Manifest, Receipt, parse_manifest, totals
from distvae.data.receipts import file_sizes
from distvae.data.storage import Location, kind, read_bytes, storage_errors
from distvae.errors import DamageError, StorageError

__all__ = ["Verified", "verify"]

_ANEW = "write it anew with --mode overwrite"
_THREADS = 8


@dataclass(frozen=True)
class Verified:
    """A dataset that is what its manifest says: parts, rows in them, bytes of them.

    ``rows_rejected`` are those in ``_rejected``, whose files were checked too.
    """

    parts: int
    rows: int
    bytes: int
    rows_rejected: int


@dataclass(frozen=True)
class _Expected:
    """A file as the manifest has it."""

    location: Location
    bytes: int
    sha256: str | None
    rows: int
    fingerprint: str


def verify(directory: Location, threads: int = _THREADS) -> Verified:
    """Check presence, size, sha256, footer and rows of every part; that nothing else is there.

    Args:
        directory: the dataset.
        threads: files hashed at once.

    Raises:
        DamageError: the first damage found, or the dataset is not finished or not one of ours.
        StorageError: absent, forbidden or unreachable.
    """
    manifest = _manifest(directory)
    expected = list(_expected(directory, manifest))
    _check_listing(directory, expected)
    with ThreadPoolExecutor(threads) as pool:
        # In the order of the manifest, so that the damage reported is the same every time.
        for damage in pool.map(_damage, expected):
            if damage is not None:
                pool.shutdown(wait=False, cancel_futures=True)
                raise damage
    sums = totals(manifest.receipts)
    return Verified(sums.parts, sums.rows_out, sums.bytes, sums.rows_rejected)


def _manifest(directory: Location) -> Manifest:
    """Return the manifest, once record, manifest and ``_SUCCESS`` are there and agree."""
    found = kind(directory)
    if found == "absent":
        raise StorageError(directory.uri, "not found", "must be a dataset", "check the path")
    names = layout.entries(directory) if found == "directory" else frozenset()
    if layout.RUN not in names:
        rule = "must be a dataset that distvae wrote"
        raise DamageError(directory.uri, f"has no {layout.RUN}", rule, "check the path")
    if layout.SUCCESS not in names:
        remedy = "finish it with --mode resume"
        raise DamageError(
            directory.uri, f"is not finished (no {layout.SUCCESS})", "must be finished", remedy
        )
    if layout.MANIFEST not in names:
        raise DamageError(directory.child(layout.MANIFEST).uri, "is missing", "", _ANEW)
    record = _record(directory.child(layout.RUN))
    place = directory.child(layout.MANIFEST)
    manifest = parse_manifest(read_bytes(place), place.uri)
    told = (record["fingerprint"], record["fragments"])
    counted = (manifest.fingerprint, len(manifest.receipts))
    if told != counted:
        value = f"fingerprint and fragments are {_pair(counted)}"
        raise DamageError(place.uri, value, f"{layout.RUN} says {_pair(told)}", _ANEW)
    return manifest


def _record(place: Location) -> Mapping[str, Any]:
    try:
        record = json.loads(read_bytes(place))
        return {"fingerprint": str(record["fingerprint"]), "fragments": int(record["fragments"])}
    except (ValueError, KeyError, TypeError) as error:
        raise DamageError(place.uri, "cannot be read", "must be a run's record", _ANEW) from error


def _pair(values: tuple[str, int]) -> str:
    return f"{layout.short(values[0])} and {values[1]:,}"


def _expected(directory: Location, manifest: Manifest) -> Iterator[_Expected]:
    data, rejected = directory.child(layout.DATA), directory.child(layout.REJECTED)
    for row in manifest.receipts:
        print_ = row.fingerprint
        yield _Expected(data.child(row.part), row.bytes, row.sha256, row.rows_out, print_)
        if row.rejected_part is not None:
            yield _rejected(rejected.child(row.rejected_part), row)


def _rejected(location: Location, row: Receipt) -> _Expected:
    return _Expected(
        location, row.rejected_bytes, row.rejected_sha256, row.rows_rejected, row.fingerprint
    )


def _check_listing(directory: Location, expected: list[_Expected]) -> None:
    sizes = file_sizes(directory)
    folders = ((layout.DATA, sizes.data), (layout.REJECTED, sizes.rejected))
    there = {
        directory.child(folder, name).path: (directory.child(folder, name), size)
        for folder, files in folders
        for name, size in files.items()
    }
    for file in expected:
        if file.location.path not in there:
            rule = f"must be there with {file.bytes:,} bytes"
            raise DamageError(file.location.uri, "is missing", rule, _ANEW)
        found = there.pop(file.location.path)[1]
        if found != file.bytes:
            rule = f"must have {file.bytes:,}"
            raise DamageError(file.location.uri, f"has {found:,} bytes", rule, _ANEW)
    for location, _ in there.values():
        rule = "nothing else may lie beside the parts"
        raise DamageError(location.uri, "is not in the manifest", rule, "move it away")


def _damage(file: _Expected) -> DamageError | None:
    found = file_sha256(file.location)
    if found != file.sha256:
        rule = f"must have {file.sha256}"
        return DamageError(file.location.uri, f"has sha256 {found}", rule, _ANEW)
    value = f"{file.rows:,} rows of run {file.fingerprint[:8]}"
    rule = f"the manifest says {value}"
    try:
        rows, fingerprint = _footer(file.location)
    except (pa.ArrowException, UnicodeDecodeError) as error:
        return DamageError(file.location.uri, f"is no Parquet file ({error})", rule, _ANEW)
    if (rows, fingerprint) != (file.rows, file.fingerprint):
        value = f"has {rows:,} rows of run {fingerprint[:8]}"
        return DamageError(file.location.uri, value, rule, _ANEW)
    return None


def _footer(location: Location) -> tuple[int, str]:
    with storage_errors(location), location.fs.open_input_file(location.path) as stream:
        metadata = pq.read_metadata(stream)
    key_values: Mapping[bytes, bytes] = metadata.metadata or {}
    return metadata.num_rows, key_values.get(FINGERPRINT_KEY.encode(), b"").decode()
