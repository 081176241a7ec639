from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distvae.data.flatten import (
    flat_column,
    flat_fields,
    flatten_schema,
    flatten_table,
    nest_table,
    presence_name,
)
from distvae.errors import DataError

INNER = pa.struct(
    [pa.field("c", pa.dictionary(pa.int8(), pa.string())), pa.field("v", pa.list_(pa.float32(), 2))]
)
OUTER = pa.struct([pa.field("a", pa.int64()), pa.field("b", INNER)])
ROWS = [
    {"a": 1, "b": {"c": "x", "v": [1.0, 2.0]}},
    None,
    {"a": None, "b": None},
    {"a": 4, "b": {"c": None, "v": [None, 3.0]}},
    {"a": 5, "b": {"c": "y", "v": None}},
]
NAMES = ["n", "s is present", "s.a", "s.b is present", "s.b.c", "s.b.v"]


def nested_table() -> pa.Table:
    columns = {"n": pa.array(range(len(ROWS)), pa.int32()), "s": pa.array(ROWS, OUTER)}
    return pa.table(columns)


def test_every_level_of_null_has_its_place() -> None:
    table = nested_table()
    flat = flatten_table(table)
    assert flat.column_names == NAMES
    assert flat.schema.equals(flatten_schema(table.schema))
    assert flat.column("s is present").to_pylist() == [True, False, True, True, True]
    assert flat.column("s.b is present").to_pylist() == [True, False, False, True, True]
    assert flat.column("s.a").to_pylist() == [1, None, None, 4, 5]
    assert flat.column("s.b.c").to_pylist() == ["x", None, None, None, "y"]
    assert flat.column("s.b.v").to_pylist() == [[1.0, 2.0], None, None, [None, 3.0], None]
    assert not flat.schema.field("s.b is present").nullable


@pytest.mark.parametrize("cut", [slice(0, 5), slice(1, 4), slice(2, 3), slice(0, 0)])
def test_nesting_undoes_flattening(cut: slice) -> None:
    table = nested_table().slice(cut.start, cut.stop - cut.start)
    back = nest_table(flatten_table(table), table.schema)
    assert back.schema.equals(table.schema)
    assert back.to_pylist() == table.to_pylist()
    back.validate(full=True)


def test_chunks_of_different_length_and_none_at_all() -> None:
    table = pa.concat_tables([nested_table().slice(0, 2), nested_table().slice(2)])
    flat = flatten_table(table)
    ragged = flat.set_column(0, "n", pa.chunked_array([[0], [1, 2, 3, 4]], pa.int32()))
    assert nest_table(ragged, table.schema).to_pylist() == table.to_pylist()
    empty = table.schema.empty_table()
    none = pa.table([pa.chunked_array([], f.type) for f in table.schema], schema=table.schema)
    for each in (empty, none):
        assert flatten_table(each).schema.equals(flatten_schema(table.schema))
        assert nest_table(flatten_table(each), table.schema).equals(empty)


def test_a_flat_table_is_not_copied() -> None:
    table = pa.table({"x": [1.0], "y": ["a"]})
    assert flatten_table(table) is table
    assert flatten_table(table, ["y", "absent"]).column("y").chunk(0).buffers() == (
        table.column("y").chunk(0).buffers()
    )
    assert nest_table(table, table.schema).equals(table)
    assert nest_table(table, pa.schema([])).num_rows == 1
    assert flatten_table(table, []).num_rows == 1


def test_single_columns_of_flat_and_nested_tables() -> None:
    table = nested_table()
    flat = flatten_table(table)
    for field in flat_fields(table.schema):
        expected = flat.column(field.name)
        for each in (table, flat):
            found = flat_column(each, field.name, field.path if len(field.path) > 1 else ("s",))
            assert found is not None
            assert found.equals(expected)
        assert flatten_table(table, [field.name]).column_names == [field.name]
    assert flat_column(table, "s") is not None  # the struct itself
    for name, path in (
        ("zzz", ()),
        ("s.zzz", ("s", "zzz")),
        ("n.x", ("n", "x")),
        ("s.b.c", ("t", "b", "c")),
        ("s.a is present", ("s", "a")),
        ("s.z.z is present", ("s", "z", "z")),
    ):
        assert flat_column(table, name, path) is None


