from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.fs as pafs
import pyarrow.parquet as pq
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distvae.data import failures, reading
from distvae.data.fragments import plan_input
from distvae.data.inputs import InputFile, Inputs, scan
from distvae.data.reading import read_fragment, source_columns
from distvae.data.storage import Location
from distvae.errors import DataError, StorageError

COLUMNS = ["x", "v", "s", "d"]


def table_of(first: int, rows: int) -> pa.Table:
    """Return rows whose values tell their number, with nulls, a vector, a text, a dictionary."""
    numbers = np.arange(first, first + rows)
    vector = pa.array(np.repeat(numbers, 3).astype(np.float32))
    texts = [None if i % 5 == 0 else f"t{i}" for i in numbers]
    return pa.table(
        {
            "x": pa.array(numbers, mask=numbers % 7 == 3),
            "v": pa.FixedSizeListArray.from_arrays(vector, 3),
            "s": pa.array(texts, pa.string()),
            "d": pa.array([f"c{i % 11}" for i in numbers], pa.string()).dictionary_encode(),
        }
    )


def write(folder: Path, layout: list[list[int]]) -> Inputs:
    """Write one file for each list; its numbers are the rows of the file's row groups."""
    first = 0
    for index, sizes in enumerate(layout):
        path = folder / f"{index:03}.parquet"
        with pq.ParquetWriter(path, table_of(0, 0).schema, write_page_checksum=True) as writer:
            for rows in sizes:
                writer.write_table(table_of(first, rows), row_group_size=max(rows, 1))
                first += rows
    return scan([str(folder)])


def plain(table: pa.Table) -> pa.Table:
    """Return the table with dictionaries decoded, which may be cut in other places."""
    return table.set_column(3, "d", table["d"].cast(pa.string()))


@settings(deadline=None, max_examples=30)
@given(
    st.lists(st.lists(st.integers(0, 40), max_size=4), min_size=1, max_size=3),
    st.integers(1, 90),
    st.integers(1, 50),
    st.integers(0, 100),
    st.none() | st.integers(0, 60),
)
def test_fragments_read_together_are_the_table(
    layout: list[list[int]],
    rows_per_fragment: int,
    rows_per_batch: int,
    skip: int,
    limit: int | None,
) -> None:
    tables: list[pa.Table] = []
    with tempfile.TemporaryDirectory() as folder:
        inputs = write(Path(folder), layout)
        whole = plain(pq.read_table(folder, columns=COLUMNS))
        for fragment in plan_input(inputs, rows_per_fragment):
            tables += read_fragment(inputs.files, fragment, COLUMNS, rows_per_batch)
            stop = fragment.rows if limit is None else min(skip + limit, fragment.rows)
            part = list(read_fragment(inputs.files, fragment, COLUMNS, rows_per_batch, skip, limit))
            wanted = max(0, stop - skip)
            assert [table.num_rows for table in part] == batch_sizes(wanted, rows_per_batch)
            if part:
                joined = plain(pa.concat_tables(part))
                assert joined.equals(whole.slice(fragment.first_row + skip, wanted))
    assert plain(pa.concat_tables([table_of(0, 0), *tables])).equals(whole)


def batch_sizes(rows: int, rows_per_batch: int) -> list[int]:
    """Return full batches and a last one."""
    return [rows_per_batch] * (rows // rows_per_batch) + [rows % rows_per_batch] * (
        rows % rows_per_batch > 0
    )


def test_columns_are_single_chunks_in_the_order_asked_for(tmp_path: Path) -> None:
    inputs = write(tmp_path, [[30, 30], [41]])
    (fragment,) = plan_input(inputs)
    for table in read_fragment(inputs.files, fragment, ["s", "v", "x"], 25, skip=3):
        assert table.column_names == ["s", "v", "x"]
        assert [column.num_chunks for column in table.columns] == [1, 1, 1]


def test_batches_inside_a_file_are_not_copied(tmp_path: Path) -> None:
    inputs = write(tmp_path, [[64, 64]])
    (fragment,) = plan_input(inputs)
    tables = list(read_fragment(inputs.files, fragment, ["v"], 32))
    assert [table["v"].chunk(0).offset for table in tables] == [0, 0, 0, 0]
    joined = reading.join_tables([tables[0]])
    assert joined is tables[0]


