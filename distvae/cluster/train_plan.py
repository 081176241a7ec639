"""A training before it starts: what is known, and refused, before the rows are read."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

import distvae
from distvae.cluster.heads import choose_heads, coding_of, with_zero_inflation
from distvae.config import TrainConfig
from distvae.data.arrow_values import element_slices
from distvae.data.images import Shape, image_shapes
from distvae.data.profile import Profile
from distvae.data.roles import Feature, LeftOut, total_width
from distvae.data.selection import Split
from distvae.data.settle import settle
from distvae.data.storage import Location, locate
from distvae.defaults import TrainSettings, settings_of
from distvae.errors import DataError, UsageError
from distvae.model.architecture import Architecture, FeatureSpec
from distvae.planning import DataPlan, expand_names, plan_data, plan_features

__all__ = ["FREE", "TrainPlan", "make_architecture", "train_plan"]

_MOST_VALIDATION_ROWS = 500_000
_LARGEST_STEP_BYTES = 64 << 30
_NETWORKS = ("vae", "autoencoder")  # kinds that have heads

_TWO_CLASSES: Mapping[str, Any] = {
    "classes": 2,
    "cell_class": [0, 1],
    "log_within": [0.0, 0.0],
    "share": [1.0, 1.0],
    "low": None,
    "high": None,
    "whole": False,
}

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
        conditions: names of the columns that are given, not modelled.
        left_out: columns that are no features, with the reason.
        images: shape of each column that is a picture.
        target: the model directory.
        items: what the fingerprint covers.
    """

    config: TrainSettings
    data: DataPlan
    features: tuple[Feature, ...]
    heads: dict[str, str]
    conditions: tuple[str, ...]
    left_out: tuple[LeftOut, ...]
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
    def codings(self) -> dict[str, str]:
        """How the codec codes each feature: as its likelihood wants it."""
        return {name: coding_of(head) for name, head in self.heads.items()}

    @property
    def is_modelled(self) -> bool:
        """Whether the kind models missingness and classes: networks do, closed forms don't."""
        return self.config.kind in _NETWORKS

    def settled(self, profile: Profile) -> TrainPlan:
        """The plan once the columns are known: identifiers and free text left out.

        Raises:
            DataError: no column is left, or one that was asked for cannot be used.
        """
        explicit = frozenset((*self.config.role, *self.conditions))
        if self.config.include:  # then there are no others
            explicit = frozenset(feature.name for feature in self.features)
        features, dropped = settle(self.features, profile, explicit)
        names = {feature.name for feature in features}
        heads = {name: head for name, head in self.heads.items() if name in names}
        return replace(
            self,
            features=features,
            heads=with_zero_inflation(heads, profile, self.config.likelihood),
            left_out=(*self.left_out, *dropped),
        )


def train_plan(config: TrainConfig, data: DataPlan | None = None) -> TrainPlan:
    """Everything that can be known before the rows are read; user mistakes are told here.

    Raises:
        UsageError, DataError, StorageError: options or data do not fit.
    """
    data = data or plan_data(config.data, config.fragment_rows, config.where)
    features, left_out = plan_features(data, config.include, config.exclude, config.role)
    if config.kind not in _NETWORKS:
        features, left_out = _measured(features, left_out)
    heads = choose_heads(config, features)
    known = [feature.name for feature in features]
    conditions = expand_names("condition_on", config.condition_on, known)
    unfit = [f.name for f in features if f.name in conditions and (f.path or not f.is_scalar)]
    if unfit:
        rule = "rows can be conditioned on scalar columns that are no part of a struct"
        raise UsageError("condition_on", f"got {unfit[0]!r}", rule, "leave it out")
    if len(conditions) == len(features):
        raise UsageError(
            "condition_on",
            f"got {', '.join(conditions)}",
            "at least one column must be left to model",
            "name fewer",
        )
    trained = data.rows * config.sample_rows * (1 - config.validation_fraction)
    settings = settings_of(config, features, heads, int(trained))
    options = {k: v for k, v in settings.model_dump(mode="json").items() if k not in FREE}
    if config.kl_warmup is None:
        del options["kl_warmup"]  # follows from the epochs, which are free
    items = {
        "command": "train",
        "options": options,
        "inputs": [[f.relative, f.size, f.footer_sha256] for f in data.inputs.files],
        "version": distvae.__version__,
    }
    plan = TrainPlan(
        config=settings,
        data=data,
        features=features,
        heads=heads,
        conditions=conditions,
        left_out=left_out,
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
        decoder_dims=config.decoder_dims,
        activation=config.activation,
        likelihoods=plan.heads,
        conditions=_with_companions(plan.conditions, features),
        kind=config.kind,
        posterior="point" if config.kind == "autoencoder" else config.posterior,
        prior=config.prior,
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


def _with_companions(conditions: Sequence[str], features: Sequence[FeatureSpec]) -> tuple[str, ...]:
    """The given columns and the elements that tell whether they are missing."""
    return tuple(
        spec["name"]
        for spec in features
        if spec["name"] in conditions or spec.get("companion_of") in conditions
    )


def _measured(
    features: Sequence[Feature], left_out: Sequence[LeftOut]
) -> tuple[tuple[Feature, ...], tuple[LeftOut, ...]]:
    """The features that closed forms take: numbers."""
    dropped = [LeftOut(f.name, f"a {f.role} column") for f in features if not f.is_measured]
    kept = tuple(feature for feature in features if feature.is_measured)
    if not kept:
        raise DataError(
            "features", "no column holds numbers", "this kind is linear", "use --kind vae"
        )
    return kept, (*left_out, *dropped)


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
    if not plan.is_modelled:
        return
    from distvae.model.vae import VAE

    specs, blocks = [], []
    for index, (feature, place) in enumerate(
        zip(plan.features, element_slices(plan.features), strict=True)
    ):
        vector = feature.role == "vector"
        coding = plan.codings[feature.name]
        specs.append(
            {
                "coding": coding,
                **({"cells": _TWO_CLASSES} if coding == "cells" else {}),
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
