from __future__ import annotations

import warnings
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from distvae.cluster import codes as module
from distvae.cluster import trained
from distvae.cluster.codes import (
    MOST_ROWS,
    draw_rows,
    fit_code_prior,
    most_components,
    read_codes,
)
from distvae.cluster.session import Resources
from distvae.cluster.shards import TrainJob
from distvae.cluster.trained import _gathered, _held_out
from distvae.config import TrainConfig, build
from distvae.console import Console
from distvae.data.codec import block_layout, encode, feature_specs, fit_codec
from distvae.data.fragments import ROWS_PER_FRAGMENT
from distvae.data.selection import read_batches, split_rows
from distvae.errors import DataError
from distvae.inferring import Codes
from distvae.model import mixture
from distvae.model.architecture import Architecture
from distvae.model.files import ModelFiles, pack
from distvae.model.inference import encode_rows
from distvae.model.kinds import make_model
from distvae.model.mixture import fit_mixture
from distvae.model.priors import Prior, fit_gaussian
from distvae.model.sources import source_points
from distvae.saved import Model
from tests.cluster.helpers import make_table, run, write_data

pytestmark = pytest.mark.ray  # distvae.cluster.train imports what needs Ray

fragments_of_rows = st.lists(st.integers(0, 400_000), min_size=1, max_size=60)


@given(fragments_of_rows, st.integers(0, 2**63 - 1), st.integers(16, 60_000))
@settings(max_examples=100, deadline=None)
def test_the_draw_is_bounded_and_within_the_fragments(
    rows: list[int], seed: int, most: int
) -> None:
    draws = draw_rows(rows, seed, most)
    count = sum(len(draw.numbers) for draw in draws)
    if sum(rows) <= most:
        assert count == sum(rows)
    else:
        assert 0 < count <= most and len(draws) <= 16
    indices = [draw.fragment for draw in draws]
    assert indices == sorted(set(indices))
    for draw in draws:
        assert len(draw.numbers) and (np.diff(draw.numbers) > 0).all()
        assert draw.numbers[0] >= 0
        assert draw.numbers[-1] < min(rows[draw.fragment], max(ROWS_PER_FRAGMENT, most))
    again = draw_rows(rows, seed, most)
    assert [d.numbers.tolist() for d in again] == [d.numbers.tolist() for d in draws]


def test_the_draw_is_spread_over_a_large_input() -> None:
    rows = [ROWS_PER_FRAGMENT] * 4000
    draws = draw_rows(rows, 1)
    assert len(draws) == 16 and sum(len(d.numbers) for d in draws) == MOST_ROWS
    assert np.ptp(np.diff([d.fragment for d in draws])) <= 1  # 250 fragments apart
    for draw in draws:  # and over each fragment: the quartiles are within five standard errors
        quartiles = np.quantile(draw.numbers / ROWS_PER_FRAGMENT, [0.25, 0.5, 0.75])
        assert np.abs(quartiles - [0.25, 0.5, 0.75]).max() < 5 * 0.5 / len(draw.numbers) ** 0.5
    assert [d.fragment for d in draw_rows(rows, 2)] != [d.fragment for d in draws]


def test_every_row_has_nearly_the_same_chance() -> None:
    rows = [30, 0, 500, 70, 1000, 400]
    counts = np.zeros(len(rows))
    for seed in range(400):
        for draw in draw_rows(rows, seed, 320):
            counts[draw.fragment] += len(draw.numbers)
    # 0.16 of 2000 rows; a fragment gets 20 rows for each of the sixteen points that hits it, and
    # the hits vary by less than one, so its mean over 400 seeds has an error below 10 / 20.
    assert np.abs(counts / 400 - 0.16 * np.array(rows)).max() < 5 * 0.5


# -- mixtures -------------------------------------------------------------------------------------


