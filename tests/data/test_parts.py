from __future__ import annotations

import errno
import hashlib
import itertools
import os
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distvae.data import parts
from distvae.data.digest import HashingFile
from distvae.data.layout import is_part, part_name
from distvae.data.manifest import Receipt, receipt_from_json
from distvae.data.parquet_options import writer_options
from distvae.data.parts import PartWriter
from distvae.data.storage import Location, locate
from distvae.errors import DistvaeError, StorageError
from tests.data.example_run import (
    FOOTER,
    ROWS,
    SCHEMA,
    make_record,
    plan,
    rows_of,
    tree,
    write_fragment,
)

RECORD = make_record()
PRINT = RECORD["fingerprint"]


@pytest.fixture(params=["local", "remote"])
def directory(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: Any) -> Location:
    folder = tmp_path / "out"
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    monkeypatch.setattr("tempfile.tempdir", str(temporary))
    if request.param == "local":
        return locate(str(folder))
    fs = pafs.SubTreeFileSystem(str(tmp_path), pafs.LocalFileSystem())
    return Location(fs, "out", "test://out")


def _writer(directory: Location, rows_per_row_group: int = 40) -> PartWriter:
    return PartWriter(directory, plan()[0], PRINT, SCHEMA, FOOTER, rows_per_row_group)


def test_part_name_is_a_function_of_fragment_and_fingerprint() -> None:
    assert part_name(7, "0123456789abcdef") == "part-000000007-01234567.parquet"
    assert is_part(part_name(1_234_567_890, PRINT))
    assert not is_part("part-1.parquet")


def test_a_committed_part_is_what_its_receipt_says(directory: Location, tmp_path: Path) -> None:
    receipt = write_fragment(directory, plan()[1], RECORD)

    files = tree(tmp_path / "out")
    part = files[f"data/{receipt.part}"]
    rejected = files[f"_rejected/{receipt.rejected_part}"]
    assert len(files) == 3
    assert (receipt.bytes, receipt.sha256) == (len(part), hashlib.sha256(part).hexdigest())
    assert receipt.rejected_bytes == len(rejected)
    assert receipt.rejected_sha256 == hashlib.sha256(rejected).hexdigest()
    assert (receipt.rows_in, receipt.rows_out, receipt.rows_rejected) == (ROWS, ROWS - 13, 13)
    assert receipt_from_json(files[f"_receipts/000000001-{PRINT[:8]}.json"]) == receipt
    assert not any((tmp_path / "temporary").iterdir())

    table = pq.read_table(pa.BufferReader(part), page_checksum_verification=True)
    kept = rows_of(plan()[1])["id"].to_numpy() % 7 != 0
    assert table.replace_schema_metadata().equals(rows_of(plan()[1]).filter(pa.array(kept)))
    refused = pq.read_table(pa.BufferReader(rejected))
    assert refused.column_names == ["id", "reason"]
    assert refused.num_rows == 13


def test_footer_carries_fingerprint_model_and_version(directory: Location, tmp_path: Path) -> None:
    receipt = write_fragment(directory, plan()[0], RECORD)
    metadata = pq.read_metadata(tmp_path / "out" / "data" / receipt.part)
    key_values = {key.decode(): value.decode() for key, value in metadata.metadata.items()}
    assert {key: key_values[key] for key in (*FOOTER, "distvae.fingerprint")} == {
        **FOOTER,
        "distvae.fingerprint": PRINT,
    }
    assert [metadata.row_group(i).num_rows for i in range(3)] == [40, 40, 10]
    assert metadata.row_group(0).column(2).compression == "UNCOMPRESSED"
    assert metadata.row_group(0).column(1).compression == "LZ4"


def test_an_exception_publishes_nothing(directory: Location, tmp_path: Path) -> None:
    def interrupted() -> None:
        with _writer(directory) as writer:
            writer.write(rows_of(plan()[0]))
            writer.reject(pa.table({"reason": ["no"]}))
            raise KeyError("lost")

    with pytest.raises(KeyError):
        interrupted()
    assert tree(tmp_path) == {}


def test_leaving_without_commit_publishes_nothing(directory: Location, tmp_path: Path) -> None:
    with _writer(directory) as writer:
        writer.write(rows_of(plan()[0]))
    assert tree(tmp_path) == {}


def test_rows_that_do_not_add_up_publish_nothing(directory: Location, tmp_path: Path) -> None:
    with _writer(directory) as writer:
        writer.write(rows_of(plan()[0]))
        with pytest.raises(DistvaeError, match="rows in must be rows out") as caught:
            writer.commit(ROWS + 1)
    assert caught.value.exit_code == 70
    assert tree(tmp_path) == {}


def test_another_schema_is_refused(directory: Location) -> None:
    table = rows_of(plan()[0])
    with _writer(directory) as writer:
        with pytest.raises(DistvaeError, match="must have columns"):
            writer.write(table.select(["id"]))
        with pytest.raises(DistvaeError, match="must have id: int64 not null"):
            writer.write(table.set_column(0, "id", table["id"].cast(pa.int32())))


def test_a_part_without_rows_is_a_part(directory: Location, tmp_path: Path) -> None:
    with _writer(directory) as writer:
        table = rows_of(plan()[0])
        writer.reject(table)
        receipt = writer.commit(ROWS)
    assert (receipt.rows_out, receipt.rows_rejected) == (0, ROWS)
    part = pq.read_table(tmp_path / "out" / "data" / receipt.part)
    assert part.schema.remove_metadata().equals(SCHEMA)
    assert part.num_rows == 0


def test_nothing_rejected_makes_no_rejected_file(directory: Location, tmp_path: Path) -> None:
    receipt = write_fragment(directory, plan()[0], RECORD)
    assert receipt.rejected_part is None
    assert not (tmp_path / "out" / "_rejected").exists()


