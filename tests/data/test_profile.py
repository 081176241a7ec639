from __future__ import annotations

from collections import Counter
from dataclasses import fields, replace
from decimal import Decimal
from functools import reduce
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distvae.data import profile as profile_module
from distvae.data import profile_parts
from distvae.data.codec_cut import fit_number_cells
from distvae.data.counting import count_values, counted_type, range_of
from distvae.data.flatten import flatten_table
from distvae.data.profile import (
    SAMPLED_ROWS,
    ColumnProfile,
    Profile,
    Profiler,
    merge_profiles,
    profile,
    profile_from_bytes,
    profile_to_bytes,
)
from distvae.data.roles import Feature, infer_features, peek_widths
from distvae.data.sampling import mix, positions
from distvae.errors import DataError
from tests.data.scalar_cases import categories, numbers

KEY = mix(3, 1)


def features_of(table: pa.Table, **roles: str) -> tuple[Feature, ...]:
    return infer_features(table.schema, widths=peek_widths(table, table.schema), roles=roles)


def profile_of(table: pa.Table, **roles: str) -> Profile:
    rows = np.arange(table.num_rows)
    return profile(table, features_of(table, **roles), rows, table.num_rows, KEY)


def plain(value: Any) -> Any:
    if isinstance(value, pa.Scalar):
        return str(value.type), str(pa.repeat(value, 1))
    if isinstance(value, pa.Array):
        return str(value.type), value.to_string(window=10**6)
    return value.tolist() if isinstance(value, np.ndarray) else value


def told(found: Profile) -> dict[str, Any]:
    columns = {
        name: {f.name: plain(getattr(column, f.name)) for f in fields(ColumnProfile)}
        for name, column in found.columns.items()
    }
    held = {f.name: plain(getattr(found, f.name)) for f in fields(Profile)}
    return held | {"columns": columns}


def is_nan(value: Any) -> bool:
    return isinstance(value, float) and np.isnan(value)


def mixed_table(rows: int, seed: int = 0) -> pa.Table:
    rng = np.random.default_rng(seed)
    missing = rng.random(rows) < 0.2
    x = np.where(rng.random(rows) < 0.1, np.nan, rng.normal(size=rows))
    city = np.array(["Ulm", "Köln", "Bonn", ""])[rng.integers(0, 4, rows)]
    structs = pa.StructArray.from_arrays(
        [pa.array(city, mask=missing), pa.array(rng.integers(0, 9, rows))],
        fields=[pa.field("city", pa.string()), pa.field("n", pa.int64())],
        mask=pa.array(rng.random(rows) < 0.3),
    )
    return pa.table(
        {
            "x": pa.array(x, mask=missing),
            "when": pa.array(rng.integers(0, 10**9, rows), pa.timestamp("us", "UTC")),
            "on": pa.array(rng.random(rows) < 0.5, mask=missing),
            "code": pa.array(city).dictionary_encode(),
            "s": structs,
            "v": pa.array([None if m else [1.0, 2.0] for m in missing], pa.list_(pa.float32(), 2)),
        }
    )


def test_counts_and_ranges_against_python() -> None:
    table = mixed_table(500)
    found = profile_of(table)
    flat = flatten_table(table)
    assert found.rows == 500
    for name, column in found.columns.items():
        rows = flat.column(name).to_pylist()
        assert column.rows == 500
        assert column.nulls == rows.count(None)
        present = [row for row in rows if row is not None and not is_nan(row)]
        if column.values is not None:
            assert column.counts is not None
            expected = sorted(Counter(present).items())
            assert column.values.to_pylist() == [value for value, _ in expected]
            assert column.counts.tolist() == [count for _, count in expected]
            texts = [len(row.encode()) for row in present if isinstance(row, str)]
            assert column.text_bytes == sum(texts)
            assert column.sample is None
            assert column.minimum is None
        elif name == "v":
            assert column == ColumnProfile(500, rows.count(None))
        else:
            assert column.nans == len(rows) - len(present) - column.nulls
            assert column.minimum is not None
            assert column.maximum is not None
            assert (column.minimum.as_py(), column.maximum.as_py()) == (min(present), max(present))
            assert column.sample is not None
            assert column.sample.type == flat.schema.field(name).type
            expected_sample = flat.column(name).take(pa.array(found.numbers))
            assert plain(column.sample) == plain(expected_sample.combine_chunks())


