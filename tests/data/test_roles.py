from __future__ import annotations

import pyarrow as pa
import pytest

from distvae.data.roles import (
    Feature,
    feature_schema,
    infer_features,
    peek_widths,
    total_width,
    type_from_json,
    type_to_json,
)
from distvae.errors import DataError, UsageError

NUMBERS = [
    pa.int8(),
    pa.int16(),
    pa.int32(),
    pa.int64(),
    pa.uint8(),
    pa.uint16(),
    pa.uint32(),
    pa.uint64(),
    pa.float16(),
    pa.float32(),
    pa.float64(),
]
OTHERS = [
    pa.bool_(),
    pa.string(),
    pa.decimal128(9, 2),
    pa.timestamp("us"),
    pa.date32(),
    pa.null(),
    pa.dictionary(pa.int8(), pa.int64()),
    pa.list_(pa.string()),
    pa.list_(pa.bool_()),
    pa.list_(pa.list_(pa.float32())),
    pa.list_view(pa.float32()),
    pa.struct([("a", pa.int8())]),
    pa.map_(pa.string(), pa.float32()),
]


def lists_of(kind: pa.DataType) -> list[pa.DataType]:
    odd = pa.field("a: b>[3] not null", kind, nullable=False)
    return [
        pa.list_(kind),
        pa.large_list(kind),
        pa.list_(kind, 3),
        pa.list_(odd),
        pa.large_list(odd),
        pa.list_(odd, 7),
        pa.list_(pa.field("", kind)),
        pa.list_(pa.field("line\nbreak", kind), 2),
    ]


@pytest.mark.parametrize("kind", NUMBERS, ids=str)
def test_types_survive_text_exactly(kind: pa.DataType) -> None:
    for each in [kind, *lists_of(kind)]:
        back = type_from_json(type_to_json(each))
        assert back == each
        if pa.types.is_nested(each):
            assert back.value_field.equals(each.value_field)  # name and nullability too


@pytest.mark.parametrize(
    "text",
    ["", "string", "list<item: string>", "list<item: int8>[3]", "fixed_size_list<item: int8>"],
)
def test_text_that_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="must be a number or a list of numbers"):
        type_from_json(text)


def test_type_without_a_role_has_no_text() -> None:
    with pytest.raises(DataError, match="type: string; features are numbers"):
        type_to_json(pa.string())


def test_continuous_first_then_vectors_and_the_schema_keeps_its_order() -> None:
    schema = pa.schema(
        [
            pa.field("v", pa.list_(pa.float32(), 4)),
            pa.field("a", pa.int8(), nullable=False),
            pa.field("w", pa.list_(pa.uint8())),
            pa.field("b", pa.float64()),
        ]
    )
    features = infer_features(schema, widths={"w": 2})
    assert [f.name for f in features] == ["a", "b", "v", "w"]
    assert [f.width for f in features] == [1, 1, 4, 2]
    assert [f.role for f in features] == ["continuous", "continuous", "vector", "vector"]
    assert [f.nullable for f in features] == [False, True, True, True]
    assert [f.element.name for f in features] == ["int8", "float64", "float32", "uint8"]
    assert total_width(features) == 8
    assert feature_schema(features).equals(schema)


def test_every_number_and_list_of_numbers_is_a_feature() -> None:
    kinds = [each for number in NUMBERS for each in [number, *lists_of(number)]]
    schema = pa.schema([pa.field(f"c{i}", kind) for i, kind in enumerate(kinds)])
    assert len(infer_features(schema)) == len(kinds)


@pytest.mark.parametrize("kind", OTHERS, ids=str)
def test_other_types_are_refused_by_name(kind: pa.DataType) -> None:
    schema = pa.schema([("x", pa.int8()), ("ünusual, name", kind)])
    with pytest.raises(DataError) as caught:
        infer_features(schema)
    assert "'ünusual, name': has type" in str(caught.value)
    assert "--exclude ünusual, name" in str(caught.value)
    assert [f.name for f in infer_features(schema, exclude=["ünusual, name"])] == ["x"]
    assert [f.name for f in infer_features(schema, include=["x"])] == ["x"]


def test_all_offending_columns_stand_in_one_line() -> None:
    schema = pa.schema([("city", pa.string()), ("x", pa.int8()), ("ok", pa.bool_())])
    with pytest.raises(DataError) as caught:
        infer_features(schema)
    assert str(caught.value) == (
        "column 'city': has type string (and 'ok' has type bool); features are numbers or lists "
        "of numbers for now; leave it out with --exclude city --exclude ok"
    )


def test_unknown_names_are_refused_with_the_closest() -> None:
    schema = pa.schema([("Income", pa.float64()), ("Age", pa.float64())])
    with pytest.raises(UsageError, match=r"include: no column 'Incom'.*did you mean 'Income'"):
        infer_features(schema, include=["Incom"])
    with pytest.raises(UsageError, match=r"exclude: no column 'zzz'.*the columns are.*'Age'"):
        infer_features(schema, exclude=["zzz"])
    with pytest.raises(UsageError, match="'Age' is also in include"):
        infer_features(schema, include=["Age"], exclude=["Age"])


def test_selections_without_use_are_refused() -> None:
    schema = pa.schema([("x", pa.int8())])
    with pytest.raises(DataError, match="no column is left"):
        infer_features(schema, exclude=["x"])
    with pytest.raises(DataError, match="'x': occurs twice"):
        infer_features(pa.schema([("x", pa.int8()), ("x", pa.int8())]))
    with pytest.raises(DataError, match="'e': has lists of length 0"):
        infer_features(pa.schema([("e", pa.list_(pa.int8(), 0))]))


def test_widths_of_variable_lists_come_from_the_first_list() -> None:
    schema = pa.schema(
        [
            ("v", pa.list_(pa.float32())),
            ("large", pa.large_list(pa.int8())),
            ("empty", pa.list_(pa.int8())),
            ("fixed", pa.list_(pa.int8(), 2)),
            ("x", pa.int8()),
        ]
    )
    none = [None, None]
    table = pa.concat_tables(
        [
            pa.table([none, none, none, [[1, 2], None], [1, 2]], schema=schema),
            pa.table([[None, [1.0, None, 3.0]], [[1, 2], None], none, none, none], schema=schema),
        ]
    )
    assert peek_widths(table, schema) == {"v": 3, "large": 2}
    assert peek_widths(table.slice(1, 2), schema) == {"large": 2}
    features = infer_features(schema, widths=peek_widths(table, schema))
    with pytest.raises(DataError, match="vector 'empty': has no list in the rows looked at"):
        total_width(features)
    known = [f.with_width(5) if f.name == "empty" else f for f in features]
    assert total_width(known) == 1 + 3 + 2 + 5 + 2


def test_label_says_column_or_vector() -> None:
    assert Feature("a", "continuous", pa.int8(), True, 1).label == "column 'a'"
    assert Feature("v", "vector", pa.list_(pa.int8(), 2), True, 2).label == "vector 'v'"
