"""embed: the same bytes whoever computes, and each row's posterior beside its own key."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import numpy as np
import pandas as pd
import polars as pl
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds
import pyarrow.parquet as pq
import pytest

import distvae
from distvae.data.manifest import read_manifest
from distvae.data.storage import locate
from distvae.data.verify import verify
from distvae.errors import RejectedError
from tests.cluster.conftest import ROWS, embed_options
from tests.cluster.helpers import parts, rows_of, run, vectors

pytestmark = pytest.mark.ray


@pytest.mark.parametrize("workers", [2, 3])
def test_bytes_do_not_depend_on_the_workers(
    tmp_path: Path, data: Path, model: Path, embedded: Path, workers: int
) -> None:
    result = run("embed", out=tmp_path / "o", workers=workers, **embed_options(data, model))
    assert result["workers"] == workers
    assert parts(tmp_path / "o") == parts(embedded)


def test_worker_processes_write_what_this_process_writes(
    in_process: None, tmp_path: Path, data: Path, model: Path, embedded: Path
) -> None:
    run("embed", out=tmp_path / "o", **embed_options(data, model))
    assert parts(tmp_path / "o") == parts(embedded)


def test_each_row_has_its_own_posterior_to_the_bit(
    embedded: Path, model: Path, table: pa.Table
) -> None:
    written = rows_of(embedded)
    item = pa.field("item", pa.float32(), nullable=False)
    assert written.schema.equals(
        pa.schema(
            [
                pa.field("id", pa.int64()),
                pa.field("mu", pa.list_(item, 3), nullable=False),
                pa.field("sigma", pa.list_(item, 3), nullable=False),
            ]
        )
    )
    assert written.column("id").equals(table.column("id"))  # rows in input order
    mu, sigma = distvae.load(str(model)).encode(table)
    np.testing.assert_array_equal(vectors(written, "mu"), mu)
    np.testing.assert_array_equal(vectors(written, "sigma"), sigma)
    assert np.isfinite(mu).all() and np.isfinite(sigma).all() and (sigma > 0).all()
    assert len(np.unique(mu, axis=0)) > 0.99 * ROWS  # so that equality could not hold by chance
    verify(locate(str(embedded)))


def test_file_and_row_locate_each_row(
    in_process: None, tmp_path: Path, data: Path, model: Path
) -> None:
    options = embed_options(data, model) | {"key": (), "keep": "id", "fragment_rows": 450}
    run("embed", out=tmp_path / "o", **options)
    written = rows_of(tmp_path / "o")
    assert written.column_names == ["_file", "_row", "id", "mu", "sigma"]
    seen = 0
    for name in ("a.parquet", "b.parquet"):
        source = pq.read_table(data / name)
        mine = written.filter(pc.equal(written.column("_file"), name))
        located = source.take(mine.column("_row"))
        assert located.column("id").equals(mine.column("id"))
        mu, _ = distvae.load(str(model)).encode(located)
        np.testing.assert_array_equal(vectors(mine, "mu"), mu)
        seen += len(mine)
    assert seen == ROWS


@pytest.mark.parametrize("dtype", ["float32", "float16"])
@pytest.mark.parametrize("layout", ["fixed", "list", "columns"])
def test_layouts(
    in_process: None,
    tmp_path: Path,
    data: Path,
    model: Path,
    embedded: Path,
    layout: str,
    dtype: str,
) -> None:
    options = embed_options(data, model) | {"layout": layout, "dtype": dtype}
    run("embed", out=tmp_path / "o", fragment_rows=1000, **_without(options, "fragment_rows"))
    written, expected = rows_of(tmp_path / "o"), rows_of(embedded)
    for name in ("mu", "sigma"):
        wanted = vectors(expected, name).astype(dtype)
        if layout == "columns":
            columns = [written.column(f"{name}_{i}").to_numpy() for i in range(3)]
            assert {column.dtype for column in columns} == {np.dtype(dtype)}
            found = np.stack(columns, 1)
        else:
            kind = written.schema.field(name).type
            assert pa.types.is_fixed_size_list(kind) == (layout == "fixed")
            assert kind.value_type == pa.type_for_alias(dtype)
            found = np.stack(written.column(name).to_numpy())
        np.testing.assert_array_equal(found, wanted)


def test_without_sigma_and_with_elbo(
    in_process: None, tmp_path: Path, data: Path, model: Path, embedded: Path
) -> None:
    options = embed_options(data, model) | {"no_sigma": True, "with_elbo": True}
    run("embed", out=tmp_path / "o", **options)
    run("embed", out=tmp_path / "p", **options | {"fragment_rows": 700})
    written = rows_of(tmp_path / "o")
    assert written.column_names == ["id", "mu", "elbo", "reconstruction_error"]
    assert written.column("mu").equals(rows_of(embedded).column("mu"))
    assert written.equals(rows_of(tmp_path / "p"))  # a row's noise is its own
    elbo = written.column("elbo").to_numpy()
    error = written.column("reconstruction_error").to_numpy()
    assert elbo.dtype == error.dtype == np.float32
    assert np.isfinite(elbo).all() and (error >= 0).all()
    # The bound lies below the estimate of ln p(x) with many samples, on average by far.
    exact = distvae.load(str(model)).log_likelihood(pq.read_table(data).slice(0, 500), k=50)
    assert elbo[:500].mean() < exact.mean()


def test_where_takes_rows_out_and_counts_them(
    in_process: None, tmp_path: Path, data: Path, model: Path, embedded: Path
) -> None:
    # ids 1000 to 1019 lie in few of the 60 fragments: most parts are empty, and are there
    out = tmp_path / "o"
    result = run("embed", out=out, where="id < 1020", **embed_options(data, model))
    assert result["rows_in"] == result["rows_out"] + result["rows_rejected"]
    expected = rows_of(embedded)
    expected = expected.filter(pc.less(expected.column("id"), 1020))
    assert rows_of(out).equals(expected) and result["rows_out"] == 20
    receipts = read_manifest(locate(str(out))).receipts
    assert sum(receipt.summary["rows_filtered"] for receipt in receipts) == ROWS - 20
    assert run("embed", out=out, where="id < 1020", mode="resume", **embed_options(data, model)) | {
        "seconds": 0
    } == result | {"seconds": 0, "workers": 0, "rows_per_second": 0.0}
    verify(locate(str(out)))


def test_rows_that_cannot_be_used_are_written_aside(
    in_process: None, tmp_path: Path, table: pa.Table, model: Path
) -> None:
    some = table.slice(0, 300)
    x = some.column("x").to_numpy().copy()
    bad = [7, 120, 121, 299]
    x[bad] = np.inf
    (tmp_path / "in").mkdir()
    broken = some.set_column(1, "x", pa.array(x))
    pq.write_table(broken, tmp_path / "in" / "a.parquet", row_group_size=100)
    out, options = tmp_path / "o", embed_options(tmp_path / "in", model)
    with pytest.raises(RejectedError, match="rows rejected so far") as refused:
        run("embed", out=out, **options)
    assert refused.value.exit_code == 6
    assert not (out / "_SUCCESS").exists() and not (out / "_lease.json").exists()

    result = run("embed", out=out, mode="resume", max_rejected=0.02, **options)
    assert (result["rows_in"], result["rows_out"], result["rows_rejected"]) == (300, 296, 4)
    kept = some.take([i for i in range(300) if i not in bad])
    written = rows_of(out)
    assert written.column("id").equals(kept.column("id"))
    mu, _ = distvae.load(str(model)).encode(kept)
    np.testing.assert_array_equal(vectors(written, "mu"), mu)
    aside = pa.concat_tables(pq.read_table(p) for p in sorted((out / "_rejected").iterdir()))
    assert aside.column("id").equals(some.take(bad).column("id"))
    assert aside.column("_row").to_pylist() == bad
    assert set(aside.column("_file").to_pylist()) == {"a.parquet"}
    assert set(aside.column("reason").to_pylist()) == {"column 'x': infinite value"}
    for receipt in read_manifest(locate(str(out))).receipts:
        assert receipt.rows_in == receipt.rows_out + receipt.rows_rejected
    verify(locate(str(out)))


def test_a_partition_column_can_be_the_key(
    in_process: None, tmp_path: Path, table: pa.Table, model: Path
) -> None:
    for index, day in enumerate(("2024-05-01", "2024-05-02")):
        folder = tmp_path / "in" / f"day={day}"
        folder.mkdir(parents=True)
        pq.write_table(table.slice(200 * index, 200), folder / "rows.parquet", row_group_size=100)
    options = embed_options(tmp_path / "in", model) | {"key": "day", "keep": "id"}
    run("embed", out=tmp_path / "o", **options)
    written = rows_of(tmp_path / "o")
    assert written.column_names == ["day", "id", "mu", "sigma"]
    assert written.column("day").to_pylist() == ["2024-05-01"] * 200 + ["2024-05-02"] * 200
    assert written.column("id").equals(table.slice(0, 400).column("id"))


def test_every_reader_opens_it_without_our_code(embedded: Path, table: pa.Table) -> None:
    ids = sorted(table.column("id").to_pylist())
    mu = {row["id"]: row["mu"] for row in rows_of(embedded).to_pylist()}
    folder = embedded / "data"

    def same(rows: list[dict[str, Any]]) -> bool:
        found = {int(row["id"]): list(map(float, row["mu"])) for row in rows}
        return sorted(found) == ids and found == mu

    for path in (embedded, folder):
        assert same(ds.dataset(path, format="parquet").to_table().to_pylist())
        assert same(pq.read_table(path).to_pylist())
        assert same(pd.read_parquet(path).to_dict("records"))
    assert same(pl.read_parquet(folder).to_dicts())
    assert same(pl.scan_parquet(folder / "*.parquet").collect().to_dicts())
    found = duckdb.sql(f"select id, mu from read_parquet('{folder}/*.parquet')").fetchall()
    assert same([{"id": key, "mu": vector} for key, vector in found])


def _without(options: dict[str, Any], name: str) -> dict[str, Any]:
    return {key: value for key, value in options.items() if key != name}