def _three_clusters(n: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    factors = np.array([[[1, 0], [0.8, 0.3]], [[0.2, 0], [0, 2]], [[0.5, 0], [-0.5, 0.5]]])
    chosen = random.choice(3, n, p=[0.5, 0.3, 0.2])
    centres = np.array([[0, 0], [8, 0], [0, 9]])
    return centres[chosen] + np.einsum("nij,nj->ni", factors[chosen], random.normal(size=(n, 2)))


def test_a_known_mixture_is_recovered() -> None:
    n = 20_000
    prior = fit_mixture(_three_clusters(n), 3, seed=1)
    assert prior.weights is not None and prior.means is not None
    assert prior.scale_trils is not None
    order = np.argsort(-prior.weights)
    error = 5 / np.sqrt(0.2 * n)
    np.testing.assert_allclose(prior.weights[order], [0.5, 0.3, 0.2], atol=error)
    np.testing.assert_allclose(prior.means[order], [[0, 0], [8, 0], [0, 9]], atol=2 * error)
    factors = prior.scale_trils[order]
    np.testing.assert_allclose(factors[0], [[1, 0], [0.8, 0.3]], atol=2 * error)
    np.testing.assert_allclose(factors[1], [[0.2, 0], [0, 2]], atol=2 * error)


def test_a_mixture_describes_clusters_better_than_a_gaussian() -> None:
    train, test = _three_clusters(5000), _three_clusters(5000, seed=1)
    single = fit_gaussian(train).log_prob(test).mean()
    assert fit_mixture(train, 3, 0).log_prob(test).mean() > single + 1
    # One component is the Gaussian.
    assert fit_mixture(train, 1, 0).log_prob(test).mean() == pytest.approx(single, abs=1e-5)


def test_the_likelihood_is_scikit_learn_s() -> None:
    from sklearn.mixture import GaussianMixture

    x = _three_clusters(3000)
    theirs = GaussianMixture(3, random_state=0).fit(x)
    np.testing.assert_allclose(fit_mixture(x, 3, 0).log_prob(x).mean(), theirs.score(x), atol=1e-3)


def test_climbing_on_some_rows_loses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    x = np.random.default_rng(2).normal(size=(8000, 6))
    x[:, 1:] += np.tanh(2 * x[:, :1])
    test = x[:4000]
    whole = fit_mixture(x, 6, 0).log_prob(test).mean()
    monkeypatch.setattr(mixture, "_CLIMBING_ROWS", 2000)
    assert fit_mixture(x, 6, 0).log_prob(test).mean() == pytest.approx(whole, abs=0.02)


def test_the_same_seed_gives_the_same_mixture() -> None:
    x = np.random.default_rng(1).normal(size=(2000, 4))
    bits = [_bits(fit_mixture(x, 5, seed)) for seed in (3, 3, 4)]
    assert bits[0] == bits[1]
    assert bits[0] != bits[2]


def _bits(prior: Prior) -> bytes:
    return b"".join(tensor.numpy().tobytes() for tensor in prior.to_tensors().values())


@pytest.mark.parametrize(
    "x",
    [
        np.zeros((400, 3)),
        np.full((1, 2), 5.0),
        np.repeat([[0.0, 1.0], [5.0, 5.0]], 150, axis=0),
        np.outer(np.arange(400.0), [1, 2, 3]),
        np.column_stack([np.arange(300.0), np.full(300, 1e4)]),
        1e-12 * np.arange(900.0).reshape(300, 3),
        np.random.default_rng(0).normal(size=(7, 3)),
        np.random.default_rng(0).standard_cauchy(size=(500, 2)) * 1e6,
    ],
    ids=["zeros", "one row", "two points", "rank one", "constant", "tiny", "few rows", "outliers"],
)
def test_degenerate_codes_give_a_mixture_all_the_same(x: np.ndarray) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        prior = fit_mixture(x, min(8, most_components(*x.shape)), 0)
    assert 1 <= prior.components <= 8
    eps, u = source_points("normal", 1, 0, 500, x.shape[1], choose=True)
    z = prior.sample(eps, u).astype(np.float64)
    assert np.isfinite(z).all() and np.isfinite(prior.log_prob(x)).all()
    spread = x.std(0) + 1e-7 * np.abs(x).max(0) + 1e-30
    assert (np.abs(z.mean(0) - x.mean(0)) < spread).all()


@pytest.mark.parametrize("sigma", [0.0, 1e-4, 1e-2])
def test_narrow_clusters_of_many_codes_are_no_obstacle(
    monkeypatch: pytest.MonkeyPatch, sigma: float
) -> None:
    monkeypatch.setattr(mixture, "_CLIMBING_ROWS", 3000)
    random = np.random.default_rng(1)
    points = random.normal(size=(8, 4))[random.integers(0, 8, 4000)]
    prior = fit_mixture(points + sigma * random.normal(size=points.shape), 32, 0)
    assert 1 <= prior.components <= 32
    assert np.isfinite(prior.log_prob(points)).all()


def test_stretches_of_rows_add_up_the_same_whatever_the_threads(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(mixture, "_NUMBERS_AT_A_TIME", 1)  # 20 stretches of 4 M rows
    x = np.random.default_rng(2).normal(size=(800, 3)).cumsum(1)
    before, found = torch.get_num_threads(), []
    try:
        for threads in (1, 2, 3):
            torch.set_num_threads(threads)
            found.append(fit_mixture(x, 10, 0))
    finally:
        torch.set_num_threads(before)
    assert _bits(found[0]) == _bits(found[1]) == _bits(found[2])
    monkeypatch.setattr(mixture, "_NUMBERS_AT_A_TIME", 1 << 20)
    np.testing.assert_allclose(fit_mixture(x, 10, 0).log_prob(x), found[0].log_prob(x), atol=1e-3)


def test_components_are_limited_by_rows() -> None:
    assert [most_components(n, 4) for n in (0, 1, 99, 100, 1000)] == [1, 1, 1, 2, 20]


def test_codes_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="codes: some are not finite"):
        fit_mixture(np.array([[np.nan, 1.0]]), 1, 0)


# -- rows of a training ---------------------------------------------------------------------------


@pytest.fixture
def job(tmp_path: Path) -> TrainJob:
    """A training on 700 rows in fragments of 50, of which some are left out or held out."""
    from distvae.cluster.summarise import summarise_input  # late: they import what needs Ray
    from distvae.cluster.train import train_plan

    data = write_data(tmp_path / "rows", make_table(700, missing=0.1), 50)
    options = {"fragment_rows": 50, "latent_dim": 3, "where": "y > -1", "kind": "autoencoder"}
    values = {"data": str(data), "model": str(tmp_path / "m"), **options}
    plan = train_plan(build(TrainConfig, values))
    resources = Resources((1, 1), 1, 0.0, 0)
    passed = summarise_input(
        plan.data, plan.features, plan.split, plan.config.where, resources, Console(quiet=True)
    )
    codec = fit_codec(plan.features, passed.summary)
    architecture = Architecture(
        latent_dim=3,
        features=tuple(feature_specs(codec)),
        blocks=tuple(block_layout(codec)),
        hidden_dims=(16,),
        kind="autoencoder",
        posterior="point",
    )
    return TrainJob(
        config=plan.config,
        files=plan.data.inputs.files,
        fragments=plan.data.fragments,
        training_rows=passed.training_rows,
        validation_rows=passed.validation_rows,
        rows_per_window=1000,
        split=plan.split,
        codec=codec,
        architecture=architecture,
        folder=plan.folder,
        items=plan.items,
        output_mean=np.zeros(codec.width, np.float32),
    )


def _model(job: TrainJob) -> Model:
    state = make_model(job.architecture, seed=1).state_dict()
    return Model.from_files(pack(ModelFiles(job.architecture, state, job.codec.to_json())))


def _all_codes(job: TrainJob, model: Model, held_out: bool) -> list[np.ndarray]:
    """Codes of every training row, or of every held-out row, by fragment, read plainly."""
    found = []
    for fragment in job.fragments:
        batches = read_batches(job.files, fragment, job.columns, 1 << 20, job.config.where)
        batch = next(iter(batches))
        places = np.flatnonzero(split_rows(batch.rows, job.split)[int(held_out)])
        encoded = encode(job.codec, batch.table.take(pa.array(places)))
        found.append(encode_rows(model.network, encoded.blocks, encoded.masks)[0])
    return found


def _rows(codes: np.ndarray) -> set[bytes]:
    return {row.tobytes() for row in codes.round(4) + 0.0}


def test_all_training_rows_are_read_when_they_are_few(job: TrainJob) -> None:
    model = _model(job)
    read = list(read_codes(model, job, draw_rows(job.training_rows, 0)))
    expected = [codes for codes in _all_codes(job, model, held_out=False) if len(codes)]
    assert len(read) == len(expected) > 5 and sum(map(len, read)) == sum(job.training_rows)
    for found, plain in zip(read, expected, strict=True):
        np.testing.assert_allclose(found, plain, atol=1e-5)


@pytest.mark.parametrize("rows_per_batch", [7, 16_384])
def test_the_drawn_rows_are_read_and_no_held_out_one(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch, rows_per_batch: int
) -> None:
    monkeypatch.setattr(module, "_ROWS_PER_BATCH", rows_per_batch)
    model = _model(job)
    draws = draw_rows(job.training_rows, 3, 64)
    training = _all_codes(job, model, held_out=False)
    for draw, found in zip(draws, read_codes(model, job, draws), strict=True):
        np.testing.assert_allclose(found, training[draw.fragment][draw.numbers], atol=1e-5)
    held_out = np.concatenate(_all_codes(job, model, held_out=True))
    assert len(held_out) == sum(job.validation_rows) > 0
    read = np.concatenate(list(read_codes(model, job, draws)))
    assert len(read) == sum(len(draw.numbers) for draw in draws) <= 64
    assert not _rows(held_out) & _rows(read)


def test_a_prior_is_fitted_to_the_training_codes(job: TrainJob) -> None:
    model = _model(job)
    codes = np.concatenate(_all_codes(job, model, held_out=False))
    gaussian = fit_code_prior(model, job, "gaussian", 5)
    assert gaussian.components == 1 and gaussian.means is not None
    np.testing.assert_allclose(gaussian.means[0], codes.mean(0), atol=1e-5)
    mixture = fit_code_prior(model, job, "mixture", 5)
    assert mixture.components == 5
    assert mixture.log_prob(codes).mean() > gaussian.log_prob(codes).mean()
    assert _bits(mixture) == _bits(fit_code_prior(model, job, "mixture", 5))


def test_codes_of_a_vae_spread_as_far_as_asked(job: TrainJob) -> None:
    kind = replace(job.architecture, kind="vae", posterior="diagonal")
    job = replace(job, architecture=kind)
    model = _model(job)
    draws = draw_rows(job.training_rows, 0)
    none, half, whole = (
        np.concatenate(list(read_codes(model, job, draws, spread))) for spread in (0.0, 0.5, 1.0)
    )
    assert np.ptp(whole - none) > 0.1
    np.testing.assert_allclose(half - none, 0.5 * (whole - none), atol=1e-5)
    job = replace(job, config=job.config.model_copy(update={"prior_spread": 0.5}))
    prior = fit_code_prior(model, job, "gaussian", 1)
    assert prior.means is not None and isinstance(prior, Prior)
    np.testing.assert_allclose(prior.means[0], half.mean(0), atol=1e-5)


def test_an_idle_dimension_keeps_its_spread(job: TrainJob, monkeypatch: pytest.MonkeyPatch) -> None:
    kind = replace(job.architecture, kind="vae", posterior="diagonal")
    job = replace(job, architecture=kind)
    model = _model(job)
    real = module.codes

    def with_idle(*arguments: Any) -> Codes:
        found = real(*arguments)
        sigma = np.full_like(found.sigma, 0.3)
        sigma[:, 1] = 1.0
        return Codes(np.zeros_like(found.mu), sigma, None)

    monkeypatch.setattr(module, "codes", with_idle)
    draws = draw_rows(job.training_rows, 0)
    found = np.concatenate(list(read_codes(model, job, draws, 0.5)))
    np.testing.assert_allclose(found.std(0), [0.15, 1.0, 0.15], rtol=0.1)


def test_a_fragment_of_rejected_rows_gives_no_code_and_no_warning(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = replace(job, architecture=replace(job.architecture, kind="vae", posterior="diagonal"))
    model = _model(job)
    real = module.encode

    def none_usable(*arguments: Any) -> Any:
        encoded = real(*arguments)
        return replace(encoded, rejected=np.ones_like(encoded.rejected))

    monkeypatch.setattr(module, "encode", none_usable)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        read = list(read_codes(model, job, draw_rows(job.training_rows, 0), 0.5))
    assert sum(map(len, read)) == 0


@pytest.mark.parametrize("size", [7, 2048])
def test_the_first_held_out_rows_come_in_whole_batches(
    job: TrainJob, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    monkeypatch.setattr(trained, "_SCORED_AT_A_TIME", size)
    parts = [(table, rows) for table, rows in _held_out(job) if len(rows)]
    assert len(parts) > 2
    every = pa.concat_tables([table for table, _ in parts])
    numbers = np.concatenate([rows for _, rows in parts])
    assert every.num_rows == len(numbers) == sum(job.validation_rows)
    for count in (1, len(parts[0][1]) + 1, len(numbers)):
        found = list(_gathered(_held_out(job), count))
        assert [len(rows) for _, rows in found[:-1]] == [size] * (len(found) - 1)
        assert pa.concat_tables([t for t, _ in found]).column("id").equals(every[:count]["id"])
        np.testing.assert_array_equal(np.concatenate([rows for _, rows in found]), numbers[:count])


def test_dictionaries_of_many_files_are_no_obstacle(tmp_path: Path) -> None:
    parts = []
    for letter in "ab":
        values = pa.array([f"{letter}{i}" for i in range(100)])
        codes_of = pa.array(np.arange(400) % 100, pa.int8())
        column = pa.DictionaryArray.from_arrays(codes_of, values)
        parts.append((pa.table({"c": column, "x": np.arange(400.0)}), np.arange(400)))
    ((table, rows),) = _gathered(iter(parts), 800)
    assert table["c"].to_pylist() == [v for t, _ in parts for v in t["c"].to_pylist()]
    assert len(rows) == 800
    for letter, (table, _) in zip("ab", parts, strict=True):
        write_data(tmp_path / "rows" / letter, table, 400)
    options: dict[str, Any] = {"epochs": 1, "latent_dim": 2, "validation_fraction": 0.2}
    result = run("train", data=str(tmp_path / "rows"), model=tmp_path / "m", **options)
    assert result["rows_trained"] + result["rows_held_out"] == 800
