"""From final weights to the model directory: weights, history, held-out figures, card."""

from __future__ import annotations

import io
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.parquet as pq
import torch

import distvae
from distvae.cluster.card import model_card
from distvae.cluster.checkpoints import Position
from distvae.cluster.codes import fit_code_prior
from distvae.cluster.given import condition_rows
from distvae.cluster.shards import TrainJob
from distvae.cluster.summarise import Pass
from distvae.console import Console
from distvae.data.codec import encode
from distvae.data.reading import join_tables
from distvae.data.selection import read_batches, split_rows
from distvae.data.storage import Location, delete_file, write_bytes
from distvae.inferring import refining_steps
from distvae.model.calibration import calibrate, can_calibrate
from distvae.model.closed import ClosedForm
from distvae.model.files import CONFIG, ModelFiles, pack, parse_json, sha256
from distvae.model.latent import LatentModel
from distvae.model.linear import Pca
from distvae.model.sources import MOST_SOBOL_DIMENSIONS, source_points
from distvae.model.vae import VAE
from distvae.saved import Model
from distvae.scoring import Sums, add, metrics, score

__all__ = ["Trained", "write_model"]

_SCORED_ROWS = 5_000
_SCORED_AT_A_TIME = 2 * 1024
_SAMPLES = 50
_ROWS_PER_BATCH = 8 * 1024
_CALIBRATED = 8 * 1024

_Rows = tuple[pa.Table, npt.NDArray[np.int64]]


@dataclass(frozen=True)
class Trained:
    """What training, or a fit in closed form, has come to.

    Attributes:
        state: the model's weights by name.
        position: where it ended, with its history.
    """

    state: Mapping[str, torch.Tensor]
    position: Position


def write_model(
    target: Location,
    job: TrainJob,
    trained: Trained,
    pca: Pca | None,
    passed: Pass,
    console: Console,
) -> dict[str, Any]:
    """Score the held-out rows, write the directory, ``config.json`` last; return its figures."""
    files = _files(job, trained, pca, passed)
    model = Model.from_files(pack(files), target.uri)
    kind, components = job.architecture.prior, job.architecture.prior_components
    fitted = kind != "normal"
    if isinstance(model.network, VAE) and (fitted or can_calibrate(model.network)):
        with console.stage("prior", 1) as advance:
            if fitted:
                model.network.prior = fit_code_prior(model, job, kind, components)
                files = replace(files, prior=model.network.prior)
            calibrate(model.network, _codes_to_come(model, job.config.seed))
            files = replace(files, state=model.network.state_dict())
            advance(1)
        model = Model.from_files(pack(files), target.uri)
    sums = _held_out_sums(model, job, console)
    scored = metrics(model, sums, _SAMPLES) if sums and sums["rows"][0] > 0 else {}
    figures = {
        "model_id": model.id,
        "rows_trained": sum(job.training_rows),
        "rows_held_out": sum(job.validation_rows),
        "parameters": _parameters(model.network),
        "metrics": scored,
    }
    card = model_card(job, model.network, figures)
    final = pack(replace(files, metrics=scored, readme=card))
    assert parse_json(final[CONFIG], target.uri, CONFIG)["model_id"] == model.id
    delete_file(target.child(CONFIG))  # killed from here on, the training is unfinished: --resume
    for name, data in final.items():
        write_bytes(target.child(name), data)
    return figures


def _codes_to_come(model: Model, seed: int) -> torch.Tensor:
    """Codes that the prior gives, spread evenly (n, k)."""
    prior, k = model.network.prior, model.latent_dim
    source = "sobol" if k < MOST_SOBOL_DIMENSIONS else "normal"
    points = source_points(source, seed, 0, _CALIBRATED, k, prior.chooses, "calibrate")
    return torch.from_numpy(prior.sample(*points))


def _parameters(network: LatentModel) -> int:
    """Numbers that training has found."""
    if isinstance(network, ClosedForm):
        return network.parameter_count
    return sum(p.numel() for p in network.parameters())


