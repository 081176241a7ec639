"""The training loop of one process: pure torch and NumPy, the world an argument.

Every rank makes the same steps. A step's loss is the sum over the rank's own rows divided by the
rows of the global batch, so the summed gradient equals that of one process whatever the shares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any

import numpy as np
import torch

from distvae.cluster.checkpoints import Position, State, read_state, write_state
from distvae.cluster.flat import Flat, flatten
from distvae.cluster.held_out import validate
from distvae.cluster.own import RowPosteriors
from distvae.cluster.schedules import kl_weight, rate_factor
from distvae.cluster.shards import Rows, TrainJob, join_rows, load_window
from distvae.cluster.steps import Stepper
from distvae.cluster.world import World, sum_over_ranks
from distvae.data.sampling import mix, schedule, windows
from distvae.errors import UsageError
from distvae.model.vae import VAE

__all__ = ["Report", "train_loop"]

Report = Callable[[dict[str, Any]], None]

_REPORT_SECONDS = 0.5
# Figures summed over ranks with the gradients: loss, reconstruction, kl, rows, wish to checkpoint.
_LOSS, _RECONSTRUCTION, _KL, _ROWS, _WISH, _FIGURES = 0, 1, 2, 3, 4, 5


def train_loop(job: TrainJob, world: World, report: Report) -> None:
    """Train until the epochs, the steps or the patience are used up; rank 0 writes checkpoints.

    Starts from the checkpoint in ``job.folder`` if there is one. The last checkpoint holds the
    final weights (the best by validation loss when ``patience`` is set) and the history.

    Raises:
        DataError: a loss that is not finite, told by all ranks before the update; a bad file.
        StorageError: input or checkpoint cannot be read or written.
    """
    trainer = _Trainer(job, world, report)
    while not trainer.over():
        trainer.epoch()
    trainer.finish()


class _Trainer:
    """What changes while training: the model, its optimiser, the position."""

    def __init__(self, job: TrainJob, world: World, report: Report) -> None:
        self.job, self.world, self.report = job, world, report
        config = job.config
        self.model = VAE.from_architecture(job.architecture, mix(config.seed, 3)).to(world.device)
        self.model.set_output_bias(torch.from_numpy(job.output_mean))
        self.flat: Flat = flatten(self.model, _FIGURES)
        self.adam = torch.optim.Adam([self.flat.values], lr=config.learning_rate, fused=True)
        self.position = Position(job.fingerprint, sums=[0.0] * _FIGURES)
        self.stepper = Stepper(job, world, self.model)
        self.own: RowPosteriors | None = None
        self.own_held_out: RowPosteriors | None = None
        self.tables: dict[str, torch.Tensor] = {}
        self.best: torch.Tensor | None = None
        self.cache: tuple[Rows, Rows] | None = None
        self.validation: Rows | None = None
        self.saved_at = self.reported_at = time.monotonic()
        self.unreported = 0
        self._restore()

    # -- where it stands -----------------------------------------------------------------------

    def over(self) -> bool:
        """Whether there is nothing left to train."""
        config, position = self.job.config, self.position
        worn_out = 0 < config.patience <= position.stale
        used_up = config.max_steps is not None and position.steps >= config.max_steps
        return position.finished or position.epoch >= config.epochs or worn_out or used_up

    def _restore(self) -> None:
        state = read_state(self.job.folder)
        if state is None or state.position.fingerprint != self.job.fingerprint:
            return
        self.position = state.position
        tensors = {name: t.to(self.world.device) for name, t in state.tensors.items()}
        self.flat.values.data.copy_(tensors["weights"])
        self.best = tensors.get("best")
        self.tables = {n: t for n, t in state.tensors.items() if n in ("own", "own_held_out")}
        if self.position.steps:
            self.adam.state[self.flat.values] = {
                "step": torch.tensor(float(self.position.steps), device=self.world.device),
                "exp_avg": tensors["exp_avg"],
                "exp_avg_sq": tensors["exp_avg_sq"],
            }
        if self.world.rank == 0:
            told = {"rows": self._rows_done(), "epoch": self.position.epoch}
            self.report({"kind": "resumed", "steps": self.position.steps, **told})

    def _rows_done(self) -> float:
        return self.position.epoch * float(sum(self.job.training_rows)) + self.position.sums[_ROWS]

    def _save(self) -> None:
        """All ranks come here together; the first one writes."""
        self.saved_at = time.monotonic()
        tables = {"own": self.own, "own_held_out": self.own_held_out}
        own = {n: t.gathered(self.world) for n, t in tables.items() if t is not None}
        if self.world.rank != 0:
            return
        tensors = {"weights": self.flat.values.data, **own}
        state = self.adam.state.get(self.flat.values)
        if state:
            tensors |= {name: state[name] for name in ("exp_avg", "exp_avg_sq")}
        if self.best is not None:
            tensors["best"] = self.best
        write_state(self.job.folder, State(self.position, tensors))

    # -- one epoch -----------------------------------------------------------------------------

    def epoch(self) -> None:
        """Visit every window once, then validate, note the history and save."""
        job, position = self.job, self.position
        started, before = time.monotonic(), position.epoch_seconds
        visits = windows(job.training_rows, job.rows_per_window, job.config.seed, position.epoch)
        for index, training in self._loaded(visits, position.window):
            size = sum(job.training_rows[fragment] for fragment in visits[index])
            self._window(index, size, training, started, before)
            if self._stop_early():
                break
            position.window, position.step = index + 1, 0
        position.epoch_seconds = before + time.monotonic() - started
        self._close_epoch()

    def _stop_early(self) -> bool:
        limit = self.job.config.max_steps
        return limit is not None and self.position.steps >= limit

    def _loaded(
        self, visits: tuple[tuple[int, ...], ...], first: int
    ) -> Iterator[tuple[int, Rows]]:
        """(index, own training rows) of each window; the next one is read meanwhile."""
        if len(visits) == 1:
            if self.cache is None:
                self.cache = load_window(self.job, visits[0], self.world.rank, self.world.size)
                self.validation = self.cache[1]
                self._own_posteriors(*self.cache)
            yield 0, self.cache[0]
            return
        if self.job.config.inference == "per-row":
            raise UsageError(
                "inference",
                "got per-row",
                f"{sum(self.job.training_rows):,} rows and their posteriors must fit in memory",
                "use semi-amortised, fewer rows (--sample-rows), or more --memory-per-worker",
            )
        held: list[Rows] = []
        with ThreadPoolExecutor(1) as reader:
            ahead: Future[tuple[Rows, Rows]] = self._read(reader, visits[first])
            for index in range(first, len(visits)):
                training, validation = ahead.result()
                held.append(validation)
                if index + 1 < len(visits):
                    ahead = self._read(reader, visits[index + 1])
                yield index, training
        if self.validation is None and first == 0:
            joined = join_rows(held)  # in row order, as after a resume: the same sums to the bit
            self.validation = joined.take(np.argsort(joined.numbers))

    def _own_posteriors(self, training: Rows, held_out: Rows) -> None:
        """Begin or restore the rows' own posteriors, where training infers per row."""
        if self.job.config.inference != "per-row":
            return
        for name, rows, counts in (
            ("own", training, self.job.training_rows),
            ("own_held_out", held_out, self.job.validation_rows),
        ):
            width, table = self.model.raw_width, self.tables.pop(name, None)
            setattr(self, name, RowPosteriors(rows.numbers, sum(counts), width, table))

    def _read(
        self, reader: ThreadPoolExecutor, window: tuple[int, ...]
    ) -> Future[tuple[Rows, Rows]]:
        return reader.submit(load_window, self.job, window, self.world.rank, self.world.size)

    def _window(self, index: int, size: int, rows: Rows, started: float, before: float) -> None:
        """All steps of one window, from the position on."""
        config, position = self.job.config, self.position
        own = (int(rows.numbers[0]), int(rows.numbers[-1]) + 1) if len(rows) else (0, 0)
        key = mix(config.seed, 4, position.epoch, index)
        plan = schedule(size, config.batch_size, own[0], own[1], key)
        for step in range(position.step, plan.steps):
            part = slice(plan.bounds[step], plan.bounds[step + 1])
            in_batch = min(config.batch_size, size - step * config.batch_size)
            places = plan.positions[part] - step * config.batch_size
            self._step(rows, plan.order[part] - own[0], places, in_batch)
            position.step, position.steps = step + 1, position.steps + 1
            if self.flat.figures[_WISH].item() > 0:
                position.epoch_seconds = before + time.monotonic() - started
                self._save()
            if self._stop_early():
                return

    def _step(
        self, window: Rows, index: np.ndarray[Any, Any], places: np.ndarray[Any, Any], in_batch: int
    ) -> None:
        """One optimiser step on the rows at ``index``, at ``places`` of a batch of ``in_batch``."""
        self.flat.buffer.zero_()
        if len(index):
            bound = self.stepper.add_gradient(
                window, index, places, in_batch, self.position, self.own
            )
            with torch.no_grad():
                parts = (-bound.value.sum(), bound.reconstruction.sum(), bound.kl.sum())
                self.flat.figures[:_ROWS] = torch.stack([part.detach() for part in parts])
        self.flat.figures[_ROWS] = len(index)
        self.flat.figures[_WISH] = self._wants_checkpoint()
        sum_over_ranks(self.flat.buffer, self.world)
        if not bool(torch.isfinite(self.flat.buffer.sum())):
            self.stepper.refuse_not_finite(window, index, places, in_batch, self.position)
        factor = rate_factor(self.job, self.position.steps)
        self.adam.param_groups[0]["lr"] = self.job.config.learning_rate * factor
        self.adam.step()
        self._note(self.flat.figures.tolist())

    def _wants_checkpoint(self) -> float:
        late = time.monotonic() - self.saved_at >= self.job.config.checkpoint_seconds
        return float(late and self.world.rank == 0)

    def _note(self, figures: list[float]) -> None:
        """Add a step's sums to the epoch's and tell the driver now and then."""
        sums = self.position.sums
        for index, value in enumerate(figures):
            sums[index] += value
        self.unreported += int(figures[_ROWS])
        if self.world.rank == 0 and time.monotonic() - self.reported_at >= _REPORT_SECONDS:
            self._tell(figures[_LOSS] / max(figures[_ROWS], 1))

    def _tell(self, loss: float) -> None:
        self.reported_at = time.monotonic()
        message = {"kind": "progress", "rows": self.unreported, "loss": loss}
        self.report(message | {"epoch": self.position.epoch + 1})
        self.unreported = 0

    # -- the end of an epoch -------------------------------------------------------------------

    def _close_epoch(self) -> None:
        job, position = self.job, self.position
        trained = max(position.sums[_ROWS], 1.0)
        row: dict[str, float] = {
            "epoch": float(position.epoch + 1),
            "steps": float(position.steps),
            "seconds": position.epoch_seconds,
            "rows_per_second": position.sums[_ROWS] / max(position.epoch_seconds, 1e-9),
            "kl_weight": kl_weight(self.job, position.steps),
            "train_loss": position.sums[_LOSS] / trained,
            "train_reconstruction": position.sums[_RECONSTRUCTION] / trained,
            "train_kl": position.sums[_KL] / trained,
            **self._validate(),
        }
        position.history.append(row)
        loss = row.get("validation_loss", row["train_loss"])
        if position.best is None or loss < position.best:
            position.best, position.stale = loss, 0
            if job.config.patience:
                self.best = self.flat.values.detach().clone()
        else:
            position.stale += 1
        if self.world.rank == 0:
            self._tell(row["train_loss"])
            self.report({"kind": "epoch", **row})
        position.epoch, position.window, position.step = position.epoch + 1, 0, 0
        position.seconds += position.epoch_seconds
        position.epoch_seconds, position.sums = 0.0, [0.0] * _FIGURES
        self._save_if_due()

    def _save_if_due(self) -> None:
        """At an epoch's end a checkpoint is cheap; many short epochs share one."""
        late = time.monotonic() - self.saved_at >= min(self.job.config.checkpoint_seconds, 5.0)
        wish = torch.tensor(float(late and self.world.rank == 0), device=self.world.device)
        if sum_over_ranks(wish, self.world).item() > 0:
            self._save()

    def _held_out(self) -> Rows:
        """This rank's held-out rows; read anew after a resume in the middle of an epoch."""
        if self.validation is None:
            everything = tuple(range(len(self.job.fragments)))
            _, self.validation = load_window(self.job, everything, self.world.rank, self.world.size)
        return self.validation

    def _validate(self) -> dict[str, float]:
        """Figures of the held-out rows, none where there are none."""
        if sum(self.job.validation_rows) == 0:
            return {}
        rows = self._held_out()
        own, epoch = self.own_held_out, self.position.epoch
        return validate(self.model, self.stepper.batches, rows, self.world, own, epoch)

    def finish(self) -> None:
        """The weights to keep become the checkpoint's, and the position is marked finished."""
        if self.position.finished:
            return
        if self.best is not None:
            self.flat.values.data.copy_(self.best)
        self.position.finished = True
        self._save()
