"""Categories: cells, pools, and every Arrow type that holds them."""

from __future__ import annotations

from decimal import Decimal
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from distvae.data.codec import (
    Codec,
    decode,
    encode,
)
from tests.data.codec_cases import celled

GAP = float("nan")
INF = float("inf")


def text(values: list[Any], kind: pa.DataType | None = None) -> pa.Table:
    return pa.table({"s": pa.array(values, kind or pa.string())})


def test_categories_by_count_then_value_with_a_place_for_unseen_ones() -> None:
    codec = celled(text(["b", "a", "c", "c", "", "a"]))
    (column,) = codec.columns
    assert column.cells.values.to_pylist() == ["a", "c", "", "b"]
    assert column.cells.cell_class.tolist() == [0, 1, 2, 3, 3]
    assert column.cells.share.tolist() == [1, 1, 1, 1, 0]
    assert np.exp(column.cells.log_within).tolist() == pytest.approx([1, 1, 1, 6 / 7, 1 / 7])
    y = encode(codec, text(["b", "new", "c"])).blocks[0][:, 0]
    assert y.tolist() == [3.5, 4.5, 1.5]
    assert decode(codec, y[:, None]).column("s").to_pylist() == ["b", "b", "c"]


def test_rare_categories_share_a_class_by_their_counts() -> None:
    names = [f"v{i:04}" for i in range(1000)]
    counts = [50] * 100 + [3] * 600 + [1] * 300
    codec = celled(text(np.repeat(names, counts).tolist()))
    cells = codec.columns[0].cells
    assert (cells.count, cells.classes) == (1001, 101)
    assert np.bincount(cells.cell_class).tolist() == [1] * 100 + [901]
    pool = cells.share[100:]
    assert pool[0] == pytest.approx(3 / 2100) and pool[899] == pytest.approx(1 / 2100)
    table = text(names)
    assert decode(codec, encode(codec, table).blocks[0]).equals(table)
    few = celled(text(["a"] * 20 + ["b"]))
    assert few.columns[0].cells.classes == 2


def test_columns_of_many_classes_end_at_the_limit() -> None:
    names = np.repeat([f"{i}" for i in range(5000)], 10)
    cells = celled(text(names.tolist())).columns[0].cells
    assert (cells.classes, cells.count) == (4096, 5001)


@pytest.mark.parametrize("kind", [pa.string(), pa.large_string(), pa.string_view(), pa.null()])
def test_strings_of_any_layout_stand_for_one_another(kind: pa.DataType) -> None:
    values = [None] * 3 if pa.types.is_null(kind) else ["x", None, "y"]
    codec = celled(text(["x", "y", None, "y"], pa.dictionary(pa.int16(), pa.string())))
    y = encode(codec, text(values, kind))
    assert y.blocks[0][:, 1].tolist() == [1.5 if v is None else 0.5 for v in values]
    back = decode(codec, y.blocks[0])
    assert back.column("s").to_pylist() == values
    assert back.schema.field("s").type == pa.dictionary(pa.int16(), pa.string())


def test_a_null_inside_a_dictionary_is_missing() -> None:
    held = pa.DictionaryArray.from_arrays(pa.array([0, 1, 2, None]), pa.array(["a", None, "b"]))
    codec = celled(pa.table({"s": held}))
    encoded = encode(codec, pa.table({"s": held}))
    assert encoded.masks[0][:, 0].tolist() == [True, False, True, False]
    back = decode(codec, encoded.blocks[0])
    assert back.column("s").to_pylist() == ["a", None, "b", None]


def test_dictionaries_with_more_values_than_their_index_holds() -> None:
    kind = pa.dictionary(pa.int8(), pa.string())
    parts = [pa.array([f"{j}{i}" for i in range(100)]).cast(kind) for j in "ab"]
    table = pa.table({"s": pa.chunked_array(parts)})
    codec = celled(table)
    back = decode(codec, encode(codec, table).blocks[0])
    assert back.column("s").type == kind
    assert back.column("s").to_pylist() == table.column("s").to_pylist()


@pytest.mark.parametrize(
    ("values", "role"),
    [
        (pa.array([3, 1, 3, None]), "categorical"),
        (pa.array([0.5, GAP, 0.5, None], pa.float16()), "categorical"),
        (pa.array([Decimal("1.50"), None, Decimal("2.00")]), "categorical"),
        (pa.array([86_400_000, None, 0]).cast(pa.timestamp("ns")), "categorical"),
        (pa.array([True, None, True]), "categorical"),
    ],
    ids=lambda value: str(getattr(value, "type", value)),
)
def test_any_scalar_can_be_a_category(values: pa.Array, role: str) -> None:
    table = pa.table({"x": values})
    codec = Codec.from_json(celled(table, roles={"x": role}).to_json())
    back = decode(codec, encode(codec, table).blocks[0])
    assert str(back.column("x").to_pylist()) == str(values.to_pylist())
