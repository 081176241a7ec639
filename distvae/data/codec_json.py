"""The codec as JSON text and back: exact both ways, and checked, for it is input from outside."""

from __future__ import annotations

import base64
import binascii
import json
from collections.abc import Mapping
from dataclasses import asdict, fields
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from distvae.data.arrow_types import is_text
from distvae.data.cells import Cells
from distvae.data.codec_categories import category_type, plain
from distvae.data.codec_check import check_cells, check_layout
from distvae.data.codec_columns import CODINGS, Codec, Column
from distvae.data.codec_numbers import Grid
from distvae.data.feature_choice import roles_of
from distvae.data.roles import Feature, type_from_json, type_to_json
from distvae.data.tally import MOST_DIGITS
from distvae.errors import DataError

__all__ = ["FORMAT", "codec_from_json", "codec_to_json"]

_T = TypeVar("_T")

FORMAT = 3
"""Version of the codec's JSON form."""


def codec_to_json(codec: Codec) -> str:
    """The codec as JSON text, one column per line."""
    lines = [json.dumps(_column(c), allow_nan=False, ensure_ascii=False) for c in codec.columns]
    return f'{{"format": {FORMAT}, "columns": [\n' + ",\n".join(lines) + "\n]}"


def codec_from_json(text: str) -> Codec:
    """The codec that `codec_to_json` wrote.

    Raises:
        DataError: text that is no such JSON, another format version, or a value that cannot be.
    """
    try:
        held = json.loads(text, parse_constant=_refuse_constant)
        if held["format"] != FORMAT:
            raise DataError(
                "codec", f"has format {held['format']!r}", f"must be {FORMAT}", "train again"
            )
        codec = Codec(tuple(_column_from(entry) for entry in held["columns"]))
        check_layout(codec)
    except (
        KeyError,
        IndexError,
        TypeError,
        ValueError,
        OverflowError,
        RecursionError,
        pa.ArrowException,
    ) as error:
        if isinstance(error, DataError):
            raise
        raise DataError("codec", f"is damaged ({error!r})", "it must be whole") from error
    return codec


def _column(column: Column) -> dict[str, Any]:
    held = {field.name: getattr(column, field.name) for field in fields(column)}
    feature = {f.name: getattr(column.feature, f.name) for f in fields(column.feature)}
    feature["type"] = type_to_json(column.feature.type)
    feature["path"] = list(column.feature.path)
    return held | {
        "feature": feature,
        "shift": column.shift.tolist(),
        "cells": None if column.cells is None else _cells(column.cells),
        "states": list(column.states),
    }


def _column_from(entry: Mapping[str, Any]) -> Column:
    feature = _feature(entry["feature"])
    told = entry["cells"]
    owner = entry["companion_of"]
    return Column(
        feature=feature,
        block=_typed(entry, "block", int),
        start=_typed(entry, "start", int),
        stop=_typed(entry, "stop", int),
        shift=np.array(_list(entry, "shift", float), np.float64),
        scale=_typed(entry, "scale", float),
        minimum=_typed(entry, "minimum", float),
        maximum=_typed(entry, "maximum", float),
        integer=_typed(entry, "integer", bool),
        resolution=_typed(entry, "resolution", float),
        has_missing=_typed(entry, "has_missing", bool),
        coding=_one_of(_typed(entry, "coding", str), CODINGS),
        cells=None if told is None else _cells_from(told, feature.type),
        companion_of=None if owner is None else _typed(entry, "companion_of", str),
        states=tuple(_list(entry, "states", str)),
    )


def _feature(told: Mapping[str, Any]) -> Feature:
    kind = type_from_json(_typed(told, "type", str))
    return Feature(
        name=_typed(told, "name", str),
        role=_one_of(_typed(told, "role", str), roles_of(kind)),
        type=kind,
        nullable=_typed(told, "nullable", bool),
        width=_typed(told, "width", int),
        position=_typed(told, "position", int),
        path=tuple(_list(told, "path", str)),
    )


