"""The peer: embedding by the Ray Data pipeline that its documentation teaches.

``read_parquet -> map_batches(actor) -> write_parquet``, with the same network, weights and batch.
Run as ``python -m benchmarks.idiomatic DATA MODEL OUT``.
"""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import numpy as np


class Encoder:
    """The actor: the model's encoder over a batch of one vector column."""

    def __init__(self, model: str) -> None:
        import torch

        import distvae

        self.torch = torch
        self.model = distvae.load(model).network

    def __call__(self, batch: dict[str, Any]) -> dict[str, Any]:
        """A NumPy batch in, key, mu and sigma out."""
        with self.torch.inference_mode():
            block = self.torch.from_numpy(np.ascontiguousarray(np.stack(batch["x"])))
            y, observed = self.model.prepare([block], [None])
            posterior = self.model.encode(y, observed)
        return {"id": batch["id"], "mu": posterior.mu.numpy(), "sigma": posterior.sigma.numpy()}


def main(data: str, model: str, out: str) -> None:
    """Run the pipeline on this machine's cores."""
    os.environ.setdefault("RAY_AUTH_MODE", "token")
    import ray

    ray.init(num_cpus=len(os.sched_getaffinity(0)), include_dashboard=False, log_to_driver=False)
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    ray.data.DataContext.get_current().enable_progress_bars = False
    # One actor on one core: with an actor on every core no read task could ever start.
    rows = ray.data.read_parquet(data).map_batches(
        Encoder, fn_constructor_args=(model,), batch_size=4096, concurrency=1, num_cpus=1
    )
    rows.write_parquet(out)


if __name__ == "__main__":
    main(*sys.argv[1:])
