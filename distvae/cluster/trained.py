"""From the final checkpoint to the model directory: weights, history, held-out figures, card."""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

import distvae
from distvae.cluster.checkpoints import State
from distvae.cluster.flat import flatten
from distvae.cluster.shards import TrainJob
from distvae.cluster.summarise import Pass
from distvae.console import Console
from distvae.data.codec import encode
from distvae.data.selection import read_batches, split_rows
from distvae.data.storage import Location, delete_file, write_bytes
from distvae.model.files import CONFIG, ModelFiles, pack, parse_json
from distvae.model.linear import Pca
from distvae.model.vae import VAE
from distvae.saved import Model
from distvae.scoring import Sums, add, metrics, score

__all__ = ["write_model"]

_SCORED_ROWS = 5_000
_SAMPLES = 50
_ROWS_PER_BATCH = 8 * 1024


def write_model(
    target: Location, job: TrainJob, state: State, pca: Pca | None, passed: Pass, console: Console
) -> dict[str, Any]:
    """Score the held-out rows, write the directory, ``config.json`` last; return its figures."""
    files = _files(job, state, pca, passed)
    content = pack(files)
    model = Model.from_files(content, target.uri)
    sums = _held_out_sums(model, job, console)
    scored = metrics(model, sums, _SAMPLES) if sums and sums["rows"][0] > 0 else {}
    figures = {
        "model_id": model.id,
        "rows_trained": sum(job.training_rows),
        "rows_held_out": sum(job.validation_rows),
        "parameters": sum(p.numel() for p in model.vae.parameters()),
        "metrics": scored,
    }
    card = _card(job, figures)
    final = pack(ModelFiles(**{**vars(files), "metrics": scored, "readme": card}))
    assert parse_json(final[CONFIG], target.uri, CONFIG)["model_id"] == model.id
    delete_file(target.child(CONFIG))  # killed from here on, the training is unfinished: --resume
    for name, data in final.items():
        write_bytes(target.child(name), data)
    return figures


def _files(job: TrainJob, state: State, pca: Pca | None, passed: Pass) -> ModelFiles:
    vae = VAE.from_architecture(job.architecture)
    flatten(vae, 0).values.data.copy_(state.tensors["weights"])
    config = job.config.model_dump(
        mode="json", exclude={"resume", "overwrite", "address", "model", "data"}
    )
    training = {
        "options": config,
        "items": dict(job.items),
        "rows": sum(job.training_rows),
        "rows_held_out": sum(job.validation_rows),
        "epochs": state.position.epoch,
        "steps": state.position.steps,
        "distvae": distvae.__version__,
        "missing": {
            column.feature.name: int(passed.summary.missing[column.start : column.stop].sum())
            for column in job.codec.columns
        },
    }
    return ModelFiles(
        architecture=job.architecture,
        state=vae.state_dict(),
        codec=job.codec.to_json(),
        pca=pca,
        training=training,
        history=_history(state),
    )


def _history(state: State) -> bytes:
    """``history.parquet``: one row per epoch."""
    rows = state.position.history
    names = list(dict.fromkeys(name for row in rows for name in row))
    columns = {name: [row.get(name) for row in rows] for name in names}
    table = pa.table({name: pa.array(values, pa.float64()) for name, values in columns.items()})
    for name in ("epoch", "steps"):
        if name in table.column_names:
            place = table.column_names.index(name)
            table = table.set_column(place, name, table.column(name).cast(pa.int64()))
    sink = io.BytesIO()
    pq.write_table(table, sink)
    return sink.getvalue()


def _held_out_sums(model: Model, job: TrainJob, console: Console) -> Sums:
    """Sums over the first held-out rows of the input, as many as a few seconds allow."""
    total: Sums = {}
    left = min(_SCORED_ROWS, sum(job.validation_rows))
    if left == 0:
        return total
    with console.stage("score", left) as advance:
        for fragment in job.fragments:
            if job.validation_rows[fragment.index] == 0:
                continue
            for batch in read_batches(
                job.files, fragment, job.columns, _ROWS_PER_BATCH, job.config.where
            ):
                chosen = np.flatnonzero(split_rows(batch.rows, job.split)[1])[:left]
                if len(chosen):
                    table = batch.table.take(pa.array(chosen))
                    encoded = encode(model.codec, table)
                    total = add(
                        total, score(model, encoded, batch.rows[chosen], _SAMPLES, job.config.seed)
                    )
                    left -= len(chosen)
                    advance(len(chosen))
                if left == 0:
                    return total
    return total


def _card(job: TrainJob, figures: Mapping[str, Any]) -> str:
    """The model card, Markdown."""
    config, scored = job.config, figures["metrics"]
    columns = ", ".join(
        f"`{c.feature.name}` ({c.feature.role}, {c.feature.width})" for c in job.codec.columns[:20]
    )
    if len(job.codec.columns) > 20:
        columns += f" and {len(job.codec.columns) - 20} more"
    layers = ", ".join(map(str, config.hidden_dims))
    lines = [
        "# A variational autoencoder by distvae",
        "",
        f"- model id `{figures['model_id']}`",
        f"- columns: {columns}",
        f"- {figures['rows_trained']:,} rows trained, {figures['rows_held_out']:,} held out",
        f"- latent dimensions {config.latent_dim}, hidden layers {layers}, {config.activation}",
        f"- {figures['parameters']:,} parameters, KL weight {config.kl_weight:g}",
        f"- likelihoods {', '.join(sorted(set(job.architecture.likelihoods.values())))}",
        "",
    ]
    if scored:
        lines += ["| held out | |", "|---|---|"]
        shown = (
            "rows",
            "elbo",
            "kl",
            "reconstruction",
            "log_likelihood",
            "active_units",
            "reconstruction_mse",
        )
        lines += [
            f"| {name} | {scored[name]:.6g} |" for name in (*shown,) if scored[name] is not None
        ]
        baseline = scored["pca_reconstruction_mse"]
        if baseline is not None:
            lines.append(f"| pca_reconstruction_mse (same latent size) | {baseline:.6g} |")
        lines += [
            "",
            f"Nats per row; log-likelihood with {scored['importance_samples']} importance samples.",
        ]
    lines += [
        "",
        "```python",
        "import distvae, pyarrow.parquet as pq",
        'model = distvae.load("THIS DIRECTORY")',
        'mu, sigma = model.encode(pq.read_table("rows.parquet"))',
        "rows = model.sample(1000, seed=0)",
        "```",
        "",
    ]
    return "\n".join(lines)
