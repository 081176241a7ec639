"""generate: rows of one endless synthetic table, any slice of it, written as a dataset."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.cluster.dataset import Job, Target, write_dataset
from distvae.cluster.overlap import behind
from distvae.config import GenerateConfig
from distvae.console import Console
from distvae.data.fragments import Fragment, plan_rows
from distvae.data.inputs import InputFile
from distvae.data.manifest import Receipt
from distvae.data.reading import read_fragment
from distvae.errors import DataError, UsageError
from distvae.given import Pool, given_features, given_rows, make_pool
from distvae.model.sources import check_source
from distvae.planning import DataPlan, plan_data, sources
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
    pool = None if config.given_from else make_pool(model, config.given)
    given = _given_plan(model, config)
    rows = given.rows if given else config.rows
    last, chooses = config.offset + rows, model.network.prior.chooses
    check_source(config.source, last, model.latent_dim, chooses)
    items = {
        "command": "generate",
        "model": model.id,
        "options": {
            "rows": rows,
            "offset": config.offset,
            "source": config.source,
            "with_latents": config.with_latents,
            "seed": config.seed,
            **({"given": dict(sorted(config.given.items()))} if config.given else {}),
        },
        **({"inputs": given.identity} if given else {}),
        "fragment_rows": config.fragment_rows,
        "rows_per_batch": _ROWS_PER_BATCH,
    }
    return Job(
        config=config,
        title="generate",
        items=items,
        record={"config": config.model_dump(mode="json")},
        fragments=given.plan.fragments
        if given
        else plan_rows(config.offset, rows, config.fragment_rows),
        factory=_GenerateWorker,
        model_files=model_files,
        model_id=model.id,
        schema=schema,
        arguments={
            "seed": config.seed,
            "with_latents": config.with_latents,
            "source": config.source,
            "given": given.reader if given else pool,
        },
    )


@dataclass(frozen=True)
class _FileOfConditions:
    """Reads the given rows of a fragment from the file that the user gave."""

    files: tuple[InputFile, ...]
    columns: tuple[str, ...]

    def read(self, model: Model, fragment: Fragment) -> Iterator[npt.NDArray[np.float32]]:
        """The given rows of the fragment, cut where the batches of generated rows are."""
        first = _ROWS_PER_BATCH - fragment.first_row % _ROWS_PER_BATCH
        for skip, limit in ((0, first), (first, None)):
            if skip < fragment.rows:
                for table in read_fragment(
                    self.files, fragment, self.columns, _ROWS_PER_BATCH, skip, limit
                ):
                    yield given_rows(model, table)


@dataclass(frozen=True)
class _GivenPlan:
    """Conditions from a file: its fragments are those of the output."""

    plan: DataPlan
    reader: _FileOfConditions

    @property
    def rows(self) -> int:
        return self.plan.rows

    @property
    def identity(self) -> list[Any]:
        return [[f.relative, f.size, f.footer_sha256] for f in self.plan.inputs.files]


def _given_plan(model: Model, config: GenerateConfig) -> _GivenPlan | None:
    """The plan of ``--given-from``; what is wrong with the file's columns is told here."""
    if config.given_from is None:
        return None
    features = given_features(model)
    if not features:
        rule = "the model is not conditioned on any column"
        raise UsageError("given_from", config.given_from, rule, "train with --condition-on COL")
    plan = plan_data([config.given_from], config.fragment_rows)
    known = plan.inputs.schema.names
    for feature in features:
        if feature.source not in known:
            raise DataError(
                config.given_from,
                f"has no column {feature.source!r}",
                "the model is conditioned on it",
                f"its columns are {', '.join(known[:10])}",
            )
    return _GivenPlan(plan, _FileOfConditions(plan.inputs.files, tuple(sources(features))))


def latent_field(width: int) -> pa.Field:
    """The column ``z``: what each synthetic row was decoded from."""
    item = pa.field("item", pa.float32(), nullable=False)
    return pa.field("z", pa.list_(item, width), nullable=False)


class _GenerateWorker:
    """Holds the model in a worker process; samples, decodes and publishes whole fragments."""

    def __init__(
        self,
        seed: int,
        with_latents: bool,
        source: str,
        given: Pool | _FileOfConditions | None,
        target: Target,
    ) -> None:
        self.given = given
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
        read = None
        if isinstance(self.given, _FileOfConditions):
            read = self.given.read(self.model, fragment)
        while row < stop:
            rows = min(_ROWS_PER_BATCH - row % _ROWS_PER_BATCH, stop - row)
            given = self.given.draw(self.seed, row, rows) if isinstance(self.given, Pool) else None
            given = next(read) if read is not None else given
            table, z = self.model.sample_rows(
                row, rows, self.seed, self.precision, self.source, given
            )
            if self.with_latents:
                kind = latent_field(z.shape[1]).type
                latents = pa.FixedSizeListArray.from_arrays(pa.array(z.reshape(-1)), type=kind)
                table = table.append_column(self.schema.field("z"), latents)
            yield table.cast(self.schema)
            row += rows
