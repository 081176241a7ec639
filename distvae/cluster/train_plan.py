"""A training before it starts: what is known, and refused, before the rows are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

import distvae
from distvae.config import TrainConfig
from distvae.data.arrow_values import element_slices
from distvae.data.images import Shape, image_shapes
from distvae.data.roles import Feature, total_width
from distvae.data.selection import Split
from distvae.data.storage import Location, locate
from distvae.errors import UsageError
from distvae.model.architecture import DEFAULT_LIKELIHOOD, Architecture, FeatureSpec
from distvae.planning import DataPlan, plan_data, plan_features

__all__ = ["FREE", "TrainPlan", "make_architecture", "train_plan"]

_MOST_VALIDATION_ROWS = 500_000
_LARGEST_STEP_BYTES = 64 << 30
# Squared error is what an autoencoder minimises unless told otherwise.
_DEFAULT_HEADS = {"vae": DEFAULT_LIKELIHOOD, "autoencoder": "gaussian-fixed"}
_PRIORS = {"autoencoder": "mixture"}

FREE = frozenset(
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
"""Options that say where and how long, not what: a resume may change them."""


@dataclass(frozen=True)
class TrainPlan:
    """A training before it starts.

    Attributes:
        config: its options.
        data: the input and its fragments.
        features: the columns used.
        heads: likelihood head by feature name, all of them; none for kinds that have no heads.
        images: shape of each column that is a picture.
        target: the model directory.
        items: what the fingerprint covers.
    """

    config: TrainConfig
    data: DataPlan
    features: tuple[Feature, ...]
    heads: dict[str, str]
    images: dict[str, Shape]
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

    @property
    def unit_columns(self) -> frozenset[str]:
        """Columns whose encoded values lie in [0, 1]."""
        return frozenset(name for name, head in self.heads.items() if head.startswith("bernoulli"))


def train_plan(config: TrainConfig, data: DataPlan | None = None) -> TrainPlan:
    """Everything that can be known before the rows are read; user mistakes are told here.

    Raises:
        UsageError, DataError, StorageError: options or data do not fit.
    """
    data = data or plan_data(config.data, config.fragment_rows, config.where)
    features = plan_features(data, config.include, config.exclude)
    items = {
        "command": "train",
        "options": {k: v for k, v in config.model_dump(mode="json").items() if k not in FREE},
        "inputs": [[f.relative, f.size, f.footer_sha256] for f in data.inputs.files],
        "version": distvae.__version__,
    }
    plan = TrainPlan(
        config=config,
        data=data,
        features=features,
        heads=_heads(config, features),
        images=image_shapes(config.image, features),
        target=locate(config.model),
        items=items,
    )
    _refuse_too_many_components(plan)
    _refuse_too_large_a_step(plan)
    _refuse_what_cannot_be_built(plan)
    return plan


def make_architecture(
    plan: TrainPlan,
    features: Sequence[FeatureSpec],
    blocks: Sequence[Mapping[str, Any]],
    landmarks: int,
) -> Architecture:
    """The architecture that the options ask for, all defaults written out.

    Args:
        plan: the training.
        features: as the codec describes them.
        blocks: as the codec lays them out.
        landmarks: rows that span the kernel's features, as many as there are.
    """
    config = plan.config
    return Architecture(
        latent_dim=config.latent_dim,
        features=tuple(features),
        blocks=tuple(blocks),
        hidden_dims=config.hidden_dims,
        activation=config.activation,
        likelihoods=plan.heads,
        kind=config.kind,
        posterior="point" if config.kind == "autoencoder" else config.posterior,
        prior=_PRIORS.get(config.kind, "normal") if config.prior == "auto" else config.prior,
        prior_components=config.prior_components,
        inference=config.inference,
        inference_steps=config.inference_steps,
        inference_rate=config.rate_of_inference,
        images=plan.images,
        channels=config.channels,
        kernel=config.kernel,
        kernel_gamma=config.kernel_gamma,
        landmarks=landmarks,
        binarize=config.binarize,
    )


def _refuse_too_large_a_step(plan: TrainPlan) -> None:
    """Activations of one step that no machine can hold: forward, backward, two layers at least."""
    config = plan.config
    samples = config.mc_samples * config.importance_samples
    widest = max(sum(max(f.width, 1) for f in plan.features), *config.hidden_dims, 1)
    size = 16 * samples * min(config.batch_size, plan.data.rows) * widest
    if size > _LARGEST_STEP_BYTES:
        raise UsageError(
            "batch_size",
            f"got {config.batch_size}",
            f"with {samples:,} samples a row and {widest:,} elements a step needs "
            f"{size / 2**30:,.0f} GiB, at most {_LARGEST_STEP_BYTES >> 30}",
            "lower --batch-size, --importance-samples or --mc-samples",
        )


def _heads(config: TrainConfig, features: Sequence[Feature]) -> dict[str, str]:
    """The likelihood of each feature; ``*`` names them all."""
    names = [feature.name for feature in features]
    if config.kind not in _DEFAULT_HEADS:
        return {}
    heads = dict.fromkeys(names, _DEFAULT_HEADS[config.kind])
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


def _refuse_too_many_components(plan: TrainPlan) -> None:
    config, width = plan.config, total_width(plan.features)
    found = f"got {config.latent_dim}"
    if config.kind == "pca" and config.latent_dim > width:
        rule = f"pca has at most as many components as the rows have elements, {width}"
        raise UsageError("latent_dim", found, rule, f"use --latent-dim {width} or less")
    if config.kind == "kernel-pca" and config.latent_dim > config.landmarks:
        rule = f"kernel-pca has at most as many components as landmarks, {config.landmarks}"
        raise UsageError("latent_dim", found, rule, "lower it, or raise --landmarks")


def _refuse_what_cannot_be_built(plan: TrainPlan) -> None:
    """Build the networks once for a codec that knows nothing yet: heads and pictures must fit."""
    if plan.config.kind not in _DEFAULT_HEADS:
        return
    from distvae.model.vae import VAE

    specs, blocks = [], []
    for index, (feature, place) in enumerate(
        zip(plan.features, element_slices(plan.features), strict=True)
    ):
        vector = feature.role == "vector"
        specs.append(
            {
                "name": feature.name,
                "start": place.start,
                "stop": place.stop,
                "scale": 1.0,
                "shift": 0.0,
                "resolution": 1.0,
                "discrete": vector and feature.element == np.uint8,
                "has_missing": False,
                "block": index,
                "raw": False,
            }
        )
        blocks.append({"dtype": "float32", "width": feature.width, "raw": False})
    VAE(make_architecture(plan, specs, blocks, plan.config.landmarks), seed=None)
