from __future__ import annotations

import hashlib
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset as pads
import pyarrow.parquet as pq
import pytest

from distvae.data.footers import read_footer
from distvae.data.inputs import scan
from distvae.data.storage import locate
from distvae.errors import DataError, DistvaeError, StorageError, UsageError

TABLE = pa.table({"a": pa.array([1, 2, 3], pa.int32()), "b": ["x", "y", None]})


def write(path: Path, table: pa.Table = TABLE, **options: Any) -> Path:
    """Write a Parquet file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def test_what_a_footer_tells(tmp_path: Path) -> None:
    table = pa.table({"x": np.arange(1000), "y": np.zeros(1000, np.float32)})
    path = write(tmp_path / "f.parquet", table, row_group_size=300)
    file = scan([str(path)]).files[0]
    raw = path.read_bytes()
    length = int.from_bytes(raw[-8:-4], "little") + 8
    assert file.footer_sha256 == hashlib.sha256(raw[-length:]).hexdigest()
    assert file.size == len(raw)
    assert file.rows == 1000
    assert [group.rows for group in file.row_groups] == [300, 300, 300, 100]
    assert sum(group.bytes for group in file.row_groups) <= file.size
    stored = pq.read_metadata(path)
    uncompressed = [stored.row_group(i).total_byte_size for i in range(4)]
    assert [group.uncompressed_bytes for group in file.row_groups] == uncompressed
    assert file.modified_ns == path.stat().st_mtime_ns
    assert pickle.loads(pickle.dumps(file)) == file


def test_a_footer_longer_than_the_first_read(tmp_path: Path) -> None:
    table = pa.table({f"column number {i}": [i] for i in range(2000)})
    path = write(tmp_path / "wide.parquet", table)
    raw = path.read_bytes()
    length = int.from_bytes(raw[-8:-4], "little") + 8
    assert length > 64 << 10
    footer = read_footer(locate(str(path)))
    assert footer.sha256 == hashlib.sha256(raw[-length:]).hexdigest()
    assert scan([str(path)]).schema.equals(table.schema)


def test_an_input_without_rows_is_allowed(tmp_path: Path) -> None:
    inputs = scan([str(write(tmp_path / "f.parquet", TABLE.slice(0, 0)))])
    assert inputs.rows == 0


@pytest.mark.parametrize(
    "values",
    [
        ["1", "2"],
        ["01", "-7", "__HIVE_DEFAULT_PARTITION__"],
        ["1", "x"],
        ["3000000000", "1"],
        ["1.5", "2"],
        ["a%20b", "c"],
    ],
)
def test_hive_columns_are_typed_as_pyarrow_does(tmp_path: Path, values: list[str]) -> None:
    for value in values:
        write(tmp_path / f"k={value}" / "p.parquet")
    schema = scan([str(tmp_path)]).schema
    assert schema.equals(pads.dataset(tmp_path, partitioning="hive").schema)


def test_hive_columns_of_globs_and_of_several_directories(tmp_path: Path) -> None:
    for year in (2020, 2021):
        write(tmp_path / f"year={year}" / "kind=x" / "p.parquet")
    inputs = scan([f"{tmp_path}/year=*/*/*.parquet"])
    assert inputs.schema.names == ["a", "b", "year", "kind"]
    assert inputs.files[1].partition == (("year", "2021"), ("kind", "x"))
    assert (
        scan([str(tmp_path / "year=2020"), str(tmp_path / "year=2021")]).schema.names[2] == "year"
    )
    assert scan([str(tmp_path / "year=2020")]).schema.names == ["a", "b", "kind"]


def test_a_column_in_the_files_is_no_hive_column(tmp_path: Path) -> None:
    write(tmp_path / "a=9" / "p.parquet")
    inputs = scan([str(tmp_path)])
    assert inputs.schema.names == ["a", "b"]
    assert inputs.files[0].partition == ()


def test_schemas_that_hold_the_same_values_are_joined(tmp_path: Path) -> None:
    small = pa.dictionary(pa.int8(), pa.string())
    one = pa.schema(
        [
            pa.field("d", small),
            pa.field("v", pa.list_(pa.field("e", pa.float32(), False), 2), False),
            pa.field("l", pa.list_(pa.field("e", pa.int8(), False))),
        ]
    )
    two = pa.schema(
        [
            pa.field("l", pa.list_(pa.int8())),
            pa.field("v", pa.list_(pa.float32(), 2)),
            pa.field("d", pa.dictionary(pa.int16(), pa.string())),
        ]
    )
    rows = [{"d": "x", "v": [1.0, 2.0], "l": [1]}]
    write(tmp_path / "1.parquet", pa.Table.from_pylist(rows, one))
    write(tmp_path / "2.parquet", pa.Table.from_pylist(rows, two))
    expected = pa.schema(
        [
            pa.field("d", pa.dictionary(pa.int32(), pa.string())),
            pa.field("v", pa.list_(pa.float32(), 2)),
            pa.field("l", pa.list_(pa.int8())),
        ]
    )
    assert scan([str(tmp_path)]).schema.equals(expected)


def test_an_extension_type_is_its_storage_type(tmp_path: Path) -> None:
    tensor = pa.fixed_shape_tensor(pa.float32(), [2, 2])
    storage = pa.array([[1.0] * 4], pa.list_(pa.float32(), 4))
    table = pa.table({"t": pa.ExtensionArray.from_storage(tensor, storage)})
    inputs = scan([str(write(tmp_path / "f.parquet", table))])
    assert inputs.schema.field("t").type.equals(storage.type)
    assert inputs.schema.field("t").metadata is None


def fails(data: list[str]) -> DistvaeError:
    """Return the error of a scan."""
    with pytest.raises(DistvaeError) as caught:
        scan(data)
    assert "\n" not in str(caught.value)
    return caught.value


def test_missing_data(tmp_path: Path) -> None:
    for name in ("absent.parquet", "no*match"):
        error = fails([str(tmp_path / name)])
        assert isinstance(error, StorageError)
        assert str(tmp_path / name) in str(error)
    assert isinstance(fails([f"@{tmp_path}/absent.txt"]), StorageError)
    assert isinstance(fails([]), UsageError)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda _: b"", "is empty (0 bytes)"),
        (lambda _: b"PAR1", "is truncated"),
        (lambda raw: raw[:-10], "is truncated; its footer is missing; fetch it again"),
        (lambda _: b"a,b\n1,2\n3,4\n5,6\n", "is not Parquet; it must begin and end with PAR1"),
        (lambda _: b"x", "is not Parquet"),
        (lambda raw: raw[:-4] + b"PARE", "is encrypted"),
        (lambda raw: raw[:-8] + b"\xff\xff\xff\x7fPAR1", "is truncated or damaged"),
        (lambda raw: raw[:-200] + b"\xff" * 192 + raw[-8:], "has a damaged footer ("),
    ],
)
def test_files_that_are_not_whole(tmp_path: Path, change: Any, message: str) -> None:
    path = write(tmp_path / "f.parquet")
    path.write_bytes(change(path.read_bytes()))
    error = fails([str(path)])
    assert isinstance(error, DataError)
    assert str(error).startswith(f"{path}: ")
    assert message in str(error)


def test_schemas_that_differ(tmp_path: Path) -> None:
    one = write(tmp_path / "1.parquet", pa.table({"a": [1], "b": [1]}))
    two = write(tmp_path / "2.parquet", pa.table({"a": [1], "b": ["x"]}))
    message = str(fails([str(tmp_path)]))
    assert message.startswith(f"column 'b': is int64 in {one} and string in {two}; ")
    write(two, pa.table({"a": [1]}))
    assert f"column 'b': is missing in {two} and present in {one}" in str(fails([str(tmp_path)]))
    write(two, pa.table({"a": [1], "b": [1], "c": [1]}))
    assert f"column 'c': is missing in {one} and present in {two}" in str(fails([str(tmp_path)]))
    write(one, pa.table({"v": pa.array([[1]], pa.list_(pa.int8(), 1))}))
    write(two, pa.table({"v": pa.array([[1, 2]], pa.list_(pa.int8(), 2))}))
    assert "column 'v': is fixed_size_list" in str(fails([str(tmp_path)]))


def test_partitions_that_differ(tmp_path: Path) -> None:
    write(tmp_path / "k=1" / "p.parquet")
    write(tmp_path / "p.parquet")
    assert "column 'k': is in the path of only one of" in str(fails([str(tmp_path)]))


def test_two_columns_of_one_name(tmp_path: Path) -> None:
    table = pa.Table.from_arrays([pa.array([1]), pa.array([2])], names=["a", "a"])
    assert "column 'a': is there twice" in str(fails([str(write(tmp_path / "f.parquet", table))]))


class Pickled(pa.ExtensionType):  # type: ignore[misc]
    """A type with the name of the one whose values are unpickled on reading."""

    def __init__(self) -> None:
        super().__init__(pa.large_binary(), "ray.data.arrow_pickled_object")

    def __arrow_ext_serialize__(self) -> bytes:
        return b""


@pytest.mark.parametrize("nested", [False, True])
def test_pickled_objects_are_refused(tmp_path: Path, nested: bool) -> None:
    values = pa.ExtensionArray.from_storage(Pickled(), pa.array([b"x"], pa.large_binary()))
    if nested:
        values = pa.StructArray.from_arrays([pa.ListArray.from_arrays([0, 1], values)], ["x"])
    error = fails([str(write(tmp_path / "f.parquet", pa.table({"o": values})))])
    assert isinstance(error, DataError)
    assert "holds the extension type ray.data.arrow_pickled_object" in str(error)
