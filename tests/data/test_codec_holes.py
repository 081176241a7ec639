"""Missing values: companions, structs, and filling what is missing."""

from __future__ import annotations

import pyarrow as pa
import pytest

from distvae.data.codec import (
    decode,
    encode,
    feature_specs,
    fills,
)
from distvae.errors import DataError
from tests.data.codec_cases import celled, element, standardised

GAP = float("nan")
INF = float("inf")


def test_missing_values_have_states_of_their_own() -> None:
    table = pa.table(
        {
            "x": pa.array([1.5, None, GAP, 2.5]),
            "n": pa.array([1, None, None, 2]),
            "g": pa.array([GAP, 1.0, 1.0, 2.0]),
            "v": pa.array([[1.0], None, [GAP], [2.0]], pa.list_(pa.float32(), 1)),
        }
    )
    codec = celled(table)
    names = ["x", "n", "g", "x is missing", "n is missing", "g is missing", "v is missing", "v"]
    assert [c.feature.name for c in codec.columns] == names
    assert [f.name for f in codec.features] == ["x", "n", "g", "v"]
    assert [c.states for c in codec.columns[3:7]] == [
        ("present", "null", "nan"),
        ("present", "null"),
        ("present", "nan"),
        ("present", "null"),
    ]
    encoded = encode(codec, table)
    assert encoded.blocks[0][:, 3].tolist() == [0.5, 1.5, 2.5, 0.5]
    assert encoded.blocks[0][:, 6].tolist() == [0.5, 1.5, 0.5, 0.5]
    assert encoded.masks[0][:, 3:].all()
    assert not encoded.rejected.any()
    back = decode(codec, standardised(codec, encoded))
    assert str(back.select(["x", "n", "g"]).to_pydict()) == str(
        table.select(["x", "n", "g"]).to_pydict()
    )
    assert back.column("v").to_pylist()[1] is None
    specs = feature_specs(codec)
    assert [spec["companion_of"] for spec in specs[3:7]] == ["x", "n", "g", "v"]
    assert [spec["measured"] for spec in specs] == [True] * 3 + [False] * 4 + [True]
    assert celled(table, companions=False).width == 4


def test_holes_that_training_did_not_have() -> None:
    """Null counts as NaN where only that is known, and is merely unobserved where nothing is."""
    codec = celled(pa.table({"g": [GAP, 1.0], "n": [1.0, 2.0]}))
    encoded = encode(codec, pa.table({"g": [None, 1.0], "n": [None, 1.0]}, codec.schema))
    assert element(codec, encoded, "g is missing").tolist() == [1.5, 0.5]
    assert encoded.masks[0].tolist() == [[False, False, True], [True, True, True]]


def test_companions_never_take_a_columns_name() -> None:
    codec = celled(pa.table({"x": [None, 1.0], "x is missing": ["a", "b"]}))
    assert [c.feature.name for c in codec.columns] == ["x", "x is missing", "x is missing'"]
    assert codec.companions["x"].feature.name == "x is missing'"


def test_structs_are_read_and_rebuilt() -> None:
    kind = pa.struct([pa.field("city", pa.string()), pa.field("n", pa.int8(), nullable=False)])
    rows = [{"city": "Ulm", "n": 1}, None, {"city": None, "n": 2}, {"city": "Ulm", "n": 3}]
    table = pa.table({"address": pa.array(rows, kind), "x": [1.0, 2.0, 3.0, 4.0]})
    codec = celled(table)
    assert codec.sources == ("address", "x")
    back = decode(codec, encode(codec, table).blocks[0])
    assert back.equals(table)
    inside = {spec["name"]: spec["inside"] for spec in feature_specs(codec)}
    there = {"column": "address is present", "class": 0}
    assert inside.pop("address is present") is inside.pop("x") is None
    assert inside == dict.fromkeys(["address.city", "address.n", "address.city is missing"], there)


def test_fills_replace_what_is_missing_and_nothing_else() -> None:
    table = pa.table(
        {
            "key": [1, None, 3],
            "x": pa.array([1.5, None, GAP], pa.float32()),
            "s": pa.array(["a", None, "b"], pa.dictionary(pa.int8(), pa.string())),
            "t": pa.array([{"n": 1}, None, {"n": None}], pa.struct({"n": pa.int16()})),
            "v": pa.array([[1.0, None], None, [5.0, 6.0]], pa.list_(pa.float32(), 2)),
            "w": pa.array([[1, 2], None, [7, None]], pa.list_(pa.uint8())),
            "l": pa.array([[1, 2], None, [7, 8]], pa.large_list(pa.int16())),
        }
    )
    codec = celled(table.drop(["key"]))
    y = standardised(codec, encode(codec, table))
    decoded = decode(codec, y, missing=False)
    filled = fills(codec, table, decoded)
    assert filled.schema.equals(table.schema)
    assert filled.column("key").to_pylist() == [1, None, 3]
    assert filled.column("x").to_pylist() == [1.5, *decoded.column("x").to_pylist()[1:]]
    assert filled.column("s").to_pylist() == ["a", decoded.column("s")[1].as_py(), "b"]
    assert filled.column("t").to_pylist() == [{"n": 1}, None, {"n": 1}]
    v = decoded.column("v").to_pylist()
    assert filled.column("v").to_pylist() == [[1.0, v[0][1]], v[1], [5.0, 6.0]]
    w = decoded.column("w").to_pylist()
    assert filled.column("w").to_pylist() == [[1, 2], w[1], [7, w[2][1]]]
    assert filled.column("l").null_count == 0
    short = table.set_column(5, "w", pa.array([[1], None, [7, None]], pa.list_(pa.uint8())))
    assert fills(codec, short, decoded).column("w").to_pylist() == [[1], w[1], [7, w[2][1]]]
    with pytest.raises(ValueError, match="3 rows, 2 decoded ones"):
        fills(codec, table, decoded.slice(1))


def test_a_type_that_cannot_hold_what_fills_it() -> None:
    codec = celled(pa.table({"n": [1000, 2000]}))
    table = pa.table({"n": pa.array([None], pa.int8())})
    decoded = decode(codec, encode(codec, table).blocks[0])
    with pytest.raises(DataError, match="column 'n': has type int8; cannot be filled"):
        fills(codec, table, decoded)
