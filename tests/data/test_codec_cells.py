"""Numbers as cells and counts, on tables."""

from __future__ import annotations

from decimal import Decimal

import numpy as np
import pyarrow as pa
import pytest

from distvae.data.codec import (
    Codec,
    Policies,
    decode,
    encode,
    feature_specs,
    fit_codec,
    numbers,
)
from distvae.data.profile import profile
from distvae.data.roles import infer_features
from distvae.data.statistics import summarise
from distvae.errors import DataError, DistvaeError, UsageError
from tests.data.codec_cases import celled

GAP = float("nan")
INF = float("inf")


def test_counts_keep_their_numbers() -> None:
    table = pa.table({"n": [0, 3, 2**24, None]})
    codec = celled(table, {"n": "count"})
    later = pa.table({"n": [7.0, 2.4, -1.0, 1e9]})
    encoded = encode(codec, later)
    assert encoded.blocks[0][:, 0].tolist() == [7, 2, 0, 2**24]
    assert encoded.counts["out_of_range"] == 3
    assert decode(codec, encode(codec, table).blocks[0]).equals(table)
    spec = feature_specs(codec)[0]
    assert (spec["coding"], spec["shift"], spec["scale"]) == ("count", [0.0], 1.0)
    for values in ([-1, 2], [0.5, 2.0], [0, 2**24 + 1]):
        with pytest.raises(DataError, match=r"column 'n': has values in .*a count is a whole"):
            celled(pa.table({"n": values}), {"n": "count"})


def test_codings_that_cannot_be() -> None:
    table = pa.table({"s": ["a"], "v": pa.array([[1.0]], pa.list_(pa.float32(), 1)), "x": [1.0]})
    for name, coding in (("s", "standard"), ("v", "count"), ("v", "cells"), ("x", "cell")):
        with pytest.raises(UsageError, match=f"coding '{coding}' of (column|vector) '{name}'"):
            celled(table, {name: coding})
    features = infer_features(table.schema)
    summary = summarise(table, features[1:])
    with pytest.raises(DataError, match="column 's': has no profile"):
        fit_codec(features, summary)
    with pytest.raises(DataError, match="features: there are none"):
        fit_codec((), summarise(table, ()))


def test_a_column_without_values_is_refused() -> None:
    for kind in (pa.float64(), pa.string(), pa.timestamp("s")):
        with pytest.raises(DataError, match="column 'x': has no value in training"):
            celled(pa.table({"x": pa.array([None, None], kind)}))


def test_numbers_beyond_the_type_go_to_the_end() -> None:
    codec = celled(pa.table({"u": pa.array([5, 9], pa.uint64()), "i": [5, 9]}))
    later = pa.table({"u": pa.array([-3, 5]), "i": pa.array([2**64 - 1, 5], pa.uint64())})
    encoded = encode(codec, later)
    assert encoded.counts["out_of_range"] == 2
    assert decode(codec, encoded.blocks[0]).to_pydict() == {"u": [5, 5], "i": [9, 5]}
    floats = pa.table({"u": [1e30, 5.0], "i": [-1e30, 9.0]})
    assert decode(codec, encode(codec, floats).blocks[0]).to_pydict() == {"u": [9, 5], "i": [5, 9]}


@pytest.mark.parametrize("coding", ["cells", "standard"])
@pytest.mark.parametrize(
    "kind", [pa.decimal128(38, 4), pa.decimal256(70, 2), pa.decimal64(18, 1)], ids=str
)
def test_decimals_of_many_digits_keep_what_a_float_has(kind: pa.DataType, coding: str) -> None:
    digits = min(kind.precision, 36) - kind.scale
    values = [Decimal(f"{sign}1e{power}") for power in range(digits) for sign in ("", "-")]
    table = pa.table({"x": pa.array([*values, Decimal("0.5"), None], kind)})
    codec = Codec.from_json(celled(table, {"x": coding}).to_json())
    back = decode(codec, encode(codec, table).blocks[0])
    assert back.schema.equals(table.schema)
    back.validate(full=True)
    got, told = back.column("x").to_pylist(), table.column("x").to_pylist()
    assert got[-1] is None
    relative = 1e-15 if coding == "cells" else 1e-3
    far = 0 if coding == "cells" else 1e-6 * float(max(values))
    for a, b in zip(got[:-1], told[:-1], strict=True):
        assert float(a) == pytest.approx(float(b), rel=relative, abs=far)


