"""train: statistics, codec, Ray Train, model directory; the driver's side."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import Any

import numpy as np

import distvae
from distvae.cluster.checkpoints import State, read_state
from distvae.cluster.launch import run_training
from distvae.cluster.nodes import prove_storage, warn_of_idle_gpus, workers_engine
from distvae.cluster.session import Session, connect
from distvae.cluster.shards import TrainJob, row_bytes
from distvae.cluster.summarise import Pass, summarise_input
from distvae.cluster.trained import write_model
from distvae.config import TrainConfig, parse_bytes
from distvae.console import Console
from distvae.data.arrow_values import element_slices
from distvae.data.codec import Codec, block_layout, feature_specs, fit_codec
from distvae.data.fingerprint import first_difference
from distvae.data.lease import Lease, refuse_live_holder
from distvae.data.roles import Feature
from distvae.data.selection import Split
from distvae.data.statistics import LARGEST_PCA_WIDTH, Summary, covariance
from distvae.data.storage import (
    Location,
    delete_file,
    delete_tree,
    kind,
    list_files,
    locate,
    make_directory,
    read_bytes,
    write_bytes,
)
from distvae.errors import DataError, OutputError, StorageError, UsageError
from distvae.model.architecture import DEFAULT_LIKELIHOOD, Architecture
from distvae.model.files import CONFIG, damaged, parse_json
from distvae.model.linear import Pca, fit_pca
from distvae.planning import DataPlan, plan_data, plan_features

__all__ = ["TrainPlan", "train", "train_plan"]

_RUN = "run.json"
_MOST_VALIDATION_ROWS = 500_000
_SHARE_OF_MEMORY = 0.4
# Options that say where and how long, not what: a resume may change them.
_FREE = frozenset(
    {
        "data",
        "model",
        "address",
        "workers",
        "gpus_per_worker",
        "cpus_per_worker",
        "memory_per_worker",
        "epochs",
        "max_steps",
        "patience",
        "checkpoint_seconds",
        "resume",
        "overwrite",
    }
)


@dataclass(frozen=True)
class TrainPlan:
    """A training before it starts.

    Attributes:
        config: its options.
        data: the input and its fragments.
        features: the columns used.
        heads: likelihood head by feature name.
        target: the model directory.
        items: what the fingerprint covers.
    """

    config: TrainConfig
    data: DataPlan
    features: tuple[Feature, ...]
    heads: dict[str, str]
    target: Location
    items: dict[str, Any]

    @property
    def split(self) -> Split:
        """Which rows train; at most half a million rows are held out."""
        config = self.config
        most = _MOST_VALIDATION_ROWS / max(self.data.rows * config.sample_rows, 1)
        return Split(config.seed, config.sample_rows, min(config.validation_fraction, most))

    @property
    def folder(self) -> Location:
        """Where a run in progress lives."""
        return self.target.child("_train")


def train_plan(config: TrainConfig, data: DataPlan | None = None) -> TrainPlan:
    """Everything that can be known before the rows are read; user mistakes are told here.

    Raises:
        UsageError, DataError, StorageError: options or data do not fit.
    """
    data = data or plan_data(config.data, config.fragment_rows, config.where)
    features = plan_features(data, config.include, config.exclude)
    heads = _heads(config, features)
    items = {
        "command": "train",
        "options": {k: v for k, v in config.model_dump(mode="json").items() if k not in _FREE},
        "inputs": [[f.relative, f.size, f.footer_sha256] for f in data.inputs.files],
        "version": distvae.__version__,
    }
    return TrainPlan(config, data, features, heads, locate(config.model), items)


def _heads(config: TrainConfig, features: Sequence[Feature]) -> dict[str, str]:
    """The likelihood of each feature that does not take the default; ``*`` names them all."""
    names = [feature.name for feature in features]
    heads: dict[str, str] = {}
    for column, head in config.likelihood.items():
        if column != "*" and column not in names:
            raise UsageError(
                "likelihood", f"no column {column!r}", f"the features are {', '.join(names[:10])}"
            )
        _refuse_bad_head(column, head)
        heads |= dict.fromkeys(names if column == "*" else [column], head)
    if config.binarize == "dynamic" and "bernoulli" not in heads.values():
        raise UsageError(
            "binarize",
            "got dynamic",
            "needs a bernoulli likelihood",
            "add --likelihood COL=bernoulli",
        )
    return heads


def _refuse_bad_head(column: str, head: str) -> None:
    """A head's name and argument, judged before anything starts."""
    import torch

    from distvae.model.likelihoods import Elements, make_head

    one = torch.ones(1)
    try:
        make_head(head, Elements(one, one, one, discrete=False))
    except UsageError as error:
        _, value, rule, remedy = error.args
        raise UsageError(f"likelihood.{column}", f"got {value}", rule, remedy) from None