def test_drawn_rows_are_those_with_the_smallest_places() -> None:
    table = pa.table({"x": np.arange(1000.0)})
    rows = np.arange(5000, 6000)
    found = profile(table, features_of(table), rows, 9000, KEY, count=50)
    places = positions(rows, 9000, KEY)
    order = np.argsort(places)[:50]
    assert found.places.tolist() == places[order].tolist()
    assert found.numbers.tolist() == rows[order].tolist()
    sample = found.columns["x"].sample
    assert sample is not None
    assert sample.to_pylist() == order.tolist()
    assert profile(table, features_of(table), rows, 9000, KEY, count=0).numbers.size == 0


@given(st.lists(st.integers(0, 300), max_size=8), st.integers(1, 400), st.booleans())
@settings(max_examples=25, deadline=None)
def test_the_cut_and_the_order_of_merging_do_not_matter(
    cuts: list[int], count: int, backwards: bool
) -> None:
    table = mixed_table(300)
    features = features_of(table)
    rows = np.arange(300)
    whole = told(profile(table, features, rows, 300, KEY, count))
    edges = [0, *sorted(cuts), 300]
    parts = [slice(a, b) for a, b in pairwise(edges)]
    if backwards:
        parts.reverse()
    profiler = Profiler(features, 300, KEY, count)
    profiles = []
    for part in parts:
        piece = table.slice(part.start, part.stop - part.start)
        profiler.add(piece, rows[part])
        profiles.append(profile(piece, features, rows[part], 300, KEY, count))
    assert told(profiler.result()) == whole
    assert told(profiler.result()) == whole
    assert told(reduce(merge_profiles, profiles)) == whole


def test_many_small_tables_are_compacted_on_the_way() -> None:
    table = mixed_table(400)
    profiler = Profiler(features_of(table), 400, KEY, 30)
    for start in range(0, 400, 2):
        profiler.add(table.slice(start, 2), np.arange(start, start + 2))
    whole = profile(table, features_of(table), np.arange(400), 400, KEY, 30)
    assert told(profiler.result()) == told(whole)


def test_nothing_gives_an_empty_profile() -> None:
    table = mixed_table(3)
    none = Profiler(features_of(table), 3, KEY).result()
    assert told(none) == told(profile(table.slice(0, 0), features_of(table), np.arange(0), 3, KEY))
    assert none.columns["code"].values is not None
    assert len(none.columns["code"].values) == 0
    assert none.columns["x"].minimum is None
    whole = profile_of(table)
    assert told(merge_profiles(none, whole)) == told(merge_profiles(whole, none)) == told(whole)
    chunkless = pa.table([pa.chunked_array([], f.type) for f in table.schema], schema=table.schema)
    found = profile(chunkless, features_of(table), np.arange(0), 3, KEY)
    assert told(found) == told(none)


@pytest.mark.parametrize("name", categories())
def test_categories_of_every_layout_are_counted_alike(name: str) -> None:
    table = pa.table({"c": categories()[name]})
    for cut in (slice(0, 6), slice(2, 5)):
        part = table.slice(cut.start, cut.stop - cut.start)
        column = profile_of(part).columns["c"]
        expected = [row for row in ["b", None, "a", "b", None, "a"][cut] if row]
        assert column.values is not None
        assert column.counts is not None
        assert column.values.type == counted_type(table.schema.field("c").type)
        assert dict(zip(column.values.to_pylist(), column.counts.tolist(), strict=True)) == Counter(
            expected
        )
        assert column.nulls == cut.stop - cut.start - len(expected)
        assert column.text_bytes == len(expected)


