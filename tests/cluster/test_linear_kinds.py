"""pca, kernel-pca and autoencoder as jobs: train, embed, generate, evaluate."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from sklearn.datasets import load_digits
from sklearn.decomposition import PCA

import distvae
from distvae.cluster.pool import run_fragments
from distvae.errors import DataError, UsageError
from distvae.model.principal import PcaModel
from tests.cluster.helpers import make_table, rows_of, run, run_here, vectors, write_data
from tests.model.linear_cases import graded_table

pytestmark = pytest.mark.ray

K = 12


@pytest.fixture(scope="module")
def digits(tmp_path_factory: pytest.TempPathFactory) -> Path:
    pixels = pa.array(np.asarray(load_digits().data, np.uint8).reshape(-1))
    table = pa.table({"id": np.arange(1797), "v": pa.FixedSizeListArray.from_arrays(pixels, 64)})
    return write_data(tmp_path_factory.mktemp("digits") / "rows", table, 200)


@pytest.fixture(autouse=True)
def nodes(in_process: None) -> None:
    """Small fragments run here; that workers give the same sums has a test of its own."""


def trained(folder: Path, data: Path, **options: Any) -> dict[str, Any]:
    common: dict[str, Any] = {"exclude": ["id"], "latent_dim": K, "workers": 1}
    return run("train", data=str(data), model=folder, **common | options)


def landmarks(kind: str, count: int) -> dict[str, Any]:
    """The option, for the kind that has it."""
    return {"landmarks": count} if kind == "kernel-pca" else {}


def test_pca_is_scikit_learns_and_does_all_a_model_does(tmp_path: Path, digits: Path) -> None:
    model = tmp_path / "m"
    result = trained(model, digits, kind="pca", validation_fraction=0.0, fragment_rows=200)
    assert (result["steps"], result["epochs"], result["rows_trained"]) == (0, 1, 1797)
    assert result["parameters"] == 64 + K * 64 + K + 1
    assert not (model / "_train").exists()
    pixels = load_digits().data
    theirs = PCA(K, svd_solver="full").fit(pixels)

    run("embed", data=str(digits), model=model, out=tmp_path / "e", key="id", with_elbo=True)
    embedded = rows_of(tmp_path / "e")
    mu = vectors(embedded, "mu")
    expected = theirs.transform(pixels)
    signs = np.sign((mu * expected).sum(0))
    np.testing.assert_allclose(mu * signs, expected, atol=1e-4)
    assert (vectors(embedded, "sigma") > 0).all()

    figures = run("evaluate", data=str(digits), model=model)
    assert figures["log_likelihood"] == pytest.approx(figures["elbo"], abs=1e-3)
    assert embedded["elbo"].to_numpy().mean() == pytest.approx(figures["elbo"], abs=1e-3)
    shrink = 1796 / 1797  # maximum likelihood divides by n
    theirs.explained_variance_ *= shrink
    theirs.noise_variance_ *= shrink
    assert figures["log_likelihood"] == pytest.approx(theirs.score(pixels), abs=0.005)
    share = theirs.explained_variance_ratio_.sum()
    assert figures["explained_variance"] == pytest.approx(share, abs=1e-5)
    assert figures["reconstruction_mse"] == pytest.approx(figures["pca_reconstruction_mse"])
    assert figures["importance_samples"] is None

    run("generate", model=model, rows=3000, out=tmp_path / "g", with_latents=True)
    z = vectors(rows_of(tmp_path / "g"), "z")
    prior = theirs.explained_variance_ - theirs.noise_variance_
    np.testing.assert_allclose(z.var(0), prior, rtol=5 * (2 / 3000) ** 0.5)
    card = (model / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# A probabilistic principal component analysis by distvae")


def test_kernel_pca_does_all_a_model_does(tmp_path: Path, digits: Path) -> None:
    model = tmp_path / "m"
    options = {"kind": "kernel-pca", "landmarks": 300, "fragment_rows": 200}
    result = trained(model, digits, **options)
    figures = result["metrics"]
    for name in ("elbo", "kl", "log_likelihood", "active_units", "kl_per_dimension"):
        assert figures[name] is None
    assert figures["reconstruction_mse"] < figures["pca_reconstruction_mse"]
    run("embed", data=str(digits), model=model, out=tmp_path / "e", key="id")
    embedded = rows_of(tmp_path / "e")
    assert embedded["sigma"].null_count == 1797
    assert np.isfinite(vectors(embedded, "mu")).all()
    run("generate", model=model, rows=100, out=tmp_path / "g")
    assert rows_of(tmp_path / "g").num_rows == 100
    assert run("evaluate", data=str(digits), model=model)["rows"] == 1797
    card = (model / "README.md").read_text(encoding="utf-8")
    assert "300 landmarks" in card and "None" not in card


@pytest.mark.parametrize("kind", ["pca", "kernel-pca"])
def test_workers_give_the_bits_of_one_process(
    tmp_path: Path, digits: Path, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    options = {"kind": kind, "fragment_rows": 200} | landmarks(kind, 50)
    here = trained(tmp_path / "here", digits, **options)
    monkeypatch.setattr("distvae.cluster.passes._SMALL_BYTES", 0)

    def shuffled(factory: Any, arguments: Any, fragments: Any, resources: Any) -> Any:
        """A fresh worker per fragment; the last fragment is the first to be done."""
        for fragment in reversed(fragments):
            yield from run_here(factory, arguments, [fragment], resources)

    monkeypatch.setattr("distvae.cluster.passes.run_fragments", shuffled)
    there = trained(tmp_path / "there", digits, **options)
    assert here["model_id"] == there["model_id"]
    monkeypatch.setattr("distvae.cluster.passes.run_fragments", run_fragments)
    spread = trained(tmp_path / "spread", digits, **options | {"workers": 2})
    ours, theirs = (distvae.load(str(tmp_path / name)) for name in ("here", "spread"))
    # Worker processes may have other BLAS threads than this one.
    table = pq.read_table(digits)
    np.testing.assert_allclose(ours.encode(table)[0], theirs.encode(table)[0], atol=1e-3)
    assert spread["rows_trained"] == here["rows_trained"]


@pytest.mark.parametrize("power", [-1.0, -0.5])
def test_wide_rows_are_fitted_by_the_sketch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, power: float
) -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=(600, 80)) * np.arange(1, 81) ** power
    for module in ("distvae.data.statistics", "distvae.cluster.train"):
        monkeypatch.setattr(f"{module}.LARGEST_PCA_WIDTH", 50)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 80)
    data = write_data(tmp_path / "in", pa.table({"id": np.arange(600), "v": lists}), 100)
    options = {"kind": "pca", "latent_dim": 3, "validation_fraction": 0.0, "fragment_rows": 100}
    trained(tmp_path / "m", data, **options)
    theirs = PCA(3, svd_solver="full").fit(x)
    network = distvae.load(str(tmp_path / "m")).network
    assert isinstance(network, PcaModel)
    ours = (network.signal + network.noise_variance).numpy() * network.unit**2 * 600 / 599
    np.testing.assert_allclose(ours, theirs.explained_variance_, rtol=1e-5)
    x[7, 3] = np.nan
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 80)
    data = write_data(tmp_path / "gaps", pa.table({"id": np.arange(600), "v": lists}), 100)
    with pytest.raises(DataError, match="a.parquet: vector 'v': has missing values; pca of 80"):
        trained(tmp_path / "n", data, **options)
    assert not (tmp_path / "n").exists()


def test_wide_rows_give_the_same_bits_wherever_fragments_are_worked_on(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    x = np.random.default_rng(0).normal(size=(600, 80)) * np.arange(1, 81) ** -0.5
    for module in ("distvae.data.statistics", "distvae.cluster.train"):
        monkeypatch.setattr(f"{module}.LARGEST_PCA_WIDTH", 50)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), 80)
    data = write_data(tmp_path / "in", pa.table({"id": np.arange(600), "v": lists}), 100)
    options = {"kind": "pca", "latent_dim": 3, "fragment_rows": 100}
    here = trained(tmp_path / "here", data, **options)
    monkeypatch.setattr("distvae.cluster.passes._SMALL_BYTES", 0)

    def shuffled(factory: Any, arguments: Any, fragments: Any, resources: Any) -> Any:
        for fragment in reversed(fragments):
            yield from run_here(factory, arguments, [fragment], resources)

    monkeypatch.setattr("distvae.cluster.passes.run_fragments", shuffled)
    assert trained(tmp_path / "there", data, **options)["model_id"] == here["model_id"]


def test_columns_nine_orders_apart_keep_the_likelihood(tmp_path: Path) -> None:
    x = graded_table()
    table = pa.table({"id": np.arange(600)} | {f"c{i}": c for i, c in enumerate(x.T)})
    data = write_data(tmp_path / "in", table, 100)
    lam = np.square(np.linalg.svd(x - x.mean(0))[1]) / 600
    for k in (2, 5):
        options = {"kind": "pca", "latent_dim": k, "validation_fraction": 0.0}
        trained(tmp_path / f"m{k}", data, **options)
        figures = run("evaluate", data=str(data), model=tmp_path / f"m{k}")
        kept = np.concatenate([lam[:k], np.full(6 - k, lam[k:].mean())])
        expected = -0.5 * (6 * (np.log(2 * np.pi) + 1) + np.log(kept).sum())
        assert figures["log_likelihood"] == pytest.approx(expected, abs=0.005)


def test_a_noise_that_stands_in_is_told(
    tmp_path: Path, digits: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    trained(tmp_path / "m", digits, kind="pca", latent_dim=61, validation_fraction=0.0)
    told = "a standard deviation of 0.289 stands in for it in ln p(x)"
    assert told in " ".join(capsys.readouterr().err.split())


def test_missing_values_are_marginalised_and_imputed(tmp_path: Path) -> None:
    data = write_data(tmp_path / "in", make_table(900, missing=0.2), 100)
    for kind in ("pca", "kernel-pca"):
        options = {"kind": kind, "latent_dim": 3} | landmarks(kind, 100)
        result = trained(tmp_path / kind, data, **options)
        assert 0 < result["metrics"]["explained_variance"] < 1
    figures = run("evaluate", data=str(data), model=tmp_path / "pca")
    assert figures["log_likelihood"] == pytest.approx(figures["elbo"], abs=1e-4)


def test_autoencoder_has_a_prior_fitted_to_its_codes(tmp_path: Path, data: Path) -> None:
    options = {"kind": "autoencoder", "latent_dim": 3, "hidden_dims": "16", "epochs": 3}
    result = trained(tmp_path / "m", data, **options)
    assert result["metrics"]["kl"] is None
    loaded = distvae.load(str(tmp_path / "m"))
    architecture = loaded.files.architecture
    assert (architecture.posterior, architecture.prior) == ("point", "mixture")
    assert set(architecture.likelihoods.values()) == {"gaussian-fixed"}
    assert loaded.files.prior is not None
    run("generate", model=tmp_path / "m", rows=500, out=tmp_path / "g", with_latents=True)
    z = vectors(rows_of(tmp_path / "g"), "z")
    mu = loaded.encode(pq.read_table(data))[0]
    spread = mu.std(0)
    assert np.abs((z.mean(0) - mu.mean(0)) / spread).max() < 0.5
    assert np.abs(z.std(0) / spread - 1).max() < 0.5
    run("embed", data=str(data), model=tmp_path / "m", out=tmp_path / "e", key="id")
    assert rows_of(tmp_path / "e")["sigma"].null_count > 0
    assert run("evaluate", data=str(data), model=tmp_path / "m")["elbo"] is None
    card = (tmp_path / "m" / "README.md").read_text(encoding="utf-8")
    assert card.startswith("# An autoencoder by distvae") and "mixture of 16 components" in card


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (
            {"kind": "pca", "latent_dim": 11},
            "latent_dim: got 11; pca has at most as many components as the rows have elements, 10",
        ),
        (
            {"kind": "kernel-pca", "latent_dim": 8, "landmarks": 7},
            "latent_dim: got 8; kernel-pca has at most as many components as landmarks, 7",
        ),
    ],
)
def test_more_components_than_there_can_be_are_refused(
    tmp_path: Path, data: Path, options: dict[str, Any], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        trained(tmp_path / "m", data, **options)


def test_fewer_rows_than_components_are_refused(tmp_path: Path) -> None:
    data = write_data(tmp_path / "in", make_table(12), 4)
    with pytest.raises(DataError, match=r"leaves \d+ training rows; kernel-pca of 12 dimensions"):
        trained(tmp_path / "m", data, kind="kernel-pca")


def test_heads_that_do_not_fit_the_columns_are_refused_early(tmp_path: Path, digits: Path) -> None:
    with pytest.raises(UsageError, match="likelihood: .*gaussian-full.*uint8"):
        trained(tmp_path / "m", digits, likelihood={"v": "gaussian-full"})
    assert not (tmp_path / "m").exists()
