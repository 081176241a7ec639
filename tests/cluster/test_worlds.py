"""The training loop in worlds of several ranks: threads that add up, no Ray and no processes."""

from __future__ import annotations

import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
import torch

from distvae.cluster import held_out, loop, own, steps
from distvae.cluster.checkpoints import State, read_state
from distvae.cluster.flat import flatten
from distvae.cluster.loop import train_loop
from distvae.cluster.session import Resources
from distvae.cluster.shards import TrainJob
from distvae.cluster.summarise import summarise_input
from distvae.cluster.train import _job, _settled, _wanted, train_plan
from distvae.cluster.world import World
from distvae.config import TrainConfig, build
from distvae.console import Console
from distvae.data.codec import encode, fit_codec
from distvae.data.storage import make_directory
from distvae.errors import DataError, UsageError
from distvae.model.likelihoods import Gaussian
from distvae.model.vae import VAE
from tests.cluster.helpers import make_table, write_data
from tests.model.helpers import exact_log_likelihood

pytestmark = pytest.mark.ray  # distvae.cluster.train imports what needs Ray

# The ranks' partial sums are float32 numbers added in another order than one process adds them.
# Measured over these cases after three epochs: 1.8e-7 relative in the figures, 1.2e-7 in the
# weights. Ten times that; one row with a wrong weight in every batch makes 1e-3.
TOLERANCE = 2e-6
OPTIONS: dict[str, Any] = {
    "latent_dim": 3,
    "hidden_dims": "16",
    "batch_size": 64,
    "epochs": 3,
    "fragment_rows": 50,
}


class _StoppedError(Exception):
    """Stands for the end of the process."""


class Meeting:
    """Adds up tensors over threads in the order of their ranks, as all_reduce does."""

    def __init__(self, size: int) -> None:
        self.barrier = threading.Barrier(size, timeout=60)
        self.parts: list[torch.Tensor] = [torch.empty(0)] * size

    def add(self, values: torch.Tensor, world: World) -> torch.Tensor:
        self.parts[world.rank] = values.clone()
        self.barrier.wait()
        total = torch.stack(self.parts).sum(0)
        self.barrier.wait()
        return values.copy_(total)


def make_job(
    folder: Path, table: pa.Table, bytes_for_rows: int = 1 << 30, **options: Any
) -> TrainJob:
    data = folder / "rows"
    if not data.exists():
        write_data(data, table, 50)
    name = f"m{len(list(folder.iterdir()))}"
    values = {"data": str(data), "model": str(folder / name), **OPTIONS, **options}
    plan = train_plan(build(TrainConfig, values))
    resources = Resources((1, 1), 1, 0.0, 0)
    console, where = Console(quiet=True), plan.config.where
    wanted = _wanted(plan)
    passed = summarise_input(
        plan.data, plan.features, plan.split, where, resources, console, wanted
    )
    plan, passed = _settled(plan, passed, console)
    make_directory(plan.folder)
    codec = fit_codec(plan.features, passed.summary, passed.profile, plan.codings)
    return _job(plan, passed, codec, {"bytes_for_rows": bytes_for_rows})


def train(job: TrainJob, size: int, monkeypatch: pytest.MonkeyPatch) -> State:
    """Train ``job`` in a world of ``size`` threads; its final state."""
    meeting = Meeting(size)
    for module in (loop, held_out, own, steps):
        monkeypatch.setattr(module, "sum_over_ranks", meeting.add)

    def rank(number: int) -> None:
        try:
            train_loop(job, World(number, size), lambda message: None)
        except DataError:
            raise  # all ranks raise it together
        except BaseException:
            meeting.barrier.abort()
            raise

    with ThreadPoolExecutor(size) as pool:
        for done in [pool.submit(rank, number) for number in range(size)]:
            done.result()
    state = read_state(job.folder)
    assert state is not None and state.position.finished
    return state


