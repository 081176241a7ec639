"""Arrow types: which are features, and how they are written as text, exactly both ways.

Numbers and lists of numbers are written as Arrow prints them, ``float32`` or
``list<item: uint8 not null>``; all others as the base64 of the Arrow IPC message of a schema, which
keeps zones, scales, index types and order.
"""

from __future__ import annotations

import base64
import binascii
import re

import pyarrow as pa

from distvae.errors import DataError

__all__ = [
    "is_category",
    "is_date",
    "is_number",
    "is_text",
    "is_vector",
    "number_name",
    "type_from_json",
    "type_to_json",
    "value_type",
    "without_views",
]

_NUMBERS: dict[str, pa.DataType] = {
    "int8": pa.int8(),
    "int16": pa.int16(),
    "int32": pa.int32(),
    "int64": pa.int64(),
    "uint8": pa.uint8(),
    "uint16": pa.uint16(),
    "uint32": pa.uint32(),
    "uint64": pa.uint64(),
    "float16": pa.float16(),
    "float32": pa.float32(),
    "float64": pa.float64(),
}
_NAMES: dict[pa.DataType, str] = {kind: name for name, kind in _NUMBERS.items()}
_LIST = re.compile(
    r"(fixed_size_list|large_list|list)<(.*): (\w+)( not null)?>(?:\[(\d+)\])?", re.DOTALL
)
_ENCODED = "arrow:"


def number_name(kind: pa.DataType) -> str | None:
    """``int8`` … ``float64``, the name that NumPy has for the type too; None for other types."""
    return _NAMES.get(kind)


def is_number(kind: pa.DataType) -> bool:
    """Integers, floats and decimals."""
    return kind in _NAMES or pa.types.is_decimal(kind)


def is_date(kind: pa.DataType) -> bool:
    """Dates, times of day, timestamps and durations: whole numbers of a unit of time."""
    return pa.types.is_temporal(kind) and not pa.types.is_interval(kind)


def is_text(kind: pa.DataType) -> bool:
    """Strings of any layout, dictionaries of them included."""
    kind = value_type(kind)
    return pa.types.is_string(kind) or pa.types.is_large_string(kind) or _is_view(kind)


def is_category(kind: pa.DataType) -> bool:
    """Strings, and dictionaries of any scalar values."""
    held = value_type(kind)
    if pa.types.is_dictionary(kind):
        return is_text(held) or is_number(held) or is_date(held) or pa.types.is_boolean(held)
    return is_text(kind)


def is_vector(kind: pa.DataType) -> bool:
    """Lists of integers or floats, of any length but a fixed length of 0."""
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    fixed = pa.types.is_fixed_size_list(kind) and kind.list_size > 0
    return (lists or fixed) and kind.value_type in _NAMES


def value_type(kind: pa.DataType) -> pa.DataType:
    """The type of a dictionary's values; any other type as it is."""
    return kind.value_type if pa.types.is_dictionary(kind) else kind


def type_to_json(kind: pa.DataType) -> str:
    """A feature's Arrow type as text, ``float32`` or ``list<item: uint8 not null>``.

    Raises:
        DataError: a type that no role takes.
    """
    if kind in _NAMES:
        return _NAMES[kind]
    if is_vector(kind):
        field = kind.value_field
        inner = f"<{field.name}: {_NAMES[field.type]}{'' if field.nullable else ' not null'}>"
        if pa.types.is_fixed_size_list(kind):
            return f"fixed_size_list{inner}[{kind.list_size}]"
        return f"{'large_list' if pa.types.is_large_list(kind) else 'list'}{inner}"
    if not _is_other(kind):
        raise DataError("type", str(kind), "no feature has it", "leave the column out")
    message = pa.schema([pa.field("", kind)]).serialize().to_pybytes()
    return _ENCODED + base64.b64encode(message).decode("ascii")


def type_from_json(text: str) -> pa.DataType:
    """The Arrow type that `type_to_json` wrote.

    Raises:
        DataError: text that is not such a type.
    """
    if text in _NUMBERS:
        return _NUMBERS[text]
    if text.startswith(_ENCODED):
        return _decoded(text)
    match = _LIST.fullmatch(text)
    if match is None or match[3] not in _NUMBERS or (match[1][0] == "f") != bool(match[5]):
        raise _refusal(text)
    field = pa.field(match[2], _NUMBERS[match[3]], nullable=match[4] is None)
    if match[1] == "fixed_size_list":
        return pa.list_(field, int(match[5]))
    return pa.large_list(field) if match[1] == "large_list" else pa.list_(field)


def without_views(schema: pa.Schema) -> pa.Schema:
    """Return the schema as tables are read: Arrow cannot take or filter rows of string views.

    Those inside structs included.
    """
    return pa.schema([f.with_type(_without_views(f.type)) for f in schema])


def _is_other(kind: pa.DataType) -> bool:
    """Scalars of features that have no NumPy name."""
    return (
        pa.types.is_boolean(kind) or pa.types.is_decimal(kind) or is_date(kind) or is_category(kind)
    )


def _decoded(text: str) -> pa.DataType:
    try:
        message = base64.b64decode(text.removeprefix(_ENCODED), validate=True)
        schema = pa.ipc.read_schema(pa.py_buffer(message))
    except (pa.ArrowException, binascii.Error, OSError, ValueError) as error:
        raise _refusal(text) from error
    if len(schema) != 1 or not _is_other(schema.field(0).type):
        raise _refusal(text)
    return schema.field(0).type


def _refusal(text: str) -> DataError:
    return DataError("type", repr(text), "it must be a feature's type, as distvae writes it")


def _without_views(kind: pa.DataType) -> pa.DataType:
    if pa.types.is_struct(kind):
        return pa.struct([f.with_type(_without_views(f.type)) for f in kind])
    return pa.large_string() if _is_view(kind) else kind


def _is_view(kind: pa.DataType) -> bool:
    return bool(kind.equals(pa.string_view()))
