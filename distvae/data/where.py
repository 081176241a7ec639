"""``--where``: a small language for choosing rows, parsed and never evaluated as Python."""

from __future__ import annotations

import ast
import difflib
import operator
import re
from collections.abc import Callable, Mapping
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from distvae.data.failures import first_line
from distvae.errors import UsageError

__all__ = ["columns_of", "parse_where"]

_RULE = (
    "a condition compares columns with texts, numbers, True or False by == != < <= > >=, "
    "in (...), is None, joined by and, or, not"
)
_COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
}
_QUOTED = re.compile(r"""('(?:\\.|[^'\\])*'|"(?:\\.|[^"\\])*")|`([^`]*)`""")


def parse_where(text: str, schema: pa.Schema) -> pc.Expression:
    """Return the condition on rows that ``text`` states, e.g. ``age >= 18 and city in ('A', 'B')``.

    Names with spaces or signs stand in backticks, as in pandas: ``` `capital gain` > 0```. Dates
    and times are compared with texts such as ``'2024-05-01'``. As in SQL, a comparison with a
    missing value is neither true nor false, so its row is left out, under ``not`` as well; ``is
    None`` finds it.

    Args:
        text: the condition.
        schema: columns that it may use.

    Raises:
        UsageError: syntax, an unknown column (naming the closest), a column compared with a value
            that its type does not know, or anything that is not a condition.
    """
    tree, names = _parsed(text)
    try:
        expression = _condition(tree, _Scope(schema, names))
        schema.empty_table().filter(expression)
    except RecursionError as error:
        raise _refusal("is nested too deeply") from error
    except (pa.ArrowException, TypeError) as error:
        raise _refusal(f"does not fit the columns' types ({first_line(error)})") from error
    return expression


def columns_of(text: str) -> tuple[str, ...]:
    """Return the names of the columns that a condition uses, each once, as they first appear.

    Raises:
        UsageError: syntax.
    """
    tree, names = _parsed(text)
    used = [node for node in ast.walk(tree) if isinstance(node, ast.Name)]
    used.sort(key=lambda node: node.col_offset)
    return tuple(dict.fromkeys(names.get(node.id, node.id) for node in used))


class _Scope:
    """The columns of a schema, by the names that the parsed text has for them."""

    def __init__(self, schema: pa.Schema, names: Mapping[str, str]) -> None:
        self._schema = schema
        self._names = names

    def field(self, node: ast.Name) -> pa.Field:
        """Return the column that a name stands for."""
        name = self._names.get(node.id, node.id)
        if name in self._schema.names:
            return self._schema.field(name)
        close = difflib.get_close_matches(name, self._schema.names, 1)
        shown = ", ".join(self._schema.names[:8]) + (", ..." if len(self._schema.names) > 8 else "")
        remedy = f"did you mean {close[0]!r}?" if close else f"columns are: {shown}"
        raise UsageError("--where", f"{name!r} is not a column", "", remedy)


def _parsed(text: str) -> tuple[ast.expr, dict[str, str]]:
    """Return the syntax tree, and the column behind each identifier that replaced backticks."""
    names: dict[str, str] = {}
    stem = "column"
    while stem in text:
        stem += "_"

    def replaced(match: re.Match[str]) -> str:
        if match[1] is not None:
            return match[1]
        identifier = f"{stem}{len(names)}"
        names[identifier] = match[2]
        return identifier

    try:
        tree = ast.parse(_QUOTED.sub(replaced, text.replace("\n", " ")).strip(), mode="eval").body
    except (SyntaxError, ValueError, RecursionError, MemoryError) as error:
        reason = error.msg if isinstance(error, SyntaxError) else str(error)
        remedy = "write == for equality" if re.search(r"[^=!<>]=[^=]", text) else ""
        raise UsageError("--where", f"cannot be read ({reason})", _RULE, remedy) from error
    return tree, names


def _condition(node: ast.expr, scope: _Scope) -> pc.Expression:
    if isinstance(node, ast.BoolOp):
        parts = [_condition(value, scope) for value in node.values]
        join = operator.and_ if isinstance(node.op, ast.And) else operator.or_
        whole = parts[0]
        for part in parts[1:]:
            whole = join(whole, part)
        return whole
    if isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        return ~_condition(node.operand, scope)
    if isinstance(node, ast.Compare):
        return _chain(node, scope)
    if isinstance(node, ast.Name):
        field = scope.field(node)
        if not pa.types.is_boolean(field.type):
            raise _refusal(f"{field.name!r} alone is no condition", "compare it with a value")
        return pc.field(field.name)
    raise _refusal(f"{_shown(node)!r} is no condition", _hint(node))


def _chain(node: ast.Compare, scope: _Scope) -> pc.Expression:
    sides = [node.left, *node.comparators]
    parts = [
        _comparison(left, op, right, scope)
        for left, op, right in zip(sides[:-1], node.ops, sides[1:], strict=True)
    ]
    whole = parts[0]
    for part in parts[1:]:
        whole = whole & part
    return whole


