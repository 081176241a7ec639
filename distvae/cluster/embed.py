"""embed: Parquet rows → (mu, sigma), one fragment at a time inside one worker."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.cluster.dataset import Job, Target, write_dataset
from distvae.cluster.overlap import ahead, behind
from distvae.config import EmbedConfig
from distvae.console import Console
from distvae.data.arrow_types import without_views
from distvae.data.codec import Encoded, Policies, encode
from distvae.data.fragments import Fragment
from distvae.data.inputs import InputFile
from distvae.data.manifest import FILTERED, Receipt
from distvae.data.parts import PartWriter
from distvae.data.reading import source_columns
from distvae.data.selection import Batch, read_batches
from distvae.errors import DataError, UsageError
from distvae.inferring import codes, infer_raw, refining_steps, row_terms
from distvae.planning import DataPlan, expand_names, plan_data
from distvae.saved import Model, check_columns, read_model

__all__ = ["embed", "embed_job"]

_ROWS_PER_BATCH = 8 * 1024
_RESERVED = ("mu", "sigma", "scale_tril", "elbo", "reconstruction_error", "_file", "_row")


@dataclass(frozen=True)
class _Options:
    """What shapes the output, beside the model and the input."""

    keys: tuple[str, ...]
    with_elbo: bool
    with_sigma: bool
    with_tril: bool
    layout: str
    dtype: str
    seed: int
    precision: str
    where: str | None
    refine: int
    policies: Policies


def embed(config: EmbedConfig, console: Console, plan: DataPlan | None = None) -> dict[str, Any]:
    """Encode every row of ``config.data``; returns the figures of the dataset.

    Raises:
        DistvaeError: see `write_dataset`; also for a model or data that do not fit.
    """
    return write_dataset(embed_job(config, plan), console)


def embed_job(config: EmbedConfig, plan: DataPlan | None = None) -> Job:
    """The plan of an embedding: everything that can be wrong with it is told here.

    Raises:
        UsageError, DataError, StorageError: options, model or data do not fit.
    """
    model_files = read_model(config.model)
    model = Model.from_files(model_files, config.model)
    if plan is None:
        expected = model.schema if config.on_wrong_type == "reject" else None
        plan = plan_data(config.data, config.fragment_rows, config.where, expected)
    check_columns(model, plan.inputs.schema, config.data)
    options = _options(config, plan.inputs.schema, model)
    return Job(
        config=config,
        title="embed",
        items=_items(config, model, plan, options),
        record=_run_record(config, plan),
        fragments=plan.fragments,
        factory=_EmbedWorker,
        model_files=model_files,
        model_id=model.id,
        schema=_output_schema(options, model, plan.inputs.schema),
        arguments={"files": plan.inputs.files, "options": options},
        max_rejected=config.max_rejected,
    )


def _options(config: EmbedConfig, schema: pa.Schema, model: Model) -> _Options:
    architecture = model.files.architecture
    full = architecture.kind == "vae" and architecture.posterior == "full"
    keys = expand_names("key", config.key, schema.names)
    keep = expand_names("keep", config.keep, schema.names)
    for option, names in (("key", keys), ("keep", keep)):
        for name in names:
            if name in _RESERVED:
                rule = "the output has a column of that name"
                raise UsageError(option, f"got {name!r}", rule, "rename it in DATA")
    return _Options(
        keys=tuple(dict.fromkeys((*keys, *keep))) if keys else ("_file", "_row", *keep),
        with_elbo=config.with_elbo,
        with_sigma=not config.no_sigma,
        with_tril=full and not config.no_sigma,
        layout=config.layout,
        dtype=config.dtype,
        seed=config.seed,
        precision=config.precision,
        where=config.where,
        refine=refining_steps(model, config.refine),
        policies=Policies(
            unseen=config.on_unseen,
            out_of_range=config.on_out_of_range,
            infinite=config.on_infinite,
            wrong_type=config.on_wrong_type,
        ),
    )


def _items(config: EmbedConfig, model: Model, plan: DataPlan, options: _Options) -> dict[str, Any]:
    return {
        "command": "embed",
        "model": model.id,
        "options": {
            **vars(options),
            "policies": asdict(options.policies),
            "seed": config.seed if config.with_elbo or options.refine else 0,
        },
        "fragment_rows": config.fragment_rows,
        "rows_per_batch": _ROWS_PER_BATCH,
        "inputs": [[f.relative, f.size, f.footer_sha256] for f in plan.inputs.files],
    }


def _run_record(config: EmbedConfig, plan: DataPlan) -> dict[str, Any]:
    inputs = [{"path": f.relative, "modified_ns": f.modified_ns} for f in plan.inputs.files]
    return {"config": config.model_dump(mode="json"), "inputs": inputs}


def _vector_type(layout: str, dtype: str, width: int) -> pa.DataType:
    item = pa.field("item", pa.type_for_alias(dtype), nullable=False)
    return pa.list_(item, width) if layout == "fixed" else pa.list_(item)


def _output_schema(options: _Options, model: Model, schema: pa.Schema) -> pa.Schema:
    latent_dim, network = model.latent_dim, model.network
    fields = []
    for name in options.keys:
        if name == "_file":
            fields.append(pa.field("_file", pa.string(), nullable=False))
        elif name == "_row":
            fields.append(pa.field("_row", pa.int64(), nullable=False))
        else:
            fields.append(without_views(schema).field(name))
    fields += _vector_fields("mu", latent_dim, options, nullable=False)
    if options.with_sigma:
        fields += _vector_fields("sigma", latent_dim, options, nullable=not network.has_sigma)
    if options.with_tril:
        width = latent_dim * (latent_dim + 1) // 2
        fields += _vector_fields("scale_tril", width, options, nullable=False)
    if options.with_elbo:
        fields.append(pa.field("elbo", pa.float32(), nullable=not network.has_likelihood))
        fields.append(pa.field("reconstruction_error", pa.float32(), nullable=False))
    names = [field.name for field in fields]
    for name in options.keys:
        if names.count(name) > 1:
            raise UsageError(
                "key", f"got {name!r}", "the output has a column of that name", "rename it in DATA"
            )
    return pa.schema(fields)


def _vector_fields(name: str, width: int, options: _Options, nullable: bool) -> list[pa.Field]:
    """The columns of one vector; nullable, and null in every row, where the kind has none."""
    if options.layout == "columns":
        kind = pa.type_for_alias(options.dtype)
        return [pa.field(f"{name}_{i}", kind, nullable=nullable) for i in range(width)]
    return [pa.field(name, _vector_type(options.layout, options.dtype, width), nullable=nullable)]


class _EmbedWorker:
    """Holds the model in a worker process; reads, encodes and publishes whole fragments."""

    def __init__(self, files: Sequence[InputFile], options: _Options, target: Target) -> None:
        self.files, self.options, self.target = files, options, target
        self.model = target.open_model()
        names = self.model.codec.sources
        copied = [name for name in options.keys if name not in ("_file", "_row")]
        self.columns = list(dict.fromkeys([*names, *copied]))

    def run(self, fragment: Fragment) -> Receipt:
        """Embed one fragment and commit its part."""
        rows_in, skipped = 0, 0
        counts: dict[str, float] = {}
        with self.target.open_part(fragment) as writer:

            def put_tables(tables: tuple[pa.Table, pa.Table | None]) -> None:
                _put(writer, tables)

            with behind(put_tables) as put:
                for batch, encoded in ahead(self._encoded(fragment)):
                    rows_in += len(batch.rows)
                    skipped += batch.skipped
                    if encoded is not None:
                        for name, count in encoded.counts.items():
                            counts[name] = counts.get(name, 0.0) + count
                        put(self._tables(fragment, batch, encoded))
            sources = [[self.files[p.file].relative, p.first_row, p.rows] for p in fragment.pieces]
            summary = {f"values_{name}": count for name, count in counts.items()}
            if self.options.where:
                summary[FILTERED] = float(skipped)
            return writer.commit(rows_in, json.dumps(sources), summary)

    def _encoded(self, fragment: Fragment) -> Iterator[tuple[Batch, Encoded | None]]:
        """The fragment's batches; one that ``where`` has left empty still counts its rows."""
        batches = read_batches(
            self.files, fragment, self.columns, _ROWS_PER_BATCH, self.options.where
        )
        for batch in batches:
            some = batch.table.num_rows > 0
            encoded = None
            if some:
                encoded = encode(self.model.codec, batch.table, self.options.policies)
                encoded = self._without_wrong(fragment, batch, encoded)
            yield batch, encoded

    def _without_wrong(self, fragment: Fragment, batch: Batch, encoded: Encoded) -> Encoded:
        """Rows of files that hold a feature in another type, rejected."""
        features = set(self.model.codec.sources)
        bad = {
            index: [name for name in self.files[piece.file].wrong if name in features]
            for index, piece in enumerate(fragment.pieces)
        }
        if not any(bad.values()):
            return encoded
        ends = fragment.first_row + np.cumsum([piece.rows for piece in fragment.pieces])
        piece_of_row = np.searchsorted(ends, batch.rows, side="right")
        reasons = np.full(len(batch.rows), None, dtype=object)
        reasons[encoded.rejected] = encoded.reasons
        wrong = np.zeros(len(batch.rows), np.bool_)
        for index, names in bad.items():
            rows = piece_of_row == index
            if names and rows.any():
                wrong |= rows
                file = self.files[fragment.pieces[index].file].relative
                reasons[rows] = f"column {names[0]!r}: another type than in training, in {file}"
        rejected = encoded.rejected | wrong
        counts = dict(encoded.counts)
        counts["wrong_type"] = counts.get("wrong_type", 0) + int(wrong.sum())
        return replace(
            encoded, rejected=rejected, reasons=reasons[rejected].tolist(), counts=counts
        )

    def _tables(
        self, fragment: Fragment, batch: Batch, encoded: Encoded
    ) -> tuple[pa.Table, pa.Table | None]:
        """(rows of the part, rejected rows) of one batch."""
        options, model = self.options, self.model
        seed, steps, precision = options.seed, options.refine, options.precision
        raw = infer_raw(model, encoded, batch.rows, seed, steps, precision)
        found = codes(model, encoded, raw, precision)
        columns = self._keys(fragment, batch) + self._vectors(found.mu)
        if options.with_sigma and model.network.has_sigma:
            columns += self._vectors(found.sigma)
        elif options.with_sigma:
            fields = [f for f in self.target.schema if f.name.partition("_")[0] == "sigma"]
            columns += [pa.nulls(len(batch.rows), field.type) for field in fields]
        if options.with_tril:
            assert found.scale_tril is not None
            columns += self._vectors(found.scale_tril)
        if options.with_elbo:
            terms = row_terms(model, encoded, batch.rows, seed, raw, precision)
            elbo = pa.array(terms.elbo.astype(np.float32))
            known = model.network.has_likelihood
            columns.append(elbo if known else pa.nulls(len(elbo), pa.float32()))
            columns.append(pa.array(terms.squared_error.astype(np.float32)))
        table = pa.table(columns, schema=self.target.schema)
        if not encoded.rejected.any():
            return table, None
        return table.filter(pa.array(~encoded.rejected)), self._refused(fragment, batch, encoded)

    def _keys(self, fragment: Fragment, batch: Batch) -> list[Any]:
        located = self._located(fragment, batch) if "_file" in self.options.keys else {}
        return [
            located[name] if name in located else batch.table.column(name)
            for name in self.options.keys
        ]

    def _located(self, fragment: Fragment, batch: Batch) -> dict[str, pa.Array]:
        """``_file`` and ``_row`` of each row of the batch."""
        first = int(batch.rows[0])
        span = int(batch.rows[-1]) - first + 1
        file, row = source_columns(fragment, self.files, first - fragment.first_row, span)
        if span != len(batch.rows):
            chosen = pa.array(batch.rows - first)
            file, row = file.take(chosen), row.take(chosen)
        return {"_file": file.cast(pa.string()), "_row": row}

    def _vectors(self, values: npt.NDArray[np.float32]) -> list[pa.Array]:
        """(n, k) numbers as the columns of the layout."""
        with np.errstate(over="ignore"):
            numbers = values.astype(self.options.dtype, copy=False)
        overflow = np.isinf(numbers) & np.isfinite(values)
        if overflow.any():
            largest = float(np.abs(values[overflow]).max())
            raise DataError(
                "dtype",
                f"got float16, and a value of {largest:g}",
                "float16 ends at 65504",
                "use --dtype float32",
            )
        if self.options.layout == "columns":
            return [pa.array(np.ascontiguousarray(column)) for column in numbers.T]
        n, k = numbers.shape
        flat = pa.array(numbers.reshape(-1))
        kind = _vector_type(self.options.layout, self.options.dtype, k)
        if self.options.layout == "fixed":
            return [pa.FixedSizeListArray.from_arrays(flat, type=kind)]
        return [
            pa.ListArray.from_arrays(
                pa.array(np.arange(n + 1, dtype=np.int32) * k), flat, type=kind
            )
        ]

    def _refused(self, fragment: Fragment, batch: Batch, encoded: Encoded) -> pa.Table:
        """The rejected rows of a batch: keys, source file and row, reason."""
        mask = pa.array(encoded.rejected)
        keys = [name for name in self.options.keys if name not in ("_file", "_row")]
        columns = {name: batch.table.column(name).filter(mask) for name in keys}
        columns |= {name: c.filter(mask) for name, c in self._located(fragment, batch).items()}
        return pa.table({**columns, "reason": pa.array(encoded.reasons, pa.string())})


def _put(writer: PartWriter, tables: tuple[pa.Table, pa.Table | None]) -> None:
    kept, refused = tables
    writer.write(kept)
    if refused is not None:
        writer.reject(refused)