def test_presence_of_a_struct_that_is_never_null_in_one_file() -> None:
    kind = pa.struct([pa.field("b", pa.struct([("c", pa.int8())]), nullable=False)])
    schema = pa.schema([pa.field("a", kind, nullable=False)])
    table = pa.table([pa.array([{"b": {"c": 1}}, {"b": {"c": None}}], kind)], schema=schema)
    assert flatten_table(table).column_names == ["a.b.c"]
    for path in (("a",), ("a", "b")):
        column = flat_column(table, presence_name(path), path)
        assert column is not None
        assert column.to_pylist() == [True, True]


def test_a_struct_that_lacks_what_it_must_have_is_null() -> None:
    kind = pa.struct([pa.field("must", pa.int8(), nullable=False), pa.field("may", pa.int8())])
    flat = pa.table(
        {"s is present": [True, None, True], "s.must": [1, 2, None], "s.may": [None] * 3}
    )
    flat = flat.cast(
        pa.schema([("s is present", pa.bool_()), ("s.must", pa.int8()), ("s.may", pa.int8())])
    )
    table = nest_table(flat, pa.schema([("s", kind)]))
    assert table.column("s").to_pylist() == [{"must": 1, "may": None}, None, None]
    table = nest_table(flat.drop_columns("s is present"), pa.schema([("s", kind)]))
    assert table.column("s").to_pylist()[1:] == [{"must": 2, "may": None}, None]
    present = pa.schema([pa.field("s", pa.struct([("may", pa.int8())]), nullable=False)])
    assert nest_table(flat, present).column("s").to_pylist() == [{"may": None}] * 3


def test_structs_without_fields_keep_their_rows() -> None:
    table = pa.table({"e": pa.array([{}, None, {}], pa.struct([]))})
    flat = flatten_table(table)
    assert flat.column_names == ["e is present"]
    assert nest_table(flat, table.schema).to_pylist() == table.to_pylist()
    certain = pa.schema([pa.field("e", pa.struct([]), nullable=False)])
    assert nest_table(flat, certain).to_pylist() == [{"e": {}}] * 3


def test_flat_columns_that_do_not_fit_are_refused() -> None:
    flat = flatten_table(nested_table())
    schema = nested_table().schema
    with pytest.raises(
        DataError, match=r"column 's.b.c': is not in the flat table; its struct needs"
    ):
        nest_table(flat.drop_columns("s.b.c"), schema)
    with pytest.raises(DataError, match="column 's.a': has type string; must be int64"):
        nest_table(flat.set_column(2, "s.a", pa.array(["1"] * 5)), schema)


LEAVES = {
    pa.int8(): st.integers(-5, 5),
    pa.string(): st.text(max_size=3),
    pa.timestamp("us", "UTC"): st.integers(0, 10**9),
    pa.list_(pa.float32(), 2): st.lists(st.integers(-3, 3).map(float), min_size=2, max_size=2),
}


@st.composite
def fields(draw: st.DrawFn, depth: int = 0) -> tuple[pa.Field, st.SearchStrategy[Any]]:
    """A field of any depth and a strategy for its values."""
    name = draw(st.sampled_from(["a", "b.c", "d e", "ü"])) + str(draw(st.integers(0, 999)))
    nullable = draw(st.booleans())
    if depth < 3 and draw(st.integers(0, 2)):
        inner = draw(
            st.lists(fields(depth + 1), min_size=1, max_size=3, unique_by=lambda f: f[0].name)
        )
        kind = pa.struct([field for field, _ in inner])
        values = st.fixed_dictionaries({field.name: held for field, held in inner})
    else:
        kind = draw(st.sampled_from(list(LEAVES)))
        values = LEAVES[kind]
    return pa.field(name, kind, nullable), st.none() | values if nullable else values


@given(st.data())
@settings(max_examples=60, deadline=None)
def test_any_nested_table_comes_back(data: st.DataObject) -> None:
    drawn = data.draw(st.lists(fields(), min_size=1, max_size=3, unique_by=lambda f: f[0].name))
    schema = pa.schema([field for field, _ in drawn])
    rows = [
        {field.name: data.draw(values) for field, values in drawn}
        for _ in range(data.draw(st.integers(0, 5)))
    ]
    table = pa.Table.from_pylist(rows, schema=schema)
    flat = flatten_table(table)
    assert flat.schema.equals(flatten_schema(schema))
    if len(set(flat.column_names)) == flat.num_columns:
        back = nest_table(flat, schema)
        assert back.schema.equals(schema)
        assert back.to_pylist() == table.to_pylist()
