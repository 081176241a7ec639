"""Which rows train when: pure arithmetic, seeded by a mixer, independent of the world's size.

An epoch visits windows, one after the other. A window is a set of fragments whose rows are
numbered 0..n-1; a keyed permutation gives every row its position, and global batch s holds the
rows of positions [s B, (s+1) B). A rank owns a contiguous range of the window's rows and takes
its share of every batch, so each rank makes the same steps, the batches are the same sets for
any world, and any step can be started from without replaying those before it.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt

__all__ = ["Schedule", "held_out", "mix", "positions", "schedule", "shard", "windows"]

Words = npt.NDArray[np.uint64]
Rows = npt.NDArray[np.int64]

_STREAM_HELD_OUT, _STREAM_WINDOWS = 1, 2
_ROUNDS = 4
_ROWS_PER_SLICE = 1 << 15  # 256 KiB of uint64: the rounds stay in the cache
_LARGEST_WINDOW = 1 << 60


class Schedule(NamedTuple):
    """A rank's part of the batches of one window.

    Attributes:
        order: (r,) the rank's rows (numbers in the window), sorted by position.
        bounds: (steps + 1,) the rank's rows of step s are ``order[bounds[s]:bounds[s + 1]]``;
            there may be none.
        steps: number of steps, the same on every rank.
        positions: (r,) positions of ``order`` in the shuffled window, ascending.
    """

    order: Rows
    bounds: Rows
    steps: int
    positions: Rows


def mix(*values: int) -> int:
    """A 64-bit seed from any number of values in [0, 2**64); order and number count.

    Each value enters `numpy.random.SeedSequence` as two 32-bit words after their number, since
    the sequence itself takes [1] and [1, 0] for the same.

    Raises:
        ValueError: a value outside [0, 2**64).
    """
    words = [len(values)]
    for value in values:
        if not 0 <= value < 1 << 64:
            raise ValueError(f"cannot mix {value}: values lie in [0, 2**64)")
        words += [value & 0xFFFFFFFF, value >> 32]
    return int(np.random.SeedSequence(words).generate_state(1, np.uint64)[0])


def held_out(first_row: int, rows: int, fraction: float, seed: int) -> npt.NDArray[np.bool_]:
    """(rows,) True for the rows of [first_row, first_row + rows) held out for validation.

    A function of (seed, absolute row) alone, so fragments and workers do not matter.

    Raises:
        ValueError: a fraction outside [0, 1].
    """
    if not 0 <= fraction <= 1:
        raise ValueError(f"fraction {fraction} lies outside [0, 1]")
    row = np.arange(first_row, first_row + rows, dtype=np.uint64)
    uniform = (_hash(row, mix(seed, _STREAM_HELD_OUT)) >> np.uint64(11)).astype(np.float64)
    return np.asarray(uniform * 2.0**-53 < fraction)


def windows(
    rows_per_fragment: Sequence[int], rows_per_window: int, seed: int, epoch: int
) -> tuple[tuple[int, ...], ...]:
    """Fragment indices grouped into the windows of one epoch, in the order of their visit.

    When everything fits there is one window, in index order, the same in each epoch (its rows
    are what is shuffled). Otherwise fragments are shuffled and taken in turn until the next
    would exceed ``rows_per_window``; a fragment larger than that is a window of its own.
    """
    rows = np.asarray(rows_per_fragment, dtype=np.int64)
    if int(rows.sum()) <= rows_per_window:
        return (tuple(range(len(rows))),) if len(rows) else ()
    index = np.arange(len(rows), dtype=np.uint64)
    shuffled = np.argsort(_hash(index, mix(seed, epoch, _STREAM_WINDOWS)), kind="stable")
    grouped: list[tuple[int, ...]] = []
    open_window: list[int] = []
    held = 0
    for fragment, count in zip(shuffled.tolist(), rows[shuffled].tolist(), strict=True):
        if open_window and held + count > rows_per_window:
            grouped.append(tuple(open_window))
            open_window, held = [], 0
        open_window.append(fragment)
        held += count
    return (*grouped, tuple(open_window))


def positions(rows: Rows, n: int, key: int) -> Rows:
    """Position of each row of a window of ``n`` rows in its shuffled order.

    A keyed bijection of [0, n): a generalised Feistel network on Z_a x Z_b with a b >= n (Black
    and Rogaway 2002, "Ciphers with arbitrary finite domains", section 5) and cycle walking.
    With a = ceil(sqrt(n)), b = ceil(n / a), fewer than one row in sqrt(n) walks.

    Args:
        rows: row numbers in [0, n), any subset in any order.
        n: rows of the window, at most 2**60.
        key: 64-bit key, from `mix`.

    Raises:
        ValueError: a row or ``n`` out of range.
    """
    given = np.asarray(rows, dtype=np.int64)
    if not 0 <= n <= _LARGEST_WINDOW or (given.size and not (given.min() >= 0 and given.max() < n)):
        raise ValueError(f"rows must lie in [0, {n}), and n in [0, 2**60]")
    a = _root(n)
    b = -(-n // a)
    keys = _hash(np.arange(2 * _ROUNDS, dtype=np.uint64), key)
    result = np.empty(given.shape, np.int64)
    for start in range(0, len(given), _ROWS_PER_SLICE):
        part = slice(start, start + _ROWS_PER_SLICE)
        value = _network(given[part].astype(np.uint64), a, b, keys)
        while (outside := np.flatnonzero(value >= np.uint64(n))).size:
            value[outside] = _network(value[outside], a, b, keys)
        result[part] = value
    return result


def shard(n: int, rank: int, world: int) -> tuple[int, int]:
    """The rows [start, stop) of a window of ``n`` that ``rank`` of ``world`` owns.

    Raises:
        ValueError: a rank outside [0, world).
    """
    if not 0 <= rank < world:
        raise ValueError(f"rank {rank} of a world of {world}")
    return n * rank // world, n * (rank + 1) // world


def schedule(n: int, batch_size: int, start: int, stop: int, key: int) -> Schedule:
    """The part that the owner of rows [start, stop) has in every batch of a window.

    The window's last batch is kept even when it is short: nothing is dropped.

    Args:
        n: rows of the window, over all ranks.
        batch_size: rows of a global batch.
        start: first row owned.
        stop: one past the last row owned.
        key: 64-bit key of this window in this epoch, the same on every rank.

    Raises:
        ValueError: a batch size below 1.
    """
    if batch_size < 1:
        raise ValueError(f"batch_size {batch_size} must be at least 1")
    steps = -(-n // batch_size)
    own = np.arange(start, stop, dtype=np.int64)
    place = positions(own, n, key)
    sorting = np.argsort(place)  # positions differ, so any sort gives the same
    ordered = place[sorting]
    limits = np.arange(steps + 1, dtype=np.int64) * batch_size
    bounds = np.searchsorted(ordered, limits).astype(np.int64)
    return Schedule(own[sorting], bounds, steps, ordered)


def _hash(words: Words, key: int) -> Words:
    """splitmix64's finaliser (Steele, Lea and Flood 2014) of words xor key, after a first mix."""
    once: Words = words * np.uint64(0x9E3779B97F4A7C15) + np.uint64(key)
    return _finalise(_finalise(once) ^ np.uint64(key))


