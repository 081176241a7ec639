"""Categories of every Arrow type as cells, and back.

Cells stand by falling count, ties by value. Frequent values are classes of their own, rare ones
share the last class, where their frequencies tell them apart. One further cell in the last class
is for values that training never saw.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from distvae.data.arrow_types import is_date, is_number, is_text, value_type
from distvae.data.cells import Cells
from distvae.data.codec_cut import no_values
from distvae.data.codec_numbers import array_of, as_dictionary, numbers_of
from distvae.data.profile import ColumnProfile
from distvae.data.roles import Feature

__all__ = [
    "Lookup",
    "categories",
    "category_type",
    "cells_of_states",
    "fit_category_cells",
    "plain",
]

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]
Singles = npt.NDArray[np.float32]

_MOST_CLASSES = 4096
_FEW_VALUES = 16
_RARE = 10


def category_type(kind: pa.DataType) -> pa.DataType:
    """The type in which the categories of a column of type ``kind`` are kept."""
    return pa.string() if is_text(kind) else value_type(kind)


def fit_category_cells(feature: Feature, column: ColumnProfile) -> Cells:
    """The cells of a column of categories or truth values.

    Raises:
        DataError: no value at all, or more different ones than were counted.
    """
    if column.values is None or column.counts is None or len(column.values) == 0:
        raise no_values(feature)
    values = as_categories(column.values, feature.type)
    order = np.lexsort((np.arange(len(values)), -column.counts))
    counts = column.counts[order].astype(np.int64)
    frequent = min(len(counts), _MOST_CLASSES)
    if len(counts) > _FEW_VALUES:
        frequent = min(int((counts >= _RARE).sum()), _MOST_CLASSES - 1)
    kinds = np.minimum(np.arange(len(counts)), frequent)
    last = int(kinds.max())
    return Cells(
        rows=int(counts.sum()),
        cell_class=np.append(kinds, last).astype(np.int64),
        counts=np.append(counts, 0),
        values=values.take(pa.array(order)),
    )


def cells_of_states(counts: Sequence[int], states: Sequence[str]) -> Cells:
    """The cells of a companion: one class per state, all of them seen in training."""
    return Cells(
        rows=sum(counts),
        cell_class=np.arange(len(counts)),
        counts=np.array(counts, np.int64),
        values=pa.array(states, pa.string()),
    )


def as_categories(array: pa.Array, kind: pa.DataType) -> pa.Array:
    """Values in `category_type`."""
    if pa.types.is_dictionary(array.type):
        array = array.dictionary_decode()
    return array.cast(category_type(kind))


def plain(array: pa.Array) -> list[Any]:
    """Values as hashable Python objects; dates and times as numbers, None where null or NaN."""
    if is_date(array.type):
        held: list[Any] = numbers_of(array).tolist()
        valid = array.is_valid().to_pylist()
        return [value if known else None for value, known in zip(held, valid, strict=True)]
    if pa.types.is_floating(array.type):
        return [None if v is None or v != v else float(v) for v in array.to_pylist()]  # noqa: PLR0124
    return list(array.to_pylist())


def fits(kind: pa.DataType, trained: pa.DataType) -> bool:
    """Whether values of type ``kind`` compare with categories of type ``trained`` as they are."""
    kind, trained = value_type(kind), category_type(trained)
    if pa.types.is_null(kind):
        return True
    if is_text(trained):
        return is_text(kind)
    if is_number(trained):
        return is_number(kind)
    return bool(kind.equals(trained))


class Lookup:
    """Finds y = cell + 1/2 of each value; the different values of a batch are few.

    Args:
        cells: of categories.
    """

    def __init__(self, cells: Cells) -> None:
        assert cells.values is not None
        self._y_of = {value: cell + 0.5 for cell, value in enumerate(plain(cells.values))}
        self._unseen = cells.count - 0.5

    def find(self, chunk: pa.Array) -> tuple[Singles, Bools | None, Bools | None]:
        """Y (n,), 0 where missing; which are missing, and which were never seen; None for none."""
        if pa.types.is_null(chunk.type):
            return np.zeros(len(chunk), np.float32), np.ones(len(chunk), np.bool_), None
        if not pa.types.is_dictionary(chunk.type):
            chunk = chunk.dictionary_encode()
        held = plain(chunk.dictionary)
        table = [0.0 if value is None else self._y_of.get(value, self._unseen) for value in held]
        indices = chunk.indices
        if indices.null_count:
            indices = pc.fill_null(indices.cast(pa.int32()), len(held))
        places = indices.to_numpy(zero_copy_only=False)
        lost = [value is None for value in held]
        new = [value is not None and value not in self._y_of for value in held]
        missing = unseen = None
        if chunk.indices.null_count or any(lost):
            missing = np.array([*lost, True])[places]
        if any(new):
            unseen = np.array([*new, False])[places]
        return np.array([*table, 0.0], np.float32)[places], missing, unseen


def categories(
    cells: Cells, y: npt.NDArray[np.float32], valid: Bools | None, kind: pa.DataType
) -> pa.Array | pa.ChunkedArray:
    """The categories of y = cell + 1/2 in type ``kind``, null where not ``valid``.

    The cell of unseen values comes back as the most frequent value of its class.
    """
    assert cells.values is not None
    size = len(cells.values)
    cell = np.clip(np.floor(y), 0, cells.count - 1).astype(np.int32)
    if cells.has_unseen:
        first = int(np.flatnonzero(cells.cell_class == cells.cell_class[-1])[0])
        cell[cell == size] = first
    indices = array_of(cell, valid, pa.int32())
    if not pa.types.is_dictionary(kind):
        return cells.values.take(indices).cast(kind)
    values = cells.values.cast(kind.value_type)
    bits = kind.index_type.bit_width - pa.types.is_signed_integer(kind.index_type)
    if size > 2**bits:
        return as_dictionary(values.take(indices), kind)
    indices = indices.cast(kind.index_type)
    return pa.DictionaryArray.from_arrays(indices, values, ordered=kind.ordered)
