from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from decimal import Decimal
from functools import reduce
from itertools import pairwise

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distvae.data import statistics
from distvae.data.arrow_values import row_slices
from distvae.data.flatten import flatten_table
from distvae.data.roles import Feature, infer_features, peek_widths
from distvae.data.statistics import (
    Summary,
    covariance,
    merge,
    select,
    summarise,
    summary_from_bytes,
    summary_to_bytes,
)
from distvae.errors import DataError

Floats = npt.NDArray[np.float64]


def features_of(table: pa.Table) -> tuple[Feature, ...]:
    return infer_features(table.schema, widths=peek_widths(table, table.schema))


def of_array(x: Floats) -> pa.Table:
    """Rows (n, D) as one fixed-size float64 list column, NaN kept."""
    flat = pa.array(x.reshape(-1))
    return pa.table({"v": pa.FixedSizeListArray.from_arrays(flat, x.shape[1])})


def summed(tables: Sequence[pa.Table]) -> Summary:
    return reduce(merge, [summarise(table, features_of(tables[0])) for table in tables])


def same(a: Summary, b: Summary) -> bool:
    left, right = dataclasses.asdict(a), dataclasses.asdict(b)
    return all(np.array_equal(left[key], right[key]) for key in left)


def check_against_numpy(summary: Summary, x: Floats) -> None:
    """Against numpy on the rows with each NaN replaced by its column's mean."""
    observed = ~np.isnan(x)
    # Taking the minimum away keeps numpy's own cancellation out of the comparison.
    low = np.nanmin(x, axis=0)
    centred = x - low
    centred = np.where(observed, centred, np.nanmean(centred, axis=0))
    mean = low + centred.mean(axis=0)
    expected = np.cov(centred, rowvar=False, bias=True).reshape(x.shape[1], x.shape[1])
    got_mean, got = covariance(summary)
    spread = np.sqrt(np.outer(expected.diagonal(), expected.diagonal()))
    size = np.nanmax(np.abs(x), axis=0)
    assert (np.abs(got_mean - mean) <= 1e-15 * size + 1e-13 * spread.diagonal()).all()
    assert (np.abs(got - expected) <= 1e-9 * spread).all()
    deviation = np.where(observed, centred - centred.mean(axis=0), 0.0)
    assert np.allclose(summary.m2, (deviation**2).sum(axis=0), rtol=1e-9, atol=0)
    assert np.array_equal(summary.count, observed.sum(axis=0))
    assert np.array_equal(summary.missing, (~observed).sum(axis=0))
    assert np.array_equal(summary.minimum, np.nanmin(x, axis=0))
    assert np.array_equal(summary.maximum, np.nanmax(x, axis=0))


@pytest.mark.parametrize("missing", [0.0, 0.3])
@pytest.mark.parametrize("offset", [0.0, 1e3, -1e6, 1e7])
@pytest.mark.parametrize("cuts", [[], [1], [3, 400, 401], [900]])
def test_moments_equal_numpys(missing: float, offset: float, cuts: list[int]) -> None:
    rng = np.random.default_rng(5)
    x = rng.normal(size=(1000, 6)) @ rng.normal(size=(6, 6)) + offset * np.arange(6)
    x[rng.random(x.shape) < missing] = np.nan
    edges = [0, *cuts, len(x)]
    parts = [of_array(x[a:b]) for a, b in pairwise(edges)]
    check_against_numpy(summed(parts), x)


def test_drifting_data_keeps_its_digits() -> None:
    """Fragments far from one another: no provisional shift would suit all of them."""
    rng = np.random.default_rng(6)
    x = rng.normal(size=(3000, 3)) + np.repeat([0.0, 1e6, -1e6], 1000)[:, np.newaxis]
    x[rng.random(x.shape) < 0.1] = np.nan
    check_against_numpy(summed([of_array(part) for part in np.split(x, 10)]), x)


@pytest.mark.parametrize("offset", [0.0, 1e6])
def test_slices_inside_a_table_change_nothing(
    monkeypatch: pytest.MonkeyPatch, offset: float
) -> None:
    """Complete slices, then missing values, and an element first observed in a later slice."""
    rng = np.random.default_rng(7)
    x = rng.normal(size=(900, 4)) + offset
    x[5::7, 2] = np.nan
    x[:300, 3] = np.nan
    cuts = [slice(0, 1), slice(1, 5), slice(5, 300), slice(300, 301), slice(301, 900)]
    monkeypatch.setattr(statistics, "row_slices", lambda *_, **__: iter(cuts))
    check_against_numpy(summarise(of_array(x), features_of(of_array(x))), x)
    check_against_numpy(summarise(of_array(x[:, :2]), features_of(of_array(x[:, :2]))), x[:, :2])


