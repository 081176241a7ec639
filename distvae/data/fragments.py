"""The plan: contiguous runs of rows, the unit of scheduling, retry, commit and sampling."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass

from distvae.data.inputs import Inputs
from distvae.errors import UsageError

__all__ = [
    "BYTES_PER_FRAGMENT",
    "MOST_FRAGMENTS",
    "ROWS_PER_FRAGMENT",
    "Fragment",
    "Piece",
    "fragment_from_json",
    "fragment_to_json",
    "plan_input",
    "plan_rows",
]

MOST_FRAGMENTS = 4_000_000
"""Parts of a generated dataset: their plan is held in memory."""
ROWS_PER_FRAGMENT = 262_144
"""Rows after which a fragment is full."""

BYTES_PER_FRAGMENT = 128 << 20
"""Uncompressed bytes after which a fragment is full."""


@dataclass(frozen=True)
class Piece:
    """Neighbouring row groups of one file.

    Attributes:
        file: index into ``Inputs.files``.
        row_groups: their numbers in the file, increasing; only empty ones are left out between.
        first_row: row number inside the file, from 0, of the first row.
        rows: number of rows.
    """

    file: int
    row_groups: tuple[int, ...]
    first_row: int
    rows: int


@dataclass(frozen=True)
class Fragment:
    """A run of rows; its pieces follow each other in the order of the input.

    Attributes:
        index: number of the fragment, from 0, in input order.
        first_row: absolute number of its first row (of the input, or of the endless table).
        rows: number of rows.
        pieces: where the rows are; empty for rows that are generated.
    """

    index: int
    first_row: int
    rows: int
    pieces: tuple[Piece, ...]


@dataclass(frozen=True)
class _Group:
    """A row group in its place in the input."""

    file: int
    index: int
    first_row: int
    rows: int
    bytes: int


def plan_input(
    inputs: Inputs,
    rows_per_fragment: int = ROWS_PER_FRAGMENT,
    bytes_per_fragment: int = BYTES_PER_FRAGMENT,
) -> tuple[Fragment, ...]:
    """Cut the input into fragments at row-group borders; the cost grows with row groups.

    Row groups are taken in order while a fragment stays within both limits, so small files are
    joined and a row group beyond a limit is a fragment of its own. Row groups without rows are
    left out; an input without rows has no fragments.

    Args:
        inputs: what ``scan`` returned.
        rows_per_fragment: the most rows of a fragment of several row groups.
        bytes_per_fragment: the most uncompressed bytes of a fragment of several row groups.

    Raises:
        UsageError: a limit below 1.
    """
    _check_positive("fragment-rows", rows_per_fragment)
    _check_positive("fragment-bytes", bytes_per_fragment)
    fragments: list[Fragment] = []
    first_row = 0
    for groups in _packed(_groups(inputs), rows_per_fragment, bytes_per_fragment):
        rows = sum(group.rows for group in groups)
        fragments.append(Fragment(len(fragments), first_row, rows, _pieces(groups)))
        first_row += rows
    return tuple(fragments)


def plan_rows(
    offset: int, rows: int, rows_per_fragment: int = ROWS_PER_FRAGMENT
) -> tuple[Fragment, ...]:
    """Cut rows [offset, offset + rows) of the endless table into fragments without pieces.

    Raises:
        UsageError: a negative offset or number of rows, a limit below 1, or too many fragments.
    """
    _check_positive("fragment-rows", rows_per_fragment)
    if offset < 0:
        raise UsageError("--offset", f"{offset}", "must be 0 or more", "give a row number")
    if rows < 0:
        raise UsageError("--rows", f"{rows}", "must be 0 or more", "give a number of rows")
    count = -(-rows // rows_per_fragment)
    if count > MOST_FRAGMENTS:
        value = f"{rows_per_fragment} rows make {count:,} parts"
        remedy = "give a larger --fragment-rows or fewer --rows"
        raise UsageError(
            "--fragment-rows", value, f"at most {MOST_FRAGMENTS:,} are planned", remedy
        )
    return tuple(
        Fragment(index, offset + start, min(rows_per_fragment, rows - start), ())
        for index, start in enumerate(range(0, rows, rows_per_fragment))
    )


def fragment_to_json(fragment: Fragment) -> str:
    """Return a fragment as one line of JSON."""
    pieces = [[p.file, list(p.row_groups), p.first_row, p.rows] for p in fragment.pieces]
    record = {
        "index": fragment.index,
        "first_row": fragment.first_row,
        "rows": fragment.rows,
        "pieces": pieces,
    }
    return json.dumps(record, separators=(",", ":"))


def fragment_from_json(text: str) -> Fragment:
    """Return the fragment that ``fragment_to_json`` wrote."""
    record = json.loads(text)
    pieces = tuple(
        Piece(file, tuple(row_groups), first_row, rows)
        for file, row_groups, first_row, rows in record["pieces"]
    )
    return Fragment(record["index"], record["first_row"], record["rows"], pieces)


def _groups(inputs: Inputs) -> Iterator[_Group]:
    for file_index, file in enumerate(inputs.files):
        first_row = 0
        for index, group in enumerate(file.row_groups):
            if group.rows:
                yield _Group(file_index, index, first_row, group.rows, group.uncompressed_bytes)
            first_row += group.rows


def _packed(groups: Iterator[_Group], most_rows: int, most_bytes: int) -> Iterator[list[_Group]]:
    taken: list[_Group] = []
    rows = size = 0
    for group in groups:
        if taken and (rows + group.rows > most_rows or size + group.bytes > most_bytes):
            yield taken
            taken, rows, size = [], 0, 0
        taken.append(group)
        rows += group.rows
        size += group.bytes
    if taken:
        yield taken


def _pieces(groups: list[_Group]) -> tuple[Piece, ...]:
    by_file: dict[int, list[_Group]] = {}
    for group in groups:
        by_file.setdefault(group.file, []).append(group)
    return tuple(
        Piece(
            file,
            tuple(group.index for group in members),
            members[0].first_row,
            sum(group.rows for group in members),
        )
        for file, members in by_file.items()
    )


def _check_positive(what: str, value: int) -> None:
    if value < 1:
        raise UsageError(f"--{what}", f"{value}", "must be 1 or more", "give a larger number")
