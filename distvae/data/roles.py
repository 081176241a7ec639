"""Which columns of a table are features, what role each plays, and how wide each is.

Element order: the D numbers of a row are the elements of its features, one feature after the
other, in the order of the tuple that `infer_features` returns: continuous columns first, then
vectors, each group in table order. Every array of width D in the project uses this order.
`Feature.position` keeps the place in the table, so that decoded rows get the table's own order.
"""

from __future__ import annotations

import difflib
import re
import reprlib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import pyarrow as pa

from distvae.errors import DataError, UsageError

__all__ = [
    "Feature",
    "Role",
    "feature_schema",
    "infer_features",
    "peek_widths",
    "require_known",
    "total_width",
    "type_from_json",
    "type_to_json",
]

Role = Literal["continuous", "vector"]

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


@dataclass(frozen=True)
class Feature:
    """One column that the model learns.

    Attributes:
        name: the column's name.
        role: ``continuous`` (one number per row) or ``vector`` (a list of numbers per row).
        type: the column's Arrow type in the training table.
        nullable: whether the column's field allows nulls.
        width: elements per row; 1 for continuous, 0 for a variable list not looked at yet.
        position: index of the column in the training table's schema.
    """

    name: str
    role: Role
    type: pa.DataType
    nullable: bool
    width: int
    position: int = 0

    @property
    def element(self) -> np.dtype[Any]:
        """NumPy type of one element."""
        kind = self.type if self.role == "continuous" else self.type.value_type
        return np.dtype(_NAMES[kind])

    @property
    def label(self) -> str:
        """What messages call it: ``column 'age'`` or ``vector 'pixels'``."""
        return f"{'column' if self.role == 'continuous' else 'vector'} {self.name!r}"

    def with_width(self, width: int) -> Feature:
        """The same feature with ``width`` elements per row."""
        return replace(self, width=width)


def infer_features(
    schema: pa.Schema,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    widths: Mapping[str, int] | None = None,
) -> tuple[Feature, ...]:
    """The features of a table, continuous columns first, then vectors, in table order.

    Args:
        schema: the training table's schema.
        include: names to take; empty takes all.
        exclude: names to leave out.
        widths: width of each variable list column (see `peek_widths`); absent means 0, unknown.

    Raises:
        UsageError: a name that the table lacks, or one both included and excluded.
        DataError: a column that is no feature (all of them in one line), a name that occurs
            twice, a list of length 0, or no column left.
    """
    require_known("include", include, schema.names)
    require_known("exclude", exclude, schema.names)
    if both := sorted(set(include) & set(exclude)):
        raise UsageError(
            "exclude", f"{both[0]!r} is also in include", "a column is one or the other"
        )
    chosen = [
        (position, field)
        for position, field in enumerate(schema)
        if field.name not in exclude and (not include or field.name in include)
    ]
    _refuse_unusable([field for _, field in chosen])
    known = widths or {}
    features = [_feature(field, position, known) for position, field in chosen]
    return tuple(sorted(features, key=lambda feature: feature.role == "vector"))


def require_known(option: str, names: Iterable[str], known: Sequence[str]) -> None:
    """Refuse a name that is not among ``known``, naming the closest that is.

    Raises:
        UsageError: with the option, the name and the closest match.
    """
    for name in names:
        if name not in known:
            close = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            listed = reprlib.repr(list(known))
            remedy = f"did you mean {close[0]!r}?" if close else f"the columns are {listed}"
            raise UsageError(option, f"no column {name!r}", "it must name a column", remedy)


def peek_widths(first_table: pa.Table, schema: pa.Schema) -> dict[str, int]:
    """Width of each variable list column of ``schema``, from its first non-null row.

    A column without a non-null row in ``first_table`` is left out.
    """
    widths: dict[str, int] = {}
    for field in schema:
        if _role(field.type) == "vector" and not pa.types.is_fixed_size_list(field.type):
            for chunk in first_table.column(field.name).chunks:
                first = np.flatnonzero(chunk.is_valid().to_numpy(zero_copy_only=False))[:1]
                if first.size:
                    widths[field.name] = len(chunk[int(first[0])])
                    break
    return widths


