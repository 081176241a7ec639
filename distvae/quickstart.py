"""quickstart: the whole story on scikit-learn's handwritten digits, told as it happens."""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distvae.config import (
    EmbedConfig,
    EvaluateConfig,
    GenerateConfig,
    QuickstartConfig,
    ReportConfig,
    TrainConfig,
)
from distvae.console import Console, human_seconds
from distvae.errors import OutputError

__all__ = ["quickstart", "write_digits"]

_MADE = ("train", "test", "model", "embeddings", "synthetic", "report.html")
_ROWS_PER_GROUP = 256
_TEST_SHARE = 0.2


def quickstart(config: QuickstartConfig, console: Console) -> dict[str, Any]:
    """Write Parquet, train, embed, generate, evaluate and report; returns the figures.

    Raises:
        OutputError: the folder holds something already.
        DistvaeError: as the jobs tell.
    """
    started = time.monotonic()
    folder = Path(config.dir)
    _make_room(folder, config.overwrite)
    from distvae.cluster.session import connect
    from distvae.reporting import write_report

    rows = write_digits(folder, config.seed)
    console.note(f"1/6 data: {rows[0]} digits to train on, {rows[1]} held out, as Parquet")
    paths = {name: str(folder / name) for name in _MADE}
    shared: dict[str, Any] = {
        "workers": config.workers,
        "gpus_per_worker": config.gpus_per_worker,
        "cpus_per_worker": config.cpus_per_worker,
        "memory_per_worker": config.memory_per_worker,
        "precision": config.precision,
        "seed": config.seed,
        "address": config.address,
    }
    with connect(config):
        figures = _jobs(config, paths, shared, console)
    console.note("6/6 report")
    report = write_report(
        ReportConfig(
            model=paths["model"],
            embeddings=paths["embeddings"],
            synthetic=paths["synthetic"],
            data=(paths["test"],),
            training_data=(),
            target=None,
            color="label",
            out=paths["report.html"],
        ),
        console,
    )
    seconds = time.monotonic() - started
    _tell(console, figures, paths, seconds)
    return {
        "dir": config.dir,
        "report": report["out"],
        "seconds": round(seconds, 3),
        "metrics": figures,
    }


def _jobs(
    config: QuickstartConfig, paths: dict[str, str], shared: dict[str, Any], console: Console
) -> dict[str, Any]:
    from distvae.cluster.embed import embed
    from distvae.cluster.evaluate import evaluate
    from distvae.cluster.generate import generate
    from distvae.cluster.train import train

    console.note("2/6 train")
    train(
        TrainConfig(
            data=(paths["train"],),
            model=paths["model"],
            exclude=("id", "label"),
            latent_dim=10,
            hidden_dims=(256, 256),
            epochs=config.epochs,
            batch_size=64,
            kl_warmup=5,
            validation_fraction=0.1,
            patience=25,
            **shared,
        ),
        console,
    )
    console.note("3/6 embed")
    embed(
        EmbedConfig(
            data=(paths["test"],),
            model=paths["model"],
            out=paths["embeddings"],
            key=("id",),
            keep=("label",),
            **shared,
        ),
        console,
    )
    console.note("4/6 generate")
    generate(
        GenerateConfig(model=paths["model"], rows=1000, out=paths["synthetic"], **shared), console
    )
    console.note("5/6 evaluate")
    return evaluate(EvaluateConfig(data=(paths["test"],), model=paths["model"], **shared), console)


def _make_room(folder: Path, overwrite: bool) -> None:
    """An empty folder, or one that holds nothing but an earlier quickstart."""
    present = sorted(p.name for p in folder.iterdir()) if folder.is_dir() else []
    if folder.exists() and not folder.is_dir():
        raise OutputError(
            "--dir", f"{folder} is a file", "a folder is needed", "choose another --dir"
        )
    foreign = [name for name in present if name not in _MADE]
    if foreign:
        raise OutputError(
            "--dir", f"{folder} holds {foreign[0]}", "must be empty", "choose another --dir"
        )
    if present and not overwrite:
        raise OutputError(
            "--dir",
            f"{folder} holds an earlier quickstart",
            "must be empty",
            "add --overwrite, or choose another --dir",
        )
    for name in present:
        place = folder / name
        shutil.rmtree(place) if place.is_dir() else place.unlink()
    folder.mkdir(parents=True, exist_ok=True)


def write_digits(folder: Path, seed: int) -> tuple[int, int]:
    """Write 8 x 8 handwritten digits as ``train/`` and ``test/``; returns their row counts.

    Columns: ``id`` int64, ``pixels`` fixed_size_list<uint8>[64] in 0..16, ``label`` int64.
    """
    from sklearn.datasets import load_digits

    digits = load_digits()
    order = np.random.default_rng(seed).permutation(len(digits.data))
    pixels = digits.data[order].astype(np.uint8)
    values = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), pixels.shape[1])
    table = pa.table(
        {"id": pa.array(order), "pixels": values, "label": pa.array(digits.target[order])}
    )
    held_out = int(len(order) * _TEST_SHARE)
    parts = {"test": table.slice(0, held_out), "train": table.slice(held_out)}
    for name, part in parts.items():
        (folder / name).mkdir(parents=True, exist_ok=True)
        pq.write_table(part, folder / name / "digits.parquet", row_group_size=_ROWS_PER_GROUP)
    return parts["train"].num_rows, parts["test"].num_rows


def _tell(console: Console, figures: dict[str, Any], paths: dict[str, str], seconds: float) -> None:
    """What was made, and how good it is."""
    ratio = figures["reconstruction_mse"] / figures["pca_reconstruction_mse"]
    console.note(
        f"held-out digits: reconstruction error {figures['reconstruction_mse']:.4g}, "
        f"{ratio:.2f} of PCA's with as many dimensions ({figures['pca_reconstruction_mse']:.4g}); "
        f"ln p(x) {figures['log_likelihood']:.2f} nats"
    )
    for name in ("model", "embeddings", "synthetic", "report.html"):
        console.note(f"  {paths[name]}")
    console.note(f"all in {human_seconds(seconds)}; open {paths['report.html']} in a browser")
