"""Training MNIST-like rows: distvae's loop against a plain hand-written PyTorch loop, one process.

``python -m benchmarks.training DATA.parquet COLUMN``: a Bernoulli VAE 784-200-200-50 with Adam on
uint8 pixels, static intensities, batches of 100 and 1024; both loops alternate in one process.
"""

from __future__ import annotations

import json
import sys
import tempfile
import time
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import torch
from torch import nn

from distvae.cluster.loop import _Trainer
from distvae.cluster.summarise import Pass, _Summariser
from distvae.cluster.train import _job, train_plan
from distvae.cluster.world import World
from distvae.config import TrainConfig
from distvae.data.codec import fit_codec
from distvae.data.statistics import merge, summary_from_bytes

ROUNDS = 3


def plain_epoch(pixels: torch.Tensor, batch: int) -> float:
    """Rows per second of one epoch of the loop that one writes by hand."""
    width = pixels.shape[1]
    encoder = nn.Sequential(
        nn.Linear(width, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, 100)
    )
    decoder = nn.Sequential(
        nn.Linear(50, 200), nn.Tanh(), nn.Linear(200, 200), nn.Tanh(), nn.Linear(200, width)
    )
    adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=1e-3)
    order = torch.randperm(len(pixels))
    started = time.perf_counter()
    for start in range(0, len(pixels), batch):
        x = pixels[order[start : start + batch]].float() / 255
        mu, log_var = encoder(x).chunk(2, dim=1)
        logits = decoder(mu + torch.randn_like(mu) * (0.5 * log_var).exp())
        cross = nn.functional.binary_cross_entropy_with_logits(logits, x, reduction="sum")
        kl = -0.5 * (1 + log_var - mu.square() - log_var.exp()).sum()
        loss = (cross + kl) / len(x)
        adam.zero_grad()
        loss.backward()
        adam.step()
    return len(pixels) / (time.perf_counter() - started)


def make_trainer(path: str, column: str, batch: int, **options: Any) -> _Trainer:
    """Our loop, ready to run its epochs."""
    values: dict[str, Any] = {
        "data": (path,),
        "model": tempfile.mkdtemp(),
        "include": (column,),
        "likelihood": {column: "bernoulli"},
        "latent_dim": 50,
        "hidden_dims": (200, 200),
        "activation": "tanh",
        "epochs": 1000,
        "batch_size": batch,
        "validation_fraction": 0.0,
    }
    config = TrainConfig(**{**values, **options})
    plan = train_plan(config)
    worker = _Summariser(plan.data.inputs.files, plan.features, plan.split, None)
    found = [worker.run(fragment) for fragment in plan.data.fragments]
    summary = summary_from_bytes(found[0].summary)
    for part in found[1:]:
        summary = merge(summary, summary_from_bytes(part.summary))
    rows = tuple(part.training_rows for part in found)
    passed = Pass(summary, rows, tuple(0 for _ in rows))
    codec = fit_codec(plan.features, summary, codings=plan.codings)
    trainer = _Trainer(
        _job(plan, passed, codec, {"bytes_for_rows": 1 << 33}), World(), lambda _: None
    )
    trainer.epoch()
    return trainer


def main(path: str, column: str) -> None:
    """Alternate both loops; print rows per second and the ratio of their medians."""
    values: Any = pq.read_table(path, columns=[column]).column(0).combine_chunks()
    pixels = torch.from_numpy(values.flatten().to_numpy().reshape(len(values), -1).copy())
    results = {}
    for batch in (100, 1024):
        trainer, ours, plain = make_trainer(path, column, batch), [], []
        for _ in range(ROUNDS):
            plain.append(plain_epoch(pixels, batch))
            trainer.epoch()
            ours.append(trainer.position.history[-1]["rows_per_second"])
        ratio = float(np.median(ours) / np.median(plain))
        results[batch] = {"ours": ours, "plain": plain, "ratio": ratio}
        print(f"batch {batch}: {ratio:.2f} of the plain loop", file=sys.stderr)
    print(json.dumps(results))


if __name__ == "__main__":
    main(*sys.argv[1:])
