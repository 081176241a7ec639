"""Arrow tables as data frames of two kinds of columns: numbers (float64) and words (text).

Structs become dotted columns. Dates, times and durations become the number that Arrow stores,
booleans become ``true`` and ``false``, dictionaries their values, decimals float64. A missing
value is NaN among numbers and None among words.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Literal

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from distvae.errors import DataError

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Kind", "common_kinds", "flat_table", "is_number", "kind_of", "missing", "to_frame"]

Kind = Literal["numeric", "datetime", "boolean", "categorical"]

_LARGEST = 1e100  # learners square and add up values
_TIMES = (pa.types.is_date, pa.types.is_timestamp, pa.types.is_time, pa.types.is_duration)
_WORDS = (pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view)
_NUMBERS = (pa.types.is_integer, pa.types.is_floating, pa.types.is_decimal)


def kind_of(type_: pa.DataType) -> Kind | None:
    """How a column of this Arrow type is compared; None for vectors and what is no feature."""
    if pa.types.is_boolean(type_):
        return "boolean"
    if pa.types.is_dictionary(type_):
        return None if kind_of(type_.value_type) is None else "categorical"
    if any(test(type_) for test in _WORDS):
        return "categorical"
    if any(test(type_) for test in _TIMES):
        return "datetime"
    return "numeric" if any(test(type_) for test in _NUMBERS) else None


def is_number(kind: Kind) -> bool:
    """Whether the column has an order and a distance."""
    return kind in ("numeric", "datetime")


def flat_table(table: pa.Table) -> pa.Table:
    """Structs as dotted columns, however deep; a missing struct has missing fields."""
    while any(pa.types.is_struct(field.type) for field in table.schema):
        table = table.flatten()
    return table


def common_kinds(
    tables: Mapping[str, pa.Table], reference: str = "holdout"
) -> tuple[dict[str, Kind], dict[str, str]]:
    """What is compared, and what is left out and why, for flat tables by their part.

    Args:
        tables: ``synthetic`` and the real ones.
        reference: the real table whose types count.

    Returns:
        kind by name in the synthetic table's order, and reason by name.

    Raises:
        DataError: a real table lacks a column of the synthetic one, a column that is of another
            kind there, or nothing that can be compared.
    """
    synthetic, schema = tables["synthetic"].schema, tables[reference].schema
    kinds: dict[str, Kind] = {}
    left_out = dict.fromkeys(schema.names, "not among the synthetic columns")
    for field in synthetic:
        kind = kind_of(field.type)
        if kind is None:
            left_out[field.name] = f"{field.type} is compared by copies alone"
            continue
        for part, table in tables.items():
            _require_kind(part, table.schema, field, kind)
        left_out.pop(field.name, None)
        kinds[field.name] = kind
    if not kinds:
        found = ", ".join(f"{field.name} ({field.type})" for field in list(synthetic)[:3])
        raise DataError(
            "synthetic rows",
            f"have no column that can be compared: {found}",
            "numbers, dates, truth values and words can",
        )
    return kinds, left_out


def _require_kind(part: str, schema: pa.Schema, field: pa.Field, kind: Kind) -> None:
    if field.name not in schema.names:
        listed = ", ".join(schema.names[:10])
        raise DataError(
            f"{part} rows",
            f"have no column {field.name!r}",
            "the synthetic rows have it",
            f"their columns are {listed}",
        )
    found = schema.field(field.name).type
    other = kind_of(found)
    if other != kind:
        raise DataError(
            f"{part} rows",
            f"column {field.name!r} has type {found}",
            f"the synthetic rows have {field.type}",
            "cast one of them",
        )


def to_frame(table: pa.Table, kinds: Mapping[str, Kind], types: pa.Schema) -> pd.DataFrame:
    """The columns of ``kinds`` of a flat table, numbers float64, words as objects.

    Args:
        table: flat.
        kinds: from `common_kinds`.
        types: whose units dates and times are counted in.
    """
    import pandas as pd

    columns = {
        name: _numbers(table.column(name), types.field(name).type)
        if is_number(kind)
        else _words(table.column(name))
        for name, kind in kinds.items()
    }
    return pd.DataFrame(columns, copy=False)


def missing(column: pa.ChunkedArray) -> tuple[float, float]:
    """Share of nulls and share of NaN among all rows of a column."""
    rows = max(len(column), 1)
    nan = 0
    if pa.types.is_floating(column.type):
        nan = pc.sum(pc.is_nan(column)).as_py() or 0
    return column.null_count / rows, nan / rows


def _numbers(column: pa.ChunkedArray, type_: pa.DataType) -> npt.NDArray[np.float64]:
    if column.type != type_ and kind_of(type_) == "datetime":
        column = pc.cast(column, type_, safe=False)
    if kind_of(type_) == "datetime":
        whole = pa.int32() if type_.bit_width == 32 else pa.int64()
        column = pc.cast(column, whole)
    numbers = pc.cast(column, pa.float64(), safe=False)
    values = np.array(numbers.to_numpy(), dtype=np.float64)
    values[~np.isfinite(values)] = np.nan
    return np.clip(values, -_LARGEST, _LARGEST)


def _words(column: pa.ChunkedArray) -> pd.Series[str]:
    import pandas as pd

    if pa.types.is_dictionary(column.type):
        column = pc.cast(column, column.type.value_type)
    texts = pc.cast(column, pa.string())
    objects = np.concatenate([np.empty(0, dtype=object), *map(_objects, texts.chunks)])
    return pd.Series(objects, dtype=object)


def _objects(chunk: pa.Array) -> npt.NDArray[np.object_]:
    values: npt.NDArray[np.object_] = chunk.to_numpy(zero_copy_only=False).astype(object)
    return values


def require_rows(tables: Mapping[str, pa.Table], least: int) -> None:
    """Refuse tables of fewer than ``least`` rows.

    Raises:
        DataError: naming the first of them.
    """
    for part, table in tables.items():
        if table.num_rows < least:
            raise DataError(
                f"{part} rows", f"are {table.num_rows}", f"at least {least} are needed", "give more"
            )


def names_of(kinds: Mapping[str, Kind], *, numbers: bool) -> Sequence[str]:
    """The columns that are numbers, or those that are words, in order."""
    return [name for name, kind in kinds.items() if is_number(kind) == numbers]
