"""train: statistics, codec, Ray Train or a closed form, model directory; the driver's side."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distvae.cluster.checkpoints import Position, read_state
from distvae.cluster.fit_linear import CLOSED_FORM, fit_linear
from distvae.cluster.flat import flatten
from distvae.cluster.launch import run_training
from distvae.cluster.model_folder import begin, finished_already, workplace
from distvae.cluster.nodes import prove_storage, warn_of_idle_gpus, workers_engine
from distvae.cluster.own import bytes_per_posterior
from distvae.cluster.session import Resources, Session, connect
from distvae.cluster.shards import TrainJob, row_bytes
from distvae.cluster.subspace import refine_sketch
from distvae.cluster.summarise import Pass, Wanted, summarise_input
from distvae.cluster.train_plan import TrainPlan, make_architecture, train_plan
from distvae.cluster.trained import Trained, write_model
from distvae.config import TrainConfig
from distvae.console import Console
from distvae.data.arrow_values import element_slices
from distvae.data.codec import Codec, block_layout, feature_specs, fit_codec
from distvae.data.lease import Lease
from distvae.data.roles import Feature, total_width
from distvae.data.sketch import sketch_size
from distvae.data.statistics import LARGEST_PCA_WIDTH, Summary, covariance, select
from distvae.data.storage import delete_tree
from distvae.errors import DataError
from distvae.model.linear import Pca, fit_pca, pca_of_factor
from distvae.model.posteriors import raw_width
from distvae.model.vae import VAE
from distvae.planning import DataPlan

__all__ = ["TrainPlan", "train", "train_plan"]


def train(config: TrainConfig, console: Console, data: DataPlan | None = None) -> dict[str, Any]:
    """Train and write the model directory; returns its figures.

    Raises:
        OutputError: the directory is in the way, or a resume does not match it.
        DistvaeError: data, storage or cluster fail.
    """
    started = time.monotonic()
    plan = train_plan(config, data)
    if finished_already(plan):
        console.note(f"{config.model}: trained already, nothing to do")
        return {"model": config.model, "finished": True}
    with (
        workplace(plan),
        Lease(plan.folder) as lease,
        connect(config, None if config.kind in CLOSED_FORM else _import_optimiser) as session,
    ):
        resources = _ready(plan, session, console)
        note = begin(plan, session)
        passes = session.resources(config, len(plan.data.fragments))
        begun = time.monotonic()
        passed = summarise_input(
            plan.data,
            plan.features,
            plan.split,
            config.where,
            passes,
            console,
            _wanted(plan),
        )
        plan, passed = _settled(plan, passed, console)
        passed = refine_sketch(passed, plan, passes, console)
        codec = fit_codec(
            plan.features,
            passed.summary,
            passed.profile,
            plan.codings,
            companions=plan.is_modelled,
        )
        pca = _baseline(passed, config.latent_dim, console)
        job = _job(plan, passed, codec, note)
        statistics_seconds = time.monotonic() - started
        if config.kind in CLOSED_FORM:
            model = fit_linear(job, passed, pca, plan.data.bytes, passes, console)
            trained = Trained(model.state_dict(), _solved(job, time.monotonic() - begun))
        else:
            run_training(job, session, resources, console)
            trained = _from_checkpoint(job)
        lease.check()
        figures = write_model(plan.target, job, trained, pca, passed, console)
    delete_tree(plan.folder)
    seconds = time.monotonic() - started
    return _result(config, trained.position, figures, statistics_seconds, seconds)


def _import_optimiser() -> None:
    """Make torch's first optimiser, which imports its compiler: two seconds."""
    torch.optim.Adam([torch.zeros(1)])


def _ready(plan: TrainPlan, session: Session, console: Console) -> Resources:
    """What training may use, its storage and its GPUs proved."""
    config = plan.config
    prove_storage(session, plan.folder)
    resources = session.resources(config, len(session.nodes))
    if config.kl_schedule == "linear" and config.kl_warmup > config.epochs:
        told = f"{config.kl_warmup:g} epochs, but training ends after {config.epochs}"
        console.warn(f"--kl-warmup is {told}: the KL weight never reaches {config.kl_weight:g}")
    if config.gpus_per_worker > 0 and config.kind in CLOSED_FORM:
        console.warn(f"--gpus-per-worker is reserved but kind {config.kind} is fitted on CPUs")
    elif config.gpus_per_worker > 0:
        engine = workers_engine(session, resources, config.precision)
        warn_of_idle_gpus(console, engine, config.gpus_per_worker)
    return resources


def _wanted(plan: TrainPlan) -> Wanted:
    """What the statistics pass finds beside the summary, by kind."""
    config, width = plan.config, total_width(plan.features)
    if config.kind == "pca" and width > LARGEST_PCA_WIDTH:
        return Wanted(sketch=sketch_size(config.latent_dim, width))
    if config.kind == "kernel-pca":
        return Wanted(rows=config.landmarks, of_rows=plan.data.rows)
    return Wanted(
        profile=plan.is_modelled,
        of_rows=plan.data.rows,
        sampled=plan.conditions,
        skip_infinite=config.on_infinite == "clip",
    )


