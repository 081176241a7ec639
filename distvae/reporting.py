"""report: gathers a model, samples of its datasets and of the real rows, and writes the page."""

from __future__ import annotations

import io
from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distvae.config import ReportConfig
from distvae.console import Console
from distvae.data.codec import encode
from distvae.data.fragments import plan_input
from distvae.data.inputs import scan
from distvae.data.reading import read_fragment
from distvae.data.roles import require_known
from distvae.data.storage import locate, write_bytes
from distvae.errors import DataError
from distvae.model.files import CONFIG, parse_json
from distvae.saved import Model, check_columns, read_model

__all__ = ["sample_rows", "write_report"]

_LATENT_ROWS = 5_000
_MARGINAL_ROWS = 10_000
_EXAMPLES = 12
_STRETCHES = 16
_NOT_COLOURS = frozenset(
    {"_file", "_row", "mu", "sigma", "scale_tril", "elbo", "reconstruction_error"}
)
_MOST_CLASSES = 20

Array = npt.NDArray[Any]


def write_report(config: ReportConfig, console: Console) -> dict[str, Any]:
    """Write the page; returns where it is and how large.

    Raises:
        DistvaeError: the model or a dataset cannot be read, or does not fit the model.
    """
    from distvae.report import ReportInputs, image_shape, render

    content = read_model(config.model)
    model = Model.from_files(content, config.model)
    mu, colour, colour_name = _latent(config, model)
    real, originals, reconstructions = _real(config, model)
    synthetic = _synthetic(config, model)
    console.note("drawing the report")
    page = render(
        ReportInputs(
            model_name=config.model.rstrip("/").rsplit("/", 1)[-1],
            model_id=model.id,
            config=parse_json(content[CONFIG], config.model, CONFIG),
            history=_history(model),
            metrics=model.files.metrics,
            mu=mu,
            colour=colour,
            colour_name=colour_name,
            originals=originals,
            reconstructions=reconstructions,
            samples={name: values[:_EXAMPLES] for name, values in synthetic.items()},
            real=real,
            synthetic=synthetic,
            image_shapes={
                c.feature.name: shape
                for c in model.codec.columns
                if c.feature.role == "vector" and (shape := image_shape(c.feature.width))
            },
        )
    )
    data = page.encode()
    write_bytes(locate(config.out), data)
    return {"out": config.out, "bytes": len(data), "model_id": model.id}


def sample_rows(paths: Sequence[str], rows: int, columns: Sequence[str] | None = None) -> pa.Table:
    """Up to ``rows`` rows of a dataset, in up to 16 stretches spread evenly over it.

    Raises:
        DataError, StorageError: it cannot be read, or has no rows.
        UsageError: a column that it lacks.
    """
    inputs = scan(paths)
    if inputs.rows == 0:
        raise DataError(", ".join(paths), "holds no rows", "at least one is needed")
    names = list(inputs.schema.names if columns is None else columns)
    require_known("columns", names, inputs.schema.names)
    fragments = plan_input(inputs)
    stretches = _STRETCHES if inputs.rows > rows else 1
    per_stretch = -(-rows // stretches)
    tables = []
    for start in (inputs.rows * np.arange(stretches) // stretches).tolist():
        fragment = max((f for f in fragments if f.first_row <= start), key=lambda f: f.first_row)
        skip = start - fragment.first_row
        tables += list(read_fragment(inputs.files, fragment, names, per_stretch, skip, per_stretch))
    return pa.concat_tables(tables).slice(0, rows).combine_chunks()


def _history(model: Model) -> dict[str, Array]:
    table = pq.read_table(io.BytesIO(model.files.history))
    return {name: table.column(name).to_numpy() for name in table.column_names}


def _latent(config: ReportConfig, model: Model) -> tuple[Array | None, Array | None, str | None]:
    """(mu, colour, colour's name) of sampled embeddings."""
    if config.embeddings is None:
        return None, None, None
    table = sample_rows([config.embeddings], _LATENT_ROWS)
    if "mu" in table.column_names:
        mu = _numbers(table.column("mu"))
    elif "mu_0" in table.column_names:
        mu = np.stack([table.column(f"mu_{i}").to_numpy() for i in range(model.latent_dim)], axis=1)
    else:
        raise DataError(
            config.embeddings, "has no column 'mu'", "must be a dataset that embed wrote"
        )
    if mu.ndim != 2 or mu.shape[1] != model.latent_dim:
        found = f"has {mu.shape[-1]} latent dimensions"
        raise DataError(
            config.embeddings,
            found,
            f"the model has {model.latent_dim}",
            "give this model's embeddings",
        )
    name = config.color or _choose_colour(table)
    if name is None:
        return mu, None, None
    require_known("color", [name], table.column_names)
    return mu, np.asarray(table.column(name).to_pylist(), dtype=object), name


def _choose_colour(table: pa.Table) -> str | None:
    """The scalar column with the fewest distinct values, two at least; else any number."""
    candidates: list[tuple[int, str]] = []
    for field in table.schema:
        scalar = not pa.types.is_nested(field.type) and not field.name.startswith(("mu_", "sigma_"))
        if scalar and field.name not in _NOT_COLOURS:
            distinct = pc.count_distinct(table.column(field.name)).as_py()
            if 2 <= distinct <= _MOST_CLASSES or (
                distinct > 1 and pa.types.is_floating(field.type)
            ):
                candidates.append((distinct, field.name))
    return min(candidates)[1] if candidates else None


def _real(
    config: ReportConfig, model: Model
) -> tuple[dict[str, Array], dict[str, Array], dict[str, Array]]:
    """(marginal rows, example rows, their reconstructions) per column of the real data."""
    if not config.data:
        return {}, {}, {}
    check_columns(model, scan(config.data).schema, config.data)
    table = sample_rows(config.data, _MARGINAL_ROWS, model.schema.names)
    encoded = encode(model.codec, table)
    usable = table.filter(pa.array(~encoded.rejected))
    if usable.num_rows == 0:
        found = f"has no row that the model can use ({encoded.reasons[0]})"
        raise DataError(", ".join(config.data), found, "one is needed", "give other rows as --data")
    examples = usable.take(pa.array(np.arange(_EXAMPLES) * usable.num_rows // _EXAMPLES))
    mu, _ = model.encode(examples)
    return _columns(usable), _columns(examples), _columns(model.decode(mu))


def _synthetic(config: ReportConfig, model: Model) -> dict[str, Array]:
    """Rows of the synthetic dataset per column."""
    if config.synthetic is None:
        return {}
    check_columns(model, scan([config.synthetic]).schema, [config.synthetic])
    return _columns(sample_rows([config.synthetic], _MARGINAL_ROWS, model.schema.names))


def _columns(table: pa.Table) -> dict[str, Array]:
    return {name: _numbers(table.column(name)) for name in table.column_names}


def _numbers(column: pa.ChunkedArray) -> Array:
    """(n,) float64, or (n, w) for lists; null becomes NaN."""
    array = column.combine_chunks()
    if not pa.types.is_nested(array.type):
        return np.asarray(array.cast(pa.float64()).to_numpy(zero_copy_only=False))
    width = array.type.list_size if pa.types.is_fixed_size_list(array.type) else None
    whole = array.drop_null() if array.null_count else array
    flat = whole.flatten().cast(pa.float64()).to_numpy(zero_copy_only=False)
    width = width or (len(flat) // max(len(whole), 1))
    values = np.full((len(array), width), np.nan)
    values[array.is_valid().to_numpy(zero_copy_only=False)] = flat.reshape(len(whole), width)
    return values
