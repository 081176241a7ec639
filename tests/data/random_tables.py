"""Random tables of all roles, for property tests."""

from __future__ import annotations

import decimal

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from hypothesis import strategies as st

__all__ = ["tables"]

GAP = float("nan")
INTS = [pa.int8(), pa.int16(), pa.int32(), pa.int64()]
INTS += [pa.uint8(), pa.uint16(), pa.uint32(), pa.uint64()]
FLOATS = [pa.float16(), pa.float32(), pa.float64()]
DECIMALS = [pa.decimal128(5, 2), pa.decimal128(18, 6), pa.decimal256(12, 0), pa.decimal64(9, 3)]
TEXTS = [pa.string(), pa.large_string(), pa.string_view(), pa.dictionary(pa.int8(), pa.string())]
DATES = [
    pa.date32(),
    pa.date64(),
    pa.timestamp("ns", "Europe/Berlin"),
    pa.timestamp("s"),
    pa.time32("ms"),
    pa.time64("us"),
    pa.duration("us"),
]
KINDS = [*INTS, *FLOATS, *DECIMALS, *TEXTS, *DATES, pa.bool_()]
KINDS += [pa.dictionary(pa.int32(), pa.int64(), ordered=True)]


@st.composite
def arrays(draw: st.DrawFn, rows: int) -> tuple[pa.Array, bool]:
    """A column of any scalar type, a few different values up to hundreds, perhaps with holes."""
    kind = draw(st.sampled_from(KINDS))
    rng = np.random.default_rng(draw(st.integers(0, 2**32)))
    different = draw(st.sampled_from([1, 2, 5, 200]))
    base = kind.value_type if pa.types.is_dictionary(kind) else kind
    if kind.equals(pa.string_view()):
        base = pa.string()  # Arrow takes no values of a view
    if kind.equals(pa.dictionary(pa.int8(), pa.string())):
        different = min(different, 100)
    pool = _pool(draw, base, rng, different)
    held = pool.take(pa.array(rng.integers(0, len(pool), rows)))
    nullable = draw(st.booleans())
    if nullable:
        share = draw(st.sampled_from([0.0, 0.2, 1.0]))
        hole = rng.random(rows) < share
        hole[draw(st.integers(0, rows - 1))] = False
        held = pc.if_else(pa.array(hole), pa.scalar(None, base), held)
    if pa.types.is_floating(base) and draw(st.booleans()):
        hole = rng.random(rows) < 0.3
        hole[pc.is_valid(held).to_numpy(zero_copy_only=False).argmax()] = False
        held = pc.if_else(pa.array(hole), pa.scalar(GAP, pa.float64()).cast(base), held)
    if not pa.types.is_dictionary(kind):
        return held.cast(kind), nullable
    coded = held.dictionary_encode()
    indices = coded.indices.cast(kind.index_type)
    return pa.DictionaryArray.from_arrays(indices, coded.dictionary, ordered=kind.ordered), nullable


def _pool(draw: st.DrawFn, kind: pa.DataType, rng: np.random.Generator, size: int) -> pa.Array:
    if pa.types.is_boolean(kind):
        return pa.array([True, False][:size])
    if pa.types.is_string(kind) or pa.types.is_large_string(kind):
        texts = draw(st.lists(st.text(max_size=6), min_size=1, max_size=5))
        return pa.array([*texts, *(f"Wert {i} ☃" for i in range(size))], kind)
    if pa.types.is_decimal(kind):
        top = 10**kind.precision - 1
        found = [0, top, -top, *rng.integers(-top, top, size).tolist()][-size - 1 :]
        scale = decimal.Context(prec=60).scaleb(decimal.Decimal(1), -kind.scale)
        return pa.array([decimal.Decimal(x) * scale for x in found], kind)
    if pa.types.is_floating(kind):
        return _floats(draw, kind, rng, size)
    return _whole(draw, kind, rng, size)


