"""Companions: the states (present, null, NaN) of a column's values, as a column of their own."""

from __future__ import annotations

from collections.abc import Collection, Sequence

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.codec_categories import cells_of_states
from distvae.data.codec_columns import Column
from distvae.data.profile import ColumnProfile
from distvae.data.roles import Feature

__all__ = ["companion_name", "companion_of", "encode_states", "states_of"]

Bools = npt.NDArray[np.bool_]


def companion_name(name: str, taken: Collection[str] = ()) -> str:
    """``NAME is missing``, with a mark for each column that is called so already."""
    found = f"{name} is missing"
    while found in taken:
        found += "'"
    return found


def companion_of(
    feature: Feature, column: ColumnProfile, taken: Collection[str] = (), absent: int = 0
) -> Column | None:
    """The companion of a feature; None where training missed nothing.

    Args:
        feature: the column.
        column: what training saw of it.
        taken: names that are columns already.
        absent: rows in which the struct around it is null: nothing is told of those.
    """
    counts = {"null": column.nulls - absent, "nan": column.nans}
    lost = {state: count for state, count in counts.items() if count}
    if not lost:
        return None
    present = column.rows - absent - sum(lost.values())
    held = ({"present": present} if present else {}) | lost
    states = tuple(held)
    return Column(
        feature=Feature(
            companion_name(feature.name, taken),
            "categorical",
            pa.string(),
            False,
            1,
            feature.position,
        ),
        block=0,
        start=0,
        stop=1,
        shift=np.zeros(1),
        scale=1.0,
        minimum=0.0,
        maximum=0.0,
        integer=False,
        resolution=1.0,
        has_missing=False,
        coding="cells",
        cells=cells_of_states(list(held.values()), states),
        companion_of=feature.name,
        states=states,
    )


def encode_states(
    states: Sequence[str], nulls: Bools | None, nans: Bools | None, rows: int
) -> npt.NDArray[np.float32]:
    """Y (n,) of a companion: a state that training lacks counts as the other way of missing."""
    place = {state: index + 0.5 for index, state in enumerate(states)}
    y = np.full(rows, place.get("present", 0.5), np.float32)
    for state, other, flags in (("null", "nan", nulls), ("nan", "null", nans)):
        if flags is not None:
            y[flags] = place.get(state, place.get(other, 0.5))
    return y


def states_of(column: Column, y: npt.NDArray[np.float32]) -> tuple[Bools | None, Bools | None]:
    """Which rows (n,) are null and which are NaN, None for none."""
    state = np.clip(np.floor(y), 0, len(column.states) - 1).astype(np.int64)
    found = [
        state == column.states.index(name) if name in column.states else None
        for name in ("null", "nan")
    ]
    return found[0], found[1]