def _cells(cells: Cells) -> dict[str, Any]:
    held: dict[str, Any] = {
        "rows": cells.rows,
        "cell_class": cells.cell_class.tolist(),
        "counts": cells.counts.tolist(),
        "outside": list(cells.outside),
    }
    if cells.grid is not None and cells.lo is not None and cells.hi is not None:
        held |= {"grid": asdict(cells.grid), "lo": cells.lo.tolist(), "hi": cells.hi.tolist()}
    elif cells.ends is not None:
        held["ends"] = cells.ends.tolist()
    elif cells.values is not None:
        held["values"] = _values(cells.values)
    return held


def _cells_from(told: Mapping[str, Any], kind: pa.DataType) -> Cells:
    below, above = _list(told, "outside", bool)
    cells = Cells(
        rows=_typed(told, "rows", int),
        cell_class=np.array(_list(told, "cell_class", int), np.int64),
        counts=np.array(_list(told, "counts", int), np.int64),
        outside=(below, above),
        grid=_grid(told["grid"], kind) if "grid" in told else None,
        lo=np.array(_list(told, "lo", int), np.int64) if "grid" in told else None,
        hi=np.array(_list(told, "hi", int), np.int64) if "grid" in told else None,
        ends=_ends(told["ends"]) if "ends" in told else None,
        values=_values_from(told["values"], category_type(kind)) if "values" in told else None,
    )
    check_cells(cells)
    return cells


def _grid(told: Mapping[str, Any], kind: pa.DataType) -> Grid:
    grid = Grid(
        step=_typed(told, "step", int),
        rest=_typed(told, "rest", int),
        unsigned=_typed(told, "unsigned", bool),
        unit=_typed(told, "unit", float),
        digits=_typed(told, "digits", int),
    )
    finest = Grid.of(kind)
    if (grid.unsigned, grid.unit) != (finest.unsigned, finest.unit):
        raise ValueError(f"grid of a column of type {kind}")
    if not 0 <= grid.digits <= MOST_DIGITS * pa.types.is_floating(kind):
        raise ValueError(f"grid of {grid.digits} digits of a column of type {kind}")
    if not (1 <= grid.step < 2**63 and 0 <= grid.rest < grid.step):
        raise ValueError(f"grid of step {grid.step} and rest {grid.rest}")
    return grid


def _ends(told: list[Any]) -> np.ndarray[Any, np.dtype[np.float64]]:
    for pair in told:
        if type(pair) is not list or [type(end) for end in pair] != [float, float]:
            raise ValueError(f"ends {pair!r}")
    return np.array(told, np.float64).reshape(-1, 2)


def _values(values: pa.Array) -> list[Any] | str:
    """Strings, truth values and integers as they are, others as the base64 of an Arrow file."""
    kind = values.type
    if is_text(kind) or pa.types.is_boolean(kind) or pa.types.is_integer(kind):
        return list(values.to_pylist())
    batch = pa.record_batch([values], ["values"])
    sink = pa.BufferOutputStream()
    with pa.ipc.new_stream(sink, batch.schema) as writer:
        writer.write_batch(batch)
    return base64.b64encode(sink.getvalue().to_pybytes()).decode("ascii")


def _values_from(told: Any, kind: pa.DataType) -> pa.Array:
    if type(told) is list:
        wanted = str if is_text(kind) else bool if pa.types.is_boolean(kind) else int
        if any(type(value) is not wanted for value in told):
            raise ValueError(f"categories that are not all {wanted.__name__}")
        return pa.array(told, kind)
    try:
        message = base64.b64decode(told, validate=True)
        column = pa.ipc.open_stream(pa.py_buffer(message)).read_all().column(0)
    except (binascii.Error, OSError) as error:
        raise ValueError("categories that cannot be read") from error
    column.validate(full=True)
    values = pa.concat_arrays(column.chunks)
    if not values.type.equals(kind) or None in plain(values):
        raise ValueError(f"categories of type {values.type}")
    return values


def _typed(entry: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    value = entry[key]
    if type(value) is not kind:
        raise ValueError(f"{key} is {value!r}, not {kind.__name__}")
    return value


def _list(entry: Mapping[str, Any], key: str, kind: type[_T]) -> list[_T]:
    values = _typed(entry, key, list)
    if any(type(value) is not kind for value in values):
        raise ValueError(f"{key} holds other values than {kind.__name__}")
    return values


def _one_of(value: Any, allowed: Any) -> Any:
    if value not in allowed:
        raise ValueError(f"{value!r}, not one of {allowed}")
    return value


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of a codec")
