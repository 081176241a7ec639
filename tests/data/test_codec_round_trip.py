"""decode(encode(x)) over random schemas and values."""

from __future__ import annotations

from typing import Any

import numpy as np
import pyarrow as pa
from hypothesis import given, settings
from hypothesis import strategies as st

from distvae.data.codec import Codec, Column, decode, encode
from tests.data.codec_cases import fit, standardised

GAP = float("nan")
INTS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
INTS += [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    """Any schema of continuous and vector columns, with nulls, NaN and extreme values."""
    rows = draw(st.integers(1, 12))
    names = draw(st.lists(st.text(max_size=5), min_size=1, max_size=4, unique=True))
    columns: dict[str, pa.Array] = {}
    fields = []
    for name in names:
        kind = draw(st.sampled_from(INTS + FLOATS))
        nullable = draw(st.booleans())
        value = _values(kind)
        column: Any = st.one_of(value, st.none()) if nullable else value
        if draw(st.booleans()):
            width = draw(st.integers(1, 4))
            inner = draw(st.booleans())
            element = st.one_of(value, st.none()) if inner else value
            column = st.lists(element, min_size=width, max_size=width)
            column = st.one_of(column, st.none()) if nullable else column
            child = pa.field(draw(st.text(max_size=3)), kind, nullable=inner)
            fixed = pa.list_(child, width)
            kind = draw(st.sampled_from([fixed, pa.list_(child), pa.large_list(child)]))
        held = draw(st.lists(column, min_size=rows, max_size=rows))
        if pa.types.is_list(kind) or pa.types.is_large_list(kind):
            held[0] = held[0] or next((h for h in held if h), [0] * width)
        columns[name] = pa.array(held, kind)
        fields.append(pa.field(name, kind, nullable))
    return pa.table(columns, schema=pa.schema(fields))


def _values(kind: pa.DataType) -> st.SearchStrategy[Any]:
    if pa.types.is_integer(kind):
        info = np.iinfo(kind.to_pandas_dtype())
        near = st.integers(max(-9, int(info.min)), 9)
        return st.one_of(near, st.integers(int(info.min), int(info.max)))
    width = kind.bit_width
    top = {16: 60000.0, 32: float(np.float32(1e38)), 64: 1e90}[width]
    return st.one_of(
        st.just(GAP),
        st.floats(-100, 100, width=width),
        st.floats(-top, top, width=width),
    ).map(lambda x: np.float16(x) if width == 16 else x)


@given(table=tables(), cut=st.integers(0, 11))
@settings(max_examples=150, deadline=None)
def test_round_trip(table: pa.Table, cut: int) -> None:
    """decode(encode(x)) is x to float32's precision of the spread, in exactly the same schema."""
    codec = fit(table)
    assert Codec.from_json(codec.to_json()).to_json() == codec.to_json()
    part = table.slice(min(cut, table.num_rows - 1))
    encoded = encode(codec, part)
    assert set(encoded.reasons) <= {"no value observed"}
    y = standardised(codec, encoded)
    assert np.isfinite(y).all()
    rows = decode(codec, y)
    assert rows.schema.equals(table.schema)
    rows.validate(full=True)
    for column in codec.columns:
        _check_column(column, part, rows, ~encoded.rejected)


def _check_column(column: Column, before: pa.Table, after: pa.Table, kept: np.ndarray) -> None:
    name, width = column.feature.name, column.feature.width
    x, back = (_as_floats(table.column(name), width)[kept] for table in (before, after))
    observed = ~np.isnan(x)
    reach = max(abs(column.minimum), abs(column.maximum))
    shift = np.abs(column.shift).max() if column.raw else 0.0
    allowed = 4e-7 * (np.abs(x - column.shift) + shift) + 1e-15 * reach
    allowed += np.finfo(column.feature.element).eps * reach if not column.integer else 0.5
    if column.integer:
        allowed = np.where(allowed < 0.9, 0.0, allowed + 1)
    assert (np.abs(back - x)[observed] <= allowed[observed]).all()
    assert not np.isnan(back).any()
    assert (back >= column.minimum - 1e-15 * reach).all()
    assert (back <= column.maximum + 1e-15 * reach).all()
    if column.feature.element.kind in "iu":
        assert (back == np.rint(back)).all()


def _as_floats(column: pa.ChunkedArray, width: int) -> np.ndarray:
    """Independent of the codec: through Python objects."""
    rows = column.to_pylist()
    if pa.types.is_nested(column.type):
        lists = [[None] * width if row is None else row for row in rows]
    else:
        lists = [[row] for row in rows]
    return np.array(lists, dtype=np.float64).reshape(-1, width)
