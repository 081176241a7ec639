"""Values and types that training did not see, by every policy."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distvae.data.codec import (
    Policies,
    decode,
    encode,
)
from distvae.errors import DataError, UsageError
from tests.data.codec_cases import celled, standardised

GAP = float("nan")
INF = float("inf")


@pytest.mark.parametrize(
    ("kind", "later"),
    [
        (pa.int64(), pa.array(["1"])),
        (pa.int64(), pa.array([True])),
        (pa.bool_(), pa.array([1])),
        (pa.string(), pa.array([1])),
        (pa.timestamp("s", "UTC"), pa.array([1]).cast(pa.timestamp("s"))),
        (pa.timestamp("s"), pa.array([1]).cast(pa.timestamp("ms"))),
        (pa.timestamp("s"), pa.array([1])),
        (pa.decimal128(4, 2), pa.array([12345.678])),
        (pa.list_(pa.float32(), 1), pa.array([1.0])),
    ],
    ids=str,
)
def test_wrong_types(kind: pa.DataType, later: pa.Array) -> None:
    first: Any = [[1.0]] if pa.types.is_fixed_size_list(kind) else [1]
    if pa.types.is_string(kind) or pa.types.is_boolean(kind):
        first = ["a"] if pa.types.is_string(kind) else [True]
    train = (
        pa.table({"c": pa.array(first, pa.int64()).cast(kind)})
        if (pa.types.is_temporal(kind))
        else pa.table({"c": pa.array(first, kind)})
    )
    codec = celled(train)
    table = pa.table({"c": later})
    with pytest.raises(DataError, match=f"'c': has type {later.type}".replace("[", r"\[")):
        encode(codec, table)
    encoded = encode(codec, table, Policies(wrong_type="reject"))
    assert encoded.rejected.all()
    assert encoded.reasons[0].startswith(f"{codec.features[0].label}: has type {later.type}, in")
    assert encoded.counts["wrong_type"] == 1
    none = table.slice(0, 0)
    assert encode(codec, none, Policies(wrong_type="reject")).reasons == []
    if type(kind) is not type(later.type) and not pa.types.is_decimal(kind):
        with pytest.raises(DataError, match="has type"):
            encode(codec, none)


@pytest.mark.parametrize(
    ("kind", "values", "later"),
    [
        (pa.int8(), [1, 2], pa.array([1.0, 2.0])),
        (pa.float32(), [1, 2], pa.array([1, 2], pa.uint64())),
        (pa.float64(), [1, 2], pa.array([Decimal(1), Decimal(2)])),
        (pa.decimal128(5, 2), [1, 2], pa.array([1, 2], pa.int64())),
        (pa.decimal128(5, 2), [1, 2], pa.array([1.0, 2.0])),
        (pa.uint64(), [1, 2], pa.array([1, 2], pa.int8())),
        (pa.uint64(), [1, 2], pa.array([1.0, 2.0])),
        (pa.int32(), [1, 2], pa.array([1, 2], pa.uint64())),
        (pa.int32(), [1, 2], pa.array([1, 2]).dictionary_encode()),
        (
            pa.timestamp("ms"),
            [1, 2],
            pa.array([1, 2]).cast(pa.timestamp("ms")).cast("timestamp[ns]"),
        ),
        (pa.date32(), [1, 2], pa.array([1, 2], pa.int32()).cast("date32").cast("date64")),
    ],
    ids=str,
)
def test_types_that_are_cast(kind: pa.DataType, values: list[int], later: pa.Array) -> None:
    whole = pa.array(values, pa.int32())
    own = whole.cast(pa.int64()) if pa.types.is_timestamp(kind) else whole
    own = whole.cast(pa.decimal128(19, 2)) if pa.types.is_decimal(kind) else own
    train = pa.table({"c": own.cast(kind)})
    codec = celled(train)
    encoded = encode(codec, pa.table({"c": later}))
    assert decode(codec, encoded.blocks[0]).equals(train)
    assert not any(encoded.counts.values())


POLICY_CASES = [
    ("unseen", "other", {"s": "new"}, "category never seen in training"),
    ("out_of_range", "clip", {"x": 9.0}, "value outside the range seen in training"),
    ("infinite", "clip", {"x": INF}, "infinite value"),
    ("infinite", "clip", {"g": -INF}, "infinite value"),
    ("infinite", "clip", {"v": [INF, 0.0]}, "infinite value"),
    ("infinite", "clip", {"d": [INF, 0.0]}, "infinite value"),
    ("out_of_range", None, {"g": 1e300}, r"value beyond 1e\+15 standard deviations"),
    ("out_of_range", None, {"d": [1e300, 0.0]}, r"value beyond 1e\+15 standard deviations"),
]


@pytest.mark.parametrize(("kind", "mild", "change", "found"), POLICY_CASES)
def test_policies(kind: str, mild: str | None, change: dict[str, Any], found: str) -> None:
    row = {"s": "a", "x": 1.5, "g": 0.5, "v": [0.0, 1.0], "d": [0.0, 1.0]}
    other = {"s": "b", "x": 2.5, "g": 1.5, "v": [2.0, 3.0], "d": [2.0, 3.0]}
    schema = pa.schema(
        {"s": pa.string(), "x": pa.float64(), "g": pa.float64(), "v": pa.list_(pa.float32(), 2)}
        | {"d": pa.list_(pa.float64(), 2)}
    )
    codec = celled(pa.Table.from_pylist([row, other], schema), {"g": "standard"})
    table = pa.Table.from_pylist([other, row | change], schema)
    with pytest.raises(DataError, match=rf"'{next(iter(change))}': {found} \(row 1 of its batch\)"):
        encode(codec, table, Policies(**{kind: "error"}))
    rejected = encode(codec, table, Policies(**{kind: "reject"}))
    assert rejected.rejected.tolist() == [False, True]
    assert rejected.counts[kind] == 1
    assert (rejected.blocks[0][1] == 0).all()
    kept = encode(codec, table, Policies(**({kind: mild} if mild else {})))
    assert kept.rejected.tolist() == [False, mild is None]
    assert kept.counts == rejected.counts
    if kind == "infinite":
        assert all(np.isfinite(block).all() for block in kept.blocks)
        back = decode(codec, standardised(codec, kept)).to_pylist()[1]
        far = {"x": 2.5, "g": 0.5, "v": [3.0, 0.0], "d": [3.0, 0.0]}
        name = next(iter(change))
        assert back[name] == pytest.approx(far[name])


def test_policies_that_there_are_not() -> None:
    for field in ("unseen", "out_of_range", "infinite", "wrong_type"):
        with pytest.raises(UsageError, match=f"{field}: is 'ignore'; must be one of error, reject"):
            Policies(**{field: "ignore"})
