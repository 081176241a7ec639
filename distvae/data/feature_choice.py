"""Which flat columns a table's features come from, and which roles their types take."""

from __future__ import annotations

import difflib
import reprlib
from collections import Counter
from collections.abc import Collection, Iterable, Mapping, Sequence
from typing import Literal, get_args

import pyarrow as pa

from distvae.data.arrow_types import is_category, is_date, is_number, is_vector
from distvae.data.flatten import FlatField, flat_fields
from distvae.errors import DataError, UsageError

__all__ = [
    "SKIP",
    "Chosen",
    "Role",
    "choose_fields",
    "refuse_useless",
    "require_known",
    "roles_of",
    "why_unusable",
]

Role = Literal["continuous", "count", "boolean", "categorical", "datetime", "vector"]
Chosen = list[tuple[int, FlatField]]

SKIP = "skip"
"""The role that a column is given to be left out."""

_LONGEST_TYPE = 60


def roles_of(kind: pa.DataType) -> tuple[Role, ...]:
    """The roles that a column of this type can take, the one it suggests first; () for none."""
    if is_number(kind):
        return ("continuous", "count", "categorical")
    if pa.types.is_boolean(kind):
        return ("boolean", "categorical")
    if is_date(kind):
        return ("datetime", "categorical")
    if is_category(kind):
        return ("categorical",)
    return ("vector",) if is_vector(kind) else ()


def why_unusable(kind: pa.DataType) -> str:
    """Why a column of a type without a role is no feature."""
    if pa.types.is_fixed_size_list(kind) and kind.list_size < 1:
        return "has lists of length 0"
    text = str(kind)
    return f"has type {text if len(text) <= _LONGEST_TYPE else text[: _LONGEST_TYPE - 1] + '…'}"


def choose_fields(
    schema: pa.Schema, include: Sequence[str], exclude: Sequence[str], roles: Mapping[str, str]
) -> Chosen:
    """Position and field of each flat column asked for, those of unusable types too.

    The name of a struct stands for all that it holds; whether a struct is present comes with any
    usable field beneath it, unless it is excluded by its own name.

    Raises:
        UsageError: an unknown name, one both included and excluded, a role that is none or that
            the column's type does not take.
        DataError: a name that occurs twice.
    """
    flat = flat_fields(schema)
    structs = {".".join(f.path[:depth]) for f in flat for depth in range(1, len(f.path))}
    known = list(dict.fromkeys([*schema.names, *(f.name for f in flat), *sorted(structs)]))
    for option, names in (("include", include), ("exclude", exclude), ("role", roles)):
        require_known(option, names, known)
    if both := sorted(set(include) & set(exclude)):
        raise UsageError(
            "exclude", f"{both[0]!r} is also in include", "a column is one or the other"
        )
    _check_roles(flat, roles)
    dropped = {*exclude, *(name for name, role in roles.items() if role == SKIP)}
    chosen = [
        (position, field)
        for position, field in enumerate(flat)
        if not _names(field) & dropped
        and (field.presence or not include or _names(field) & set(include))
    ]
    usable = [field for _, field in chosen if not field.presence and roles_of(field.type)]
    held = {field.path[:depth] for field in usable for depth in range(1, len(field.path))}
    chosen = [(place, field) for place, field in chosen if not field.presence or field.path in held]
    _refuse_repeated([field.name for _, field in chosen])
    return chosen


def refuse_useless(chosen: Chosen, include: Collection[str]) -> None:
    """Refuse an empty selection, and an included name that gives no feature.

    Raises:
        DataError: naming all the columns in the way in one line.
    """
    usable = [field for _, field in chosen if roles_of(field.type)]
    wrong = {f.name: why_unusable(f.type) for _, f in chosen if not roles_of(f.type)}
    if usable:
        useless = set(include).difference(*(_names(field) for field in usable))
        wrong = {
            f.name: wrong[f.name] for _, f in chosen if f.name in wrong and _names(f) & useless
        }
        if not wrong:
            return
    if not wrong:
        raise DataError("features", "no column is left", "at least one must be", "see --include")
    first, *rest = wrong
    found = ", ".join(f"{name!r} {wrong[name]}" for name in rest)
    raise DataError(
        f"column {first!r}",
        wrong[first] + (f" (and {found})" if found else ""),
        "features are numbers, truth values, categories, dates and times, and lists of numbers",
        "leave it out with " + " ".join(f"--exclude {name}" for name in wrong),
    )


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


def _names(field: FlatField) -> set[str]:
    """All names that an option may call the field by: its own and those of the structs above."""
    above = range(1, len(field.path) + field.presence)
    return {field.name, *(".".join(field.path[:depth]) for depth in above)}


def _check_roles(flat: Sequence[FlatField], roles: Mapping[str, str]) -> None:
    allowed = {field.name: (*roles_of(field.type), SKIP) for field in flat}
    for name, role in roles.items():
        if role not in allowed.get(name, (SKIP,)):
            rule = f"its roles are {', '.join(allowed.get(name, (SKIP,)))}"
            if role not in (*get_args(Role), SKIP):
                rule = f"the roles are {', '.join((*get_args(Role), SKIP))}"
            raise UsageError("role", f"{name}={role}", rule)


def _refuse_repeated(names: Sequence[str]) -> None:
    for name, times in Counter(names).items():
        if times > 1:
            raise DataError(f"column {name!r}", "occurs twice", "names must differ", "rename one")