def _settled(plan: TrainPlan, passed: Pass, console: Console) -> tuple[TrainPlan, Pass]:
    """Plan and summary of the columns that are used, now that their values are known.

    Raises:
        DataError: a column without a value, or none that can be used.
    """
    measured = [feature for feature in plan.features if feature.is_measured]
    if passed.profile is not None:
        plan = plan.settled(passed.profile)
        kept = {feature.name for feature in plan.features}
        places = [
            np.arange(place.start, place.stop)
            for feature, place in zip(measured, element_slices(measured), strict=True)
            if feature.name in kept
        ]
        elements = np.concatenate(places) if places else np.empty(0, np.int64)
        if len(elements) < len(passed.summary.mean):
            passed = replace(passed, summary=select(passed.summary, elements))
        measured = [feature for feature in measured if feature.name in kept]
    _refuse_unobserved(measured, passed.summary)
    for column in plan.left_out:
        console.note(f"column {column.name!r} is left out: {column.reason}")
    return plan, passed


def _refuse_unobserved(features: Sequence[Feature], summary: Summary) -> None:
    """A column without a single value teaches nothing, and its scale would be made up."""
    places = element_slices(features)
    counts = {f: summary.count[at].sum() for f, at in zip(features, places, strict=True)}
    empty = [feature for feature, count in counts.items() if count == 0]
    if empty:
        others = "".join(f" (nor has {feature.label})" for feature in empty[1:])
        raise DataError(
            empty[0].label,
            f"has no value but null and NaN in the training rows{others}",
            "at least one is needed",
            "leave it out with " + " ".join(f"--exclude {feature.name}" for feature in empty),
        )


def _baseline(passed: Pass, latent_dim: int, console: Console) -> Pca | None:
    """PCA of the training rows with as many components as latent dimensions."""
    summary, width = passed.summary, len(passed.summary.mean)
    if width == 0:
        return None
    kept = min(latent_dim, width)
    if passed.sketch is not None:
        variance = float(summary.m2.sum()) / summary.rows
        return pca_of_factor(summary.mean, passed.sketch.factor, summary.rows, variance, kept)
    if summary.products is None:
        console.warn(f"no PCA baseline: {width} elements are more than {LARGEST_PCA_WIDTH}")
        return None
    return fit_pca(*covariance(summary), kept)


def _job(plan: TrainPlan, passed: Pass, codec: Codec, note: Mapping[str, Any]) -> TrainJob:
    landmarks = plan.config.landmarks
    if plan.config.kind == "kernel-pca":
        landmarks = _landmarks(plan.config, passed)
    return TrainJob(
        config=plan.config,
        files=plan.data.inputs.files,
        fragments=plan.data.fragments,
        training_rows=passed.training_rows,
        validation_rows=passed.validation_rows,
        rows_per_window=max(1, int(note["bytes_for_rows"]) // _bytes_per_row(plan.config, codec)),
        split=plan.split,
        codec=codec,
        architecture=make_architecture(plan, feature_specs(codec), block_layout(codec), landmarks),
        folder=plan.folder,
        items=plan.items,
        output_mean=_output_mean(codec, passed.summary),
        left_out=tuple((column.name, column.reason) for column in plan.left_out),
    )


def _output_mean(codec: Codec, summary: Summary) -> npt.NDArray[np.float32]:
    """(D,) mean of the training rows as encoded, 0 where an element has classes."""
    mean = np.zeros(codec.width, np.float32)
    first = 0
    for column in codec.columns:
        if column.companion_of is not None or not column.feature.is_measured:
            continue
        last = first + column.feature.width
        if column.coding != "cells":
            y = (summary.mean[first:last] - column.shift) / column.scale
            mean[column.start : column.stop] = y
        first = last
    return mean


def _bytes_per_row(config: TrainConfig, codec: Codec) -> int:
    """Memory of a training row: its encoded values and, inferred per row, its own posterior."""
    if config.inference != "per-row":
        return row_bytes(codec)
    return row_bytes(codec) + bytes_per_posterior(raw_width(config.posterior, config.latent_dim))


def _landmarks(config: TrainConfig, passed: Pass) -> int:
    """As many as were asked for, or as there are training rows."""
    rows = min(config.landmarks, passed.summary.rows)
    if rows < config.latent_dim:
        raise DataError(
            "DATA",
            f"leaves {rows} training rows",
            f"kernel-pca of {config.latent_dim} dimensions needs as many landmarks",
            "lower --latent-dim",
        )
    return rows


def _from_checkpoint(job: TrainJob) -> Trained:
    """The weights and the position that the training loop left."""
    state = read_state(job.folder)
    assert state is not None
    model = VAE(job.architecture, seed=None)
    flatten(model, 0).values.data.copy_(state.tensors["weights"])
    return Trained(model.state_dict(), state.position)


def _solved(job: TrainJob, seconds: float) -> Position:
    """The position of a fit in closed form: every row once, no steps."""
    rows = sum(job.training_rows)
    row = {"epoch": 1.0, "steps": 0.0, "seconds": seconds}
    row["rows_per_second"] = rows / max(seconds, 1e-9)
    return Position(job.fingerprint, epoch=1, seconds=seconds, history=[row], finished=True)


def _result(
    config: TrainConfig,
    position: Position,
    figures: Mapping[str, Any],
    before: float,
    seconds: float,
) -> dict[str, Any]:
    return {
        "model": config.model,
        **{
            name: figures[name]
            for name in ("model_id", "rows_trained", "rows_held_out", "parameters")
        },
        "epochs": position.epoch,
        "steps": position.steps,
        "metrics": figures["metrics"],
        "seconds": round(seconds, 3),
        "seconds_before_training": round(before, 3),
        "seconds_training": round(position.seconds, 3),
        "rows_per_second": round(position.history[-1]["rows_per_second"], 1)
        if position.history
        else None,
    }
