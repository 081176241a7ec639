"""How near synthetic rows come to training rows, beside how near unseen real rows do.

Distances are Euclidean between rows of standardised numbers and indicators of words (the
preparation of `distvae.fidelity.utility`). A model that copies has synthetic rows nearer to the
training rows than the held-out ones are. Equal rows are counted too: where columns take few
values, held-out rows equal training rows by chance.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.fidelity.utility import preparation

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["closest", "copies", "distances", "row_keys"]

_NOTHING = "∅"
_ROWS_PER_SLICE = 1 << 14


def closest(synthetic: npt.NDArray[Any], holdout: npt.NDArray[Any]) -> dict[str, float | None]:
    """Figures of distances (n,) and (m,) to the closest training row.

    Returns:
        ``closest_record_ratio``: median of the synthetic rows over that of the held-out ones,
        None where only the latter is 0; ``closer_share``: share of synthetic rows nearer than
        95 % of the held-out rows are, 0.05 by chance.
    """
    one, two = float(np.median(synthetic)), float(np.median(holdout))
    ratio = one / two if two > 0.0 else (1.0 if one == 0.0 else None)
    near = float(np.quantile(holdout, 0.05))
    return {
        "closest_record_ratio": ratio,
        "closer_share": float(np.mean(synthetic < near)),
        "closest_record_distance": one,
        "closest_record_distance_of_holdout": two,
    }


def distances(
    training: pd.DataFrame, sample: pd.DataFrame, *others: pd.DataFrame
) -> tuple[npt.NDArray[np.float64], ...]:
    """(n,) distance of each row of each of ``others`` to the closest row of ``sample``.

    Args:
        training: rows that the preparation is fitted to.
        sample: rows of it to search.
        others: rows to find the closest of.
    """
    from sklearn.neighbors import NearestNeighbors

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # words that the training rows lack
        filled = _filled(training)
        prepared = preparation(filled).fit(filled)
        search = NearestNeighbors(n_neighbors=1).fit(prepared.transform(_filled(sample)))
        return tuple(
            search.kneighbors(prepared.transform(_filled(other)))[0][:, 0] for other in others
        )


def _filled(frame: pd.DataFrame) -> pd.DataFrame:
    frame = frame.copy()
    for name in frame:
        if frame[name].dtype == object:
            frame[name] = frame[name].fillna(_NOTHING)
    return frame


def copies(rows: npt.NDArray[np.uint64], training: npt.NDArray[np.uint64]) -> float:
    """Share of ``rows`` that equal some row of ``training``, both from `row_keys`."""
    return float(np.isin(rows, training).mean()) if len(rows) else 0.0


def row_keys(frame: pd.DataFrame, vectors: Mapping[str, pa.ChunkedArray]) -> Any:
    """(n,) uint64 hash of each row; equal rows have equal keys, others by a chance of 2^-64.

    Args:
        frame: the columns that are numbers or words.
        vectors: the list columns beside them, of numbers.
    """
    import pandas as pd

    keys = pd.util.hash_pandas_object(frame, index=False).to_numpy(np.uint64)
    for column in vectors.values():
        keys = keys * np.uint64(0x9E3779B97F4A7C15) + _vector_keys(column)
    return keys


def _vector_keys(column: pa.ChunkedArray) -> npt.NDArray[np.uint64]:
    """(n,) hash of each list: sum over elements of their bits times an odd number per place."""
    parts = [np.zeros(0, dtype=np.uint64)]
    for chunk in column.chunks:
        starts = range(0, len(chunk), _ROWS_PER_SLICE)
        parts += [_list_keys(chunk.slice(start, _ROWS_PER_SLICE)) for start in starts]
    return np.concatenate(parts)


def _list_keys(lists: pa.Array) -> npt.NDArray[np.uint64]:
    known = lists.is_valid().to_numpy(zero_copy_only=False)
    whole = lists.drop_null()
    if pa.types.is_fixed_size_list(lists.type):
        lengths = np.full(len(whole), lists.type.list_size)
    else:
        lengths = whole.value_lengths().to_numpy(zero_copy_only=False)
    flat = whole.flatten().cast(pa.float64(), safe=False).to_numpy(zero_copy_only=False)
    bits = np.ascontiguousarray(flat, dtype=np.float64).view(np.uint64)
    starts = np.cumsum(lengths) - lengths
    place = np.arange(len(bits)) - np.repeat(starts, lengths)
    mixed = (bits ^ (bits >> np.uint64(29))) * _odd(int(lengths.max(initial=0)))[place]
    ends = np.concatenate([np.zeros(1, np.uint64), np.cumsum(mixed, dtype=np.uint64)])
    keys = np.zeros(len(lists), dtype=np.uint64)
    keys[known] = ends[starts + lengths] - ends[starts] + lengths.astype(np.uint64) + np.uint64(1)
    return keys


def _odd(count: int) -> npt.NDArray[np.uint64]:
    """(count,) fixed random odd numbers; more of them begin with the fewer."""
    words = np.random.Generator(np.random.Philox(0)).integers(0, 2**64, count, dtype=np.uint64)
    return words | np.uint64(1)