def test_numbers_are_raw_and_exact() -> None:
    table = pa.table(
        {
            "d": pa.array([1, 2, None]).cast(pa.timestamp("s")),
            "n": [7, None, 2**40],
            "u": pa.array([2**64 - 1, 5, 0], pa.uint64()),
            "m": pa.array([Decimal("1.25"), Decimal("-3.50"), None]),
            "g": [0.25, 1.25, 5.25],
            "c": [0, 5, 3],
            "v": pa.array([[1.0], [2.0], None], pa.list_(pa.float32(), 1)),
        }
    )
    codec = celled(table, {"g": "standard", "c": "count"})
    x, observed = numbers(codec, encode(codec, table))
    expected = [
        [7, 2**64 - 1, 1.25, 0.25, 0, 1],
        [0, 5, -3.5, 1.25, 5, 2],
        [2**40, 0, 0, 5.25, 3, 0],
    ]
    known = np.array([[1] * 6, [0, 1, 1, 1, 1, 1], [1, 1, 0, 1, 1, 0]], bool)
    assert np.array_equal(observed, known)
    assert x[known] == pytest.approx(np.array(expected)[known], rel=1e-6)
    outside = encode(codec, table.set_column(1, "n", pa.array([-(2**39), 1, 1])))
    assert numbers(codec, outside)[0][0, 0] == pytest.approx(-(2**39), rel=1e-3)


def test_samples_of_cells_must_be_finite() -> None:
    codec = celled(pa.table({"s": ["a", None]}))
    for bad in ([GAP, 0.5], [0.5, GAP]):
        with pytest.raises(DistvaeError, match="the model gave a value that is not finite"):
            decode(codec, np.array([bad], np.float32))


def test_profiles_of_a_sample_are_enough() -> None:
    """A fit to a few rows of many knows the range of all."""
    x = np.random.default_rng(1).normal(size=5000)
    table = pa.table({"x": x})
    features = infer_features(table.schema)
    seen = profile(table, features, np.arange(5000), 5000, 7, count=500)
    codec = fit_codec(features, summarise(table, features), seen, {"x": "cells"})
    (column,) = codec.columns
    assert (column.minimum, column.maximum) == (x.min(), x.max())
    encoded = encode(codec, table)
    assert encoded.counts["out_of_range"] == 0
    back = decode(codec, encoded.blocks[0]).column("x").to_numpy()
    assert back.min() >= x.min() and back.max() <= x.max()


BETWEEN = {
    "whole floats": (pa.array(np.arange(300.0)), pa.array([3.7, 4.0, None, GAP]), [4.0, 4.0]),
    "whole numbers": (pa.array(np.arange(300)), pa.array([3.7, 4.0, None, GAP]), [4, 4]),
    "steps": (pa.array(np.arange(300) * 5), pa.array([7, 10, None, None]), [5, 10]),
    "unsigned steps": (
        pa.array(np.arange(300, dtype=np.uint64) * np.uint64(5) + np.uint64(2**63)),
        pa.array([2**63 + 6, 2**63 + 5, None, None], pa.uint64()),
        [2**63 + 5, 2**63 + 5],
    ),
    "prices": (
        pa.array(np.arange(300) / 100),
        pa.array([1.234, 1.23, None, GAP]),
        [1.23, 1.23],
    ),
    "short prices": (
        pa.array(np.arange(300) / 100, pa.float32()),
        pa.array([1.234, 1.23, None, GAP]),
        [np.float32(1.23), np.float32(1.23)],
    ),
    "prices by whole numbers": (
        pa.array(np.arange(300) / 20),
        pa.array([1.0, 2.0, None, None]).cast(pa.int64()),
        None,
    ),
    "instants": (
        pa.array(np.arange(300) * 86_400).cast(pa.timestamp("s")),
        pa.array([86_400 * 7 + 5, 86_400, None, None]).cast(pa.timestamp("s")),
        [7 * 86_400, 86_400],
    ),
}


