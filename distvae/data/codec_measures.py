"""Encoded rows back to raw numbers, for errors and moments in the data's own units."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distvae.data.arrow_values import Bools, Floats
from distvae.data.cells import Cells, locate
from distvae.data.codec_columns import Codec
from distvae.data.codec_encode import Encoded

__all__ = ["numbers"]


def numbers(codec: Codec, encoded: Encoded) -> tuple[Floats, Bools]:
    """Raw values (n, Dm) of the measured elements, in order, and which are observed (n, Dm).

    Dm counts the elements of continuous, count and vector features; unobserved ones hold any
    number.
    """
    n = len(encoded.rejected)
    measured = [column for column in codec.columns if column.measured]
    width = sum(column.feature.width for column in measured)
    x, observed = np.empty((n, width)), np.ones((n, width), np.bool_)
    start = 0
    first = {column.block: column.start for column in reversed(codec.columns)}
    for column in measured:
        inside = slice(column.start - first[column.block], column.stop - first[column.block])
        values = encoded.blocks[column.block][:, inside]
        place = slice(start, start + column.feature.width)
        if column.cells is not None:
            x[:, place.start] = _raw(column.cells, values[:, 0])
        elif column.raw:
            x[:, place] = values
        else:
            x[:, place] = values.astype(np.float64) * column.scale + column.shift
        mask = encoded.masks[column.block]
        if mask is not None:
            observed[:, place] = mask[:, inside]
        start = place.stop
    return x, observed


def _raw(cells: Cells, y: npt.NDArray[np.float32]) -> Floats:
    values = locate(cells, y, seen_only=False)
    if cells.grid is None:
        return values.astype(np.float64, copy=False)
    return cells.grid.raw(values.astype(np.int64, copy=False))