def _floats(draw: st.DrawFn, kind: pa.DataType, rng: np.random.Generator, size: int) -> pa.Array:
    dtype = np.dtype(kind.to_pandas_dtype())
    info = np.finfo(dtype)
    top = min(float(info.max), 1e100)  # training refuses more
    extremes = [top, -top, info.smallest_subnormal, 0.0, -0.0]
    style = draw(st.sampled_from(["normal", "extreme", "whole", "heavy", "cents"]))
    x = rng.normal(size=size)
    if style == "extreme":
        x = np.concatenate([extremes, x])
    if style == "whole":
        x = np.rint(x * 100)
    if style == "cents":
        x = np.rint(x * 1000) / 100
    if style == "heavy":
        x = np.minimum(np.exp(x * 3), top)
    return pa.array(x.astype(dtype), kind)


def _whole(draw: st.DrawFn, kind: pa.DataType, rng: np.random.Generator, size: int) -> pa.Array:
    bits = kind.bit_width
    low, high = -(2 ** (bits - 1)), 2 ** (bits - 1) - 1
    if pa.types.is_unsigned_integer(kind):
        low, high = 0, 2**bits - 1
    if pa.types.is_time(kind):
        low, high = 0, 86_400_000 - 1
    if pa.types.is_date64(kind):
        days = rng.integers(-10_000, 10_000, size).astype(np.int32)
        return pa.array(days).cast(pa.date32()).cast(kind)
    near = draw(st.booleans())
    x = [int(v) for v in rng.integers(max(low, -500), min(high, 500), size, endpoint=True)]
    if not near:
        x = [*(int(low + (high - low) * u) for u in rng.random(size)), low, high]
    dtype = f"{'u' if low == 0 and bits > 31 and pa.types.is_integer(kind) else ''}int{bits}"
    if pa.types.is_integer(kind):
        return pa.array(x, kind)
    memory = np.array(x, dtype)
    return pa.Array.from_buffers(kind, len(x), [None, pa.py_buffer(memory)])


@st.composite
def tables(draw: st.DrawFn) -> pa.Table:
    rows = draw(st.sampled_from([1, 3, 60, 400]))
    names = draw(st.lists(st.text("ab.é ", max_size=4), min_size=1, max_size=5, unique=True))
    held = [(name, *draw(arrays(rows))) for name in names]
    table = pa.Table.from_arrays(
        [a if isinstance(a, pa.ChunkedArray) else pa.chunked_array([a]) for _, a, _ in held],
        schema=pa.schema([pa.field(name, a.type, nullable) for name, a, nullable in held]),
    )
    if draw(st.booleans()) and rows > 1:
        x = np.arange(rows * 2, dtype=np.float32).reshape(rows, 2)
        lists = [None if draw(st.booleans()) and i % 3 == 2 else row for i, row in enumerate(x)]
        table = table.append_column("vector column", pa.array(lists, pa.list_(pa.float32(), 2)))
    if draw(st.booleans()):
        return _with_struct(table, draw(st.booleans()))
    return table


def _with_struct(table: pa.Table, nullable: bool) -> pa.Table:
    """The first column inside a struct, present in some rows only."""
    rows = table.num_rows
    first = table.column(0).combine_chunks()
    first = pa.concat_arrays(first.chunks) if isinstance(first, pa.ChunkedArray) else first
    known = pc.is_valid(first).to_numpy(zero_copy_only=False)
    if pa.types.is_floating(first.type):
        known &= ~np.isnan(pc.fill_null(first, 0).to_numpy(zero_copy_only=False))
    absent = np.arange(rows) % 4 == 3
    absent[known.argmax()] = False
    mask = pa.array(absent) if nullable else None
    field = pa.field("inner", first.type, nullable=True)
    struct = pa.StructArray.from_arrays([first], fields=[field], mask=mask)
    return table.append_column(pa.field("a struct", struct.type, nullable), struct)
