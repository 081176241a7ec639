"""Which fragments of a broken-off run are done: their receipts, checked against the parts."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

from distvae.data import layout
from distvae.data.digest import file_sha256
from distvae.data.manifest import Receipt, parse_manifest, receipt_from_json
from distvae.data.storage import Location, list_files, read_bytes
from distvae.errors import DamageError

__all__ = ["Sizes", "file_sizes", "has_files", "read_receipts", "recover", "same_content"]

THREADS = 16
"""Small files read, or parts hashed, at once."""


@dataclass(frozen=True)
class Sizes:
    """What lies in ``DIR/data`` and ``DIR/_rejected``: bytes by file name."""

    data: Mapping[str, int]
    rejected: Mapping[str, int]


def file_sizes(directory: Location) -> Sizes:
    """Return the sizes of all files in ``DIR/data`` and ``DIR/_rejected``.

    Raises:
        StorageError: forbidden or unreachable.
    """
    data, rejected = (
        {found.relative: found.size for found in list_files(directory.child(name))}
        for name in (layout.DATA, layout.REJECTED)
    )
    return Sizes(data, rejected)


def has_files(receipt: Receipt, sizes: Sizes) -> bool:
    """Return whether the files that a receipt names are there, with the sizes it names."""
    if sizes.data.get(receipt.part) != receipt.bytes:
        return False
    rejected = receipt.rejected_part
    return rejected is None or sizes.rejected.get(rejected) == receipt.rejected_bytes


def same_content(directory: Location, receipt: Receipt) -> bool:
    """Return whether the bytes of a receipt's files hash to what it names.

    Raises:
        StorageError: a file is missing, forbidden or unreachable.
    """
    if file_sha256(directory.child(layout.DATA, receipt.part)) != receipt.sha256:
        return False
    if receipt.rejected_part is None:
        return True
    place = directory.child(layout.REJECTED, receipt.rejected_part)
    return file_sha256(place) == receipt.rejected_sha256


def read_receipts(directory: Location, fingerprint: str) -> tuple[dict[int, Receipt], list[str]]:
    """Return the receipts of the run with ``fingerprint`` by fragment, and warnings.

    One that cannot be read counts as absent, and is warned of: its fragment is done again.

    Raises:
        StorageError: forbidden or unreachable.
    """
    ours = re.compile(rf"\d{{9,}}-{re.escape(layout.short(fingerprint))}\.json")
    folder = directory.child(layout.RECEIPTS)
    names = [found.relative for found in list_files(folder) if ours.fullmatch(found.relative)]
    with ThreadPoolExecutor(THREADS) as pool:
        texts = pool.map(lambda name: read_bytes(folder.child(name)), names)
        receipts: dict[int, Receipt] = {}
        warnings = []
        for name, text in zip(names, texts, strict=True):
            try:
                receipt = receipt_from_json(text)
            except (ValueError, TypeError):
                warnings.append(f"{folder.child(name).uri}: unreadable; its fragment is done again")
                continue
            if receipt.fingerprint == fingerprint:
                receipts[receipt.fragment] = receipt
    return receipts, warnings


def recover(
    directory: Location, fingerprint: str, sizes: Sizes
) -> tuple[dict[int, Receipt], list[str]]:
    """Return the fragments of a broken-off run that are done, and warnings.

    Done is a fragment whose receipt and files are there, the files with the right size. Where a
    manifest of the same run lies beside them (it broke off in its last steps, or is overwriting
    its own output, perhaps because that was damaged), sizes are not trusted: all is hashed again.

    Raises:
        StorageError: forbidden or unreachable.
    """
    receipts, warnings = read_receipts(directory, fingerprint)
    known, more = _from_manifest(directory, fingerprint)
    there = {
        index: receipt
        for index, receipt in {**known, **receipts}.items()
        if has_files(receipt, sizes)
    }
    if not known:
        return there, warnings + more
    sound = _sound(directory, there.values())
    again = [
        f"{there[index].part}: differs from its record; done again"
        for index in there.keys() - sound
    ]
    return {index: there[index] for index in sorted(sound)}, warnings + more + sorted(again)


def _from_manifest(directory: Location, fingerprint: str) -> tuple[dict[int, Receipt], list[str]]:
    if layout.MANIFEST not in layout.entries(directory):
        return {}, []
    place = directory.child(layout.MANIFEST)
    try:
        manifest = parse_manifest(read_bytes(place), place.uri)
    except DamageError as error:
        return {}, [f"{error.message}; written anew at the end"]
    ours = [receipt for receipt in manifest.receipts if receipt.fingerprint == fingerprint]
    return {receipt.fragment: receipt for receipt in ours}, []


def _sound(directory: Location, receipts: Iterable[Receipt]) -> set[int]:
    rows = list(receipts)
    with ThreadPoolExecutor(THREADS) as pool:
        same = pool.map(lambda receipt: same_content(directory, receipt), rows)
        return {row.fragment for row, equal in zip(rows, same, strict=True) if equal}