def _files(job: TrainJob, trained: Trained, pca: Pca | None, passed: Pass) -> ModelFiles:
    config = job.config.model_dump(
        mode="json", exclude={"resume", "overwrite", "address", "model", "data"}
    )
    training = {
        "options": config,
        "items": dict(job.items),
        "rows": sum(job.training_rows),
        "rows_held_out": sum(job.validation_rows),
        "epochs": trained.position.epoch,
        "steps": trained.position.steps,
        "distvae": distvae.__version__,
        "missing": _missing(job, passed),
        "left_out": dict(job.left_out),
        "split": asdict(job.split),
    }
    conditions = condition_rows(job, passed)
    if conditions:
        training["conditions_sha256"] = sha256(conditions)
    return ModelFiles(
        architecture=job.architecture,
        state=trained.state,
        codec=job.codec.to_json(),
        pca=pca,
        training=training,
        history=_history(trained.position),
        conditions=conditions,
    )


def _missing(job: TrainJob, passed: Pass) -> dict[str, int]:
    """Missing values by column; rows of a scalar column, elements of a vector."""
    found: dict[str, int] = {}
    if passed.profile is not None:
        columns = passed.profile.columns
        found = {name: column.nulls + column.nans for name, column in columns.items()}
    first = 0
    for feature in job.codec.features:
        if feature.is_measured:
            last = first + feature.width
            found[feature.name] = int(passed.summary.missing[first:last].sum())
            first = last
    return {feature.name: found.get(feature.name, 0) for feature in job.codec.features}


def _history(position: Position) -> bytes:
    """``history.parquet``: one row per epoch; a fit in closed form counts as one."""
    rows = position.history
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    table = pa.table({name: pa.array(values, pa.float64()) for name, values in columns.items()})
    for name in ("epoch", "steps"):
        if name in table.column_names:
            place = table.column_names.index(name)
            table = table.set_column(place, name, table.column(name).cast(pa.int64()))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _held_out_sums(model: Model, job: TrainJob, console: Console) -> Sums:
    """Sums over the first held-out rows of the input, as many as a few seconds allow."""
    total: Sums = {}
    left = min(_SCORED_ROWS, sum(job.validation_rows))
    if left == 0:
        return total
    seed, steps = job.config.seed, refining_steps(model, 0)
    with console.stage("score", left) as advance:
        for table, rows in _gathered(_held_out(job), left):
            own = score(model, encode(model.codec, table), rows, _SAMPLES, seed, steps)
            total = add(total, own)
            advance(len(rows))
    return total


def _held_out(job: TrainJob) -> Iterator[_Rows]:
    """The held-out rows of each batch of the input, and their numbers."""
    for fragment in job.fragments:
        if job.validation_rows[fragment.index] == 0:
            continue
        for batch in read_batches(
            job.files, fragment, job.columns, _ROWS_PER_BATCH, job.config.where
        ):
            chosen = split_rows(batch.rows, job.split)[1]
            # Unlike take, filter leaves the dictionaries of chunks as they are.
            yield batch.table.filter(pa.array(chosen)), batch.rows[chosen]


def _gathered(parts: Iterable[_Rows], most: int) -> Iterator[_Rows]:
    """The first ``most`` rows in batches of 2,048: few rows each would fill blocks by halves."""
    tables: list[pa.Table] = []
    numbers: list[npt.NDArray[np.int64]] = []
    left, held = most, 0
    for table, own in parts:
        start, stop = 0, min(len(own), left)
        left -= stop
        while start < stop:
            end = min(stop, start + _SCORED_AT_A_TIME - held)
            tables.append(table[start:end])
            numbers.append(own[start:end])
            held += end - start
            start = end
            if held == _SCORED_AT_A_TIME:
                yield join_tables(tables), np.concatenate(numbers)
                tables, numbers, held = [], [], 0
        if left == 0:
            break
    if held:
        yield join_tables(tables), np.concatenate(numbers)
