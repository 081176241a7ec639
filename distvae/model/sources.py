"""Source points: the standard normal numbers that generated rows start from, by row number.

Row i is a function of (seed, stream, i) alone, so that any slice of the endless table has the
numbers of the whole. Three sources sample the same model:

- ``normal``: independent draws from N(0, I);
- ``uniform``: independent draws u from [0, 1]^k through the inverse Gaussian CDF, z = Phi^-1(u);
- ``sobol``: the points of a scrambled Sobol sequence (Sobol 1967; Owen 1998, "Scrambling Sobol and
  Niederreiter-Xing points") through Phi^-1. They fill the cube more evenly than independent
  draws, so that averages over the rows converge faster; each row alone is still uniform.

The Sobol direction numbers (Joe & Kuo 2008) and their scrambling, a random lower triangular matrix
and a random digital shift per dimension (Matousek 1998, "On the L2-discrepancy for anchored
boxes"), come from ``torch.quasirandom.SobolEngine``. Point i is the shift XOR the direction
numbers at the set bits of the Gray code of i (Antonov & Saleev 1979), so any point is reached
at once; torch's own engine walks to it.
"""

from __future__ import annotations

from collections.abc import Iterator
from functools import lru_cache
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch.quasirandom import SobolEngine

from distvae.errors import UsageError
from distvae.model import noise

__all__ = [
    "MOST_SOBOL_DIMENSIONS",
    "MOST_SOBOL_ROWS",
    "SOURCES",
    "check_source",
    "inverse_normal_cdf",
    "sobol_integers",
    "source_points",
]

SOURCES = ("normal", "uniform", "sobol")
MOST_SOBOL_ROWS = 1 << SobolEngine.MAXBIT
"""Points of the sequence; torch's engine silently repeats and garbles points beyond."""
MOST_SOBOL_DIMENSIONS = SobolEngine.MAXDIM
"""Dimensions for which direction numbers are known."""

_BLOCK_BITS = 10
_BLOCK = 1 << _BLOCK_BITS
assert _BLOCK == noise.ROWS_PER_NOISE_BLOCK

Float32Array = NDArray[np.float32]
Float64Array = NDArray[np.float64]
Int32Array = NDArray[np.int32]


def source_points(
    source: str,
    seed: int,
    first_row: int,
    rows: int,
    k: int,
    choose: bool = False,
    stream: str = "generate-z",
) -> tuple[Float32Array, Float64Array | None]:
    """Return the source points of rows ``[first_row, first_row + rows)``.

    Args:
        source: one of ``SOURCES``. ``normal`` has the numbers of ``noise.normal_rows``.
        seed: the run's seed, in [0, 2**64).
        first_row: number of the first row in the endless table, >= 0.
        rows: how many.
        k: latent dimensions, >= 1.
        choose: whether each row also gets a uniform number that chooses a mixture's component.
            For ``sobol`` it is one more coordinate of the same point.
        stream: what the numbers are for; different names never share numbers.

    Returns:
        ``eps (rows, k)`` float32, standard normal and finite, and ``u (rows,)`` float64, uniform
        in [0, 1), or None without ``choose``.

    Raises:
        UsageError: an unknown source; ``sobol`` beyond its rows or dimensions.
    """
    check_source(source, first_row + rows, k, choose)
    if source == "sobol":
        return _sobol_points(seed, first_row, rows, k, choose, stream)
    if source == "normal":
        eps = noise.normal_rows(seed, stream, first_row, rows, k)
    else:
        eps = _uniform_points(seed, first_row, rows, k, stream)
    chooser = _doubles(seed, f"{stream}/component", first_row, rows, 1)[:, 0] if choose else None
    return eps, chooser


def check_source(source: str, stop: int, k: int, choose: bool = False) -> None:
    """Refuse what a source cannot give, before anything starts.

    Args:
        source: one of ``SOURCES``.
        stop: one past the last row.
        k: latent dimensions.
        choose: as for ``source_points``.

    Raises:
        UsageError: an unknown source; ``sobol`` beyond its rows or dimensions.
    """
    if source not in SOURCES:
        raise UsageError("source", f"got {source}", f"it is one of {', '.join(SOURCES)}")
    if source != "sobol":
        return
    if stop > MOST_SOBOL_ROWS:
        rule = f"the sequence has rows 0 to {MOST_SOBOL_ROWS - 1:,}, asked for up to {stop - 1:,}"
        remedy = "take a smaller offset or fewer rows, or the source normal"
        raise UsageError("source", "got sobol", rule, remedy)
    most = MOST_SOBOL_DIMENSIONS - choose
    if k > most:
        rule = f"it has at most {most:,} latent dimensions, the model has {k:,}"
        raise UsageError("source", "got sobol", rule, "take the source normal or uniform")


