"""generate: rows of one endless synthetic table, any slice of it, written as a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pyarrow as pa

from distvae.cluster.dataset import Job, Target, write_dataset
from distvae.cluster.overlap import behind
from distvae.config import GenerateConfig
from distvae.console import Console
from distvae.data.fragments import Fragment, plan_rows
from distvae.data.manifest import Receipt
from distvae.errors import UsageError
from distvae.model.sources import check_source
from distvae.saved import Model, read_model

__all__ = ["generate", "generate_job"]

_ROWS_PER_BATCH = 8 * 1024


def generate(config: GenerateConfig, console: Console) -> dict[str, Any]:
    """Write rows [offset, offset + rows) of the model's synthetic table.

    Raises:
        DistvaeError: see `write_dataset`; also for a model that does not load.
    """
    return write_dataset(generate_job(config), console)


def generate_job(config: GenerateConfig) -> Job:
    """The plan of a generation.

    Raises:
        DataError, StorageError: the model does not load.
        UsageError: more rows or dimensions than the source has.
    """
    model_files = read_model(config.model)
    model = Model.from_files(model_files, config.model)
    schema = model.schema
    if config.with_latents:
        if "z" in schema.names:
            raise UsageError(
                "with_latents", "the table has a column 'z' already", "z would be ambiguous"
            )
        schema = schema.append(latent_field(model.latent_dim))
    check_source(
        config.source,
        config.offset + config.rows,
        model.latent_dim,
        model.network.prior.chooses,
    )
    items = {
        "command": "generate",
        "model": model.id,
        "options": {
            "rows": config.rows,
            "offset": config.offset,
            "source": config.source,
            "with_latents": config.with_latents,
            "seed": config.seed,
        },
        "fragment_rows": config.fragment_rows,
        "rows_per_batch": _ROWS_PER_BATCH,
    }
    return Job(
        config=config,
        title="generate",
        items=items,
        record={"config": config.model_dump(mode="json")},
        fragments=plan_rows(config.offset, config.rows, config.fragment_rows),
        factory=_GenerateWorker,
        model_files=model_files,
        model_id=model.id,
        schema=schema,
        arguments={
            "seed": config.seed,
            "with_latents": config.with_latents,
            "source": config.source,
        },
    )


def latent_field(width: int) -> pa.Field:
    """The column ``z``: what each synthetic row was decoded from."""
    item = pa.field("item", pa.float32(), nullable=False)
    return pa.field("z", pa.list_(item, width), nullable=False)


class _GenerateWorker:
    """Holds the model in a worker process; samples, decodes and publishes whole fragments."""

    def __init__(self, seed: int, with_latents: bool, source: str, target: Target) -> None:
        self.seed, self.with_latents, self.source = seed, with_latents, source
        self.target = target
        self.precision = target.engine["precision"]
        self.schema = target.schema
        self.model = target.open_model()

    def run(self, fragment: Fragment) -> Receipt:
        """Generate one fragment and commit its part."""
        with self.target.open_part(fragment) as writer:
            with behind(writer.write) as put:
                for table in self._tables(fragment):
                    put(table)
            return writer.commit(fragment.rows)

    def _tables(self, fragment: Fragment) -> Iterator[pa.Table]:
        """The fragment's rows, cut at multiples of the batch size counted from row 0."""
        row, stop = fragment.first_row, fragment.first_row + fragment.rows
        while row < stop:
            rows = min(_ROWS_PER_BATCH - row % _ROWS_PER_BATCH, stop - row)
            table, z = self.model.sample_rows(row, rows, self.seed, self.precision, self.source)
            if self.with_latents:
                kind = latent_field(z.shape[1]).type
                latents = pa.FixedSizeListArray.from_arrays(pa.array(z.reshape(-1)), type=kind)
                table = table.append_column(self.schema.field("z"), latents)
            yield table.cast(self.schema)
            row += rows