def _finalise(z: Words) -> Words:
    z = (z ^ (z >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return np.asarray(z ^ (z >> np.uint64(31)))


def _root(n: int) -> int:
    """ceil(sqrt(n)), at least 1."""
    floor = int(np.sqrt(float(n)))
    while floor * floor < n:
        floor += 1
    return max(1, floor)


def _network(value: Words, a: int, b: int, keys: Words) -> Words:
    """One pass over the domain [0, a b): value = left + a right, both halves added to in turn."""
    right = value // np.uint64(a)
    left = value - right * np.uint64(a)
    for first, second in zip(keys[::2], keys[1::2], strict=True):
        left = _add(left, _round(right, first, a), a)
        right = _add(right, _round(left, second, b), b)
    return np.asarray(left + right * np.uint64(a))


def _round(half: Words, key: np.uint64, size: int) -> Words:
    """A pseudo-random number in [0, size) for each value: 32 hashed bits times size."""
    z = (half + key) * np.uint64(0xBF58476D1CE4E5B9)
    z = (z ^ (z >> np.uint64(29))) * np.uint64(0x94D049BB133111EB)
    return ((z >> np.uint64(32)) * np.uint64(size)) >> np.uint64(32)


def _add(half: Words, term: Words, size: int) -> Words:
    """(half + term) mod size, for both below size."""
    total = half + term
    return np.asarray(np.minimum(total, total - np.uint64(size)))