def inverse_normal_cdf(u: Float64Array) -> Float64Array:
    """Return Phi^-1(u), elementwise in float64, for u in (0, 1) (Cephes' ndtri; 1e-15 relative)."""
    result: Float64Array = torch.special.ndtri(torch.from_numpy(u)).numpy()
    return result


def sobol_integers(seed: int, stream: str, first_row: int, rows: int, dimension: int) -> Int32Array:
    """Return scrambled Sobol points ``(rows, dimension)`` as integers in [0, 2**30).

    Point n of dimension j is the integer over 2**30; see the module for the formula. Since the
    Gray code is linear over XOR, P(1024 h + l) = P(1024 h) ^ P(l) but for the shift, and the
    1024 values of P(l) are kept.
    """
    sequence = _sequence(seed, stream, dimension)
    result = np.empty((rows, dimension), np.int32)
    for block, inside, out in _blocks(first_row, rows):
        np.bitwise_xor(sequence.low[inside], _high(sequence, block), out=result[out])
    return result


class _Sequence(NamedTuple):
    """``directions (30, d)``, one row per bit, and ``low (1024, d)``: the first points, shifted."""

    directions: Int32Array
    low: Int32Array


@lru_cache(maxsize=2)
def _sequence(seed: int, stream: str, dimension: int) -> _Sequence:
    # The engine reads 32 bits of its seed, so the key is mixed here: seeds that differ in the
    # upper bits alone must not meet. With a seed it draws from a generator of its own.
    key = int(noise.generator(seed, f"{stream}/sobol", 0).integers(1 << 32))
    engine = SobolEngine(dimension, scramble=True, seed=key)
    directions = np.ascontiguousarray(engine.sobolstate.numpy().T, np.int32)
    low = np.empty((_BLOCK, dimension), np.int32)
    low[0] = engine.shift.numpy()
    # In the order of the Gray code one bit changes at a time: that of the lowest set bit of n.
    for n in range(1, _BLOCK):
        low[n] = low[n - 1] ^ directions[(n & -n).bit_length() - 1]
    for array in (directions, low):
        array.flags.writeable = False
    return _Sequence(directions, low)


def _high(sequence: _Sequence, block: int) -> Int32Array:
    """P(1024 block) without the shift, ``(d,)``."""
    n = block << _BLOCK_BITS
    gray = n ^ (n >> 1)
    bits = [bit for bit in range(gray.bit_length()) if gray >> bit & 1]
    result: Int32Array = np.bitwise_xor.reduce(sequence.directions[bits], axis=0)
    return result


def _sobol_points(
    seed: int, first_row: int, rows: int, k: int, choose: bool, stream: str
) -> tuple[Float32Array, Float64Array | None]:
    eps = np.empty((rows, k), np.float32)
    chooser = np.empty(rows) if choose else None
    for _, inside, out in _blocks(first_row, rows):
        start, count = first_row + out.start, inside.stop - inside.start
        # The middle of the point's cell: in the open interval, so that Phi^-1 is finite.
        u = (sobol_integers(seed, stream, start, count, k + choose) + 0.5) / MOST_SOBOL_ROWS
        eps[out] = inverse_normal_cdf(np.ascontiguousarray(u[:, :k]))
        if chooser is not None:
            chooser[out] = u[:, k]
    return eps, chooser


def _uniform_points(seed: int, first_row: int, rows: int, k: int, stream: str) -> Float32Array:
    u = _doubles(seed, f"{stream}/uniform", first_row, rows, k)
    # 52 bits and the middle of the cell: the open interval, exactly, so that Phi^-1 is finite.
    cells = 2.0**52
    np.floor(u * cells, out=u)
    return inverse_normal_cdf((u + 0.5) / cells).astype(np.float32)


def _doubles(seed: int, stream: str, first_row: int, rows: int, columns: int) -> Float64Array:
    """Uniform in [0, 1), 53 bits, ``(rows, columns)`` float64."""
    result = np.empty((rows, columns))
    for block, inside, out in _blocks(first_row, rows):
        result[out] = noise.generator(seed, stream, block).random((_BLOCK, columns))[inside]
    return result


def _blocks(first_row: int, rows: int) -> Iterator[tuple[int, slice, slice]]:
    """Yield (block, rows inside it, where they go in the result) in order."""
    done = 0
    while done < rows:
        block, skip = divmod(first_row + done, _BLOCK)
        count = min(_BLOCK - skip, rows - done)
        yield block, slice(skip, skip + count), slice(done, done + count)
        done += count