def test_slices_cover_the_rows() -> None:
    for n, width, least in ((0, 1, 1), (10, 1, 1), (300_000, 2, 1), (9000, 784, 784), (5, 9**9, 2)):
        cuts = list(row_slices(n, width, at_least=least))
        assert [row for cut in cuts for row in (cut.start, cut.stop)][1:-1:2] == [
            cut.start for cut in cuts[1:]
        ]
        assert sum(cut.stop - cut.start for cut in cuts) == n
        assert all(cut.stop - cut.start >= least for cut in cuts[:-1])


def test_only_one_part_has_missing_values() -> None:
    rng = np.random.default_rng(8)
    x = rng.normal(size=(200, 3)) + 1e4
    x[150:, 1] = np.nan
    first, second = of_array(x[:100]), of_array(x[100:])
    assert summarise(first, features_of(first)).pairs is None
    for order in ([first, second], [second, first]):
        check_against_numpy(summed(order), x)


def test_merging_is_deterministic_and_its_neutral_element_is_no_rows() -> None:
    rng = np.random.default_rng(9)
    x = rng.normal(size=(500, 5)) + 7
    x[rng.random(x.shape) < 0.2] = np.nan
    table = of_array(x)
    features = features_of(table)
    parts = [table.slice(a, 100) for a in range(0, 500, 100)]
    once, again = summed(parts), summed(parts)
    assert same(once, again)
    assert summary_to_bytes(once) == summary_to_bytes(again)
    empty = summarise(table.slice(0, 0), features)
    for both in (merge(empty, once), merge(once, empty)):
        assert both.rows == 500
        assert np.allclose(both.mean, once.mean, rtol=1e-15)
        assert np.allclose(both.products, once.products, rtol=1e-14)


@given(
    seed=st.integers(0, 2**32),
    rows=st.lists(st.integers(0, 30), min_size=1, max_size=5),
    width=st.integers(1, 5),
    missing=st.sampled_from([0.0, 0.2, 0.9]),
    exponent=st.integers(-6, 6),
)
@settings(max_examples=60, deadline=None)
def test_any_cut_gives_the_same_numbers(
    seed: int, rows: list[int], width: int, missing: float, exponent: int
) -> None:
    rng = np.random.default_rng(seed)
    x = (rng.normal(size=(sum(rows), width)) + 3) * 10.0**exponent
    x[rng.random(x.shape) < missing] = np.nan
    table = of_array(x)
    whole = summarise(table, features_of(table))
    starts = np.cumsum([0, *rows])
    parts = [table.slice(int(a), n) for a, n in zip(starts[:-1], rows, strict=True)]
    merged = summed(parts)
    size = 10.0**exponent
    assert merged.rows == whole.rows
    for name in ("count", "minimum", "maximum", "all_integer"):
        assert np.array_equal(getattr(merged, name), getattr(whole, name))
    assert np.allclose(merged.mean, whole.mean, rtol=1e-12, atol=0)
    assert np.allclose(merged.m2, whole.m2, rtol=1e-10, atol=1e-10 * size**2)
    assert merged.products is not None
    assert whole.products is not None
    assert np.allclose(merged.products, whole.products, rtol=1e-10, atol=1e-10 * size**2)


KINDS = [pa.int8(), pa.int16(), pa.int32(), pa.int64(), pa.uint8(), pa.uint16(), pa.uint32()]
KINDS += [pa.uint64(), pa.float16(), pa.float32(), pa.float64()]


