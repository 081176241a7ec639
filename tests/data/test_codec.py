from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distvae.data.codec import Codec, block_layout, encode, feature_specs, fit_codec
from distvae.data.roles import infer_features
from distvae.data.statistics import summarise
from distvae.errors import DataError, UsageError
from tests.data.codec_cases import fit

GAP = float("nan")


def test_standardisation_and_blocks() -> None:
    table = pa.table(
        {
            "v": pa.array([[0.0, 10.0], [2.0, 30.0]], pa.list_(pa.float32(), 2)),
            "a": pa.array([1, 3], pa.int16()),
            "w": pa.array([[1.0], [1.0]], pa.list_(pa.float64())),
            "b": pa.array([5.5, 5.5]),
        }
    )
    codec = fit(table)
    a, b, v, w = codec.columns
    assert (a.shift.tolist(), a.scale, a.resolution, a.integer) == ([2.0], 1.0, 1.0, True)
    assert (b.shift.tolist(), b.scale, b.resolution, b.integer) == ([5.5], 1.0, 5.5e-3, False)
    assert v.shift.tolist() == [1.0, 20.0]
    assert v.scale == float(np.float32(np.sqrt((1 + 100) / 2)))
    assert (w.shift.tolist(), w.scale) == ([1.0], 1.0)
    assert [(c.block, c.start, c.stop) for c in codec.columns] == [
        (0, 0, 1),
        (0, 1, 2),
        (1, 2, 4),
        (2, 4, 5),
    ]
    assert codec.width == 5
    assert codec.schema.equals(table.schema)
    assert block_layout(codec) == [
        {"dtype": "float32", "width": 2, "raw": False, "has_missing": False},
        {"dtype": "float32", "width": 2, "raw": True, "has_missing": False},
        {"dtype": "float32", "width": 1, "raw": False, "has_missing": False},
    ]


def test_specs_are_plain_json() -> None:
    table = pa.table({"x": [1.0, None], "v": pa.array([[0, 255]] * 2, pa.list_(pa.uint8(), 2))})
    specs = feature_specs(fit(table))
    assert json.loads(json.dumps(specs)) == specs
    assert specs[0] == {
        "name": "x",
        "start": 0,
        "stop": 1,
        "role": "continuous",
        "scale": 1.0,
        "shift": [1.0],
        "resolution": 1.0,
        "integer": True,
        "discrete": False,
        "minimum": 1.0,
        "maximum": 1.0,
        "has_missing": True,
        "block": 0,
        "raw": False,
        "dtype": "float32",
        "coding": "standard",
        "companion_of": None,
        "inside": None,
        "measured": True,
        "cells": None,
    }
    assert (specs[1]["discrete"], specs[1]["raw"], specs[1]["dtype"]) == (True, True, "uint8")


def test_resolution() -> None:
    rng = np.random.default_rng(0)
    x = rng.normal(size=1000)
    table = pa.table({"small": x / x.std(), "far": x / x.std() + 1e4, "whole": np.rint(x * 9)})
    small, far, whole = fit(table).columns
    assert small.resolution == pytest.approx(1e-3)
    assert far.resolution == pytest.approx(1e-2, rel=1e-3)
    assert whole.resolution == 1.0


def test_constants_get_scale_1_and_their_own_value() -> None:
    """0.1 summed up has a rounding error: it must not become a spread of 1e-17."""
    table = pa.table({"x": [0.1] * 999, "z": [0.0] * 999, "n": pa.nulls(999, pa.float32())})
    x, z, n = fit(table).columns
    assert (x.shift[0], x.scale, x.resolution) == (0.1, 1.0, 1e-3)
    assert (z.shift[0], z.scale) == (0.0, 1.0)
    assert (n.shift[0], n.scale, n.minimum, n.maximum) == (0.0, 1.0, 0.0, 0.0)
    assert n.has_missing


def test_unit_interval() -> None:
    kind = pa.list_(pa.uint8(), 2)
    table = pa.table(
        {
            "x": [0.0, 0.25, 1.0],
            "bits": pa.array([[0, 1]] * 3, kind),
            "bytes": pa.array([[0, 51], [255, 0], [2, 2]], kind),
        }
    )
    x, bits, bytes_ = fit(table, frozenset(table.column_names)).columns
    assert (x.shift[0], x.scale) == (0.0, 1.0)
    assert (bits.shift.tolist(), bits.scale) == ([0.0, 0.0], 1.0)
    assert (bytes_.shift.tolist(), bytes_.scale, bytes_.resolution) == ([0.0, 0.0], 255.0, 1.0)


