from __future__ import annotations

from base64 import b64encode

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
    unusable,
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
OTHER_SCALARS = [
    pa.bool_(),
    pa.string(),
    pa.large_string(),
    pa.string_view(),
    pa.decimal32(5, 2),
    pa.decimal128(9, 2),
    pa.decimal128(38, -3),
    pa.decimal256(60, 3),
    pa.date32(),
    pa.date64(),
    pa.timestamp("us"),
    pa.timestamp("ns", "Europe/Paris"),
    pa.timestamp("s", "+02:00"),
    pa.time32("ms"),
    pa.time64("ns"),
    pa.duration("ms"),
    pa.dictionary(pa.int8(), pa.string(), ordered=True),
    pa.dictionary(pa.uint64(), pa.large_string()),
    pa.dictionary(pa.int8(), pa.int64()),
    pa.dictionary(pa.int32(), pa.date32()),
    pa.dictionary(pa.int32(), pa.bool_()),
]
OTHERS = [
    pa.null(),
    pa.binary(),
    pa.dictionary(pa.int8(), pa.binary()),
    pa.month_day_nano_interval(),
    pa.list_(pa.string()),
    pa.list_(pa.bool_()),
    pa.list_(pa.list_(pa.float32())),
    pa.list_(pa.decimal128(5, 2)),
    pa.list_(pa.struct([("a", pa.int8())])),
    pa.list_view(pa.float32()),
    pa.map_(pa.string(), pa.float32()),
    pa.run_end_encoded(pa.int32(), pa.int64()),
    pa.dense_union([pa.field("a", pa.int8())]),
    pa.uuid(),
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


@pytest.mark.parametrize("kind", OTHER_SCALARS, ids=str)
def test_other_scalar_types_survive_text_exactly(kind: pa.DataType) -> None:
    text = type_to_json(kind)
    assert text.isascii()
    assert type_from_json(text).equals(kind)
    if pa.types.is_dictionary(kind):
        assert type_from_json(text).ordered == kind.ordered


@pytest.mark.parametrize(
    "text",
    [
        "",
        "string",
        "list<item: string>",
        "list<item: int8>[3]",
        "fixed_size_list<item: int8>",
        "arrow:",
        "arrow:!",
        "arrow:aGVsbG8=",
        "arrow:" + b64encode(pa.schema([("", pa.binary())]).serialize()).decode(),
        "arrow:" + b64encode(pa.schema([]).serialize()).decode(),
    ],
)
def test_text_that_is_no_type_is_refused(text: str) -> None:
    with pytest.raises(DataError, match="it must be a feature's type, as distvae writes it"):
        type_from_json(text)


@pytest.mark.parametrize("kind", OTHERS, ids=str)
def test_type_without_a_role_has_no_text(kind: pa.DataType) -> None:
    with pytest.raises(DataError, match="no feature has it; leave the column out"):
        type_to_json(kind)


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


def test_the_type_tells_the_role() -> None:
    schema = pa.schema([pa.field(f"c{i}", kind) for i, kind in enumerate(OTHER_SCALARS)])
    features = infer_features(schema)
    roles = {"bool": "boolean", "deci": "continuous", "date": "datetime", "time": "datetime"}
    roles |= {"dura": "datetime"}
    for feature, kind in zip(features, OTHER_SCALARS, strict=True):
        assert feature.role == roles.get(str(kind)[:4], "categorical")
        assert feature.is_scalar
        assert feature.is_number == (feature.role in ("continuous", "datetime"))
        assert feature.is_measured == (feature.role == "continuous")
    assert feature_schema(features).equals(schema)


def test_elements_of_scalars_and_none_of_texts() -> None:
    schema = pa.schema([(f"c{i}", kind) for i, kind in enumerate(OTHER_SCALARS)])
    for feature in infer_features(schema):
        if feature.role == "categorical":
            with pytest.raises(TypeError, match="holds no numbers"):
                _ = feature.element
            continue
        names = {"boolean": "uint8", "continuous": "float64", "datetime": "int64"}
        assert feature.element.name == names[feature.role]


@pytest.mark.parametrize("kind", OTHERS, ids=str)
def test_columns_of_other_types_are_left_out_unless_asked_for(kind: pa.DataType) -> None:
    schema = pa.schema([("x", pa.int8()), ("ünusual, name", kind)])
    assert [f.name for f in infer_features(schema)] == ["x"]
    (left,) = unusable(schema)
    assert left.name == "ünusual, name"
    assert left.reason.startswith("has type ")
    assert left.reason.endswith("which no role takes")
    assert unusable(schema, include=["x"]) == unusable(schema, exclude=["ünusual, name"]) == []
    for include in (["ünusual, name"], ["x", "ünusual, name"]):
        with pytest.raises(DataError) as caught:
            infer_features(schema, include=include)
        assert "'ünusual, name': has type" in str(caught.value)
        assert "--exclude ünusual, name" in str(caught.value)


def test_all_offending_columns_stand_in_one_line() -> None:
    schema = pa.schema([("blob", pa.binary()), ("e", pa.list_(pa.int8(), 0)), ("n", pa.null())])
    with pytest.raises(DataError) as caught:
        infer_features(schema)
    assert str(caught.value) == (
        "column 'blob': has type binary (and 'e' has lists of length 0, 'n' has type null); "
        "features are numbers, truth values, categories, dates and times, and lists of numbers; "
        "leave it out with --exclude blob --exclude e --exclude n"
    )
    long = pa.struct([(f"field{i}", pa.binary()) for i in range(20)])
    (left,) = unusable(pa.schema([("x", pa.int8()), ("m", pa.map_(pa.string(), long))]))
    assert len(left.reason) < 100


def test_roles_are_overridden_where_the_type_allows() -> None:
    schema = pa.schema(
        [
            ("n", pa.int64()),
            ("city", pa.string()),
            ("on", pa.bool_()),
            ("day", pa.date32()),
            ("v", pa.list_(pa.int8(), 2)),
        ]
    )
    given = {"n": "count", "city": "skip", "day": "categorical", "v": "vector"}
    features = infer_features(schema, roles=given)
    assert [(f.name, f.role) for f in features] == [
        ("n", "count"),
        ("on", "boolean"),
        ("day", "categorical"),
        ("v", "vector"),
    ]
    assert features[0].is_measured
    assert features[0].is_number
    assert unusable(schema, roles=given) == []
    with pytest.raises(UsageError, match="role: no column 'cty'; .*did you mean 'city'"):
        infer_features(schema, roles={"cty": "count"})
    with pytest.raises(UsageError, match="role: city=count; its roles are categorical, skip"):
        infer_features(schema, roles={"city": "count"})
    with pytest.raises(UsageError, match="role: n=gaussian; the roles are continuous, count"):
        infer_features(schema, roles={"n": "gaussian"})
    with pytest.raises(DataError, match="no column is left"):
        infer_features(schema, roles=dict.fromkeys(schema.names, "skip"))


ADDRESS = pa.struct(
    [
        pa.field("city", pa.string(), nullable=False),
        pa.field("place", pa.struct([("lat", pa.float64()), ("tags", pa.binary())])),
        pa.field("v", pa.list_(pa.float32(), 2)),
        pa.field("raw", pa.binary()),
    ]
)
NESTED = pa.schema(
    [
        pa.field("id", pa.int64(), nullable=False),
        pa.field("address", ADDRESS),
        pa.field("s", pa.struct([pa.field("x", pa.int8())]), nullable=False),
        pa.field("only", pa.struct([("blob", pa.binary())])),
    ]
)


def test_structs_are_flattened_and_rebuilt() -> None:
    features = infer_features(NESTED)
    assert [(f.name, f.source, f.path) for f in features] == [
        ("id", "id", ()),
        ("address is present", "address", ("address",)),
        ("address.city", "address", ("address", "city")),
        ("address.place is present", "address", ("address", "place")),
        ("address.place.lat", "address", ("address", "place", "lat")),
        ("s.x", "s", ("s", "x")),
        ("address.v", "address", ("address", "v")),
    ]
    assert [f.is_presence for f in features] == [False, True, False, True, False, False, False]
    assert [f.position for f in features] == [*sorted(f.position for f in features[:-1]), 6]
    assert {f.name: f.nullable for f in features if not f.nullable} == dict.fromkeys(
        ["id", "address is present", "address.city", "address.place is present"], False
    )
    place = pa.struct([("lat", pa.float64())])
    held = [ADDRESS.field("city"), pa.field("place", place), ADDRESS.field("v")]
    expected = pa.schema([NESTED.field("id"), ("address", pa.struct(held)), NESTED.field("s")])
    assert feature_schema(features).equals(expected)
    names = [left.name for left in unusable(NESTED)]
    assert names == ["address.place.tags", "address.raw", "only.blob"]


def test_options_name_structs_and_their_fields() -> None:
    def names(**options: list[str]) -> list[str]:
        return [f.name for f in infer_features(NESTED, **options)]

    assert names(exclude=["address", "s.x"]) == ["id"]
    assert names(include=["address.place"]) == [
        "address is present",
        "address.place is present",
        "address.place.lat",
    ]
    assert names(include=["address.city"]) == ["address is present", "address.city"]
    assert names(include=["id"]) == ["id"]
    without = infer_features(NESTED, include=["address.city"], exclude=["address is present"])
    assert [(f.name, f.nullable) for f in without] == [("address.city", True)]
    city = pa.struct([("city", pa.string())])
    assert feature_schema(without).equals(pa.schema([pa.field("address", city, nullable=False)]))
    assert [f.name for f in infer_features(NESTED, roles={"address": "skip"})] == ["id", "s.x"]
    with pytest.raises(UsageError, match="role: address=count; its roles are skip"):
        infer_features(NESTED, roles={"address": "count"})
    with pytest.raises(DataError, match="column 'only.blob': has type binary; features are"):
        infer_features(NESTED, include=["id", "only"])
    twice = pa.schema([("a.b", pa.int8()), ("a", pa.struct([("b", pa.int8())]))])
    with pytest.raises(DataError, match="column 'a.b': occurs twice; names must differ"):
        infer_features(twice)


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


def test_widths_of_lists_inside_structs() -> None:
    kind = pa.struct([("v", pa.list_(pa.int8()))])
    table = pa.table({"s": pa.array([None, {"v": None}, {"v": [1, 2, 3]}], kind)})
    assert peek_widths(table, table.schema) == {"s.v": 3}
    assert peek_widths(table.select([]), table.schema) == {}
    (_, vector) = infer_features(table.schema, widths={"s.v": 3})
    assert (vector.name, vector.width, vector.label) == ("s.v", 3, "vector 's.v'")


def test_label_says_column_or_vector() -> None:
    assert Feature("a", "continuous", pa.int8(), True, 1).label == "column 'a'"
    assert Feature("v", "vector", pa.list_(pa.int8(), 2), True, 2).label == "vector 'v'"
