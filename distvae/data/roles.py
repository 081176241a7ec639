"""Which columns of a table are features, what role each plays, and how wide each is.

Element order: the D numbers of a row are the elements of its features, one feature after the
other, in the order of the tuple that `infer_features` returns: scalars first, then vectors, each
group in table order. Every array of width D in the project uses this order. Struct columns are
flat here (see `distvae.data.flatten`). `Feature.position` keeps the place in the flat table, so
that decoded rows get the table's own order.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, cast

import numpy as np
import pyarrow as pa

from distvae.data.arrow_types import (
    is_date,
    is_vector,
    number_name,
    type_from_json,
    type_to_json,
)
from distvae.data.feature_choice import (
    Role,
    choose_fields,
    refuse_useless,
    require_known,
    roles_of,
    why_unusable,
)
from distvae.data.flatten import FlatField, flat_column, flat_fields
from distvae.errors import DataError

__all__ = [
    "Feature",
    "LeftOut",
    "Role",
    "feature_schema",
    "infer_features",
    "peek_widths",
    "presence_of",
    "require_known",
    "total_width",
    "type_from_json",
    "type_to_json",
    "unusable",
]


@dataclass(frozen=True)
class Feature:
    """One column that the model learns.

    Attributes:
        name: the column's name in the flat table.
        role: ``vector`` is a list of numbers per row, all others are one value per row.
        type: the column's Arrow type in the flat training table.
        nullable: whether the column's own field allows nulls; a struct above it may be null
            besides.
        width: elements per row; 1 for scalars, 0 for a variable list not looked at yet.
        position: index of the column in the flat training table's schema.
        path: names from the table's own column down to a field of a struct, or to the struct
            whose presence the feature tells; () for a column that is no struct.
    """

    name: str
    role: Role
    type: pa.DataType
    nullable: bool
    width: int
    position: int = 0
    path: tuple[str, ...] = ()

    @property
    def source(self) -> str:
        """The table's own column that holds it: what is read from files."""
        return self.path[0] if self.path else self.name

    @property
    def is_scalar(self) -> bool:
        """Whether it has one element per row."""
        return self.role != "vector"

    @property
    def is_number(self) -> bool:
        """Whether its values are numbers with an order, one per row; dates and times are."""
        return self.role in ("continuous", "count", "datetime")

    @property
    def is_measured(self) -> bool:
        """Whether moments and squared errors mean something: continuous, count or vector."""
        return self.role in ("continuous", "count", "vector")

    @property
    def is_presence(self) -> bool:
        """Whether it tells that a struct is present."""
        return bool(self.path) and self.name != ".".join(self.path)

    @property
    def element(self) -> np.dtype[Any]:
        """NumPy type of one element as `distvae.data.arrow_values.read_values` gives it.

        Raises:
            TypeError: strings and dictionaries, which are no numbers.
        """
        kind = self.type.value_type if self.role == "vector" else self.type
        if pa.types.is_boolean(kind):
            return np.dtype(np.uint8)
        if is_date(kind):
            return np.dtype(np.int64)
        if pa.types.is_decimal(kind):
            return np.dtype(np.float64)
        name = number_name(kind)
        if name is None:
            raise TypeError(f"{self.label} of type {kind} holds no numbers")
        return np.dtype(name)

    @property
    def label(self) -> str:
        """What messages call it: ``column 'age'`` or ``vector 'pixels'``."""
        return f"{'vector' if self.role == 'vector' else 'column'} {self.name!r}"

    def with_width(self, width: int) -> Feature:
        """The same feature with ``width`` elements per row."""
        return replace(self, width=width)


@dataclass(frozen=True)
class LeftOut:
    """A column that is no feature, and why, in one line."""

    name: str
    reason: str


