"""Tables that are rare, through every command: many categories, pictures beside scalars, views."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import distvae
from distvae.data.storage import locate
from distvae.data.verify import verify
from tests.cluster.helpers import rows_of, run, vectors
from tests.cluster.tables import many_categories, mixed_table, pictures, with_views

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("ray_nodes")]

ROWS = 3000


def _through(folder: Path, table: pa.Table, **options: Any) -> pa.Table:
    """Train, embed, generate and evaluate; the synthetic rows."""
    data, model = folder / "rows.parquet", folder / "m"
    pq.write_table(table, data, write_batch_size=len(table))  # Arrow slices no views in structs
    small = {"latent_dim": 6, "hidden_dims": "64", "workers": 1}
    run("train", data=[str(data)], model=model, **(small | options))
    embedded = run("embed", data=[str(data)], model=model, out=folder / "e", with_elbo=True)
    assert (embedded["rows_out"], embedded["rows_rejected"]) == (len(table), 0)
    # Held-out rows have some that training rows have not.
    assert sum(n for name, n in embedded.items() if name.startswith("values_")) < len(table) / 50
    codes = rows_of(folder / "e")
    assert np.isfinite(vectors(codes, "mu")).all()
    assert np.isfinite(codes.column("elbo").to_numpy()).all()
    run("generate", model=model, rows=ROWS, out=folder / "g", workers=1)
    verify(locate(str(folder / "g")))
    figures = run("evaluate", data=[str(data)], model=model, importance_samples=5, workers=1)
    for name in ("elbo", "log_likelihood", "reconstruction"):
        assert np.isfinite(figures[name])
    made = rows_of(folder / "g")
    assert made.schema.equals(table.schema)
    return made


def _nulls(table: pa.Table, name: str) -> float:
    return float(table.column(name).null_count / len(table))


def test_hundreds_of_categories(tmp_path: Path) -> None:
    table = many_categories(6000)
    made = _through(tmp_path, table, epochs=40)
    (spec,) = (
        s
        for s in distvae.load(str(tmp_path / "m")).files.architecture.features
        if s["name"] == "shop"
    )
    assert spec["cells"]["classes"] > 256
    region_of = dict(zip(*(table.column(n).to_pylist() for n in ("shop", "region")), strict=True))
    shops, regions = made.column("shop").to_pylist(), made.column("region").to_pylist()
    known = [(s, r) for s, r in zip(shops, regions, strict=True) if s is not None]
    assert {s for s, _ in known} <= set(region_of)
    assert len({s for s, _ in known}) > 200
    assert np.mean([region_of[s] == r for s, r in known]) > 0.5  # 0.25 by chance
    assert _nulls(made, "shop") == pytest.approx(_nulls(table, "shop"), abs=0.03)
    # Prices have cents, and not more.
    assert all(round(price, 2) == price for price in made.column("price").to_pylist())


def test_pictures_beside_scalars(tmp_path: Path) -> None:
    table = pictures(ROWS)
    made = _through(tmp_path, table, image=["pixels=8x8"], epochs=30, batch_size=128)
    assert distvae.load(str(tmp_path / "m")).files.architecture.prior == "normal"
    means = vectors(made, "pixels").mean(1)
    assert 60 < means.mean() < 130
    light = pc.fill_null(made.column("light"), pc.less(pa.array(means), 0)).to_numpy()
    known = pc.is_valid(made.column("light")).to_numpy()
    assert means[known & light].mean() > means[known & ~light].mean() + 40
    for name in ("light", "weight", "owner"):
        assert _nulls(made, name) == pytest.approx(_nulls(table, name), abs=0.03)
    owners = [
        {row["owner"]["name"] for row in t.to_pylist() if row["owner"]} for t in (made, table)
    ]
    assert owners[0] <= owners[1]


def test_views_in_structs(tmp_path: Path) -> None:
    table = with_views(ROWS)
    made = _through(tmp_path, table, epochs=10)
    held = made.column("outer").combine_chunks().field("inner")
    assert held.null_count / len(made) == pytest.approx(0.2, abs=0.03)
    pairs = [
        (row["letter"], row["outer"]["inner"]["tree"][0])
        for row in made.to_pylist()
        if row["outer"]["inner"] is not None
    ]
    assert np.mean([a == b for a, b in pairs]) > 0.7  # 0.33 by chance
    keyed = run(
        "embed",
        data=[str(tmp_path / "rows.parquet")],
        model=tmp_path / "m",
        out=tmp_path / "k",
        key=["outer", "letter"],
    )
    assert keyed["rows_out"] == ROWS
    assert rows_of(tmp_path / "k").column("letter").to_pylist() == table["letter"].to_pylist()


def test_conditions_with_infinite_values(tmp_path: Path) -> None:
    """Clipped in training; without --given rows are drawn from those that training bore."""
    table = mixed_table(ROWS)
    gains = table.column("gain").to_pylist()
    gains[::50] = [float("inf")] * len(gains[::50])
    place = table.schema.get_field_index("gain")
    table = table.set_column(place, table.schema.field(place), pa.array(gains, pa.float64()))
    pq.write_table(table, tmp_path / "rows.parquet")
    options = {
        "include": ["gain", "age", "group"],
        "condition_on": ["gain", "group"],
        "on_infinite": "clip",
        "epochs": 3,
        "workers": 1,
    }
    run("train", data=[str(tmp_path / "rows.parquet")], model=tmp_path / "m", **options)
    most = max(gain for gain in gains if np.isfinite(gain))
    for given in ({}, {"group": "north"}):
        out = tmp_path / f"g{len(given)}"
        run("generate", model=tmp_path / "m", rows=1000, out=out, given=given, workers=1)
        made = rows_of(out).column("gain").to_numpy()
        assert np.isfinite(made).all()
        clipped = np.isclose(made, most, rtol=1e-5)
        assert made.max() == pytest.approx(most, rel=1e-5)
        assert clipped.mean() == pytest.approx(1 / 50, abs=0.015)
