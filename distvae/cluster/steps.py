"""One rank's share of a step: its rows of the global batch, their gradient, what went wrong."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import NoReturn

import torch

from distvae.cluster.batches import Batch, Batches, Places, objective_of
from distvae.cluster.checkpoints import Position
from distvae.cluster.gradients import add_gradient, add_two_step_gradient
from distvae.cluster.own import Index, RowPosteriors
from distvae.cluster.schedules import kl_weight, rate_factor
from distvae.cluster.shards import Rows, TrainJob
from distvae.cluster.world import World, sum_over_ranks
from distvae.errors import DataError
from distvae.model.inference import one_intra_op_thread
from distvae.model.objectives import Bound
from distvae.model.refinement import Climb
from distvae.model.vae import VAE

__all__ = ["Stepper"]

_BOUND = ("value", "reconstruction", "kl")
_LEAST_HALF = 128


class Stepper:
    """Computes gradients of one training.

    Args:
        job: what is trained.
        world: this rank.
        model: its parameters have gradients to add to.
    """

    def __init__(self, job: TrainJob, world: World, model: VAE) -> None:
        self.job, self.world, self.model = job, world, model
        self.objective = objective_of(job)
        self.batches = Batches(job, world, model)
        self.beside = ThreadPoolExecutor(1, "distvae-lane") if world.lanes > 1 else None

    def add_gradient(
        self,
        window: Rows,
        index: Index,
        places: Places,
        in_batch: int,
        position: Position,
        own: RowPosteriors | None,
    ) -> Bound:
        """Add the gradient of this rank's rows of a global batch; returns their bound.

        Args:
            window: this rank's rows of the window.
            index: those of the batch.
            places: where they stand in it.
            in_batch: rows of the batch over all ranks.
            position: where training stands.
            own: the rows' own posteriors, where training infers per row.
        """
        config, step = self.job.config, position.steps
        batch = self.batches.training(window.take(index), places, in_batch, step)
        weight = kl_weight(self.job, step)
        if config.inference == "amortised":
            return self._amortised(batch, weight, in_batch)
        with self._autocast():

            def noise(climb: int) -> torch.Tensor:
                stream = f"train-own/{climb}"
                drawn = self.batches.noise(stream, config.latent_dim, places, in_batch, step)
                return drawn[None]

            count = config.inference_steps
            rates = [config.rate_of_inference * rate_factor(self.job, step)] * count
            start, before = None, None
            if own is not None:
                start, before = own.take(index, position.epoch * count, self.world.device)
            climb = Climb(self.objective, weight, before)
            bound, raw, moments = add_two_step_gradient(
                self.model, batch, noise, rates, climb, in_batch, start
            )
        if own is not None:
            own.put(index, raw, moments)
        return bound

    def _amortised(self, batch: Batch, weight: float, in_batch: int) -> Bound:
        """Add the gradient of a batch; of a large one, two halves side by side on two threads.

        Each half adds its own to the parameters' gradients. Of two terms the order does not
        matter, so the sum is the same bits every time.
        """

        def add(part: Batch) -> Bound:
            with self._autocast():
                return add_gradient(self.model, part, self.objective, weight, in_batch)

        def add_alone(part: Batch) -> Bound:
            with one_intra_op_thread():
                return add(part)

        half = len(batch.y) // 2
        if self.beside is None or half < _LEAST_HALF:
            return add(batch)
        other = self.beside.submit(add_alone, batch.rows(slice(half, None)))
        parts = [add_alone(batch.rows(slice(0, half))), other.result()]
        return Bound(*(torch.cat([getattr(p, name) for p in parts]) for name in _BOUND))

    def refuse_not_finite(
        self, window: Rows, index: Index, places: Places, in_batch: int, position: Position
    ) -> NoReturn:
        """All ranks came here together: name the step and the columns, then stop."""
        names = [str(spec["name"]) for spec in self.job.architecture.features]
        wrong = torch.zeros(len(names))
        rows = window.take(index)
        if len(rows):
            batch: Batch = self.batches.training(rows, places, in_batch, position.steps)
            with torch.no_grad():
                terms = self.model.terms(batch.y, batch.observed, batch.eps, per_feature=True)
            assert terms.per_feature is not None
            wrong = (~torch.isfinite(terms.per_feature)).sum(0).float().cpu()
        wrong = sum_over_ranks(wrong.to(self.world.device), self.world).cpu()
        columns = [name for name, count in zip(names, wrong.tolist(), strict=True) if count]
        told = "in columns " + ", ".join(columns) if columns else "in the gradient"
        raise DataError(
            "training loss",
            f"is not finite at step {position.steps + 1} (epoch {position.epoch + 1}), {told}",
            "every rank stopped before the update",
            "lower --learning-rate, or look at these columns for extreme values",
        )

    def _autocast(self) -> torch.autocast:
        bf16 = self.job.config.precision == "bf16"
        return torch.autocast(self.world.device, dtype=torch.bfloat16, enabled=bf16)