def train(config: TrainConfig, console: Console, data: DataPlan | None = None) -> dict[str, Any]:
    """Train and write the model directory; returns its figures.

    Raises:
        OutputError: the directory is in the way, or a resume does not match it.
        DistvaeError: data, storage or cluster fail.
    """
    started = time.monotonic()
    plan = train_plan(config, data)
    if _finished_already(plan):
        console.note(f"{config.model}: trained already, nothing to do")
        return {"model": config.model, "finished": True}
    with _workplace(plan), Lease(plan.folder) as lease, connect(config) as session:
        prove_storage(session, plan.folder)
        resources = session.resources(config, len(session.nodes))
        if config.gpus_per_worker > 0:
            engine = workers_engine(session, resources, config.precision)
            warn_of_idle_gpus(console, engine, config.gpus_per_worker)
        note = _begin(plan, session)
        passed = summarise_input(
            plan.data,
            plan.features,
            plan.split,
            config.where,
            session.resources(config, len(plan.data.fragments)),
            console,
        )
        _refuse_unobserved(plan.features, passed.summary)
        codec = fit_codec(plan.features, passed.summary, _unit_columns(plan))
        pca = _baseline(passed, config.latent_dim, console)
        job = _job(plan, passed, codec, note)
        statistics_seconds = time.monotonic() - started
        run_training(job, session, resources, console)
        lease.check()
        state = read_state(plan.folder)
        assert state is not None
        figures = write_model(plan.target, job, state, pca, passed, console)
    delete_tree(plan.folder)
    return _result(config, state, figures, statistics_seconds, time.monotonic() - started)


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


def _result(
    config: TrainConfig, state: State, figures: Mapping[str, Any], before: float, seconds: float
) -> dict[str, Any]:
    position = state.position
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


def _unit_columns(plan: TrainPlan) -> frozenset[str]:
    return frozenset(name for name, head in plan.heads.items() if head.startswith("bernoulli"))


def _baseline(passed: Pass, latent_dim: int, console: Console) -> Pca | None:
    """PCA of the training rows with as many components as latent dimensions."""
    width = len(passed.summary.mean)
    if passed.summary.products is None:
        console.warn(f"no PCA baseline: {width} elements are more than {LARGEST_PCA_WIDTH}")
        return None
    mean, cov = covariance(passed.summary)
    return fit_pca(mean, cov, min(latent_dim, width))


