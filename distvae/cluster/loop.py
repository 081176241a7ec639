"""The training loop of one process: pure torch and NumPy, the world an argument.

Every rank makes the same steps. A step's loss is the sum over the rank's own rows divided by the
rows of the global batch, so the summed gradient equals that of one process whatever the shares.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Any, NoReturn

import numpy as np
import torch

from distvae.cluster.checkpoints import Position, State, read_state, write_state
from distvae.cluster.flat import Flat, flatten
from distvae.cluster.shards import Rows, TrainJob, join_rows, load_window
from distvae.cluster.world import World, sum_over_ranks
from distvae.data.sampling import mix, schedule, windows
from distvae.errors import DataError
from distvae.model.noise import normal, normal_of, uniform, uniform_of
from distvae.model.objectives import kl_weight_at
from distvae.model.vae import VAE

__all__ = ["Report", "train_loop"]

Report = Callable[[dict[str, Any]], None]

_REPORT_SECONDS = 0.5
_VALIDATION_ROWS = 4096
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
        self.saved_at = time.monotonic()
        if self.world.rank != 0:
            return
        tensors = {"weights": self.flat.values.data}
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
            yield 0, self.cache[0]
            return
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
            self._step(rows.take(plan.order[part] - own[0]), places, in_batch)
            position.step, position.steps = step + 1, position.steps + 1
            if self.flat.figures[_WISH].item() > 0:
                position.epoch_seconds = before + time.monotonic() - started
                self._save()
            if self._stop_early():
                return

    def _step(self, rows: Rows, places: np.ndarray[Any, Any], in_batch: int) -> None:
        """One optimiser step on this rank's ``rows`` of a global batch of ``in_batch``."""
        self.flat.buffer.zero_()
        weight = self._kl_weight()
        if len(rows):
            reconstruction, kl = self._terms(rows, places, in_batch)
            loss = (weight * kl.sum() - reconstruction.sum()) / in_batch
            loss.backward()
            with torch.no_grad():
                parts = (loss * in_batch, reconstruction.sum(), kl.sum())
                self.flat.figures[:_ROWS] = torch.stack([part.detach() for part in parts])
        self.flat.figures[_ROWS] = len(rows)
        self.flat.figures[_WISH] = self._wants_checkpoint()
        sum_over_ranks(self.flat.buffer, self.world)
        if not bool(torch.isfinite(self.flat.buffer.sum())):
            self._refuse_not_finite(rows, places, in_batch)
        self.adam.step()
        self._note(self.flat.figures.tolist())

    def _terms(
        self, rows: Rows, places: np.ndarray[Any, Any], in_batch: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Per row: reconstruction (r,) and KL (r,), in nats."""
        y, observed, eps = self._inputs(rows, places, in_batch)
        bf16 = self.job.config.precision == "bf16"
        with torch.autocast(self.world.device, dtype=torch.bfloat16, enabled=bf16):
            terms = self.model.terms(y, observed, eps)
        return terms.reconstruction, terms.kl.sum(1)

    def _noise(
        self, stream: str, rows: int, columns: int, places: np.ndarray[Any, Any]
    ) -> torch.Tensor:
        """Standard normal noise of the global batch, this rank's rows of it: (r, columns)."""
        whole = normal(self.job.config.seed, stream, self.position.steps, rows, columns)
        return torch.from_numpy(whole[places]).to(self.world.device)

    def _binarized(self, y: torch.Tensor, rows: int, places: np.ndarray[Any, Any]) -> torch.Tensor:
        """Fresh 0/1 draws of the Bernoulli columns, if training asks for them."""
        config = self.job.config
        if config.binarize == "none":
            return y
        stream, width = "train-binarize", self.job.architecture.width
        whole = uniform(config.seed, stream, self.position.steps, rows, width)
        return self.model.binarize(y, torch.from_numpy(whole[places]).to(y))

    def _kl_weight(self) -> float:
        config = self.job.config
        steps_per_epoch = -(-sum(self.job.training_rows) // config.batch_size)
        warmup = round(config.kl_warmup * steps_per_epoch)
        return kl_weight_at(self.position.steps, warmup, config.kl_weight)

    def _wants_checkpoint(self) -> float:
        late = time.monotonic() - self.saved_at >= self.job.config.checkpoint_seconds
        return float(late and self.world.rank == 0)

    def _refuse_not_finite(
        self, rows: Rows, places: np.ndarray[Any, Any], in_batch: int
    ) -> NoReturn:
        """All ranks came here together: name the step and the columns, then stop."""
        names = [str(spec["name"]) for spec in self.job.architecture.features]
        wrong = torch.zeros(len(names))
        if len(rows):
            with torch.no_grad():
                y, observed, eps = self._inputs(rows, places, in_batch)
                terms = self.model.terms(y, observed, eps, per_feature=True)
            assert terms.per_feature is not None
            wrong = (~torch.isfinite(terms.per_feature)).sum(0).float().cpu()
        wrong = sum_over_ranks(wrong.to(self.world.device), self.world).cpu()
        columns = [name for name, count in zip(names, wrong.tolist(), strict=True) if count]
        position = self.position
        told = "in columns " + ", ".join(columns) if columns else "in the gradient"
        raise DataError(
            "training loss",
            f"is not finite at step {position.steps + 1} (epoch {position.epoch + 1}), {told}",
            "every rank stopped before the update",
            "lower --learning-rate, or look at these columns for extreme values",
        )

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
            "kl_weight": self._kl_weight(),
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
        if time.monotonic() - self.saved_at >= min(self.job.config.checkpoint_seconds, 5.0):
            self._save()

    def _held_out(self) -> Rows:
        """This rank's held-out rows; read anew after a resume in the middle of an epoch."""
        if self.validation is None:
            everything = tuple(range(len(self.job.fragments)))
            _, self.validation = load_window(self.job, everything, self.world.rank, self.world.size)
        return self.validation

    def _validate(self) -> dict[str, float]:
        """Mean ELBO terms of the held-out rows, with the same noise in every epoch."""
        if sum(self.job.validation_rows) == 0:
            return {}
        rows, config = self._held_out(), self.job.config
        sums = torch.zeros(3, dtype=torch.float64)
        with torch.inference_mode():
            for start in range(0, len(rows), _VALIDATION_ROWS):
                part = rows.take(slice(start, start + _VALIDATION_ROWS))
                y, observed = self.model.prepare(*_tensors(part, self.world.device))
                eps = torch.from_numpy(
                    normal_of(config.seed, "validate", part.numbers, config.latent_dim)
                )
                if config.binarize == "dynamic":
                    stream, width = "validate-binarize", self.job.architecture.width
                    drawn = uniform_of(config.seed, stream, part.numbers, width)
                    y = self.model.binarize(y, torch.from_numpy(drawn).to(y))
                terms = self.model.terms(y, observed, eps.to(y)[None])
                figures = (terms.reconstruction.sum(), terms.kl.sum(), torch.tensor(len(part)))
                sums += torch.stack([figure.double().cpu() for figure in figures])
        total = sum_over_ranks(sums.to(self.world.device), self.world).tolist()
        reconstruction, kl = total[0] / total[2], total[1] / total[2]
        return {
            "validation_loss": config.kl_weight * kl - reconstruction,
            "validation_reconstruction": reconstruction,
            "validation_kl": kl,
        }

    def finish(self) -> None:
        """The weights to keep become the checkpoint's, and the position is marked finished."""
        if self.position.finished:
            return
        if self.best is not None:
            self.flat.values.data.copy_(self.best)
        self.position.finished = True
        self._save()

    def _inputs(
        self, rows: Rows, places: np.ndarray[Any, Any], in_batch: int
    ) -> tuple[torch.Tensor, torch.Tensor | None, torch.Tensor]:
        """Return y (r, D), observed (r, D) and eps (m, r, k) of this rank's rows of a batch."""
        config = self.job.config
        noise = self._noise("train", in_batch, config.mc_samples * config.latent_dim, places)
        eps = noise.reshape(len(rows), config.mc_samples, config.latent_dim).transpose(0, 1)
        y, observed = self.model.prepare(*_tensors(rows, self.world.device))
        return self._binarized(y, in_batch, places), observed, eps


def _tensors(rows: Rows, device: str) -> tuple[list[torch.Tensor], list[torch.Tensor | None]]:
    """The blocks and masks on the device."""
    blocks = [torch.from_numpy(block).to(device) for block in rows.blocks]
    masks = [None if mask is None else torch.from_numpy(mask).to(device) for mask in rows.masks]
    return blocks, masks