def test_row_groups_that_are_skipped_are_not_decoded(tmp_path: Path) -> None:
    inputs = write(tmp_path, [[50, 50, 50]])
    (fragment,) = plan_input(inputs)
    path = tmp_path / "000.parquet"
    stored = pq.read_metadata(path)
    raw = bytearray(path.read_bytes())
    for group in (0, 2):
        column = stored.row_group(group).column(0)
        start = column.dictionary_page_offset or column.data_page_offset
        raw[start : start + column.total_compressed_size] = bytes(column.total_compressed_size)
    path.write_bytes(bytes(raw))
    (table,) = read_fragment(inputs.files, fragment, ["x"], 50, skip=50, limit=50)
    assert table.equals(table_of(50, 50).select(["x"]))
    with pytest.raises(DataError, match="from row 0 on: cannot be decoded"):
        list(read_fragment(inputs.files, fragment, ["x"], 50))


def test_hive_columns_are_filled_in(tmp_path: Path) -> None:
    for year, kind in (("2020", "a b"), ("__HIVE_DEFAULT_PARTITION__", "c")):
        folder = tmp_path / f"year={year}" / f"kind={kind}"
        folder.mkdir(parents=True)
        pq.write_table(pa.table({"x": [1, 2]}), folder / "p.parquet")
    inputs = scan([str(tmp_path)])
    (fragment,) = plan_input(inputs)
    (table,) = read_fragment(inputs.files, fragment, ["kind", "x", "year"], 10)
    assert table.to_pydict() == {
        "kind": ["a b", "a b", "c", "c"],
        "x": [1, 2, 1, 2],
        "year": [2020, 2020, None, None],
    }
    (table,) = read_fragment(inputs.files, fragment, ["year"], 10, skip=1, limit=2)
    assert table.to_pydict() == {"year": [2020, None]}
    assert table.schema.equals(pa.schema([("year", pa.int32())]))


def test_files_are_read_in_their_common_schema(tmp_path: Path) -> None:
    for index, code in enumerate((pa.int8(), pa.int16())):
        strict = pa.list_(pa.field("element", pa.float32(), index == 1), 1)
        table = pa.table(
            {
                "d": pa.array(["a", "b"])
                .dictionary_encode()
                .cast(pa.dictionary(code, pa.string())),
                "v": pa.array([[1], [2]], strict),
            }
        )
        pq.write_table(table, tmp_path / f"{index}.parquet")
    inputs = scan([str(tmp_path)])
    (fragment,) = plan_input(inputs)
    (table,) = read_fragment(inputs.files, fragment, ["d", "v"], 9)
    assert table.schema.equals(inputs.schema)
    assert table["d"].to_pylist() == ["a", "b", "a", "b"]
    assert table["v"].to_pylist() == [[1.0], [2.0], [1.0], [2.0]]


def test_every_flipped_bit_is_found(tmp_path: Path) -> None:
    inputs = write(tmp_path, [[200]])
    (fragment,) = plan_input(inputs)
    path = tmp_path / "000.parquet"
    whole = path.read_bytes()
    column = pq.read_metadata(path).row_group(0).column(1)
    first = column.dictionary_page_offset or column.data_page_offset
    generator = np.random.default_rng(0)
    positions = generator.integers(first, first + column.total_compressed_size, 60)
    found: list[str] = []
    for position in positions:
        raw = bytearray(whole)
        raw[position] ^= 1 << int(generator.integers(8))
        path.write_bytes(bytes(raw))
        try:
            (table,) = read_fragment(inputs.files, fragment, ["v"], 200)
        except DataError as error:
            found.append(str(error))
        else:  # a page's header holds figures that nobody uses
            assert table.equals(table_of(0, 200).select(["v"]))
    assert len(found) > 50
    assert all(message.startswith(f"{path}, from row 0 on: ") for message in found)
    assert not any("\n" in message for message in found)