@pytest.mark.parametrize("kind", KINDS, ids=str)
def test_every_type_sliced_chunked_and_with_nulls(kind: pa.DataType) -> None:
    """Nulls of rows, of list elements and NaN are missing; offsets and chunks are honoured."""
    scalars = [9, 1, None, 3, 120, 5, None, 7]
    lists = [[9, 9], [1, 2], None, [3, None], [5, 6], None, [None, None], [7, 8]]
    gap = float("nan")
    expected = np.array(
        [[1, 1, 2], [gap, gap, gap], [3, 3, gap], [120, 5, 6], [5, gap, gap], [gap, gap, gap]]
    )
    for vector in (pa.list_(kind), pa.large_list(kind), pa.list_(kind, 2)):
        table = pa.table({"x": pa.array(scalars, kind), "v": pa.array(lists, vector)})
        features = features_of(table)
        sliced = table.slice(1, 6)
        chunked = pa.concat_tables([table.slice(1, 2), table.slice(3, 0), table.slice(3, 4)])
        for each in (sliced, chunked, chunked.combine_chunks()):
            summary = summarise(each, features)
            assert summary.rows == 6
            assert np.array_equal(summary.count, (~np.isnan(expected)).sum(axis=0))
            assert np.allclose(summary.mean, np.nanmean(expected, axis=0))
            assert np.array_equal(summary.minimum, np.nanmin(expected, axis=0))
            assert np.array_equal(summary.maximum, np.nanmax(expected, axis=0))
            assert summary.all_integer.all()


def test_nan_is_missing_and_whole_floats_are_noticed() -> None:
    table = pa.table(
        {
            "whole": pa.array([1.0, float("nan"), 3.0, None]),
            "parts": pa.array([1.0, 2.5, 3.0, 4.0], pa.float32()),
            "never": pa.array([None, None, float("nan"), None], pa.float64()),
        }
    )
    summary = summarise(table, features_of(table))
    assert summary.count.tolist() == [2, 4, 0]
    assert summary.all_integer.tolist() == [True, False, True]
    assert summary.mean.tolist() == [2.0, 2.625, 0.0]
    assert summary.minimum[2] == np.inf
    assert summary.maximum[2] == -np.inf
    assert summary.m2[2] == 0
    mean, cov = covariance(summary)
    assert mean[2] == 0
    assert (cov[2] == 0).all()
    check_against_numpy(
        summarise(table.select(["parts", "whole"]), features_of(table.select(["parts", "whole"]))),
        np.array([[1, 1], [2.5, np.nan], [3, 3], [4, np.nan]]),
    )


@pytest.mark.parametrize(
    ("column", "message"),
    [
        (pa.array([1.0, np.inf]), "column 'c': has an infinite value; training values must be"),
        (pa.array([1.0, None, -np.inf]), "column 'c': has an infinite value"),
        (pa.array([1.0, 1e101]), "column 'c': has a value of 1e\\+101"),
        (pa.array([[1.0, 2.0], [3.0, np.inf]]), "vector 'c': has an infinite value"),
        (pa.array([[1.0, 2.0], None, [3.0]]), "vector 'c': has a list of length 1 \\(row 2"),
        (pa.array([[1, 2], [3, 4], []], pa.large_list(pa.int8())), "list of length 0 \\(row 2"),
    ],
)
def test_values_that_cannot_be_learned_are_refused(column: pa.Array, message: str) -> None:
    table = pa.table({"good": pa.array(range(len(column))), "c": column})
    with pytest.raises(DataError, match=message):
        summarise(table, features_of(table))


def test_columns_that_do_not_fit_are_refused() -> None:
    table = pa.table({"x": [1.0], "v": pa.array([[1.0, 2.0]], pa.list_(pa.float32(), 2))})
    features = features_of(table)
    with pytest.raises(DataError, match="column 'x': is not in the data"):
        summarise(table.select(["v"]), features)
    for other in (pa.list_(pa.float32(), 3), pa.list_(pa.float64(), 2), pa.float32()):
        column = pa.array([None], other)
        with pytest.raises(DataError, match=r"vector 'v': has type .*; in training it was"):
            summarise(pa.table({"x": [1.0], "v": column}), features)
    with pytest.raises(DataError, match="column 'x': has type string"):
        summarise(table.set_column(0, "x", pa.array(["1"])), features)


