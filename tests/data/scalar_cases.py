"""Columns of every scalar type, with nulls, extremes and, in dictionaries, null values."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa

__all__ = ["EXACT", "categories", "numbers"]

EXACT = Decimal("12345678901234567890123456789.123")
"""Digits that float64 cannot hold."""


def numbers() -> dict[str, pa.ChunkedArray]:
    """Four rows each: the smallest value, null, the largest value, one between."""
    whole = {
        str(kind): _of([limits.min, None, limits.max, 1], kind)
        for kind in (pa.int8(), pa.int16(), pa.int64(), pa.uint8(), pa.uint64())
        for limits in [np.iinfo(kind.to_pandas_dtype())]
    }
    floats = {
        str(kind): _of(np.array([-2.5, np.nan, np.inf, 1.0]).astype(kind.to_pandas_dtype()), kind)
        for kind in (pa.float16(), pa.float32(), pa.float64())
    }
    decimals = {
        str(kind): _of([-one, None, one, Decimal(0)], kind)
        for kind, one in (
            (pa.decimal32(5, 2), Decimal("999.99")),
            (pa.decimal64(18, 0), Decimal(10) ** 18 - 1),
            (pa.decimal128(38, 3), EXACT),
            (pa.decimal256(70, 3), EXACT * 10**30),
        )
    }
    times = {
        str(kind): _of(
            [-low, None, 86_399, 7], pa.int32() if kind.bit_width == 32 else pa.int64(), kind
        )
        for kind, low in (
            (pa.date32(), 700_000),
            (pa.date64(), 86_400_000),
            (pa.time32("s"), 0),
            (pa.time64("ns"), 0),
            (pa.duration("us"), 2**62),
            (pa.timestamp("s"), 2**62),
            (pa.timestamp("ns", "Europe/Paris"), 2**62),
        )
    }
    return whole | floats | decimals | times


def categories() -> dict[str, pa.ChunkedArray]:
    """Six rows each: b, null, a, b, null, a; dictionaries differ between chunks."""
    texts = ["b", None, "a", "b", None, "a"]
    plain = {
        str(kind): _of(texts, kind) for kind in (pa.string(), pa.large_string(), pa.string_view())
    }
    coded = {}
    for index in (pa.int8(), pa.uint8(), pa.int32(), pa.uint64()):
        for kind in (pa.string(), pa.large_string()):
            first = _coded([1, None, 2], ["unused", "b", "a"], index, kind)
            second = _coded([2, 1, 0], ["a", None, "b"], index, kind)
            coded[f"{index} {kind}"] = pa.chunked_array([first, second])
    return plain | coded


def _coded(
    codes: list[int | None], values: list[str | None], index: pa.DataType, kind: pa.DataType
) -> pa.DictionaryArray:
    return pa.DictionaryArray.from_arrays(pa.array(codes, index), pa.array(values, kind))


def _of(values: object, kind: pa.DataType, view: pa.DataType | None = None) -> pa.ChunkedArray:
    whole = pa.array(values, kind)
    whole = whole if view is None else whole.view(view)
    return pa.chunked_array([whole[:1], whole[1:]])