def test_a_file_that_changed_since_the_plan(tmp_path: Path) -> None:
    inputs = write(tmp_path, [[20]])
    (fragment,) = plan_input(inputs)
    pq.write_table(table_of(1, 21), tmp_path / "000.parquet")
    with pytest.raises(DataError, match="has changed; inputs must stay as they were when"):
        list(read_fragment(inputs.files, fragment, ["x"], 10))
    (tmp_path / "000.parquet").unlink()
    with pytest.raises(StorageError, match="not found"):
        list(read_fragment(inputs.files, fragment, ["x"], 10))


def test_unknown_columns(tmp_path: Path) -> None:
    inputs = write(tmp_path, [[2]])
    (fragment,) = plan_input(inputs)
    with pytest.raises(DataError, match=r"column 'xx': is not in .*; did you mean 'x'\?"):
        read_fragment(inputs.files, fragment, ["xx"], 1)
    with pytest.raises(DataError, match="check its name"):
        read_fragment(inputs.files, fragment, ["unheard of"], 1)
    with pytest.raises(DataError, match="columns: none named"):
        read_fragment(inputs.files, fragment, [], 1)


def test_a_footer_that_promises_more_rows(tmp_path: Path) -> None:
    inputs = write(tmp_path, [[5]])
    (fragment,) = plan_input(inputs)
    group = replace(inputs.files[0].row_groups[0], rows=9)
    file = replace(inputs.files[0], row_groups=(group,))
    more = replace(fragment, rows=9, pieces=(replace(fragment.pieces[0], rows=9),))
    with pytest.raises(DataError, match="from row 5 on: holds no rows; its footer says that"):
        list(read_fragment([file], more, ["x"], 9))


@pytest.mark.parametrize("text", ["AWS Error NETWORK_CONNECTION during GetObject", "disk failed"])
def test_a_failing_storage_is_no_damage(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, text: str
) -> None:
    inputs = write(tmp_path, [[5]])
    (fragment,) = plan_input(inputs)

    def fails(_: int) -> pa.RecordBatch:
        raise OSError(5, text) if "disk" in text else OSError(text)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", lambda *_, **__: map(fails, [0]))
    with pytest.raises(StorageError):
        list(read_fragment(inputs.files, fragment, ["x"], 9))


def remote(file: InputFile, root: Path) -> InputFile:
    """Return the same file behind a file system that is not local."""
    fs = pafs.SubTreeFileSystem(str(root), pafs.LocalFileSystem())
    return replace(file, location=Location(fs, file.relative, f"far://{file.relative}"))


def test_remote_files_are_opened_ahead(tmp_path: Path) -> None:
    inputs = write(tmp_path, [[3], [4]] * 10)
    files = [remote(file, tmp_path) for file in inputs.files]
    (fragment,) = plan_input(inputs)
    tables = list(read_fragment(files, fragment, ["x", "v"], 16))
    assert pa.concat_tables(tables).combine_chunks().equals(table_of(0, 70).select(["x", "v"]))
    started = read_fragment(files, fragment, ["x"], 2)
    assert next(started).num_rows == 2
    started.close()  # type: ignore[attr-defined]
    (tmp_path / "013.parquet").unlink()
    with pytest.raises(StorageError, match=r"far://013\.parquet: not found"):
        list(read_fragment(files, fragment, ["x"], 16))


@settings(deadline=None, max_examples=20)
@given(st.data(), st.lists(st.lists(st.integers(0, 20), max_size=4), min_size=1, max_size=4))
def test_sources_tell_file_and_row(data: st.DataObject, layout: list[list[int]]) -> None:
    with tempfile.TemporaryDirectory() as folder:
        inputs = write(Path(folder), layout)
    expected = [
        (f"{i:03}.parquet", row) for i, sizes in enumerate(layout) for row in range(sum(sizes))
    ]
    for fragment in plan_input(inputs, rows_per_fragment=25):
        start = data.draw(st.integers(0, fragment.rows))
        rows = data.draw(st.integers(0, fragment.rows - start))
        files, numbers = source_columns(fragment, inputs.files, start, rows)
        first = fragment.first_row + start
        found = list(zip(files.to_pylist(), numbers.to_pylist(), strict=True))
        assert found == expected[first : first + rows]
        assert files.type == pa.string()
        assert numbers.type == pa.int64()


def test_memory_errors_stay_what_they_are() -> None:
    assert not failures.is_storage_failure(MemoryError())
