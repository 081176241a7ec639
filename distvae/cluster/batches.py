"""Rows of a training step as tensors, with noise that depends on the step and the place alone."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from distvae.cluster.shards import Rows, TrainJob
from distvae.cluster.world import World
from distvae.model.column_weights import entropy_weights
from distvae.model.noise import normal, normal_of, uniform, uniform_of
from distvae.model.objectives import Objective
from distvae.model.vae import VAE

__all__ = ["Batch", "Batches", "Places", "objective_of", "tensors"]

Places = np.ndarray[Any, Any]


@dataclass(frozen=True)
class Batch:
    """One rank's rows of a global batch: y (r, D), observed (r, D) or None, eps (m, r, k)."""

    y: torch.Tensor
    observed: torch.Tensor | None
    eps: torch.Tensor

    def rows(self, part: slice) -> Batch:
        """Return some of its rows."""
        observed = None if self.observed is None else self.observed[part]
        return Batch(self.y[part], observed, self.eps[:, part])


def objective_of(job: TrainJob) -> Objective:
    """What the options say is to be maximised."""
    config = job.config
    weights = None
    if config.column_weights == "entropy":
        weights = entropy_weights(job.architecture.features)
    return Objective(
        name=config.objective,
        mc_samples=config.mc_samples,
        importance_samples=config.importance_samples,
        kl=config.kl,
        free_bits=config.free_bits,
        doubly=config.doubly_reparameterized,
        weights=weights,
    )


class Batches:
    """Makes the batches of one training.

    Args:
        job: what is trained.
        world: this rank and its device.
        model: standardises and binarises.
    """

    def __init__(self, job: TrainJob, world: World, model: VAE) -> None:
        self.job, self.world, self.model = job, world, model
        self.samples = objective_of(job).samples
        self.binarizes = job.config.binarize == "dynamic"

    def training(self, rows: Rows, places: Places, in_batch: int, step: int) -> Batch:
        """Return the rows at ``places`` of the global batch of ``in_batch`` rows at ``step``."""
        k, m = self.job.config.latent_dim, self.samples
        drawn = self.noise("train", m * k, places, in_batch, step)
        eps = drawn.reshape(len(rows), m, k).transpose(0, 1)
        y, observed = self.model.prepare(*tensors(rows, self.world.device))
        if self.binarizes:
            seed, width = self.job.config.seed, self.job.architecture.width
            whole = uniform(seed, "train-binarize", step, in_batch, width)
            y = self.model.binarize(y, torch.from_numpy(whole[places]).to(y))
        return Batch(y, observed, eps)

    def noise(
        self, stream: str, columns: int, places: Places, in_batch: int, step: int
    ) -> torch.Tensor:
        """Standard normal noise of the global batch, this rank's rows of it: (r, columns)."""
        whole = normal(self.job.config.seed, stream, step, in_batch, columns)
        return torch.from_numpy(whole[places]).to(self.world.device)

    def held_out(self, rows: Rows) -> Batch:
        """Return held-out rows with their samples of z, the same in every epoch."""
        config = self.job.config
        y, observed = self.model.prepare(*tensors(rows, self.world.device))
        if self.binarizes:
            width = self.job.architecture.width
            drawn = uniform_of(config.seed, "validate-binarize", rows.numbers, width)
            y = self.model.binarize(y, torch.from_numpy(drawn).to(y))
        k, m = config.latent_dim, self.samples
        drawn = normal_of(config.seed, "validate", rows.numbers, m * k)
        eps = torch.from_numpy(drawn).to(y).reshape(len(rows), m, k).transpose(0, 1)
        return Batch(y, observed, eps)


def tensors(rows: Rows, device: str) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    """The blocks and masks on the device."""
    blocks = [torch.from_numpy(block).to(device) for block in rows.blocks]
    masks = [None if mask is None else torch.from_numpy(mask).to(device) for mask in rows.masks]
    return blocks, masks