def test_unit_interval_refuses_other_values_and_names() -> None:
    table = pa.table({"x": [0.0, 2.0], "v": pa.array([[-1.0], [0.5]], pa.list_(pa.float32(), 1))})
    with pytest.raises(DataError) as caught:
        fit(table, frozenset(["v"]))
    assert str(caught.value) == (
        "vector 'v': has values in [-1, 0.5]; a bernoulli likelihood needs values in [0, 1]; "
        "use gaussian or rescale"
    )
    with pytest.raises(DataError, match=r"column 'x': has values in \[0, 2\]"):
        fit(table, frozenset(["x"]))
    with pytest.raises(UsageError, match="likelihood: no column 'vv'"):
        fit(table, frozenset(["vv"]))


def test_unit_interval_rejects_later_rows_outside() -> None:
    kinds = {"x": pa.float64(), "v": pa.list_(pa.float32(), 1), "b": pa.list_(pa.uint8(), 1)}
    train = pa.table({"x": [0.0, 1.0], "v": [[0.0], [1.0]], "b": [[0], [1]]}, pa.schema(kinds))
    codec = fit(train, frozenset(kinds))
    later = pa.table(
        {
            "x": [1.5, 1.0, 1.0, 1.0, None],
            "v": [[0.0], [1.5], [1.0], [float("inf")], None],
            "b": [[0], [1], [7], [0], None],
        },
        pa.schema(kinds),
    )
    encoded = encode(codec, later)
    assert encoded.reasons == [
        "column 'x': value outside [0, 1]",
        "vector 'v': value outside [0, 1]",
        "vector 'b': value outside [0, 1]",
        "vector 'v': infinite value",
        "no value observed",
    ]


def test_no_rows_cannot_be_fitted() -> None:
    with pytest.raises(DataError, match="training data: has no rows"):
        fit(pa.table({"x": pa.array([], pa.float32())}))
    table = pa.table({"x": [1.0], "y": [2.0]})
    features = infer_features(table.schema)
    with pytest.raises(ValueError, match="1 elements, a summary of 2"):
        fit_codec(features[:1], summarise(table, features))


def test_json_is_exact() -> None:
    table = pa.table(
        {
            'naïve: "name" <[3]>\n': [0.1 + 0.2, 1e-300, None],
            "": pa.array([1, 2, 3], pa.uint64()),
            "v": pa.array([[0.1, 0.7], [1e30, 3.0], None], pa.list_(pa.float32())),
        }
    )
    codec = fit(table)
    back = Codec.from_json(codec.to_json())
    assert back.to_json() == codec.to_json()
    for a, b in zip(codec.columns, back.columns, strict=True):
        assert np.array_equal(a.shift, b.shift)
        assert (a.feature, a.scale, a.resolution) == (b.feature, b.scale, b.resolution)
    assert back.schema.equals(table.schema)


def _damage(path: list[Any], value: Any) -> str:
    table = pa.table({"x": [1.0, 2.5], "v": pa.array([[1, 2]] * 2, pa.list_(pa.uint8(), 2))})
    held = json.loads(fit(table).to_json())
    inner = held
    for step in path[:-1]:
        inner = inner[step]
    inner[path[-1]] = value
    return json.dumps(held)


@pytest.mark.parametrize(
    ("path", "value"),
    [
        (["format"], 1),
        (["columns"], []),
        (["columns"], None),
        (["columns", 0], {}),
        (["columns", 0, "scale"], 0.0),
        (["columns", 0, "scale"], -1.0),
        (["columns", 0, "scale"], "1"),
        (["columns", 0, "scale"], GAP),
        (["columns", 0, "resolution"], 0.0),
        (["columns", 0, "minimum"], 9.0),
        (["columns", 0, "shift"], [1.0, 2.0]),
        (["columns", 0, "shift"], ["a"]),
        (["columns", 0, "shift"], [float("inf")]),
        (["columns", 0, "start"], 1),
        (["columns", 0, "block"], 1),
        (["columns", 0, "has_missing"], 1),
        (["columns", 0, "feature", "type"], "string"),
        (["columns", 0, "feature", "role"], "vector"),
        (["columns", 0, "feature", "name"], "v"),
        (["columns", 1, "feature", "width"], 10**30),
        (["columns", 1, "feature", "width"], 0),
        (["columns", 1, "feature", "type"], "fixed_size_list<element: uint8>[3]"),
    ],
)
def test_damaged_json_is_refused(path: list[Any], value: Any) -> None:
    with pytest.raises(DataError):
        Codec.from_json(_damage(path, value))


@pytest.mark.parametrize("text", ["", "{", "[]", "null", "3", "[" * 100_000])
def test_text_that_is_no_codec_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="codec: is damaged"):
        Codec.from_json(text)