@pytest.mark.parametrize(("train", "later", "back"), BETWEEN.values(), ids=BETWEEN)
def test_values_between_those_of_the_grid_are_counted(
    train: pa.Array, later: pa.Array, back: list[float] | None
) -> None:
    codec = celled(pa.table({"x": train}))
    assert not any(encode(codec, pa.table({"x": train})).counts.values())
    table = pa.table({"x": later, "other": pa.nulls(4)})
    encoded = encode(codec, table)
    assert encoded.counts["out_of_range"] == (back is not None)
    if back is None:
        return
    found = decode(codec, encoded.blocks[0]).column("x").slice(0, 2)
    kept = found.cast(pa.int64()) if pa.types.is_temporal(found.type) else found
    assert kept.to_pylist() == back
    rejected = encode(codec, table, Policies(out_of_range="reject"))
    assert rejected.rejected[:2].tolist() == [True, False]
    assert rejected.reasons[0].startswith("column 'x': value between those of training")
    with pytest.raises(
        DataError, match=r"value between those .* training saw steps of [\d.]+ only"
    ):
        encode(codec, table, Policies(out_of_range="error"))


@pytest.mark.parametrize("different", [100, 300])
def test_values_of_another_width_are_none_between(different: int) -> None:
    """A price in float32 or a decimal is no other price than the float64 that it was."""
    prices = pa.array(np.tile(np.arange(different) / 100, 10))
    decimals = pa.decimal128(10, 2)
    for kind in (pa.float32(), pa.float64()):
        codec = celled(pa.table({"x": prices.cast(kind)}))
        same = encode(codec, pa.table({"x": prices.cast(kind)})).blocks[0].astype(int)
        for other in (pa.float32(), pa.float64(), decimals):
            found = encode(codec, pa.table({"x": prices.cast(other)}))
            assert not any(found.counts.values())
            assert np.array_equal(found.blocks[0].astype(int), same)


@pytest.mark.parametrize("kind", [pa.float32(), pa.float64()], ids=str)
@pytest.mark.parametrize("digits", [1, 2, 3, 4])
def test_floats_of_few_digits_come_back_with_them(kind: pa.DataType, digits: int) -> None:
    """Decoded values, drawn ones too, are the very floats that the digits stand for."""
    rng = np.random.default_rng(digits)
    keys = np.concatenate([rng.integers(-200_000, 200_000, 3000), [0, 1]])
    train = pa.table({"x": pa.array(keys / 10.0**digits).cast(kind)})
    codec = Codec.from_json(celled(train).to_json())
    (column,) = codec.columns
    assert column.cells is not None
    assert column.cells.grid is not None
    assert column.cells.grid.digits == digits
    y = rng.uniform(0, column.cells.count, (5000, 1)).astype(np.float32)
    texts = [f"{v:.{digits}f}" for v in decode(codec, y).column("x").to_pylist()]
    assert (
        decode(codec, y)
        .column("x")
        .equals(pa.chunked_array([pa.array([float(t) for t in texts]).cast(kind)]))
    )
    spec = feature_specs(codec)[0]["cells"]
    assert spec["whole"]
    inside = [low <= 0.0 <= high for low, high in zip(spec["low"], spec["high"], strict=True)]
    assert sum(inside) == 1
    exact = encode(codec, train)
    assert exact.counts["out_of_range"] == 0
    span = column.cells.spans[np.floor(exact.blocks[0][:, 0]).astype(int)]
    same = np.equal(decode(codec, exact.blocks[0]).column("x"), train.column("x"))
    assert same[span < 4096].all()


def test_floats_that_have_digits_by_chance_or_too_many_have_intervals() -> None:
    rng = np.random.default_rng(0)
    for values in (
        rng.normal(size=500),
        np.append(np.arange(300) / 100, 0.12345),
        rng.uniform(2.0**40, 2.0**41, 500),
        np.arange(300) / 4 + 2.0**50,
    ):
        (column,) = celled(pa.table({"x": values})).columns
        assert column.cells is not None
        assert not column.cells.whole
    # As float32, all numbers beyond 2^14 are multiples of 10^-4.
    (column,) = celled(pa.table({"x": rng.uniform(2e4, 3e4, 500).astype(np.float32)})).columns
    assert column.cells is not None
    assert not column.cells.whole