@pytest.mark.parametrize("name", numbers())
def test_ranges_and_categories_of_every_number(name: str) -> None:
    column = numbers()[name]
    table = pa.table({"c": column})
    found = profile_of(table).columns["c"]
    assert found.minimum is not None
    assert found.maximum is not None
    assert found.minimum.type == found.maximum.type == column.type
    floating = pa.types.is_floating(column.type)
    ends = pa.concat_arrays([pa.repeat(found.minimum, 1), pa.repeat(found.maximum, 1)])
    expected = column.take(pa.array([0, 3 if floating else 2])).combine_chunks()
    assert ends.equals(expected)
    assert (found.nulls, found.nans) == ((0, 1) if floating else (1, 0))
    assert (
        profile_from_bytes(profile_to_bytes(profile_of(table)))
        .columns["c"]
        .minimum.equals(found.minimum)
    )
    counted = profile_of(table, c="categorical").columns["c"]
    assert counted.values is not None
    assert counted.values.type == counted_type(column.type)
    assert len(counted.values) == 3
    assert (counted.nulls, counted.nans) == (found.nulls, found.nans)


def test_dictionaries_of_other_values_are_counted() -> None:
    for values in (
        pa.array([7, 3, None]),
        pa.array([True, False, None]),
        pa.array([2.5, 1.0, None]),
    ):
        column = pa.DictionaryArray.from_arrays(pa.array([0, 2, 1, None, 0], pa.int16()), values)
        found = count_values(pa.chunked_array([column]))
        assert dict(zip(found.values.to_pylist(), found.counts.tolist(), strict=True)) == {
            values[0].as_py(): 2,
            values[1].as_py(): 1,
        }
        assert (found.nulls, found.nans) == (2, 0)


def test_ranges_leave_out_what_is_not_finite() -> None:
    for rows in ([], [None], [np.nan], [np.inf, -np.inf, np.nan]):
        assert range_of(pa.chunked_array([pa.array(rows, pa.float32())])) is None
    ends = range_of(pa.chunked_array([pa.array([np.nan, 2.0, -np.inf, -1.0, np.inf])]))
    assert ends is not None
    assert [end.as_py() for end in ends] == [-1.0, 2.0]


@pytest.mark.parametrize("encode", [False, True])
def test_too_many_values_are_not_counted(monkeypatch: pytest.MonkeyPatch, encode: bool) -> None:
    monkeypatch.setattr(profile_parts, "MOST_VALUES", 5)
    words = pa.array(["aa", "b", None, "c", "d", "ee", "f", "a", "a"])
    table = pa.table({"w": words.dictionary_encode() if encode else words})
    features = features_of(table)
    profiler = Profiler(features, 9, KEY)
    parts = []
    for start in range(0, 9, 2):
        piece = table.slice(start, 2)
        rows = np.arange(start, min(start + 2, 9))
        profiler.add(piece, rows)
        profiler.result()
        parts.append(profile(piece, features, rows, 9, KEY))
    for found in (profiler.result(), reduce(merge_profiles, parts), profile_of(table)):
        column = found.columns["w"]
        assert column.values is None
        assert column.counts is None
        assert (column.nulls, column.text_bytes) == (1, 10)
        assert told(profile_from_bytes(profile_to_bytes(found))) == told(found)
    assert profile_of(table.slice(0, 6)).columns["w"].values is not None
    monkeypatch.setattr(profile_parts, "MOST_BYTES", 5)
    assert profile_of(table.slice(0, 5)).columns["w"].values is not None
    assert profile_of(table.slice(0, 6)).columns["w"].values is None


