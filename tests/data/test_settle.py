from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from distvae.data import profile_parts
from distvae.data.profile import profile
from distvae.data.roles import infer_features
from distvae.data.settle import settle
from distvae.errors import DataError

ROWS = 2000
GOOD = np.arange(ROWS) % 7


def left_out(
    columns: dict[str, object], explicit: tuple[str, ...] = (), **roles: str
) -> dict[str, str]:
    table = pa.table({"good": GOOD[: len(next(iter(columns.values())))]} | columns)  # type: ignore[arg-type,call-overload]
    features = infer_features(table.schema, roles=roles)
    rows = np.arange(table.num_rows)
    found = profile(table, features, rows, table.num_rows, 5)
    kept, gone = settle(features, found, frozenset(explicit))
    assert [f for f in features if f.name in {k.name for k in kept}] == list(kept)
    return {each.name: each.reason for each in gone}


def texts(different: int, rows: int = ROWS, length: int = 1) -> pa.Array:
    return pa.array([f"{i % different:0{length}d}" for i in range(rows)])


def test_ordinary_columns_stay() -> None:
    rng = np.random.default_rng(0)
    columns = {
        "word": texts(999),
        "half": pa.array([f"{i // 2}" for i in range(ROWS)]),
        "long": texts(100, length=70),
        "amount": rng.normal(size=ROWS),
        "big": rng.permutation(ROWS) * 1000,
        "parts": np.arange(ROWS) + 0.5,
        "user_id": GOOD,
        "paid": rng.permutation(ROWS) * 1000,
        "constant": np.zeros(ROWS),
        "when": pa.array(np.arange(ROWS), pa.timestamp("s")),
        "on": GOOD > 3,
        "blob": pa.array([[1.0]] * ROWS, pa.list_(pa.float32(), 1)),
    }
    assert left_out(columns) == {}


def test_texts_are_told_from_categories() -> None:
    found = left_out(
        {
            "name": texts(1001),
            "coded": texts(1001).dictionary_encode(),
            "note": texts(101, length=65),
            "rare": pa.array([None] * 1900 + [str(i) for i in range(100)]),
        }
    )
    told = "1,001 different values in 2,000 rows"
    assert found == {
        "name": f"looks like an identifier ({told})",
        "coded": f"looks like an identifier ({told})",
        "note": "looks like free text (101 different values in 2,000 rows, 65 bytes on average)",
        "rare": "looks like an identifier (100 different values in 100 rows)",
    }


def test_numbers_that_identify_are_recognised() -> None:
    rng = np.random.default_rng(1)
    order = rng.permutation(ROWS)
    sparse = order * 1000
    some = pa.array(order, mask=GOOD == 0)
    found = left_out(
        {
            "row": order,
            "floats": order.astype(np.float32),
            "decimals": pa.array([Decimal(int(i)) for i in order], pa.decimal128(9, 2)),
            "holes": some,
            "customer_id": sparse,
            "CustomerID": sparse,
            "userId": sparse,
            "ID": sparse,
            "primary key": sparse,
            "id2": sparse,
            "grid": sparse,
            "keys": sparse,
        }
    )
    named = ["customer_id", "CustomerID", "userId", "ID", "primary key"]
    assert list(found) == ["row", "floats", "decimals", "holes", *named]
    assert set(found.values()) == {"looks like an identifier (whole numbers that all differ)"}


def test_columns_without_a_value_go() -> None:
    nothing = {
        "null": pa.nulls(50, pa.int64()),
        "nan": pa.array([None, np.nan] * 25),
        "text": pa.nulls(50, pa.string()),
        "list": pa.nulls(50, pa.list_(pa.float32(), 2)),
    }
    assert left_out(nothing) == dict.fromkeys(nothing, "has no value")
    with pytest.raises(DataError, match="column 'nan': has no value; .*; add --exclude nan"):
        left_out(nothing, explicit=("nan",))


def test_few_rows_tell_nothing() -> None:
    columns = {"name": texts(99, 99), "id": np.arange(99), "note": texts(99, 99, 100)}
    assert left_out(columns) == {}
    assert list(left_out({"name": texts(100, 100), "id": np.arange(100)})) == ["name"]


def test_columns_that_were_asked_for_stay() -> None:
    columns = {"name": texts(ROWS), "id": np.arange(ROWS), "note": texts(ROWS, length=100)}
    assert list(left_out(columns)) == ["name", "id", "note"]
    assert list(left_out(columns, ("name", "id"))) == ["note"]


def test_too_many_categories_cannot_be_learned(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_parts, "MOST_VALUES", 10)
    assert left_out({"c": texts(11, 30)}) == {"c": "has more than 131,072 different values"}
    assert left_out({"n": GOOD}, n="categorical") == {}
    with pytest.raises(DataError, match="column 'c': has more than 131,072 different values; such"):
        left_out({"c": texts(11, 30)}, ("c",))


def test_the_presence_of_an_empty_struct_goes_with_its_fields() -> None:
    kind = pa.struct([("a", pa.struct([("name", pa.string())])), ("n", pa.int64())])
    rows = [{"a": {"name": str(i)}, "n": None} for i in range(200)]
    table = pa.table({"good": GOOD[:200], "s": pa.array(rows, kind)})
    features = infer_features(table.schema)
    found = profile(table, features, np.arange(200), 200, 5)
    kept, gone = settle(features, found)
    assert [f.name for f in kept] == ["good"]
    assert [each.name for each in gone] == ["s.a.name", "s.n"]
    kept, _ = settle(features, found, {"s.a.name"})
    assert [f.name for f in kept] == ["good", "s is present", "s.a is present", "s.a.name"]


def test_a_table_of_which_nothing_is_left_is_refused() -> None:
    table = pa.table({"name": texts(ROWS), "id": np.arange(ROWS)})
    features = infer_features(table.schema)
    found = profile(table, features, np.arange(ROWS), ROWS, 5)
    with pytest.raises(DataError) as caught:
        settle(features, found)
    assert str(caught.value) == (
        "features: no column is left; 'name' looks like an identifier (2,000 different values in "
        "2,000 rows), 'id' looks like an identifier (whole numbers that all differ); name those "
        "to learn all the same with --include"
    )