def test_wide_tables_keep_no_second_moments(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(statistics, "LARGEST_PCA_WIDTH", 3)
    x = np.random.default_rng(3).normal(size=(50, 4))
    summary = summed([of_array(x[:20]), of_array(x[20:])])
    assert summary.products is None
    assert np.allclose(summary.m2, ((x - x.mean(axis=0)) ** 2).sum(axis=0))
    with pytest.raises(DataError, match="covariance: 50 rows of 4 elements"):
        covariance(summary)
    assert summary_from_bytes(summary_to_bytes(summary)).products is None


@pytest.mark.parametrize("missing", [False, True])
def test_bytes_carry_everything_and_damage_is_refused(missing: bool) -> None:
    x = np.random.default_rng(4).normal(size=(9, 2))
    if missing:
        x[3, 1] = np.nan
    summary = summed([of_array(x)])
    data = summary_to_bytes(summary)
    assert same(summary_from_bytes(data), summary)
    for broken in (b"", b"PK", data[: len(data) // 2], data[100:]):
        with pytest.raises(DataError, match="summary: cannot be read"):
            summary_from_bytes(broken)


def test_some_elements_are_selected() -> None:
    x = np.random.default_rng(5).normal(size=(40, 4))
    x[3, 1] = np.nan
    whole = summed([of_array(x)])
    places = [3, 1]
    part = select(whole, places)
    expected = summed([of_array(x[:, places])])
    for field in dataclasses.fields(Summary):
        assert np.allclose(getattr(part, field.name), getattr(expected, field.name)), field.name
    full = summed([of_array(x[4:])])
    assert full.cross is None
    assert select(full, [0]).cross is None
    assert select(full, []).mean.shape == (0,)
    assert same(select(full, range(4)), full)


def test_decimals_structs_and_counts_are_measured() -> None:
    rng = np.random.default_rng(6)
    cents = rng.integers(-(10**6), 10**6, 200)
    kind = pa.struct([("price", pa.decimal128(20, 2)), ("n", pa.decimal128(5, 0))])
    rows = [
        None if i % 9 == 0 else {"price": Decimal(int(c)) / 100, "n": Decimal(int(c) % 7)}
        for i, c in enumerate(cents)
    ]
    table = pa.table({"s": pa.array(rows, kind), "city": ["a"] * 200})
    features = infer_features(table.schema, roles={"s.n": "count"})
    measured = [feature for feature in features if feature.is_measured]
    assert [feature.name for feature in measured] == ["s.price", "s.n"]
    summary = summarise(table, measured)
    present = np.arange(200) % 9 > 0
    assert summary.count.tolist() == [present.sum()] * 2
    assert np.allclose(summary.mean, [(cents[present] / 100).mean(), (cents[present] % 7).mean()])
    assert summary.all_integer.tolist() == [False, True]
    assert same(summarise(flatten_table(table), measured), summary)


def test_no_measured_feature_gives_an_empty_summary() -> None:
    table = pa.table({"city": ["a", "b"]})
    summary = summarise(table, [])
    assert (summary.rows, summary.mean.shape) == (2, (0,))
    assert merge(summary, summary).rows == 4
    assert summary_from_bytes(summary_to_bytes(summary)).rows == 2


def test_decimal_digits_are_noticed_and_merged() -> None:
    table = pa.table(
        {
            "whole": [1.0, 2.0, None, 7.0],
            "tenths": pa.array([1.5, 2.0, None, 0.3], pa.float32()),
            "cents": [0.5, 0.07, float("nan"), 12.34],
            "many": [0.5, 1 / 3, 0.25, 1.0],
            "days": [1, 2, 3, 4],
            "v": pa.array([[0.5], [1.0], [2.0], [3.0]], pa.list_(pa.float64(), 1)),
        }
    )
    features = features_of(table)
    assert [f.name for f in features] == table.column_names
    whole = summarise(table, features)
    assert whole.digits.tolist() == [0, 1, 2, 5, 0, 5]
    assert whole.all_integer.tolist() == [True, False, False, False, True, False]
    parts = [summarise(table.slice(i, 1), features) for i in range(4)]
    assert [part.digits[2] for part in parts] == [1, 2, 0, 2]
    assert reduce(merge, parts).digits.tolist() == whole.digits.tolist()
    many = pa.table({"x": np.append(np.arange(20_000) / 10, 0.001)})
    assert summarise(many, features_of(many)).digits.tolist() == [3]


def test_infinite_values_can_be_skipped() -> None:
    table = pa.table({"x": [1.0, np.inf, 2.5, -np.inf, None], "n": [1, 2, 3, 4, 5]})
    finite = pa.table({"x": [1.0, None, 2.5, None, None], "n": [1, 2, 3, 4, 5]})
    found = summarise(table, features_of(table), skip_infinite=True)
    assert same(found, summarise(finite, features_of(table)))
    assert found.missing.tolist() == [3, 0]