def _comparison(left: ast.expr, op: ast.cmpop, right: ast.expr, scope: _Scope) -> pc.Expression:
    if isinstance(op, ast.Is | ast.IsNot):
        field = _column(left, scope)
        if not (isinstance(right, ast.Constant) and right.value is None):
            raise _refusal("'is' stands before something else than None", "write == for equality")
        expression = pc.field(field.name)
        return expression.is_null() if isinstance(op, ast.Is) else expression.is_valid()
    if isinstance(op, ast.In | ast.NotIn):
        inside = _membership(_column(left, scope), right)
        return inside if isinstance(op, ast.In) else ~inside
    compare = _COMPARE[type(op)]
    if isinstance(left, ast.Name) and isinstance(right, ast.Name):
        return compare(pc.field(scope.field(left).name), pc.field(scope.field(right).name))
    if isinstance(left, ast.Name):
        field = scope.field(left)
        return compare(pc.field(field.name), pc.scalar(_literal(right, field)))
    if isinstance(left, ast.Constant) and isinstance(right, ast.Constant):
        raise _refusal(f"'{_shown(left)}' and '{_shown(right)}' are compared, but no column")
    if not isinstance(right, ast.Name):
        raise _no_column(right if isinstance(left, ast.Constant) else left)
    field = scope.field(right)
    return compare(pc.scalar(_literal(left, field)), pc.field(field.name))


def _column(node: ast.expr, scope: _Scope) -> pa.Field:
    if not isinstance(node, ast.Name):
        raise _no_column(node)
    return scope.field(node)


def _no_column(node: ast.expr) -> UsageError:
    return _refusal(f"{_shown(node)!r} is no column", _hint(node))


def _membership(field: pa.Field, node: ast.expr) -> pc.Expression:
    if not isinstance(node, ast.Tuple | ast.List | ast.Set) or not node.elts:
        raise _refusal(
            f"{_shown(node)!r} after 'in' is no list", "write in ('a', 'b') or in (1, 2)"
        )
    scalars = [_literal(element, field) for element in node.elts]
    kinds = {scalar.type for scalar in scalars}
    kind = kinds.pop() if len(kinds) == 1 else pa.float64()
    expression = pc.field(field.name)
    found = expression.isin(pa.array([scalar.as_py() for scalar in scalars], kind))
    # is_in is false on null, where == is null: `not` would turn the one to true.
    return pc.if_else(expression.is_valid(), found, pa.scalar(None, pa.bool_()))


def _literal(node: ast.expr, field: pa.Field) -> pa.Scalar:
    """Return a literal in the type in which a column of this type is compared with it."""
    try:
        value = ast.literal_eval(node)
    except (ValueError, TypeError) as error:
        value = f"{_shown(node)!r} is no text, number, True or False"
        raise _refusal(value, _hint(node)) from error
    if value is None:
        raise _refusal("== None is never true", "write is None or is not None")
    kind = field.type.value_type if pa.types.is_dictionary(field.type) else field.type
    try:
        scalar = _scalar(value, kind)
    except (pa.ArrowException, OverflowError):
        scalar = None
    if scalar is None:
        raise _refusal(f"{value!r} does not fit column {field.name!r} of type {field.type}")
    return scalar


def _scalar(value: Any, kind: pa.DataType) -> pa.Scalar | None:
    """Return a literal as a scalar to compare with columns of a type; None where none fits."""
    if isinstance(value, bool) or pa.types.is_boolean(kind):
        fits = isinstance(value, bool) and pa.types.is_boolean(kind)
        return pa.scalar(value) if fits else None
    if isinstance(value, str):
        if pa.types.is_temporal(kind):
            return pa.scalar(value).cast(kind)
        texts = pa.types.is_string(kind) or pa.types.is_large_string(kind)
        return pa.scalar(value, kind) if texts else None
    return _number(value, kind) if isinstance(value, int | float) else None


def _number(value: float, kind: pa.DataType) -> pa.Scalar | None:
    if pa.types.is_floating(kind):
        return pa.scalar(float(value), kind)
    if pa.types.is_uint64(kind) and isinstance(value, int) and value >= 0:
        return pa.scalar(value, kind)
    exact = pa.types.is_integer(kind) or pa.types.is_decimal(kind)
    return pa.scalar(value) if exact else None


def _shown(node: ast.expr) -> str:
    text = ast.unparse(node)
    return text if len(text) <= 60 else text[:57] + "..."


def _hint(node: ast.expr) -> str:
    if isinstance(node, ast.BinOp) and isinstance(node.op, ast.BitAnd | ast.BitOr):
        return "write and, or"
    if isinstance(node, ast.BinOp | ast.Attribute):
        return "put a column's name with spaces or signs in backticks"
    return ""


def _refusal(value: str, remedy: str = "") -> UsageError:
    return UsageError("--where", value, _RULE, remedy)
