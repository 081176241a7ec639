from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distvae.data.manifest import (
    Receipt,
    manifest_bytes,
    parse_manifest,
    receipt_from_json,
    receipt_to_json,
)
from distvae.data.storage import locate
from distvae.data.verify import Verified, verify
from distvae.errors import DamageError, DistvaeError, StorageError
from tests.data.example_run import FRAGMENTS, ROWS, make_record, write_run


@pytest.fixture
def out(tmp_path: Path) -> Path:
    write_run(tmp_path / "out", "error", make_record())
    return tmp_path / "out"


def part(out: Path, index: int = 2) -> Path:
    return sorted((out / "data").iterdir())[index]


def flip(file: Path, position: int) -> None:
    data = bytearray(file.read_bytes())
    data[position] ^= 1
    file.write_bytes(data)


def test_a_sound_dataset(out: Path) -> None:
    size = sum(file.stat().st_size for file in (out / "data").iterdir())
    assert verify(locate(str(out))) == Verified(FRAGMENTS, FRAGMENTS * ROWS - 13, size, 13)


DAMAGE: dict[str, tuple[Callable[[Path], object], str]] = {
    "flipped byte": (lambda out: flip(part(out), 700), r"part-000000002.*has sha256.*must have"),
    "flipped byte in a footer": (lambda out: flip(part(out), -30), "part-000000002.*has sha256"),
    "missing part": (lambda out: part(out).unlink(), "part-000000002.*is missing.*bytes"),
    "truncated part": (
        lambda out: part(out).write_bytes(part(out).read_bytes()[:-9]),
        r"part-000000002.*has [\d,]+ bytes; must have",
    ),
    "empty part": (lambda out: part(out).write_bytes(b""), "part-000000002.*has 0 bytes"),
    "swapped parts": (
        lambda out: (
            part(out, 2).rename(out / "x"),
            part(out, 2).rename(out / "y"),
            (out / "x").rename(out / "data" / (out / "y").name),
        ),
        "part-00000000",
    ),
    "extra file": (
        lambda out: (out / "data" / "more.parquet").write_bytes(b"x"),
        "more.parquet.*is not in the manifest",
    ),
    "hidden extra file": (
        lambda out: (out / "data" / ".part.tmp").write_bytes(b"x"),
        r"\.part\.tmp.*is not in the manifest",
    ),
    "extra rejected file": (
        lambda out: (out / "_rejected" / "more.parquet").write_bytes(b"x"),
        "_rejected/more.parquet.*is not in the manifest",
    ),
    "flipped rejected byte": (
        lambda out: flip(next((out / "_rejected").iterdir()), 40),
        "_rejected/part-000000001.*has sha256",
    ),
    "missing rejected file": (
        lambda out: next((out / "_rejected").iterdir()).unlink(),
        "_rejected/part-000000001.*is missing",
    ),
    "no _SUCCESS": (lambda out: (out / "_SUCCESS").unlink(), "not finished.*--mode resume"),
    "no manifest": (lambda out: (out / "_manifest.parquet").unlink(), "_manifest.*is missing"),
    "truncated manifest": (
        lambda out: (out / "_manifest.parquet").write_bytes(b"PAR1"),
        "_manifest.parquet.*cannot be read",
    ),
    "no record": (lambda out: (out / "_run.json").unlink(), r"has no _run\.json"),
    "unreadable record": (lambda out: (out / "_run.json").write_text("{"), "_run.json.*cannot be"),
    "record of another run": (
        lambda out: (out / "_run.json").write_text(json.dumps(make_record(batch=64))),
        "_manifest.parquet.*fingerprint and fragments are",
    ),
}


@pytest.mark.parametrize("name", DAMAGE)
def test_damage_is_found_and_named(name: str, out: Path) -> None:
    hurt, message = DAMAGE[name]
    hurt(out)
    with pytest.raises(DamageError, match=message) as caught:
        verify(locate(str(out)))
    assert caught.value.exit_code == 7
    assert "\n" not in caught.value.message


def test_what_is_no_dataset(tmp_path: Path) -> None:
    with pytest.raises(StorageError, match="not found"):
        verify(locate(str(tmp_path / "none")))
    with pytest.raises(DamageError, match="must be a dataset that distvae wrote"):
        verify(locate(str(tmp_path)))
    (tmp_path / "file").write_text("")
    with pytest.raises(DamageError, match="must be a dataset that distvae wrote"):
        verify(locate(str(tmp_path / "file")))


def test_every_flipped_bit_of_a_manifest_is_found_or_harmless(out: Path) -> None:
    data = (out / "_manifest.parquet").read_bytes()
    sound = parse_manifest(data)
    found = 0
    for position in range(0, len(data), 7):
        hurt = bytearray(data)
        hurt[position] ^= 1 << (position % 8)
        try:
            same = parse_manifest(bytes(hurt))
        except DamageError:
            found += 1
        else:
            assert same.receipts == sound.receipts
    assert found > len(data) // 28


def test_a_part_whose_footer_belongs_to_another_run(out: Path) -> None:
    """Only possible with a manifest that was tampered with: its hash is right, its run is not."""
    manifest = parse_manifest((out / "_manifest.parquet").read_bytes())
    first = manifest.receipts[0]
    tampered = [Receipt(**{**vars(first), "fingerprint": "f" * 64}), *manifest.receipts[1:]]
    footer = {"distvae.fingerprint": manifest.fingerprint}
    (out / "_manifest.parquet").write_bytes(manifest_bytes(tampered, footer))
    with pytest.raises(DamageError, match=r"has 90 rows of run .*the manifest says 90 rows of run"):
        verify(locate(str(out)))


def test_manifest_round_trip_in_one_row_group() -> None:
    receipts = [
        Receipt(i, "a" * 64, f"p{i}", i, 3, 2, 1, 9, "b" * 64, summary={"x": i / 3, "n": 2})
        for i in reversed(range(5))
    ]
    data = manifest_bytes(receipts, {"distvae.fingerprint": "a" * 64})
    assert data == manifest_bytes(reversed(receipts), {"distvae.fingerprint": "a" * 64})
    assert parse_manifest(data).receipts == tuple(reversed(receipts))
    file = pq.ParquetFile(pa.BufferReader(data))
    assert file.num_row_groups == 1
    assert file.schema_arrow.names[-2:] == ["summary_n", "summary_x"]
    with pytest.raises(DistvaeError, match="no fingerprint"):
        manifest_bytes(receipts, {})


def test_receipt_json_round_trip() -> None:
    receipt = Receipt(1, "a", "p", 2, 3, 3, 0, 4, "b", sources='[["f", 0, 3]]', summary={"x": 0.1})
    assert receipt_from_json(receipt_to_json(receipt)) == receipt
    for text in (b"[]", b"{}", b"{", b"\xff"):
        with pytest.raises(ValueError, match=r".*"):
            receipt_from_json(text)
