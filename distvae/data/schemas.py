"""The common schema of many files, and the columns that their Hive directories add."""

from __future__ import annotations

import re
from collections.abc import Sequence
from urllib.parse import unquote

import pyarrow as pa

from distvae.errors import DataError

__all__ = ["common_type", "merge_schemas", "partition_of", "partition_value", "with_partitions"]

Partition = tuple[tuple[str, str], ...]

_HIVE_NULL = "__HIVE_DEFAULT_PARTITION__"
_INTEGER = re.compile(r"-?\d{1,10}")
_INT32 = range(-(2**31), 2**31)


def merge_schemas(
    common: pa.Schema,
    other: pa.Schema,
    first_file: str,
    file: str,
    wrong: set[str] | None = None,
) -> pa.Schema:
    """Return the schema that holds the values of both; names in the order of ``common``.

    Nullability, the width of integers and floats, and how text is stored may differ; columns and
    otherwise their types may not.

    Args:
        common: schema of the files so far.
        other: of one more file.
        first_file: name of the first.
        file: name of the other.
        wrong: where given, columns of another type are added to it, and ``common`` holds.

    Raises:
        DataError: naming both files and the column that is missing or of another type.
    """
    if common.equals(other):
        return common
    both = f"{first_file} and {file}"
    rule = "all files must have the same columns and types"
    missing = sorted(set(common.names) ^ set(other.names))
    if missing:
        lacking, having = (file, first_file) if missing[0] in common.names else (first_file, file)
        value = f"is missing in {lacking} and present in {having}"
        raise DataError(f"column {missing[0]!r}", value, rule, "name files of one table")
    fields = []
    for mine in common:
        theirs = other.field(mine.name)
        merged = common_type(mine.type, theirs.type)
        if merged is None and wrong is not None:
            wrong.add(mine.name)
            merged = mine.type
        elif merged is None:
            value = f"is {mine.type} in {first_file} and {theirs.type} in {file}"
            raise DataError(f"column {mine.name!r}", value, rule, f"cast one of {both}")
        fields.append(pa.field(mine.name, merged, mine.nullable or theirs.nullable))
    return pa.schema(fields)


def common_type(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """Return the type that holds the values of both without a change, or None."""
    if one.equals(other):
        return one
    for family in _FAMILIES:
        if one in family and other in family:
            return family[max(family.index(one), family.index(other))]
    if pa.types.is_dictionary(one) != pa.types.is_dictionary(other):
        plain, coded = (other, one) if pa.types.is_dictionary(one) else (one, other)
        return common_type(plain, coded.value_type)
    if pa.types.is_dictionary(one) and pa.types.is_dictionary(other):
        if one.value_type.equals(other.value_type):
            return pa.dictionary(pa.int32(), one.value_type, one.ordered and other.ordered)
        return None
    return _common_nested(one, other)


def _common_nested(one: pa.DataType, other: pa.DataType) -> pa.DataType | None:
    """The common type of two structs or lists, or None."""
    if pa.types.is_struct(one) and pa.types.is_struct(other):
        return _common_struct(one, other)
    for is_kind, build in _LISTS:
        if is_kind(one) and is_kind(other):
            value = common_type(one.value_type, other.value_type)
            nullable = one.value_field.nullable or other.value_field.nullable
            field = None if value is None else pa.field(one.value_field.name, value, nullable)
            return None if field is None else build(field)
    if pa.types.is_fixed_size_list(one) and pa.types.is_fixed_size_list(other):
        inner = common_type(pa.list_(one.value_field), pa.list_(other.value_field))
        same = one.list_size == other.list_size
        return pa.list_(inner.value_field, one.list_size) if same and inner is not None else None
    return None


def _common_struct(one: pa.StructType, other: pa.StructType) -> pa.DataType | None:
    fields = []
    if [field.name for field in one] != [field.name for field in other]:
        return None
    for mine, theirs in zip(one, other, strict=True):
        kind = common_type(mine.type, theirs.type)
        if kind is None:
            return None
        fields.append(pa.field(mine.name, kind, mine.nullable or theirs.nullable))
    return pa.struct(fields)


# Each type holds the values of those before it.
_FAMILIES = (
    (pa.int8(), pa.int16(), pa.int32(), pa.int64()),
    (pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()),
    (pa.float16(), pa.float32(), pa.float64()),
    (pa.string_view(), pa.string(), pa.large_string()),
)

_LISTS = ((pa.types.is_list, pa.list_), (pa.types.is_large_list, pa.large_list))


def partition_of(relative: str, stored: frozenset[str]) -> Partition:
    """Return the (name, text) pairs of the ``name=value`` directories of a path.

    Names and values are percent-decoded; a name in ``stored``, a column of the files, is left out.
    """
    pairs = [folder.partition("=") for folder in relative.split("/")[:-1] if "=" in folder]
    decoded = {unquote(name): unquote(value) for name, _, value in pairs if name and value}
    return tuple((name, value) for name, value in decoded.items() if name not in stored)


def with_partitions(
    stored: pa.Schema, partitions: Sequence[Partition], files: Sequence[str]
) -> pa.Schema:
    """Return the schema with the partition columns at its end.

    They are int32 when every value is such a number, else string: as pyarrow.dataset infers.

    Raises:
        DataError: naming two files of which one lacks a partition column.
    """
    names = [name for name, _ in partitions[0]]
    for partition, file in zip(partitions, files, strict=True):
        missing = sorted({name for name, _ in partition} ^ set(names))
        if missing:
            value = f"is in the path of only one of {files[0]} and {file}"
            rule = "all files must have the same partition columns"
            raise DataError(f"column {missing[0]!r}", value, rule, "name files of one table")
    texts: dict[str, set[str]] = {name: set() for name in names}
    for partition in partitions:
        for name, text in partition:
            texts[name].add(text)
    fields = [pa.field(name, _inferred(texts[name])) for name in names]
    return pa.schema([*stored, *fields])


def partition_value(text: str, kind: pa.DataType) -> pa.Scalar:
    """Return the value of a partition column; Hive's name for null is null."""
    if text == _HIVE_NULL:
        return pa.scalar(None, kind)
    return pa.scalar(int(text) if pa.types.is_integer(kind) else text, kind)


def _inferred(texts: set[str]) -> pa.DataType:
    values = texts - {_HIVE_NULL}
    whole = all(_INTEGER.fullmatch(text) and int(text) in _INT32 for text in values)
    return pa.int32() if whole and values else pa.string()
