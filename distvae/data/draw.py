"""Rows drawn without replacement, the same ones however the input is cut into fragments.

A keyed permutation of all rows of the input gives each a place; of the rows that may be drawn,
those with the smallest places are. Which they are follows from (key, rows of the input, who may be
drawn) alone, each fragment keeps no more than are wanted, and what it keeps merges.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from distvae.data.sampling import positions

__all__ = ["Drawn", "draw", "merge_draws"]

Rows = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Drawn:
    """Rows with the smallest places so far.

    Attributes:
        places: (m,) ascending.
        rows: (m,) absolute row numbers.
    """

    places: Rows
    rows: Rows


def draw(rows: Rows, total: int, count: int, key: int) -> Drawn:
    """The ``count`` of ``rows`` that come first, all of them if there are no more.

    Args:
        rows: (n,) absolute row numbers in [0, total).
        total: rows of the whole input.
        count: how many are wanted.
        key: 64-bit key, from `distvae.data.sampling.mix`.
    """
    return _first(positions(rows, total, key), rows, count)


def merge_draws(a: Drawn, b: Drawn, count: int) -> Drawn:
    """What a draw from the rows of both would give."""
    places, rows = np.concatenate([a.places, b.places]), np.concatenate([a.rows, b.rows])
    return _first(places, rows, count)


def _first(places: Rows, rows: Rows, count: int) -> Drawn:
    order = np.argsort(places)[:count]  # places differ, so any sort gives the same
    return Drawn(places[order], rows[order])