def test_commit_order(directory: Location, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []
    for name in ("publish", "write_bytes"):
        real = getattr(parts, name)

        def seen(*args: Any, real: Any = real) -> None:
            place = next(arg for arg in args if isinstance(arg, Location))
            order.append(place.path.split("/")[-2])
            real(*args)

        monkeypatch.setattr(parts, name, seen)
    write_fragment(directory, plan()[1], RECORD)
    assert order == ["_rejected", "_receipts", "data"]


@pytest.mark.parametrize("failing", ["_rejected", "_receipts", "data"])
def test_a_storage_that_fails_at_any_step_leaves_no_part(
    failing: str, directory: Location, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("publish", "write_bytes"):
        real = getattr(parts, name)

        def broken(*args: Any, real: Any = real) -> None:
            place = next(arg for arg in args if isinstance(arg, Location))
            if failing in place.path:
                raise StorageError(place.uri, "unreachable")
            real(*args)

        monkeypatch.setattr(parts, name, broken)
    with pytest.raises(StorageError, match="unreachable"):
        write_fragment(directory, plan()[1], RECORD)
    files = tree(tmp_path)
    assert not [name for name in files if "/data/" in name or "_staging" in name]
    assert not any((tmp_path / "temporary").iterdir())


def test_a_full_disk_is_a_storage_error_and_publishes_nothing(
    directory: Location, tmp_path: Path
) -> None:
    class FullDisk:
        def write(self, _: bytes) -> int:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def close(self) -> None:
            pass

    def filled() -> None:
        with _writer(directory) as writer:
            file: Any = writer._part._file
            # The thread that writes may be between two writes of the header: swap, then close.
            file._stream, real = FullDisk(), file._stream
            real.close()
            for _ in range(20):
                writer.write(rows_of(plan()[0]))
            writer.commit(20 * ROWS)

    with pytest.raises(StorageError, match="no space left"):
        filled()
    assert tree(tmp_path) == {}


@settings(max_examples=25, deadline=None)
@given(st.lists(st.integers(1, ROWS - 1), max_size=8, unique=True), st.integers(7, 100))
def test_bytes_do_not_depend_on_how_rows_came(
    tmp_path_factory: pytest.TempPathFactory, cuts: list[int], rows_per_row_group: int
) -> None:
    table = rows_of(plan()[0])
    bounds = [0, *sorted(cuts), ROWS]

    def written(pieces: list[pa.Table]) -> Receipt:
        directory = locate(str(tmp_path_factory.mktemp("out")))
        with _writer(directory, rows_per_row_group) as writer:
            for piece in pieces:
                writer.write(piece)
            return writer.commit(ROWS)

    pieces = [table.slice(a, b - a) for a, b in itertools.pairwise(bounds)]
    assert written(pieces) == written([table])


def test_hashing_file_hashes_what_it_wrote(tmp_path: Path) -> None:
    chunks = [bytes([i]) * (i * 1000) for i in range(100)]
    file = HashingFile(str(tmp_path / "x"))
    for chunk in chunks:
        file.write(chunk)
    data = b"".join(chunks)
    assert file.finish() == (len(data), hashlib.sha256(data).hexdigest())
    assert (tmp_path / "x").read_bytes() == data


def test_options_by_type() -> None:
    schema = pa.schema(
        [
            ("row", pa.int64()),
            ("file", pa.dictionary(pa.int32(), pa.string())),
            ("image", pa.list_(pa.uint8(), 9)),
            ("nested", pa.struct([("f", pa.float64()), ("t", pa.map_(pa.string(), pa.int32()))])),
        ]
    )
    options = writer_options(schema)
    assert options["compression"]["image.list.element"] == "lz4"
    assert options["compression"]["nested.f"] == "none"
    assert set(options["use_dictionary"]) == {
        "file",
        "image.list.element",
        "nested.t.key_value.key",
    }
    assert set(options["write_statistics"]) == {"row", "file", "nested.f"}


def test_uint8_vectors_are_small(tmp_path: Path) -> None:
    width, rows = 64, 1000
    kind = pa.list_(pa.field("element", pa.uint8(), nullable=False), width)
    schema = pa.schema([pa.field("image", kind, nullable=False)])
    pixels = np.random.default_rng(0).integers(0, 256, rows * width, dtype=np.uint8)
    image = pa.FixedSizeListArray.from_arrays(pa.array(pixels), type=kind)
    table = pa.Table.from_arrays([image], schema=schema)
    with PartWriter(locate(str(tmp_path)), plan()[0], PRINT, schema, FOOTER) as writer:
        writer.write(table)
        receipt = writer.commit(rows)
    assert receipt.bytes < 1.3 * rows * width


def test_views_in_structs_are_written_in_row_groups(directory: Location, tmp_path: Path) -> None:
    """Arrow's writer cannot slice them."""
    words = pa.array([f"word {i}, longer than a view holds" for i in range(2500)])
    mask = pa.array([i % 3 == 0 for i in range(2500)])
    inner = pa.StructArray.from_arrays([words.cast(pa.string_view())], ["word"], mask=mask)
    table = pa.table({"s": pa.StructArray.from_arrays([inner], ["inner"]), "n": range(2500)})
    names = []
    for cut in (700, 2500):
        writer = PartWriter(directory, plan()[0], PRINT, table.schema, FOOTER, 1200)
        with writer:
            writer.write(table.slice(0, cut))
            writer.write(table.slice(cut))
            names.append(writer.commit(2500).sha256)
        written = pq.ParquetFile(next((tmp_path / "out" / "data").iterdir()))
        assert written.num_row_groups == 3
        assert written.read().equals(table)
    assert names[0] == names[1]
