"""Defaults of training that depend on the data: what measured best for its kind.

A table whose elements are mostly scalar columns is learned otherwise than pixels or embeddings are:
smaller networks, more passes, a lighter KL term and a prior fitted to the codes afterwards. The
figures behind the numbers are in ``benchmarks/RESULTS.md``; they are the same for every table.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from distvae.data.roles import Feature
from distvae.train_options import TrainConfig

__all__ = ["TrainSettings", "is_tabular", "settings_of"]

TABLE_STEPS = 2_000
"""Optimiser steps that a table's default number of epochs makes, about."""
_FEWEST_EPOCHS, _MOST_EPOCHS = 3, 300
# Share of a table's training over which the KL weight rises: with all of it from the start, latent
# dimensions die before the decoder has learned to use them, on some tables nearly all.
_WARMING = 0.2
# Batches of a table: the larger, the faster; but an epoch of a small one has several steps, too.
_SMALLEST_BATCH, _LARGEST_BATCH, _BATCHES_PER_EPOCH = 64, 1024, 16
_RATE = 4e-3  # of the largest batch; smaller ones, whose gradients are noisier, take less

_TABLE: Mapping[str, Any] = {
    "hidden_dims": (256, 256),
    "decoder_dims": (256, 128),
    "kl_weight": 0.35,
    "column_weights": "entropy",
    "learning_rate_schedule": "cosine",
    "prior": "mixture",
    "prior_components": 128,
    "prior_spread": 0.7,
}
_OTHERS: Mapping[str, Any] = {
    "hidden_dims": (512, 512),
    "decoder_dims": None,
    "kl_weight": 1.0,
    "kl_warmup": 0.0,
    "column_weights": "equal",
    "batch_size": 512,
    "learning_rate": 1e-3,
    "learning_rate_schedule": "constant",
    "prior": "normal",
    "prior_components": 16,
    "prior_spread": 1.0,
    "epochs": 20,
}


class TrainSettings(TrainConfig):
    """Training options with every default written out."""

    hidden_dims: tuple[int, ...] = ()
    kl_weight: float = 1.0
    kl_warmup: float = 0.0
    column_weights: Literal["equal", "entropy"] = "equal"
    epochs: int = 1
    batch_size: int = 1
    learning_rate: float = 1e-3
    learning_rate_schedule: Literal["constant", "cosine"] = "constant"
    prior: Literal["normal", "gaussian", "mixture", "flow"] = "normal"
    prior_components: int = 16
    prior_spread: float = 1.0


def is_tabular(config: TrainConfig, features: Sequence[Feature], heads: Mapping[str, str]) -> bool:
    """Whether the table is learned as scalar columns: most of its elements have classes."""
    classes = sum(heads.get(f.name) in ("histogram", "categorical") for f in features)
    rest = sum(feature.width for feature in features) - classes
    return config.kind == "vae" and classes > 0 and classes >= rest


def settings_of(
    config: TrainConfig, features: Sequence[Feature], heads: Mapping[str, str], rows: int
) -> TrainSettings:
    """The options with every default written out.

    Args:
        config: as given.
        features: of the table.
        heads: likelihood of each.
        rows: training rows, about.
    """
    chosen: dict[str, Any] = dict(_OTHERS)
    if config.kind == "autoencoder":
        chosen["prior"] = "mixture"
    if is_tabular(config, features, heads):
        batch = config.batch_size or _batch_of(rows)
        epochs = math.ceil(TABLE_STEPS * batch / max(rows, 1))
        epochs = min(max(epochs, _FEWEST_EPOCHS), _MOST_EPOCHS)
        chosen |= {**_TABLE, "epochs": epochs, "batch_size": batch}
        chosen["learning_rate"] = _RATE * min(1.0, math.sqrt(batch / _LARGEST_BATCH))
        chosen["kl_warmup"] = _WARMING * _epochs_to_come(config, epochs, batch, rows)
    if config.objective == "iwae":
        chosen["column_weights"] = "equal"
    if config.hidden_dims is not None:
        chosen["decoder_dims"] = None  # the encoder's, mirrored
    given = {name: getattr(config, name) for name in TrainConfig.model_fields}
    open_ones = {n: v for n, v in chosen.items() if given[n] is None or given[n] == "auto"}
    return TrainSettings(**(given | open_ones))


def _epochs_to_come(config: TrainConfig, epochs: int, batch: int, rows: int) -> float:
    """The epochs of a table's training, a bound on its steps counted in."""
    wanted = float(config.epochs or epochs)
    return min(wanted, config.max_steps * batch / max(rows, 1)) if config.max_steps else wanted


def _batch_of(rows: int) -> int:
    """The largest power of two with enough batches per epoch, within bounds."""
    size = _SMALLEST_BATCH
    while size < _LARGEST_BATCH and 2 * size * _BATCHES_PER_EPOCH <= rows:
        size *= 2
    return size