def losses(state: State) -> dict[str, list[float]]:
    """The history without clocks."""
    rows = state.position.history
    clocks = ("seconds", "rows_per_second")
    return {name: [row[name] for row in rows] for name in rows[0] if name not in clocks}


@pytest.mark.parametrize("size", [2, 5])
@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("bytes_for_rows", [1 << 30, 10_000])
def test_the_history_is_that_of_one_rank(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, missing: float, bytes_for_rows: int
) -> None:
    table = make_table(700, missing=missing)
    one = train(make_job(tmp_path, table, bytes_for_rows), 1, monkeypatch)
    job = make_job(tmp_path, table, bytes_for_rows)
    assert (job.rows_per_window < sum(job.training_rows)) == (bytes_for_rows < 1 << 30)
    many = train(job, size, monkeypatch)
    assert len(losses(one)["epoch"]) == 3 and "validation_loss" in losses(one)
    for name, values in losses(one).items():
        np.testing.assert_allclose(losses(many)[name], values, rtol=TOLERANCE, err_msg=name)
    np.testing.assert_allclose(many.tensors["weights"], one.tensors["weights"], atol=TOLERANCE)


# Every way to train; each is a sum over rows, so the number of ranks must not matter.
WAYS: list[dict[str, Any]] = [
    {"posterior": "full", "kl": "sampled", "mc_samples": 2},
    {"posterior": "isotropic", "free_bits": 0.2, "learning_rate_schedule": "cosine"},
    {"objective": "iwae", "importance_samples": 4},
    {"objective": "iwae", "importance_samples": 3, "mc_samples": 2, "doubly_reparameterized": True},
    {"kl_schedule": "cyclic", "kl_warmup": 0.5, "kl_cycle": 1},
    {"inference": "per-row", "inference_steps": 2},
    {"inference": "semi-amortised", "inference_steps": 2, "posterior": "full"},
    {"kind": "autoencoder"},
    {"likelihood": ["v=gaussian-low-rank:2", "x=gaussian-feature"]},
]


@pytest.mark.parametrize("way", WAYS, ids=str)
def test_every_way_to_train_is_that_of_one_rank_and_resumes_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, way: dict[str, Any]
) -> None:
    table = make_table(400, missing=0.1)
    one = train(make_job(tmp_path, table, **way), 1, monkeypatch)
    many = train(make_job(tmp_path, table, **way), 3, monkeypatch)
    assert all(np.isfinite(row["train_loss"]) for row in one.position.history)
    # Adam's first steps turn rounding into signs where a gradient is nearly 0: looser than above.
    for name, values in losses(one).items():
        np.testing.assert_allclose(losses(many)[name], values, rtol=1e-3, atol=1e-4, err_msg=name)
    stopped = make_job(tmp_path, table, checkpoint_seconds=1e-9, **way)
    with monkeypatch.context() as broken, pytest.raises(_StoppedError):
        stop_before(broken, 9)
        train(stopped, 1, broken)
    again = train(stopped, 1, monkeypatch)
    assert torch.equal(again.tensors["weights"], one.tensors["weights"])
    assert losses(again) == losses(one)


def stop_before(monkeypatch: pytest.MonkeyPatch, last: int) -> None:
    """End the process before so many optimiser steps are exceeded."""
    real = loop._Trainer._step

    def step(self: Any, rows: Any, index: Any, places: Any, in_batch: int) -> None:
        if self.position.steps == last:
            raise _StoppedError
        real(self, rows, index, places, in_batch)

    monkeypatch.setattr(loop._Trainer, "_step", step)