def _job(plan: TrainPlan, passed: Pass, codec: Codec, note: Mapping[str, Any]) -> TrainJob:
    config = plan.config
    architecture = Architecture(
        latent_dim=config.latent_dim,
        features=tuple(feature_specs(codec)),
        blocks=tuple(block_layout(codec)),
        hidden_dims=config.hidden_dims,
        activation=config.activation,
        likelihoods={f.name: plan.heads.get(f.name, DEFAULT_LIKELIHOOD) for f in plan.features},
        posterior=config.posterior,
        prior=config.prior,
        binarize=config.binarize,
    )
    shift = np.concatenate([column.shift for column in codec.columns])
    scale = np.concatenate([np.full(c.feature.width, c.scale) for c in codec.columns])
    return TrainJob(
        config=config,
        files=plan.data.inputs.files,
        fragments=plan.data.fragments,
        training_rows=passed.training_rows,
        validation_rows=passed.validation_rows,
        rows_per_window=max(1, int(note["bytes_for_rows"]) // row_bytes(codec)),
        split=plan.split,
        codec=codec,
        architecture=architecture,
        folder=plan.folder,
        items=plan.items,
        output_mean=((passed.summary.mean - shift) / scale).astype(np.float32),
    )


# -- the model directory before training ---------------------------------------------------------


def _finished_already(plan: TrainPlan) -> bool:
    """Refuse a target that is in the way; True when a resume has nothing left to do."""
    target, config = plan.target, plan.config
    if kind(target) == "absent":
        return False
    if kind(target) == "file":
        raise OutputError(
            config.model, "is a file", "a model directory is needed", "choose another --model"
        )
    refuse_live_holder(plan.folder)
    whole = kind(target.child(CONFIG)) == "file"
    begun = kind(target.child("_train")) == "directory"
    if not whole and not begun:
        if list_files(target):
            raise OutputError(
                config.model,
                "is not empty and holds no model",
                "it will not be touched",
                "choose another --model",
            )
        return False
    if config.overwrite:
        return False
    if begun and config.resume:
        _noted(plan)
        return False
    if begun:
        raise OutputError(
            config.model,
            "holds a broken-off training",
            "it would be lost",
            "add --resume to go on, or --overwrite",
        )
    if config.resume:
        content = parse_json(read_bytes(target.child(CONFIG)), config.model, CONFIG)
        _refuse_other(plan, dict(content.get("training", {}).get("items", {})))
        return True
    raise OutputError(
        config.model,
        "holds a model already",
        "it will not be replaced",
        "choose another --model, or add --overwrite",
    )


@contextmanager
def _workplace(plan: TrainPlan) -> Iterator[None]:
    """``_train`` for the run; one that fails before its first checkpoint leaves nothing behind."""
    fresh = [place for place in (plan.folder, plan.target) if kind(place) == "absent"]
    make_directory(plan.folder)
    try:
        yield
    except OutputError:  # the folder may be another run's
        raise
    except BaseException:
        if fresh and not _checkpoints(plan):
            with suppress(StorageError):
                for place in fresh:
                    delete_tree(place)
        raise


def _checkpoints(plan: TrainPlan) -> list[Location]:
    found = list_files(plan.folder) if kind(plan.folder) == "directory" else []
    return [plan.folder.child(f.relative) for f in found if f.relative.endswith(".safetensors")]


def _noted(plan: TrainPlan) -> dict[str, Any] | None:
    """What ``_train/run.json`` says, None if it is not there.

    Raises:
        OutputError: it was begun with other options.
        DataError: it is damaged.
    """
    place = plan.folder.child(_RUN)
    if kind(place) != "file":
        return None
    note = parse_json(read_bytes(place), plan.folder.uri, _RUN)
    if not isinstance(note.get("items"), dict) or "bytes_for_rows" not in note:
        raise damaged(plan.folder.uri, _RUN, "is not the note of a training")
    _refuse_other(plan, note["items"])
    return note


def _begin(plan: TrainPlan, session: Session) -> dict[str, Any]:
    """Write or compare ``_train/run.json``; what of it a resume must keep."""
    note = _noted(plan) if plan.config.resume else None
    if note is not None:
        return note
    for checkpoint in _checkpoints(plan):
        delete_file(checkpoint)
    note = {"items": plan.items, "bytes_for_rows": _bytes_for_rows(plan.config, session)}
    write_bytes(plan.folder.child(_RUN), _json(note))
    return note


def _json(value: Mapping[str, Any]) -> bytes:
    import json

    return (json.dumps(value, indent=1, sort_keys=True) + "\n").encode()


def _bytes_for_rows(config: TrainConfig, session: Session) -> int:
    """Memory, over all workers, that training rows may take; more rows than fit are streamed."""
    if config.memory_per_worker:
        fewest = 1 if config.workers == "auto" else int(config.workers.partition("..")[0])
        return int(parse_bytes(config.memory_per_worker) * fewest * _SHARE_OF_MEMORY)
    return int(session.totals.get("memory", 8 << 30) * _SHARE_OF_MEMORY)


def _refuse_other(plan: TrainPlan, items: Mapping[str, Any]) -> None:
    difference = first_difference(items, plan.items)
    if difference:
        raise OutputError(
            plan.config.model,
            f"was begun with other options: {difference}",
            "a resume needs the same",
            "give the old options, or --overwrite",
        )