def infer_features(
    schema: pa.Schema,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    widths: Mapping[str, int] | None = None,
    roles: Mapping[str, str] | None = None,
) -> tuple[Feature, ...]:
    """The features of a table, scalars first, then vectors, in table order.

    Columns of a type that no role takes are left out (`unusable` lists them). The name of a struct
    stands for all that it holds. Whether a struct is present is learned with any of its fields.

    Args:
        schema: the training table's schema.
        include: names to take; empty takes all.
        exclude: names to leave out.
        widths: width of each variable list column (see `peek_widths`); absent means 0, unknown.
        roles: roles other than those that the types suggest, or ``skip``, by flat name.

    Raises:
        UsageError: a name that the table lacks, one both included and excluded, or a role that
            the column's type does not allow.
        DataError: an included column that is no feature, a name that occurs twice, or no column
            left.
    """
    given = roles or {}
    chosen = choose_fields(schema, include, exclude, given)
    refuse_useless(chosen, include)
    told = {field.path for _, field in chosen if field.presence}
    features = [
        _feature(field, position, given.get(field.name), told, widths or {})
        for position, field in chosen
        if roles_of(field.type)
    ]
    return tuple(sorted(features, key=lambda feature: feature.role == "vector"))


def unusable(
    schema: pa.Schema,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    roles: Mapping[str, str] | None = None,
) -> list[LeftOut]:
    """The columns selected that `infer_features` leaves out, for no role takes their type."""
    chosen = choose_fields(schema, include, exclude, roles or {})
    return [
        LeftOut(f.name, f"{why_unusable(f.type)}, which no role takes")
        for _, f in chosen
        if not roles_of(f.type)
    ]


def peek_widths(first_table: pa.Table, schema: pa.Schema) -> dict[str, int]:
    """Width of each variable list column of ``schema``, by flat name, from its first non-null row.

    A column without a non-null row in ``first_table`` is left out.
    """
    widths: dict[str, int] = {}
    for field in flat_fields(schema):
        if not is_vector(field.type) or pa.types.is_fixed_size_list(field.type):
            continue
        column = flat_column(first_table, field.name, field.path)
        for chunk in column.chunks if column is not None else ():
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


def presence_of(feature: Feature, features: Sequence[Feature]) -> Feature | None:
    """The feature that tells whether the innermost nullable struct around a feature is there."""
    around = [
        f
        for f in features
        if f.is_presence and not feature.is_presence and f.path == feature.path[: len(f.path)]
    ]
    return max(around, key=lambda f: len(f.path), default=None)


def feature_schema(features: Sequence[Feature]) -> pa.Schema:
    """The training table's schema, structs rebuilt, feature columns only, in table order."""
    return pa.schema(_nested(sorted(features, key=lambda feature: feature.position), 0))


def _nested(features: Sequence[Feature], depth: int) -> list[pa.Field]:
    """Fields of what ``features``, in table order, hold beneath one struct at ``depth``."""
    found: list[pa.Field] = []
    for name, group in groupby(features, key=lambda f: (f.path or (f.name,))[depth]):
        held = list(group)
        inner = [f for f in held if len(f.path) > depth + 1]
        if inner:
            kind = pa.struct(_nested(inner, depth + 1))
            found.append(pa.field(name, kind, nullable=len(inner) < len(held)))
        else:
            own = held[0].name if held[0].is_presence else name
            found.append(pa.field(own, held[0].type, held[0].nullable))
    return found


def _feature(
    field: FlatField,
    position: int,
    role: str | None,
    told: Collection[tuple[str, ...]],
    widths: Mapping[str, int],
) -> Feature:
    """The feature of a flat column; ``told``: the structs whose presence is learned."""
    kind = field.type
    fixed = pa.types.is_fixed_size_list(kind)
    above = any(path not in told for path in field.nullable_above)
    return Feature(
        name=field.name,
        role=cast("Role", role) if role else roles_of(kind)[0],
        type=kind,
        nullable=field.nullable or above,
        width=1 if not is_vector(kind) else kind.list_size if fixed else widths.get(field.name, 0),
        position=position,
        path=field.path if len(field.path) > 1 or field.presence else (),
    )