def test_a_linear_autoencoder_reaches_principal_components(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """min |x - g(f(x))|^2 with affine f and g: within 1 % of PCA's error (Baldi & Hornik 1989)."""
    options = {
        "kind": "autoencoder",
        "hidden_dims": "none",
        "include": ["v"],
        "latent_dim": 2,
        "epochs": 60,
        "learning_rate": 0.02,
        "learning_rate_schedule": "cosine",
        "validation_fraction": 0.0,
    }
    table = make_table(700)
    job = make_job(tmp_path, table, **options)
    state = train(job, 1, monkeypatch)
    model = VAE(job.architecture)
    flatten(model, 0).values.data.copy_(state.tensors["weights"])
    values = np.stack(table["v"].to_numpy()).astype(np.float64)
    encoded = encode(job.codec, table.select(["v"]))
    with torch.no_grad():
        y, _ = model.prepare([torch.from_numpy(np.array(b)) for b in encoded.blocks], [None])
        found = model.reconstruction_mean(model.decode(model.encode(y).mu)) - y
    error = (found.double() * model.element_scale).square().sum(1).mean().item()
    centred = values - values.mean(0)
    spectrum = np.linalg.svd(centred, compute_uv=False) ** 2 / len(values)
    best = spectrum[2:].sum()
    assert best * 0.999 < error < best * 1.01


def test_inference_per_row_reaches_probabilistic_pca(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without an encoder, a linear decoder comes near the largest possible ln p(x)."""
    options = {
        "inference": "per-row",
        "posterior": "full",
        "hidden_dims": "none",
        "include": ["v"],
        "likelihood": ["v=gaussian-feature"],
        "epochs": 80,
        "learning_rate": 0.02,
        "learning_rate_schedule": "cosine",
        "validation_fraction": 0.0,
    }
    # Two steps without reparameterisation are EM-like: slow where noise is small. So plenty of it.
    clean = np.stack(make_table(400)["v"].to_numpy())
    noisy = (clean + np.random.default_rng(1).normal(size=clean.shape)).astype(np.float32)
    table = pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(noisy.ravel()), 8)})
    job = make_job(tmp_path, table, **options)
    state = train(job, 1, monkeypatch)
    model = VAE(job.architecture)
    flatten(model, 0).values.data.copy_(state.tensors["weights"])
    head = model.observation.heads[0]
    assert isinstance(head, Gaussian)
    _, log_sigma = head.location_and_log_sigma(torch.zeros(1, 8))
    scale = model.element_scale[0].item()
    values = np.stack(table["v"].to_numpy()).astype(np.float64)
    shift = job.codec.columns[0].shift
    weight, bias = (p.detach().double().numpy() for p in model.decoder.last.parameters())
    sigma = log_sigma.exp().mean().item() * scale
    found = exact_log_likelihood(values, weight * scale, bias * scale + shift, sigma).mean()
    centred = values - values.mean(0)
    spectrum, vectors = np.linalg.eigh(centred.T @ centred / len(values))
    noise = spectrum[:-3].mean()
    loadings = vectors[:, -3:] * np.sqrt(spectrum[-3:] - noise)
    best = exact_log_likelihood(values, loadings, values.mean(0), float(np.sqrt(noise))).mean()
    assert best - 0.3 < found <= best + 1e-6


def test_rows_own_posteriors_must_fit_in_memory(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job = make_job(tmp_path, make_table(700), 10_000, inference="per-row")
    with pytest.raises(UsageError, match="inference: got per-row; .* must fit in memory"):
        train(job, 1, monkeypatch)


@pytest.mark.parametrize("size", [1, 3])
@pytest.mark.parametrize("bytes_for_rows", [1 << 30, 800])
def test_every_training_row_is_taken_once_per_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int, bytes_for_rows: int
) -> None:
    options = {"include": ["id"], "likelihood": ["id=gaussian"], "epochs": 2}
    job = make_job(tmp_path, make_table(700), bytes_for_rows, **options)
    taken: list[tuple[int, int, np.ndarray[Any, Any]]] = []
    real = loop._Trainer._step

    def step(self: Any, rows: Any, index: Any, places: Any, in_batch: int) -> None:
        ids = rows.blocks[0][index, 0]
        taken.append((self.position.epoch, self.position.steps, ids))
        real(self, rows, index, places, in_batch)

    monkeypatch.setattr(loop._Trainer, "_step", step)
    train(job, size, monkeypatch)
    orders = []
    for epoch in (0, 1):
        values = [ids for e, _, ids in sorted(taken, key=lambda t: t[1]) if e == epoch]
        ids = np.concatenate(values)
        assert len(ids) == len(np.unique(ids)) == sum(job.training_rows)
        orders.append(ids)
    assert set(orders[0].tolist()) == set(orders[1].tolist())
    assert orders[0].tolist() != orders[1].tolist()
    made = len({s for _, s, _ in taken})
    if bytes_for_rows == 1 << 30:
        assert made == 2 * -(-sum(job.training_rows) // 64)
    else:
        assert made > 2 * -(-sum(job.training_rows) // 64)  # a short batch at each window's end


@pytest.mark.parametrize("bytes_for_rows", [1 << 30, 10_000])
@pytest.mark.parametrize("stop_at", [1, 14])
def test_a_checkpoint_goes_on_to_the_same_bits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, bytes_for_rows: int, stop_at: int
) -> None:
    table = make_table(700)
    whole = train(make_job(tmp_path, table, bytes_for_rows), 1, monkeypatch)

    job = make_job(tmp_path, table, bytes_for_rows, checkpoint_seconds=1e-9)
    with monkeypatch.context() as broken, pytest.raises(_StoppedError):
        stop_before(broken, stop_at)
        train(job, 1, broken)
    left = read_state(job.folder)
    assert left is not None and left.position.steps == stop_at and not left.position.finished

    again = train(job, 1, monkeypatch)
    assert torch.equal(again.tensors["weights"], whole.tensors["weights"])
    assert losses(again) == losses(whole)


@pytest.mark.parametrize("size", [1, 2])
def test_a_loss_that_is_not_finite_stops_all_ranks(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, size: int
) -> None:
    job = make_job(tmp_path, make_table(700), learning_rate=1e30)
    with pytest.raises(DataError, match=r"not finite at step 2 \(epoch 1\), in columns") as told:
        train(job, size, monkeypatch)
    assert told.value.exit_code == 3
    assert "'" not in told.value.message and "x, y, v" in told.value.message


def test_early_stopping_keeps_the_best_weights(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    # 60 rows and 64 hidden units: the held-out loss turns round soon.
    options = {"hidden_dims": "64", "learning_rate": 0.02, "validation_fraction": 0.3}
    table = make_table(60)
    state = train(make_job(tmp_path, table, epochs=200, patience=4, **options), 1, monkeypatch)
    validation = losses(state)["validation_loss"]
    best = int(np.argmin(validation))
    assert len(validation) == best + 1 + 4 < 200
    shorter = train(make_job(tmp_path, table, epochs=best + 1, **options), 1, monkeypatch)
    assert torch.equal(state.tensors["weights"], shorter.tensors["weights"])


def test_max_steps_ends_in_the_middle_of_an_epoch(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    table = make_table(700)
    state = train(make_job(tmp_path, table, max_steps=13), 1, monkeypatch)
    assert state.position.steps == 13
    assert losses(state)["steps"] == [11, 13]
    whole = train(make_job(tmp_path, table), 1, monkeypatch)
    assert losses(whole)["train_loss"][0] == losses(state)["train_loss"][0]


def test_two_lanes_make_the_steps_of_one_and_the_same_bits_every_time(tmp_path: Path) -> None:
    table = make_table(1000, missing=0.2)
    states = []
    for lanes in (1, 2, 2):
        job = make_job(tmp_path, table, batch_size=512)
        train_loop(job, World(lanes=lanes), lambda message: None)
        state = read_state(job.folder)
        assert state is not None
        states.append(state)
    one, two, again = states
    for name, values in losses(one).items():
        np.testing.assert_allclose(losses(two)[name], values, rtol=TOLERANCE, err_msg=name)
    np.testing.assert_allclose(two.tensors["weights"], one.tensors["weights"], atol=TOLERANCE)
    assert not torch.equal(two.tensors["weights"], one.tensors["weights"])  # they were two
    assert torch.equal(two.tensors["weights"], again.tensors["weights"])
