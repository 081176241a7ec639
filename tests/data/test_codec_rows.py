"""Encoding and decoding rows."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from distvae.data.codec import decode, encode
from distvae.errors import DataError, DistvaeError
from tests.data.codec_cases import fit, standardised

GAP = float("nan")


def vectors(rows: list[list[float] | None], kind: pa.DataType) -> pa.Table:
    return pa.table({"v": pa.array(rows, kind)})


@pytest.mark.parametrize("kind", [pa.uint8(), pa.float16(), pa.float32()], ids=str)
def test_common_vectors_are_not_copied(kind: pa.DataType) -> None:
    flat = pa.array(np.arange(12).astype(kind.to_pandas_dtype()))
    offsets = pa.array([0, 3, 6, 9, 12], pa.int32())
    for column in (
        pa.FixedSizeListArray.from_arrays(flat, 3),
        pa.ListArray.from_arrays(offsets, flat),
        pa.LargeListArray.from_arrays(offsets.cast(pa.int64()), flat),
    ):
        table = pa.table({"v": column})
        codec = fit(table)
        for part in (table, table.slice(1, 2)):
            encoded = encode(codec, part)
            assert encoded.masks == (None,)
            memory = np.frombuffer(flat.buffers()[1], kind.to_pandas_dtype())
            assert np.shares_memory(encoded.blocks[0], memory)
            assert encoded.blocks[0].tolist() == part.column("v").to_pylist()
            assert encoded.reasons == []
            assert not encoded.rejected.any()


def test_unobserved_values_are_zero_once_standardised() -> None:
    rows = [[1, 2], None, [3, None], [5, 6], [None, None]]
    table = pa.table(
        {"x": pa.array([1.0, GAP, None, 4.0, 5.0])}
        | {
            str(kind): pa.array(rows, kind)
            for number in [pa.uint8(), pa.float16(), pa.float32(), pa.int32(), pa.float64()]
            for kind in (pa.list_(number), pa.list_(number, 2))
        }
    )
    codec = fit(table)
    encoded = encode(codec, table)
    assert encoded.reasons == ["no value observed"]
    observed = np.array([[1, 1], [0, 0], [1, 0], [1, 1], [0, 0]], bool)
    assert encoded.masks[0] is not None
    assert encoded.masks[0][:, 0].tolist() == [True, False, False, True, True]
    for columns, block, mask in zip(codec.blocks(), encoded.blocks, encoded.masks, strict=True):
        assert mask is not None
        if columns[0].feature.role == "vector":
            assert np.array_equal(mask, observed)
        if columns[0].raw and block.dtype == np.float32:
            fill = np.broadcast_to(columns[0].shift, block.shape)
            kept = ~encoded.rejected[:, None] & ~mask
            assert np.array_equal(block[kept].astype(np.float64), fill[kept])
        elif not columns[0].raw:
            assert (block[~mask] == 0).all()
    y = standardised(codec, encoded)
    assert np.isfinite(y).all()


def test_rejected_rows_have_reasons_and_zeros() -> None:
    kinds = {"x": pa.float64(), "f": pa.list_(pa.float32()), "d": pa.list_(pa.float64())}
    good = pa.table(
        {"x": [1.0, 2.0], "f": [[1.0, 2.0], [2.0, 3.0]], "d": [[1.0, 2.0], [2.0, 3.0]]},
        pa.schema(kinds),
    )
    codec = fit(good)
    inf = float("inf")
    table = pa.table(
        {
            "x": [1.0, inf, 1.0, 1.0, None, 1.0, 1e300, -inf, 1.0],
            "f": [[1, 2], [1, 2], [1, inf], [1, 2, 3], None, [1, 2], [1, 2], [1], [3e38, 1]],
            "d": [[1, 2], [1, 2], [1, 2], [1, 2], [GAP, None], [-inf, 1], [1, 2], [1], [1, 2]],
        },
        pa.schema(kinds),
    )
    encoded = encode(codec, table)
    assert encoded.rejected.tolist() == [False] + [True] * 8
    assert encoded.reasons == [
        "column 'x': infinite value",
        "vector 'f': infinite value",
        "vector 'f': length 3, must be 2",
        "no value observed",
        "vector 'd': infinite value",
        "column 'x': value beyond 1e+15 standard deviations",
        "column 'x': infinite value",
        "vector 'f': value beyond 1e+15 standard deviations",
    ]
    for block in encoded.blocks:
        assert (block[encoded.rejected] == 0).all()
        assert np.isfinite(block).all()
    assert [b[0].tolist() for b in encoded.blocks] == [[-1.0], [1.0, 2.0], [-1.0, -1.0]]


@pytest.mark.parametrize("width", [0, 1, 3])
def test_lists_of_wrong_length(width: int) -> None:
    codec = fit(vectors([[1, 2], [3, 4]], pa.list_(pa.uint8())))
    encoded = encode(codec, vectors([[1] * width, [3, 4], None], pa.list_(pa.uint8())))
    assert encoded.reasons == [f"vector 'v': length {width}, must be 2", "no value observed"]
    assert encoded.blocks[0].tolist() == [[0, 0], [3, 4], [0, 0]]


def test_large_constants_are_no_outliers() -> None:
    table = vectors([[1e20, -3e38]] * 3, pa.list_(pa.float32(), 2))
    codec = fit(table)
    assert not encode(codec, table).rejected.any()
    assert not encode(codec, pa.concat_tables([table, table])).rejected.any()


def test_chunks_slices_and_list_types_encode_alike() -> None:
    rows = [[9.0, 9.0], [1.5, None], None, [3.0, GAP], [1.0, 2.0], [7.0, 8.0]]
    scalars = pa.array([1, None, 3, 4, 5, 6], pa.int8())
    expected: list[np.ndarray] | None = None
    for kind in (pa.list_(pa.float32()), pa.large_list(pa.float32()), pa.list_(pa.float32(), 2)):
        table = pa.table({"x": scalars, "v": pa.array(rows, kind)})
        codec = fit(table)
        for part in (
            table.slice(1, 4),
            pa.concat_tables([table.slice(1, 1), table.slice(2, 0), table.slice(2, 3)]),
            pa.table(table.to_pydict(), table.schema).slice(1, 4),
        ):
            encoded = encode(codec, part)
            got = [*encoded.blocks, *(m for m in encoded.masks if m is not None)]
            expected = expected or got
            assert len(got) == 4
            assert all(np.array_equal(a, b) for a, b in zip(got, expected, strict=True))


def test_other_list_and_number_types_of_a_later_table() -> None:
    codec = fit(pa.table({"x": pa.array([1, 3], pa.int32()), "v": pa.array([[1.0, 2.0]] * 2)}))
    later = pa.table(
        {"x": pa.array([1.0, 2.0]), "v": pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float64(), 2))}
    )
    assert encode(codec, later).blocks[0].tolist() == [[-1.0], [0.0]]
    with pytest.raises(DataError, match="vector 'v': has type list<item: float>"):
        encode(codec, later.set_column(1, "v", pa.array([[1.0, 2.0]] * 2, pa.list_(pa.float32()))))
    with pytest.raises(DataError, match="column 'x': is not in the data"):
        encode(codec, later.select(["v"]))


def test_an_empty_table_encodes_and_decodes_to_empty() -> None:
    table = pa.table(
        {
            "x": pa.array([1, 2], pa.int8()),
            "v": pa.array([[1, 2], [3, 4]], pa.list_(pa.float32(), 2)),
            "w": pa.array([[1, 2], [3, 4]], pa.list_(pa.float64())),
            "u": pa.array([[1, 2], [3, 4]], pa.large_list(pa.uint8())),
        }
    )
    codec = fit(table)
    for none in (table.slice(0, 0), table.schema.empty_table(), table.slice(2, 0)):
        encoded = encode(codec, none)
        assert [block.shape for block in encoded.blocks] == [(0, 1), (0, 2), (0, 2), (0, 2)]
        assert decode(codec, standardised(codec, encoded)).equals(table.schema.empty_table())


def test_decoding_rounds_clips_and_keeps_types() -> None:
    schema = pa.schema(
        [
            pa.field("u", pa.list_(pa.field("e", pa.uint8(), nullable=False), 2), nullable=False),
            pa.field("i", pa.int16(), nullable=False),
            pa.field("f", pa.float32()),
            pa.field("whole", pa.float64()),
            pa.field("l", pa.large_list(pa.field("x", pa.int8()))),
        ]
    )
    table = pa.table(
        {
            "u": [[0, 200], [10, 255]],
            "i": [-5, 5],
            "f": [0.5, 1.5],
            "whole": [1.0, 9.0],
            "l": [[1, 2, 3]] * 2,
        },
        schema,
    )
    codec = fit(table)
    y = np.zeros((3, codec.width), np.float32)
    y[0], y[2] = -1e6, 1e6
    rows = decode(codec, y)
    assert rows.schema.equals(schema)
    assert rows.column("u").to_pylist() == [[0, 0], [5, 228], [255, 255]]
    assert rows.column("i").to_pylist() == [-5, 0, 5]
    assert rows.column("f").to_pylist() == [0.5, 1.0, 1.5]
    assert rows.column("whole").to_pylist() == [1.0, 5.0, 9.0]
    assert rows.column("l").to_pylist() == [[1, 1, 1], [1, 2, 3], [3, 3, 3]]
    rows.validate(full=True)


def test_the_largest_integers_do_not_overflow() -> None:
    table = pa.table(
        {
            "a": pa.array([2**63 - 1, -(2**63)], pa.int64()),
            "b": pa.array([2**64 - 1, 0], pa.uint64()),
        }
    )
    codec = fit(table)
    rows = decode(codec, np.array([[9, 9], [-9, -9]], np.float32))
    assert rows.column("a").to_pylist() == [2**63 - 1024, -(2**63)]
    assert rows.column("b").to_pylist() == [2**64 - 2048, 0]


def test_samples_that_cannot_be_decoded_are_a_fault() -> None:
    codec = fit(pa.table({"x": [1.0, 2.0], "y": [1.0, 2.0]}))
    for bad in (np.nan, np.inf, -np.inf):
        with pytest.raises(DistvaeError, match="column 'y': the model gave a value"):
            decode(codec, np.array([[0, 0], [0, bad]], np.float32))
    with pytest.raises(ValueError, match="samples of shape"):
        decode(codec, np.zeros((2, 3), np.float32))
