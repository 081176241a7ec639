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

from distvae.comparing import compare
from distvae.config import ReportConfig
from distvae.console import Console
from distvae.data.codec import encode
from distvae.data.fragments import plan_input
from distvae.data.inputs import scan
from distvae.data.reading import read_fragment
from distvae.data.roles import require_known
from distvae.data.storage import locate, write_bytes
from distvae.errors import DataError
from distvae.fidelity import LEAST_ROWS, available
from distvae.fidelity.frames import flat_table, kind_of
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
_NO_FIDELITY = "Fidelity figures of synthetic rows need pip install 'distvae[fidelity]'."

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
    rows, originals, reconstructions = _real(config, model)
    made = _synthetic(config, model)
    if rows is not None and made is not None:
        console.note("comparing synthetic and real rows")
    figures = _fidelity(config, model, rows, made)
    real, synthetic = _columns(rows), _columns(made)
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
            fidelity=figures,
            notes=[_NO_FIDELITY] if _comparable(rows, made) and not available() else (),
            image_shapes={
                feature.name: shape
                for feature in model.codec.features
                if feature.role == "vector" and (shape := image_shape(feature.width))
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
    return mu, _values(table.column(name)), name


def _choose_colour(table: pa.Table) -> str | None:
    """The scalar column with the fewest distinct values, two at least; else any number."""
    candidates: list[tuple[int, str]] = []
    for field in table.schema:
        scalar = not pa.types.is_nested(field.type) and not field.name.startswith(("mu_", "sigma_"))
        if scalar and field.name not in _NOT_COLOURS:
            column = table.column(field.name)
            if pa.types.is_dictionary(field.type):  # Arrow does not count distinct codes
                column = column.cast(field.type.value_type)
            distinct = pc.count_distinct(column).as_py()
            if 2 <= distinct <= _MOST_CLASSES or (
                distinct > 1 and pa.types.is_floating(field.type)
            ):
                candidates.append((distinct, field.name))
    return min(candidates)[1] if candidates else None


def _real(
    config: ReportConfig, model: Model
) -> tuple[pa.Table | None, dict[str, Array], dict[str, Array]]:
    """(rows for the marginals, example rows, their reconstructions) of the real data."""
    if not config.data:
        return None, {}, {}
    check_columns(model, scan(config.data).schema, config.data)
    table = sample_rows(config.data, _MARGINAL_ROWS, model.schema.names)
    encoded = encode(model.codec, table)
    usable = table.filter(pa.array(~encoded.rejected))
    if usable.num_rows == 0:
        found = f"has no row that the model can use ({encoded.reasons[0]})"
        raise DataError(", ".join(config.data), found, "one is needed", "give other rows as --data")
    examples = usable.take(pa.array(np.arange(_EXAMPLES) * usable.num_rows // _EXAMPLES))
    mu, _ = model.encode(examples)
    given = examples if model.files.architecture.conditions else None
    return usable, _columns(examples), _columns(model.decode(mu, given))


def _synthetic(config: ReportConfig, model: Model) -> pa.Table | None:
    """Rows of the synthetic dataset."""
    if config.synthetic is None:
        return None
    check_columns(model, scan([config.synthetic]).schema, [config.synthetic])
    return sample_rows([config.synthetic], _MARGINAL_ROWS, model.schema.names)


def _fidelity(
    config: ReportConfig, model: Model, real: pa.Table | None, synthetic: pa.Table | None
) -> dict[str, Any]:
    """How alike the rows are; nothing without the libraries, or where nothing compares."""
    if config.synthetic is None or not (_comparable(real, synthetic) and available()):
        return {}
    return compare(model, scan(config.data), config)


def _comparable(real: pa.Table | None, synthetic: pa.Table | None) -> bool:
    """Whether both hold enough rows, and a column that is no vector."""
    if real is None or synthetic is None:
        return False
    schema = flat_table(synthetic).schema
    scalar = any(kind_of(field.type) is not None for field in schema)
    return scalar and min(real.num_rows, synthetic.num_rows) >= LEAST_ROWS


def _columns(table: pa.Table | None) -> dict[str, Array]:
    """Values by column, structs as dotted columns; columns that no page can show are left out."""
    if table is None:
        return {}
    flat = flat_table(table)
    return {
        field.name: _values(flat.column(field.name))
        for field in flat.schema
        if kind_of(field.type) is not None
        or pa.types.is_list(field.type)
        or pa.types.is_large_list(field.type)
        or pa.types.is_fixed_size_list(field.type)
    }


def _values(column: pa.ChunkedArray) -> Array:
    """(n,) numbers, instants, spans or objects of text, as `ReportInputs` says; (n, w) of lists."""
    kind = kind_of(column.type)
    if kind in ("boolean", "categorical"):
        return np.array([None if v is None else _text(v) for v in column.to_pylist()], dtype=object)
    if kind == "datetime":
        return _times(column)
    return _numbers(column)


def _text(value: Any) -> str:
    return str(value).lower() if isinstance(value, bool) else str(value)


def _times(column: pa.ChunkedArray) -> Array:
    """(n,) datetime64[us] of dates and timestamps, timedelta64[us] of times and durations."""
    type_ = column.type
    if pa.types.is_date(type_) or pa.types.is_timestamp(type_):
        whole = pc.cast(column, pa.timestamp("us"), safe=False).cast(pa.int64())
        return _with_gaps(whole, "datetime64[us]")
    if pa.types.is_time(type_):
        column = pc.cast(pc.cast(column, pa.time64("us"), safe=False), pa.int64())
    else:
        column = pc.cast(pc.cast(column, pa.duration("us"), safe=False), pa.int64())
    return _with_gaps(column, "timedelta64[us]")


def _with_gaps(column: pa.ChunkedArray, dtype: str) -> Array:
    """Whole numbers (n,) of an Arrow column as NumPy's times; null becomes NaT."""
    nothing = np.iinfo(np.int64).min
    return np.asarray(pc.fill_null(column, nothing).to_numpy()).view(dtype)


def _numbers(column: pa.ChunkedArray) -> Array:
    """(n,) float64, or (n, w) for lists; null becomes NaN."""
    array = column.combine_chunks()
    if not pa.types.is_nested(array.type):
        return np.asarray(array.cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False))
    width = array.type.list_size if pa.types.is_fixed_size_list(array.type) else None
    whole = array.drop_null() if array.null_count else array
    flat = whole.flatten().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    width = width or (len(flat) // max(len(whole), 1))
    values = np.full((len(array), width), np.nan)
    values[array.is_valid().to_numpy(zero_copy_only=False)] = flat.reshape(len(whole), width)
    return values
