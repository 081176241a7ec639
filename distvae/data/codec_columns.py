"""What the codec knows of each column.

A `Column` turns raw values x into elements y of a row and back, by one of four codings:
``standard``: y = (x - shift) / scale; ``unit``: the same, in [0, 1]; ``count``: y = x, whole and
not negative; ``cells``: y = cell + fraction (see `distvae.data.cells`). A **companion** is a column
of its own, without values in the table: its cells are the states (present, null, NaN) of another.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pyarrow as pa

from distvae.data.arrow_values import Floats
from distvae.data.cells import Cells
from distvae.data.codec_categories import Lookup
from distvae.data.roles import Feature, feature_schema, presence_of

__all__ = ["CODINGS", "LARGEST_COUNT", "STATES", "Codec", "Column", "block_layout", "feature_specs"]

CODINGS = ("standard", "unit", "count", "cells")
STATES = ("present", "null", "nan")

LARGEST_COUNT = 2**24
"""Counts up to here are exact in float32."""

RAW_ELEMENTS = frozenset({"uint8", "float16", "float32"})
"""Element types of vectors that travel as they are and are standardised on the device."""


@dataclass(frozen=True)
class Column:
    """The codec of one feature, or of its states.

    Attributes:
        feature: the column it encodes; of a companion one of its own.
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
        coding: one of `CODINGS`.
        cells: of the coding ``cells``.
        companion_of: name of the feature whose states it holds.
        states: of a companion, in the order of its cells.
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
    coding: str = "standard"
    cells: Cells | None = None
    companion_of: str | None = None
    states: tuple[str, ...] = ()

    @property
    def raw(self) -> bool:
        """Whether encoded values keep the table's own numbers, for the device to standardise."""
        return self.feature.role == "vector" and self.feature.element.name in RAW_ELEMENTS

    @property
    def unit_interval(self) -> bool:
        """Whether encoded values lie in [0, 1] (a Bernoulli head's column)."""
        return self.coding == "unit"

    @property
    def measured(self) -> bool:
        """Whether moments and squared errors of its values mean something."""
        return self.companion_of is None and self.feature.is_measured

    @property
    def lookup(self) -> Lookup:
        """Finds the cells of its categories; made once per process."""
        found = self.__dict__.get("_lookup")
        if found is None:
            assert self.cells is not None
            found = self.__dict__["_lookup"] = Lookup(self.cells)
        return found

    def __getstate__(self) -> dict[str, Any]:
        return {name: held for name, held in self.__dict__.items() if name != "_lookup"}


@dataclass(frozen=True)
class Codec:
    """Table to arrays and back, for the columns in element order.

    Scalar features come first, in the features' order, then the companions, then the vectors.
    """

    columns: tuple[Column, ...]

    @property
    def features(self) -> tuple[Feature, ...]:
        """The features, in element order; companions are none."""
        return tuple(c.feature for c in self.columns if c.companion_of is None)

    @property
    def sources(self) -> tuple[str, ...]:
        """The names of the table's own columns that are read, in table order."""
        ordered = sorted(self.features, key=lambda feature: feature.position)
        return tuple(dict.fromkeys(feature.source for feature in ordered))

    @property
    def companions(self) -> dict[str, Column]:
        """The companion of each feature that has one."""
        return {c.companion_of: c for c in self.columns if c.companion_of is not None}

    @property
    def width(self) -> int:
        """D, the elements of a row."""
        return self.columns[-1].stop

    @property
    def schema(self) -> pa.Schema:
        """The training table's schema, structs and all, feature columns only, in table order."""
        return feature_schema(self.features)

    def blocks(self) -> list[list[Column]]:
        """The columns of each block: all scalar ones in one, then one vector each."""
        held: list[list[Column]] = [[] for _ in range(1 + max(c.block for c in self.columns))]
        for column in self.columns:
            held[column.block].append(column)
        return held

    def to_json(self) -> str:
        """The codec as JSON text; every number comes back exactly."""
        from distvae.data.codec_json import codec_to_json

        return codec_to_json(self)

    @classmethod
    def from_json(cls, text: str) -> Codec:
        """The codec that `to_json` wrote.

        Raises:
            DataError: text that is no such JSON, another format version, or a value that cannot
                be: a codec is input from outside, and is checked as such.
        """
        from distvae.data.codec_json import codec_from_json

        return codec_from_json(text)


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

    ``discrete`` marks uint8 vectors, whose likelihood is a mass; ``dtype`` is the block's;
    ``measured`` columns count for squared errors; ``inside`` names the column that tells whether
    the struct around it is there, and the class that says so.
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
            "coding": column.coding,
            "companion_of": column.companion_of,
            "inside": _inside(column, codec),
            "measured": column.measured,
            "cells": _cell_specs(column.cells),
        }
        for column in codec.columns
    ]


def _inside(column: Column, codec: Codec) -> dict[str, Any] | None:
    """Where it is told that the struct around a column, or a companion's column, is present."""
    owner = column.feature
    if column.companion_of is not None:
        owner = next(f for f in codec.features if f.name == column.companion_of)
    presence = presence_of(owner, codec.features) if owner.path else None
    if presence is None:
        return None
    cells = next(c.cells for c in codec.columns if c.feature.name == presence.name)
    assert cells is not None
    assert cells.values is not None
    values = cells.values.to_pylist()
    if True not in values:
        return None
    return {"column": presence.name, "class": int(cells.cell_class[values.index(True)])}


def _cell_specs(cells: Cells | None) -> dict[str, Any] | None:
    if cells is None:
        return None
    low, high = cells.low, cells.high
    return {
        "classes": cells.classes,
        "cell_class": cells.cell_class.tolist(),
        "log_within": cells.log_within.tolist(),
        "share": cells.share.tolist(),
        "low": None if low is None else low.tolist(),
        "high": None if high is None else high.tolist(),
        "whole": cells.whole,
        "mass": cells.mass.tolist(),
    }
