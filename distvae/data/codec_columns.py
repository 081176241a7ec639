"""What the codec knows of each column, and how it is written down.

A `Column` turns raw values x into standardised y = (x - shift) / scale and back. Its dictionary
form (`feature_specs`) is all that the model floor sees of a column.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, TypeVar

import numpy as np
import pyarrow as pa

from distvae.data.arrow_values import Floats
from distvae.data.roles import Feature, feature_schema, type_from_json, type_to_json
from distvae.errors import DataError

_T = TypeVar("_T")

__all__ = ["FORMAT", "Codec", "Column", "block_layout", "feature_specs"]

FORMAT = 1
"""Version of the codec's JSON form."""

RAW_ELEMENTS = frozenset({"uint8", "float16", "float32"})
"""Element types of vectors that travel as they are and are standardised on the device."""


@dataclass(frozen=True)
class Column:
    """The codec of one feature.

    Attributes:
        feature: the column it encodes.
        block: index of the encoded block that holds it.
        start: first of its elements among the row's D.
        stop: one past its last element.
        shift: (width,) raw value that becomes 0, float64.
        scale: raw distance that becomes 1; one number for all elements of a vector.
        minimum: smallest raw value seen in training.
        maximum: largest raw value seen in training.
        integer: whether every value seen was a whole number.
        resolution: smallest raw difference that means something.
        has_missing: whether training rows lacked values.
        unit_interval: whether encoded values lie in [0, 1] (a Bernoulli head's column).
    """

    feature: Feature
    block: int
    start: int
    stop: int
    shift: Floats
    scale: float
    minimum: float
    maximum: float
    integer: bool
    resolution: float
    has_missing: bool
    unit_interval: bool = False

    @property
    def raw(self) -> bool:
        """Whether encoded values keep the table's own numbers, for the device to standardise."""
        return self.feature.role == "vector" and self.feature.element.name in RAW_ELEMENTS


@dataclass(frozen=True)
class Codec:
    """Table to arrays and back, for the columns in element order (see `distvae.data.roles`)."""

    columns: tuple[Column, ...]

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features, in element order."""
        return tuple(column.feature for column in self.columns)

    @property
    def width(self) -> int:
        """D, the elements of a row."""
        return self.columns[-1].stop

    @property
    def schema(self) -> pa.Schema:
        """The training table's schema, feature columns only, in table order."""
        return feature_schema(self.features)

    def blocks(self) -> list[list[Column]]:
        """The columns of each block: all continuous ones in one, then one vector each."""
        held: list[list[Column]] = [[] for _ in range(1 + max(c.block for c in self.columns))]
        for column in self.columns:
            held[column.block].append(column)
        return held

    def to_json(self) -> str:
        """The codec as JSON text; every number comes back exactly."""
        held = {"format": FORMAT, "columns": [_column_to_json(c) for c in self.columns]}
        return json.dumps(held, indent=1, allow_nan=False, ensure_ascii=False)

    @classmethod
    def from_json(cls, text: str) -> Codec:
        """The codec that `to_json` wrote.

        Raises:
            DataError: text that is no such JSON, another format version, or a value that cannot
                be: a codec is input from outside, and is checked as such.
        """
        try:
            held = json.loads(text, parse_constant=_refuse_constant)
            if held["format"] != FORMAT:
                raise DataError("codec", f"has format {held['format']!r}", f"must be {FORMAT}")
            codec = cls(tuple(_column_from_json(entry) for entry in held["columns"]))
            _check_layout(codec)
        except (KeyError, TypeError, ValueError, RecursionError) as error:
            if isinstance(error, DataError):
                raise
            raise DataError("codec", f"is damaged ({error!r})", "it must be whole") from error
        return codec


def block_layout(codec: Codec) -> list[dict[str, Any]]:
    """Per block: ``dtype``, ``width``, ``raw`` and ``has_missing``, as plain JSON values."""
    return [
        {
            "dtype": columns[0].feature.element.name if columns[0].raw else "float32",
            "width": sum(column.feature.width for column in columns),
            "raw": columns[0].raw,
            "has_missing": any(column.has_missing for column in columns),
        }
        for columns in codec.blocks()
    ]