def total_width(features: Sequence[Feature]) -> int:
    """D, the number of elements of a row.

    Raises:
        DataError: a vector whose width is not known: nothing but nulls was seen of it.
    """
    for feature in features:
        if feature.width < 1:
            raise DataError(
                feature.label,
                "has no list in the rows looked at",
                "the first rows must tell its length",
                f"leave it out with --exclude {feature.name}",
            )
    return sum(feature.width for feature in features)


def feature_schema(features: Sequence[Feature]) -> pa.Schema:
    """The training table's schema, feature columns only, in table order."""
    ordered = sorted(features, key=lambda feature: feature.position)
    return pa.schema([pa.field(f.name, f.type, f.nullable) for f in ordered])


def type_to_json(kind: pa.DataType) -> str:
    """An Arrow type as text, ``float32`` or ``list<item: uint8 not null>``; exact both ways.

    Raises:
        DataError: a type that no role takes.
    """
    role = _role(kind)
    if role is None:
        raise DataError("type", str(kind), "features are numbers or lists of numbers for now")
    if role == "continuous":
        return _NAMES[kind]
    field = kind.value_field
    inner = f"<{field.name}: {_NAMES[field.type]}{'' if field.nullable else ' not null'}>"
    if pa.types.is_fixed_size_list(kind):
        return f"fixed_size_list{inner}[{kind.list_size}]"
    return f"{'large_list' if pa.types.is_large_list(kind) else 'list'}{inner}"


def type_from_json(text: str) -> pa.DataType:
    """The Arrow type that `type_to_json` wrote.

    Raises:
        DataError: text that is not such a type.
    """
    if text in _NUMBERS:
        return _NUMBERS[text]
    match = _LIST.fullmatch(text)
    if match is None or match[3] not in _NUMBERS or (match[1][0] == "f") != bool(match[5]):
        raise DataError("type", repr(text), "it must be a number or a list of numbers")
    field = pa.field(match[2], _NUMBERS[match[3]], nullable=match[4] is None)
    if match[1] == "fixed_size_list":
        return pa.list_(field, int(match[5]))
    return pa.large_list(field) if match[1] == "large_list" else pa.list_(field)


def _role(kind: pa.DataType) -> Role | None:
    """The role that an Arrow type takes, None when it takes none."""
    if kind in _NAMES:
        return "continuous"
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    if (lists or pa.types.is_fixed_size_list(kind)) and kind.value_type in _NAMES:
        return "vector"
    return None


def _refuse_unusable(fields: Sequence[pa.Field]) -> None:
    """Refuse an empty selection, repeated names and columns without a role."""
    names = [field.name for field in fields]
    if not names:
        raise DataError("features", "no column is left", "at least one must be", "see --include")
    if twice := [name for name in dict.fromkeys(names) if names.count(name) > 1]:
        raise DataError(f"column {twice[0]!r}", "occurs twice", "names must differ", "rename one")
    wrong = {f.name: f"has type {f.type}" for f in fields if _role(f.type) is None}
    wrong |= {
        f.name: "has lists of length 0"
        for f in fields
        if pa.types.is_fixed_size_list(f.type) and f.type.list_size < 1
    }
    if not wrong:
        return
    found = ", ".join(f"{name!r} {what}" for name, what in list(wrong.items())[1:])
    first = next(iter(wrong))
    raise DataError(
        f"column {first!r}",
        wrong[first] + (f" (and {found})" if found else ""),
        "features are numbers or lists of numbers for now",
        "leave it out with " + " ".join(f"--exclude {name}" for name in wrong),
    )


def _feature(field: pa.Field, position: int, widths: Mapping[str, int]) -> Feature:
    if _role(field.type) == "continuous":
        return Feature(field.name, "continuous", field.type, field.nullable, 1, position)
    fixed = pa.types.is_fixed_size_list(field.type)
    width = field.type.list_size if fixed else widths.get(field.name, 0)
    return Feature(field.name, "vector", field.type, field.nullable, width, position)
