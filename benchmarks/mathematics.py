"""What the full posterior and the refinement cost, side by side in one process, on one thread.

``python -m benchmarks.mathematics``: a Bernoulli VAE 784-200-200-k on random bytes. The two
posteriors train alternately; ``refine`` with 10 steps is compared with as many rows through one
forward-and-backward pass of encoder and decoder (no optimiser), in blocks of 1,024 rows.
"""

from __future__ import annotations

import json
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from benchmarks.training import make_trainer
from distvae.model.objectives import Objective, lower_bound
from distvae.model.refinement import falling, refine
from distvae.model.vae import VAE

ROWS, WIDTH, LATENT, ROUNDS = 12_800, 784, 32, 7


def write_rows(folder: Path) -> str:
    """Random bytes as one Parquet file of vectors."""
    values = np.random.default_rng(0).integers(0, 256, ROWS * WIDTH).astype(np.uint8)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(values), WIDTH)
    path = str(folder / "rows.parquet")
    pq.write_table(pa.table({"pixels": lists}), path)
    return path


def alternate(tasks: dict[str, Callable[[], object]]) -> dict[str, float]:
    """Median seconds of each task, which take turns after a first untimed one."""
    seconds: dict[str, list[float]] = {name: [] for name in tasks}
    for turn in range(ROUNDS + 1):
        for name, task in tasks.items():
            started = time.perf_counter()
            task()
            if turn:
                seconds[name].append(time.perf_counter() - started)
    return {name: statistics.median(values) for name, values in seconds.items()}


def posteriors(path: str) -> dict[str, float]:
    """Training rows per second of the full posterior over the diagonal one's."""
    rates = {}
    for batch in (128, 1024):
        trainers = {
            family: make_trainer(path, "pixels", batch, latent_dim=LATENT, posterior=family)
            for family in ("diagonal", "full")
        }
        found = alternate({family: trainer.epoch for family, trainer in trainers.items()})
        rates[f"full over diagonal, batch {batch}"] = found["diagonal"] / found["full"]
    return rates


def refinement(model: VAE) -> dict[str, float]:
    """Time of ten refining steps in forward-and-backward passes."""
    y = torch.rand(1024, WIDTH)
    eps = torch.randn(1, 1024, LATENT)
    judge = torch.randn(4, 1024, LATENT)

    def one_pass() -> None:
        bound = lower_bound(model, model.encode(y), y, None, eps, Objective())
        bound.value.sum().backward()

    def ten_steps() -> None:
        with torch.no_grad():
            refine(model, y, None, model.encode_raw(y), lambda _: eps, falling(0.1, 10), judge)

    found = alternate({"pass": one_pass, "refine": ten_steps})
    return {"refine 10, in passes": found["refine"] / found["pass"]}


def main() -> None:
    """Print the ratios as one JSON object."""
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        path = write_rows(Path(folder))
        ratios = posteriors(path)
        for family in ("diagonal", "full"):
            trainer = make_trainer(path, "pixels", 128, latent_dim=LATENT, posterior=family)
            found = refinement(trainer.model)
            ratios |= {f"{name}, {family}": value for name, value in found.items()}
    print(json.dumps({name: round(value, 2) for name, value in ratios.items()}, indent=1))


if __name__ == "__main__":
    main()
