"""Struct columns as flat ones and back: ``address`` becomes ``address.city``, ``address.zip``, ….

A struct that may be null adds a column of truth values, ``address is present``, before those of
its fields. It is never null itself: a struct inside one that is null is not present. What lies
beneath a null struct is null. Tables without structs pass through as they are.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import pyarrow as pa
import pyarrow.compute as pc

from distvae.errors import DataError

__all__ = [
    "FlatField",
    "flat_column",
    "flat_fields",
    "flatten_schema",
    "flatten_table",
    "nest_table",
    "presence_name",
]


@dataclass(frozen=True)
class FlatField:
    """One column of the flat table.

    Attributes:
        name: the dotted name, or that of a presence column.
        path: names from the table's own column down to the field, or to the struct whose
            presence it tells.
        type: its Arrow type.
        nullable: whether the field itself may be null; a struct above it may be all the same.
        indices: the places of ``path``, counted in the schema and in each struct.
        presence: whether it tells that a struct is present.
        nullable_above: paths of the structs above it that may be null.
    """

    name: str
    path: tuple[str, ...]
    type: pa.DataType
    nullable: bool
    indices: tuple[int, ...]
    presence: bool = False
    nullable_above: tuple[tuple[str, ...], ...] = ()


def presence_name(path: Sequence[str]) -> str:
    """The name of the column that tells whether the struct at ``path`` is present."""
    return ".".join(path) + " is present"


def flat_fields(schema: pa.Schema) -> list[FlatField]:
    """The columns of the flat table, in its order."""
    found: list[FlatField] = []
    for index, field in enumerate(schema):
        found += _fields_of(field, (field.name,), (index,), above=())
    return found


def flatten_schema(schema: pa.Schema) -> pa.Schema:
    """The schema of `flatten_table`; columns beneath a struct that may be null are nullable."""
    return pa.schema(
        [
            pa.field(f.name, f.type, f.nullable or bool(f.nullable_above))
            for f in flat_fields(schema)
        ]
    )


def flatten_table(table: pa.Table, names: Collection[str] | None = None) -> pa.Table:
    """The flat table, or those of its columns that are in ``names``; names absent are ignored.

    Columns outside structs are not copied; those inside share their values.
    """
    wanted = None if names is None else frozenset(names)
    if wanted is None and not any(pa.types.is_struct(field.type) for field in table.schema):
        return table
    chosen = [f for f in flat_fields(table.schema) if wanted is None or f.name in wanted]
    fields = [pa.field(f.name, f.type, f.nullable or bool(f.nullable_above)) for f in chosen]
    columns = [_at(table, field.indices, field.presence) for field in chosen]
    if not columns:
        return table.select([])
    return pa.Table.from_arrays(columns, schema=pa.schema(fields))


def flat_column(table: pa.Table, name: str, path: Sequence[str] = ()) -> pa.ChunkedArray | None:
    """The column of a flat or nested table, None where it is not there.

    Args:
        table: flat, or with structs.
        name: the flat name.
        path: see `FlatField.path`; empty where the column is in no struct.
    """
    index = table.schema.get_field_index(name)
    if index >= 0:
        return table.column(index)
    index = table.schema.get_field_index(path[0]) if path else -1
    if index < 0:
        return None
    kind, inner = table.schema.field(index).type, []
    for step in path[1:]:
        inner.append(kind.get_field_index(step) if pa.types.is_struct(kind) else -1)
        if inner[-1] < 0:
            return None
        kind = kind.field(inner[-1]).type
    presence = name == presence_name(path)
    if presence != pa.types.is_struct(kind):
        return None
    return _at(table, (index, *inner), presence)


def nest_table(flat: pa.Table, schema: pa.Schema) -> pa.Table:
    """The table of ``schema`` made from its flat columns: `flatten_table` undone.

    A struct is null where its presence column says so (or is null itself), and where a field of
    it that may not be null is; without a presence column it is present in every row.

    Raises:
        DataError: a flat column that is not there, or is of another type.
    """
    if not any(pa.types.is_struct(field.type) for field in schema):
        return _ordered(flat, schema)
    batches = [
        pa.RecordBatch.from_arrays([_nested(batch, f, (f.name,)) for f in schema], schema=schema)
        for batch in (flat.to_batches() or [_no_rows(flat.schema)])
    ]
    return pa.Table.from_batches(batches, schema=schema)


def _fields_of(
    field: pa.Field,
    path: tuple[str, ...],
    indices: tuple[int, ...],
    above: tuple[tuple[str, ...], ...],
) -> Iterator[FlatField]:
    if not pa.types.is_struct(field.type):
        name = ".".join(path)
        yield FlatField(name, path, field.type, field.nullable, indices, nullable_above=above)
        return
    if field.nullable:
        yield FlatField(presence_name(path), path, pa.bool_(), False, indices, presence=True)
        above = (*above, path)
    for index, child in enumerate(field.type):
        yield from _fields_of(child, (*path, child.name), (*indices, index), above)


def _at(table: pa.Table, indices: Sequence[int], presence: bool) -> pa.ChunkedArray:
    """The field at ``indices``, or whether it is present; nulls of structs above are in it."""
    column = table.column(indices[0])
    if len(indices) > 1:
        column = pc.struct_field(column, list(indices[1:]))
    return pc.is_valid(column) if presence else column


def _ordered(flat: pa.Table, schema: pa.Schema) -> pa.Table:
    columns = [_known(flat, field, (field.name,)) for field in schema]
    if not columns:
        return flat.select([])
    return pa.Table.from_arrays(columns, schema=schema)


def _nested(batch: pa.RecordBatch, field: pa.Field, path: tuple[str, ...]) -> pa.Array:
    if not pa.types.is_struct(field.type):
        return _known(batch, field, path)
    inner = list(field.type)
    children = [_nested(batch, child, (*path, child.name)) for child in inner]
    mask = None
    if field.nullable:
        index = batch.schema.get_field_index(presence_name(path))
        present = None if index < 0 else pc.fill_null(batch.column(index), False)
        for child, array in zip(inner, children, strict=True):
            if not child.nullable and array.null_count:
                valid = array.is_valid()
                present = valid if present is None else pc.and_(present, valid)
        mask = None if present is None else pc.invert(present)
    if not children:
        if mask is None:
            mask = pa.repeat(pa.scalar(False), batch.num_rows)
        return pa.array([None if absent else {} for absent in mask.to_pylist()], field.type)
    return pa.StructArray.from_arrays(children, fields=inner, mask=mask)


def _known(
    flat: pa.Table | pa.RecordBatch, field: pa.Field, path: Sequence[str]
) -> pa.Array | pa.ChunkedArray:
    name = ".".join(path)
    index = flat.schema.get_field_index(name)
    if index < 0:
        raise DataError(f"column {name!r}", "is not in the flat table", "its struct needs it")
    column = flat.column(index)
    if not column.type.equals(field.type):
        raise DataError(f"column {name!r}", f"has type {column.type}", f"must be {field.type}")
    return column


def _no_rows(schema: pa.Schema) -> pa.RecordBatch:
    return pa.RecordBatch.from_arrays([pa.array([], f.type) for f in schema], schema=schema)
