"""What changes from step to step: the KL weight and the learning rate, as functions of the step."""

from __future__ import annotations

import math

from distvae.cluster.shards import TrainJob
from distvae.model.objectives import kl_weight_at

__all__ = ["kl_weight", "rate_factor"]


def kl_weight(job: TrainJob, step: int) -> float:
    """Weight of the KL term at an optimiser step (0 first)."""
    config = job.config
    warmup, cycle = _steps(job, config.kl_warmup), _steps(job, config.kl_cycle)
    return kl_weight_at(step, warmup, config.kl_weight, cycle)


def rate_factor(job: TrainJob, step: int) -> float:
    """Share of the learning rate at an optimiser step: 1, or half a cosine over all steps.

    Loshchilov & Hutter 2017, "SGDR", without restarts.
    """
    config = job.config
    if config.learning_rate_schedule == "constant":
        return 1.0
    steps = _steps(job, config.epochs)
    total = min(steps, config.max_steps or steps)
    return 0.5 * (1 + math.cos(math.pi * min(step / max(total, 1), 1.0)))


def _steps(job: TrainJob, epochs: float) -> int:
    """Optimiser steps in so many epochs."""
    return round(epochs * -(-sum(job.training_rows) // job.config.batch_size))