def test_uncounted_texts_of_any_layout_keep_their_length(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_parts, "MOST_VALUES", 0)
    for kind in (pa.string_view(), pa.large_string(), pa.int64()):
        table = pa.table({"c": pa.array(["1", None, "2"]).cast(kind)})
        profiler = Profiler(features_of(table, c="categorical"), 9, KEY)
        for start in (0, 3, 6):
            profiler.add(table, np.arange(start, start + 3))
            profiler.result()
        column = profiler.result().columns["c"]
        assert column.values is None
        assert column.nulls == 3
        assert column.text_bytes == (0 if kind == pa.int64() else 6)


def test_wide_tables_keep_fewer_rows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(profile_module, "_MOST_SAMPLED", 40)
    table = pa.table({f"x{i}": np.arange(30.0) for i in range(4)})
    assert profile_of(table).numbers.size == 10
    assert profile_of(table.select(["x0"])).numbers.size == 30


def test_bytes_carry_everything_and_damage_is_refused() -> None:
    found = profile_of(mixed_table(50))
    data = profile_to_bytes(found)
    assert told(profile_from_bytes(data)) == told(found)
    for broken in (b"", b"PK", data[: len(data) // 2], data[100:]):
        with pytest.raises(DataError, match="profile: cannot be read"):
            profile_from_bytes(broken)
    x = found.columns["x"]
    assert x.sample is not None
    code = found.columns["code"]
    assert code.counts is not None
    for wrong in (
        replace(found, places=found.places[::-1]),
        replace(found, numbers=found.numbers[1:]),
        replace(found, columns={"x": replace(x, sample=x.sample[1:])}),
        replace(found, columns={"c": replace(code, counts=code.counts[1:])}),
    ):
        with pytest.raises(DataError, match="profile: cannot be read"):
            profile_from_bytes(profile_to_bytes(wrong))


def test_absent_columns_are_refused() -> None:
    table = mixed_table(3)
    with pytest.raises(DataError, match="column 'x': is not in the data"):
        profile(table.drop_columns("x"), features_of(table), np.arange(3), 3, KEY)


DIVIDED = {
    "hundreds": (pa.array([100, 300, None, 700], pa.int32()), 200),
    "one apart": (pa.array([100, 300, 301]), 1),
    "negative": (pa.array([-(2**63), -(2**63) + 6, 2**63 - 2], pa.int64()), 2),
    "unsigned": (pa.array([5, 2**64 - 1], pa.uint64()), 2**64 - 6),
    "days in milliseconds": (pa.array([0, 86_400_000], pa.date64()), 86_400_000),
    "seconds": (pa.array([2_000, 5_000, None], pa.timestamp("ms")), 3_000),
    "cents": (pa.array([Decimal("1.25"), Decimal("2.00")], pa.decimal128(9, 2)), 75),
    "same": (pa.array([7, 7, 7], pa.int8()), 0),
    "nothing": (pa.array([None, None], pa.int64()), 0),
    "floats": (pa.array([1.0, 3.0]), 1),
}


@pytest.mark.parametrize("name", DIVIDED)
def test_the_divisor_of_all_rows_is_known_however_they_are_cut(name: str) -> None:
    values, expected = DIVIDED[name]
    table = pa.table({"v": values})
    features, rows = features_of(table), np.arange(len(values))
    whole = profile(table, features, rows, len(values), KEY)
    assert whole.columns["v"].divisor == expected
    one = [profile(table.slice(i, 1), features, rows[i : i + 1], len(rows), KEY) for i in rows]
    assert reduce(merge_profiles, one).columns["v"].divisor == expected
    again = profile_from_bytes(profile_to_bytes(whole))
    assert again.columns["v"].divisor == expected


def test_one_row_of_many_off_the_step_is_known() -> None:
    values = np.arange(3 * SAMPLED_ROWS) * 100
    values[-1] += 1
    table = pa.table({"v": values})
    cells = fit_number_cells(features_of(table)[0], profile_of(table).columns["v"], 0)
    assert cells.grid is not None
    assert cells.grid.step == 1
