from __future__ import annotations

from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest

from distvae.data import expand as expanding
from distvae.data.expand import expand
from distvae.data.inputs import Inputs, scan
from distvae.data.storage import Location, locate
from distvae.errors import DataError, UsageError

TABLE = pa.table({"a": pa.array([1, 2, 3], pa.int32()), "b": ["x", "y", None]})


def write(path: Path, table: pa.Table = TABLE, **options: Any) -> Path:
    """Write a Parquet file and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, **options)
    return path


def names(inputs: Inputs) -> list[str]:
    """Return the relative paths of all files."""
    return [file.relative for file in inputs.files]


@pytest.fixture
def tree(tmp_path: Path) -> Path:
    """A folder with Parquet files at several levels and files that are not for reading."""
    for name in ("b.parquet", "a.PARQUET", "sub/c.parq", "sub/deep/d.pq", "_run/e.parquet"):
        write(tmp_path / name)
    write(tmp_path / ".hidden" / "f.parquet")
    (tmp_path / "_SUCCESS").touch()
    (tmp_path / "notes.txt").write_text("x")
    return tmp_path


def test_a_directory_is_searched_through(tree: Path) -> None:
    inputs = scan([str(tree)])
    assert names(inputs) == ["a.PARQUET", "b.parquet", "sub/c.parq", "sub/deep/d.pq"]
    assert inputs.rows == 12
    assert inputs.schema.equals(TABLE.schema)


@pytest.mark.parametrize("local", [True, False])
@pytest.mark.parametrize(
    ("pattern", "expected"),
    [
        ("*.parquet", ["b.parquet"]),
        ("?.parq*", ["b.parquet"]),
        ("[ab].p*", ["b.parquet"]),
        ("[!b].PARQUET", ["a.PARQUET"]),
        ("**/*.p*q", ["sub/c.parq", "sub/deep/d.pq"]),
        ("s*", ["sub/c.parq", "sub/deep/d.pq"]),
        ("sub/*", ["c.parq", "deep/d.pq"]),
        ("*/deep/", ["sub/deep/d.pq"]),
        ("s[u]b/d*/*.pq", ["sub/deep/d.pq"]),
    ],
)
def test_globs(tree: Path, pattern: str, expected: list[str], local: bool) -> None:
    if local:
        assert names(scan([f"{tree}/{pattern}"])) == expected
        return
    anchor, wild = expanding._split_glob(f"s3://bucket/{pattern}")
    fs = pafs.SubTreeFileSystem(str(tree), pafs.LocalFileSystem())
    folder = Location(fs, anchor.removeprefix("s3://bucket").strip("/"), anchor)
    found = expanding._expand_glob("glob", folder, wild)
    base = folder.path + "/" if folder.path else ""
    assert sorted(place.path.removeprefix(base) for place, _ in found.files) == expected


def test_files_are_relative_to_what_data_names(tree: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tree)
    assert names(scan(["sub/c.parq"])) == ["c.parq"]
    assert names(scan(["sub"])) == ["c.parq", "deep/d.pq"]
    assert names(scan(["b.parquet", "sub"])) == ["b.parquet", "sub/c.parq", "sub/deep/d.pq"]
    assert names(scan(["sub/deep", "sub/c.parq"])) == ["c.parq", "deep/d.pq"]
    assert scan(["sub/c.parq"]).files[0].location.uri == "sub/c.parq"
    assert scan(["sub"]).files[1].location.uri == "sub/deep/d.pq"


def test_a_file_named_twice_is_read_once(tree: Path) -> None:
    assert names(scan([str(tree / "sub"), str(tree / "sub/c.parq")])) == ["c.parq", "deep/d.pq"]


def test_a_list_of_files(tree: Path) -> None:
    listed = tree / "files.txt"
    listed.write_text(f"# comment\n\n{tree}/sub\n  {tree}/*.parquet\n")
    assert names(scan([f"@{listed}"])) == ["b.parquet", "sub/c.parq", "sub/deep/d.pq"]


def test_a_name_with_wildcard_letters_that_exists_is_no_glob(tmp_path: Path) -> None:
    path = write(tmp_path / "a[1].parquet")
    assert names(scan([str(path)])) == ["a[1].parquet"]


def test_a_directory_without_parquet(tmp_path: Path) -> None:
    (tmp_path / "x.csv").touch()
    with pytest.raises(DataError, match="holds no Parquet file"):
        scan([str(tmp_path)])


@pytest.mark.parametrize(("content", "message"), [(b"", "names no file"), (b"\xff", "is not text")])
def test_a_list_that_names_nothing(tmp_path: Path, content: bytes, message: str) -> None:
    (tmp_path / "list.txt").write_bytes(content)
    with pytest.raises(DataError, match=message):
        scan([f"@{tmp_path}/list.txt"])


def test_different_kinds_of_storage(tmp_path: Path) -> None:
    write(tmp_path / "f.parquet")
    anchors = [locate(str(tmp_path)), locate("s3://b/x?endpoint_override=127.0.0.1%3A1&region=eu")]
    with pytest.raises(UsageError, match="lies on local and s3; the files of one run must lie"):
        expanding._common_base(anchors, ["a", "b"])


def test_expanding_many_arguments_keeps_their_order_by_path(tmp_path: Path) -> None:
    paths = [write(tmp_path / f"{i:03}.parquet") for i in range(50)]
    found = expand([str(path) for path in reversed(paths)])
    assert [file.relative for file in found] == [path.name for path in paths]
