"""Every way to train goes through all jobs: train, embed, evaluate, generate, load."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import distvae
from distvae.errors import UsageError
from tests.cluster.conftest import SMALL_MODEL
from tests.cluster.helpers import make_table, rows_of, run, vectors, write_data

pytestmark = [pytest.mark.ray, pytest.mark.usefixtures("in_process")]

ROWS = 600


@pytest.fixture(scope="module")
def rows(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Numbers and vectors with holes, and a picture of 6 x 6."""
    table = make_table(ROWS, missing=0.05)
    values = np.random.default_rng(3).integers(0, 256, (ROWS, 36)).astype(np.uint8)
    pictures = pa.FixedSizeListArray.from_arrays(pa.array(values.ravel()), 36)
    table = table.append_column("picture", pictures)
    return write_data(tmp_path_factory.mktemp("families") / "rows", table, 100)


def trained(folder: Path, rows: Path, **options: Any) -> Path:
    values = {**SMALL_MODEL, "exclude": ["id", "picture"], "epochs": 3, **options}
    run("train", data=str(rows), model=folder / "m", **values)
    return folder / "m"


WAYS: dict[str, dict[str, Any]] = {
    "full": {"posterior": "full"},
    "isotropic": {"posterior": "isotropic", "kl": "sampled"},
    "iwae": {"objective": "iwae", "importance_samples": 3, "doubly_reparameterized": True},
    "per-row": {"inference": "per-row", "inference_steps": 2},
    "semi-amortised": {"inference": "semi-amortised", "inference_steps": 2},
    "joint": {"likelihood": ["v=gaussian-full", "x=gaussian-feature"]},
    "linear": {"hidden_dims": "none"},
    "picture": {
        "exclude": ["id"],
        "image": ["picture"],
        "channels": "4",
        "likelihood": ["picture=bernoulli"],
        "binarize": "dynamic",
    },
}


@pytest.mark.parametrize("way", WAYS)
def test_all_jobs(tmp_path: Path, rows: Path, way: str) -> None:
    model = trained(tmp_path, rows, **WAYS[way])
    options = {"data": str(rows), "model": model, "key": "id", "with_elbo": True}
    run("embed", out=tmp_path / "e", **options)
    plain = rows_of(tmp_path / "e")
    mu, sigma = distvae.load(str(model)).encode(plain_rows(rows))
    np.testing.assert_array_equal(vectors(plain, "mu"), mu)
    np.testing.assert_array_equal(vectors(plain, "sigma"), sigma)
    assert ("scale_tril" in plain.column_names) == (way == "full")

    steps = 300 if way == "per-row" else 5  # without an encoder, 200 are the least
    run("embed", out=tmp_path / "r", refine=steps, **options)
    refined = rows_of(tmp_path / "r")
    if way != "per-row":
        change = refined["elbo"].to_numpy() - plain["elbo"].to_numpy()
        assert (change >= 0).all()
        assert (change > 0).any()
    scored = run("evaluate", data=str(rows), model=model, importance_samples=20)
    assert scored["rows"] == ROWS
    assert scored["elbo"] <= scored["log_likelihood"] + 1e-6
    assert scored["kl"] == pytest.approx(sum(scored["kl_per_dimension"]))
    made = run("generate", model=model, rows=50, out=tmp_path / "g", source="uniform")
    assert made["rows_out"] == 50
    assert rows_of(tmp_path / "g").schema.equals(distvae.load(str(model)).schema)


def plain_rows(rows: Path) -> pa.Table:
    import pyarrow.parquet as pq

    return pa.concat_tables(pq.read_table(path) for path in sorted(rows.iterdir()))


def test_scale_tril_is_the_factor_of_sigma(tmp_path: Path, rows: Path) -> None:
    model = trained(tmp_path, rows, posterior="full")
    for layout in ("fixed", "columns"):
        options = {"data": str(rows), "model": model, "layout": layout}
        run("embed", out=tmp_path / layout, **options)
    table = rows_of(tmp_path / "fixed")
    packed, sigma = vectors(table, "scale_tril"), vectors(table, "sigma")
    factor = np.zeros((len(packed), 3, 3))
    factor[:, *np.tril_indices(3)] = packed
    covariance = factor @ factor.transpose(0, 2, 1)
    np.testing.assert_allclose(np.sqrt(covariance.diagonal(0, 1, 2)), sigma, rtol=1e-5)
    assert np.abs(covariance[:, 0, 1]).max() > 1e-4
    columns = rows_of(tmp_path / "columns")
    for place in range(6):
        found = columns[f"scale_tril_{place}"].to_numpy()
        np.testing.assert_array_equal(found, packed[:, place])


def test_no_sigma_leaves_out_the_factor_too(tmp_path: Path, rows: Path) -> None:
    model = trained(tmp_path, rows, posterior="full", epochs=1)
    run("embed", out=tmp_path / "o", data=str(rows), model=model, key="id", no_sigma=True)
    assert rows_of(tmp_path / "o").column_names == ["id", "mu"]


def test_refined_rows_are_the_same_whatever_the_fragments(tmp_path: Path, rows: Path) -> None:
    model = trained(tmp_path, rows, epochs=1)
    options = {"data": str(rows), "model": model, "refine": 4, "seed": 5}
    run("embed", out=tmp_path / "a", **options)
    run("embed", out=tmp_path / "b", fragment_rows=100, **options)
    a, b = rows_of(tmp_path / "a"), rows_of(tmp_path / "b")
    assert a["_row"].equals(b["_row"])
    np.testing.assert_allclose(vectors(a, "mu"), vectors(b, "mu"), atol=1e-5)
    run("embed", out=tmp_path / "c", **{**options, "seed": 6})
    assert not np.array_equal(vectors(a, "mu"), vectors(rows_of(tmp_path / "c"), "mu"))


def test_evaluate_refines_when_asked(tmp_path: Path, rows: Path) -> None:
    model = trained(tmp_path, rows, epochs=1)
    options = {"data": str(rows), "model": model, "importance_samples": 5}
    plain, refined = (run("evaluate", refine=steps, **options) for steps in (0, 30))
    assert refined["elbo"] > plain["elbo"]


@pytest.mark.parametrize("source", ["uniform", "sobol"])
def test_sources_write_any_slice(tmp_path: Path, rows: Path, source: str) -> None:
    model = trained(tmp_path, rows, epochs=1)
    options = {"model": model, "source": source, "with_latents": True, "fragment_rows": 40}
    run("generate", rows=90, out=tmp_path / "all", **options)
    run("generate", rows=30, offset=45, out=tmp_path / "some", **options)
    assert rows_of(tmp_path / "all").slice(45, 30).equals(rows_of(tmp_path / "some"))


def test_sobol_refuses_rows_beyond_its_end(tmp_path: Path, rows: Path) -> None:
    model = trained(tmp_path, rows, epochs=1)
    with pytest.raises(UsageError, match="source: got sobol; the sequence has rows 0 to 1,073,741"):
        run("generate", model=model, rows=2**30 + 1, out=tmp_path / "o", source="sobol")
    assert not (tmp_path / "o").exists()
