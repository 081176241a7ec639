from __future__ import annotations

import json

import pyarrow as pa
import pyarrow.fs as pafs
import pytest
from hypothesis import given
from hypothesis import strategies as st

from distvae.data.fragments import (
    BYTES_PER_FRAGMENT,
    Fragment,
    fragment_from_json,
    fragment_to_json,
    plan_input,
    plan_rows,
)
from distvae.data.inputs import InputFile, Inputs, RowGroup
from distvae.data.storage import Location
from distvae.errors import UsageError

SCHEMA = pa.schema([("x", pa.int64())])
WORD = 8


def inputs_of(layout: list[list[int]], bytes_per_row: int = WORD) -> Inputs:
    """Return an input of files whose row groups have these numbers of rows."""
    files = []
    for index, sizes in enumerate(layout):
        name = f"{index}.parquet"
        place = Location(pafs.LocalFileSystem(), f"/{name}", name)
        groups = tuple(RowGroup(rows, rows, rows * bytes_per_row) for rows in sizes)
        files.append(InputFile(place, name, 0, "", None, groups, (), SCHEMA))
    return Inputs(tuple(files), SCHEMA)


layouts = st.lists(st.lists(st.integers(0, 50), max_size=6), min_size=1, max_size=6)


@given(layouts, st.integers(1, 120), st.integers(1, 1000))
def test_fragments_hold_every_row_once_and_in_order(
    layout: list[list[int]], rows_per_fragment: int, bytes_per_fragment: int
) -> None:
    inputs = inputs_of(layout)
    plan = plan_input(inputs, rows_per_fragment, bytes_per_fragment)
    row_groups = [(p.file, index) for f in plan for p in f.pieces for index in p.row_groups]
    expected = [(i, j) for i, sizes in enumerate(layout) for j, rows in enumerate(sizes) if rows]
    assert row_groups == expected
    first_row = 0
    for number, fragment in enumerate(plan):
        assert (fragment.index, fragment.first_row) == (number, first_row)
        assert fragment.rows == sum(piece.rows for piece in fragment.pieces) > 0
        first_row += fragment.rows
        for piece in fragment.pieces:
            sizes = layout[piece.file]
            assert piece.first_row == sum(sizes[: piece.row_groups[0]])
            assert piece.rows == sum(sizes[index] for index in piece.row_groups)
    assert first_row == inputs.rows


@given(layouts, st.integers(1, 120), st.integers(1, 1000))
def test_fragments_are_full_but_not_over_the_limits(
    layout: list[list[int]], rows_per_fragment: int, bytes_per_fragment: int
) -> None:
    plan = plan_input(inputs_of(layout), rows_per_fragment, bytes_per_fragment)
    most = min(rows_per_fragment, bytes_per_fragment // WORD)
    firsts = []
    for fragment in plan:
        groups = [(p.file, index) for p in fragment.pieces for index in p.row_groups]
        assert fragment.rows <= most or len(groups) == 1
        firsts.append(layout[groups[0][0]][groups[0][1]])
    for fragment, following in zip(plan, firsts[1:], strict=False):
        assert fragment.rows + following > most


@given(st.integers(0, 10**12), st.integers(0, 5000), st.integers(1, 700))
def test_generated_rows_are_cut(offset: int, rows: int, rows_per_fragment: int) -> None:
    plan = plan_rows(offset, rows, rows_per_fragment)
    assert [fragment.index for fragment in plan] == list(range(len(plan)))
    position = offset
    for fragment in plan:
        assert (fragment.first_row, fragment.pieces) == (position, ())
        position += fragment.rows
    assert position == offset + rows
    assert [f.rows for f in plan[:-1]] == [rows_per_fragment] * (len(plan) - 1)


def test_small_files_are_joined_and_a_huge_row_group_stays_whole() -> None:
    plan = plan_input(inputs_of([[10], [10], [10**9], [10, 10]]))
    assert [fragment.rows for fragment in plan] == [20, 10**9, 20]
    assert [[piece.file for piece in fragment.pieces] for fragment in plan] == [[0, 1], [2], [3]]


def test_bytes_cut_before_rows() -> None:
    wide = inputs_of([[1000] * 4], bytes_per_row=BYTES_PER_FRAGMENT // 2000)
    assert [fragment.rows for fragment in plan_input(wide)] == [2000, 2000]


@given(layouts)
def test_a_fragment_goes_through_json(layout: list[list[int]]) -> None:
    for fragment in plan_input(inputs_of(layout), rows_per_fragment=70):
        text = fragment_to_json(fragment)
        assert fragment_from_json(text) == fragment
        assert "\n" not in text
        assert json.loads(text)["rows"] == fragment.rows
    assert fragment_from_json(fragment_to_json(Fragment(3, 7, 2, ()))) == Fragment(3, 7, 2, ())


def test_wrong_limits() -> None:
    with pytest.raises(UsageError, match="--fragment-rows: 0; must be 1 or more"):
        plan_input(inputs_of([[1]]), rows_per_fragment=0)
    with pytest.raises(UsageError, match="--fragment-bytes: -1; must be 1 or more"):
        plan_input(inputs_of([[1]]), bytes_per_fragment=-1)
    with pytest.raises(UsageError, match="--fragment-rows: 0; must be 1 or more"):
        plan_rows(0, 1, 0)
    with pytest.raises(UsageError, match="--offset: -1; must be 0 or more"):
        plan_rows(-1, 1)
    with pytest.raises(UsageError, match="--rows: -1; must be 0 or more"):
        plan_rows(0, -1)


def test_more_parts_than_a_plan_can_hold_are_refused() -> None:
    with pytest.raises(UsageError, match="--fragment-rows"):
        plan_rows(0, 10**15)