def feature_specs(codec: Codec) -> list[dict[str, Any]]:
    """Per column, in element order, what the model floor is told: a FeatureSpec of plain values.

    ``discrete`` marks uint8 vectors, whose likelihood is a mass; ``dtype`` is the block's.
    """
    return [
        {
            "name": column.feature.name,
            "start": column.start,
            "stop": column.stop,
            "role": column.feature.role,
            "scale": column.scale,
            "shift": column.shift.tolist(),
            "resolution": column.resolution,
            "integer": column.integer,
            "discrete": column.feature.role == "vector" and column.feature.element == np.uint8,
            "minimum": column.minimum,
            "maximum": column.maximum,
            "has_missing": column.has_missing,
            "block": column.block,
            "raw": column.raw,
            "dtype": column.feature.element.name if column.raw else "float32",
        }
        for column in codec.columns
    ]


def _column_to_json(column: Column) -> dict[str, Any]:
    held = {field.name: getattr(column, field.name) for field in fields(column)}
    feature = {f.name: getattr(column.feature, f.name) for f in fields(column.feature)}
    feature["type"] = type_to_json(column.feature.type)
    return held | {"feature": feature, "shift": column.shift.tolist()}


def _column_from_json(entry: Mapping[str, Any]) -> Column:
    told = entry["feature"]
    kind = type_from_json(_typed(told, "type", str))
    feature = Feature(
        name=_typed(told, "name", str),
        role="vector" if pa.types.is_nested(kind) else "continuous",
        type=kind,
        nullable=_typed(told, "nullable", bool),
        width=_typed(told, "width", int),
        position=_typed(told, "position", int),
    )
    if told["role"] != feature.role:
        raise ValueError(f"role {told['role']!r} of a column of type {kind}")
    return Column(
        feature=feature,
        block=_typed(entry, "block", int),
        start=_typed(entry, "start", int),
        stop=_typed(entry, "stop", int),
        shift=np.array([float(value) for value in _typed(entry, "shift", list)], np.float64),
        scale=_typed(entry, "scale", float),
        minimum=_typed(entry, "minimum", float),
        maximum=_typed(entry, "maximum", float),
        integer=_typed(entry, "integer", bool),
        resolution=_typed(entry, "resolution", float),
        has_missing=_typed(entry, "has_missing", bool),
        unit_interval=_typed(entry, "unit_interval", bool),
    )


def _typed(entry: Mapping[str, Any], key: str, kind: type[_T]) -> _T:
    value = entry[key]
    if type(value) is not kind:
        raise ValueError(f"{key} is {value!r}, not {kind.__name__}")
    return value


def _check_layout(codec: Codec) -> None:
    """The rules that encoding, decoding and the model rely on."""
    start, vectors = 0, 0
    lead = int(any(feature.role == "continuous" for feature in codec.features))
    for column in codec.columns:
        feature = column.feature
        block = 0 if feature.role == "continuous" else lead + vectors
        vectors += feature.role == "vector"
        rules = (
            ("block", column.block == block),
            ("elements", (column.start, column.stop) == (start, start + feature.width)),
            ("width", feature.width >= 1 and column.shift.shape == (feature.width,)),
            ("list size", getattr(feature.type, "list_size", feature.width) == feature.width),
            ("shift", bool(np.isfinite(column.shift).all())),
            ("scale", 0 < column.scale < math.inf),
            ("resolution", 0 < column.resolution < math.inf),
            ("range", -math.inf < column.minimum <= column.maximum < math.inf),
        )
        for name, kept in rules:
            if not kept:
                raise ValueError(f"{name} of column {feature.name!r}")
        start = column.stop
    if not codec.columns or len({f.name for f in codec.features}) < len(codec.columns):
        raise ValueError("no columns, or two of one name")


def _refuse_constant(name: str) -> float:
    raise ValueError(f"{name} is no number of a codec")
