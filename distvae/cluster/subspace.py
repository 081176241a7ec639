"""The directions of rows too wide for a covariance, made better by further passes over them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
import numpy.typing as npt

from distvae.cluster.passes import pass_over
from distvae.cluster.session import Resources
from distvae.cluster.summarise import Pass
from distvae.cluster.train_plan import TrainPlan
from distvae.console import Console
from distvae.data.fragments import Fragment
from distvae.data.inputs import InputFile
from distvae.data.roles import Feature
from distvae.data.selection import Split, read_batches, split_rows
from distvae.data.sketch import Sketch, directions, improved, products_table
from distvae.planning import sources

__all__ = ["refine_sketch"]

_ROWS_PER_BATCH = 16_384
_MOST_PASSES = 3
_SETTLED = 1e-5

Floats = npt.NDArray[np.float64]


def refine_sketch(passed: Pass, plan: TrainPlan, resources: Resources, console: Console) -> Pass:
    """Return ``passed`` with its sketch improved by at most three passes over the training rows.

    They end as soon as one moves no kept variance by more than 1e-5 of itself; the next would move
    it far less (see ``distvae.data.sketch``). Rows that the sketch holds whole need none. Results
    are added in fragment order, so the numbers are the same for any number of workers.

    Args:
        passed: what the statistics pass found; without a sketch it is returned as it is.
        plan: the training; its latent dimensions are the variances that count.
        resources: for the passes.
        console: shows their progress.

    Raises:
        DataError: a file that cannot be decoded.
        StorageError: a file that cannot be read.
    """
    sketch = passed.sketch
    if sketch is None or sketch.rows <= sketch.size:
        return passed
    components, data = plan.config.latent_dim, plan.data
    variances = _variances(sketch, components)
    for _ in range(_MOST_PASSES):
        held = directions(sketch)
        if len(held) == 0:  # all columns are constant
            break
        arguments = {
            "files": data.inputs.files,
            "features": tuple(plan.features),
            "split": plan.split,
            "where": plan.config.where,
            "mean": sketch.mean,
            "held": held,
        }
        total = np.zeros(held.shape)
        with console.stage("components", data.rows) as advance:
            passes = pass_over(_Multiplier, arguments, data.fragments, data.bytes, resources)
            for fragment, part in passes:
                total += part
                advance(fragment.rows)
        sketch = improved(sketch, held, total)
        before, variances = variances, _variances(sketch, components)
        if (np.abs(variances - before) <= _SETTLED * variances).all():
            break
    return replace(passed, sketch=sketch)


def _variances(sketch: Sketch, components: int) -> Floats:
    """The k leading ones, times the number of rows, 0 for what there is not."""
    values = np.linalg.svd(sketch.factor, compute_uv=False)[:components]
    return np.pad(np.square(values), (0, components - len(values)))


class _Multiplier:
    """Multiplies the directions by the covariance of whole fragments."""

    def __init__(
        self,
        files: Sequence[InputFile],
        features: Sequence[Feature],
        split: Split,
        where: str | None,
        mean: Floats,
        held: Floats,
    ) -> None:
        self.files, self.features, self.split, self.where = files, features, split, where
        self.mean, self.held = mean, held

    def run(self, fragment: Fragment) -> Floats:
        """Y (l, D) of the fragment's training rows."""
        names = sources(self.features)
        total = np.zeros(self.held.shape)
        for batch in read_batches(self.files, fragment, names, _ROWS_PER_BATCH, self.where):
            training, _ = split_rows(batch.rows, self.split)
            if training.any():
                table = batch.table.filter(training)
                total += products_table(table, self.features, self.mean, self.held)
        return total
