"""Noise that is a function of (seed, stream, row) alone, whoever draws it and in what order.

Each block of rows has a NumPy Philox generator of its own, a counter-based bit stream (Salmon et
al. 2011, "Parallel random numbers: as easy as 1, 2, 3"). Its key is mixed by ``SeedSequence`` from
fixed-width words of (seed, SHA-256 of the stream's name, block), never added up, so that no two
streams meet. A ``Generator`` may give other numbers in another NumPy release.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

__all__ = [
    "ROWS_PER_NOISE_BLOCK",
    "generator",
    "normal",
    "normal_of",
    "normal_rows",
    "uniform",
    "uniform_of",
    "uniform_rows",
]

ROWS_PER_NOISE_BLOCK = 1024

Float32Array = NDArray[np.float32]
Rows = NDArray[np.int64]
Draw = Callable[[np.random.Generator, Float32Array], object]


def generator(seed: int, stream: str, block: int) -> np.random.Generator:
    """Return the generator of one block of one stream.

    Args:
        seed: the run's seed, in [0, 2**64).
        stream: what the noise is for, e.g. ``"latent"``; different names never share numbers.
        block: number of the row block, in [0, 2**64).

    Raises:
        ValueError: ``seed`` or ``block`` is out of range.
    """
    name = np.frombuffer(hashlib.sha256(stream.encode()).digest()[:16], dtype="<u4")
    words = [*_two_words("seed", seed), *(int(word) for word in name), *_two_words("block", block)]
    # As an array, and not by way of ``Philox(key=...)``, which asks the system for a seed first.
    key = np.random.SeedSequence(np.array(words, np.uint32))
    return np.random.Generator(np.random.Philox(key))


def normal(seed: int, stream: str, block: int, rows_per_block: int, columns: int) -> Float32Array:
    """Return one block of standard normal noise, ``(rows_per_block, columns)`` float32."""
    return normal_rows(
        seed, stream, block * rows_per_block, rows_per_block, columns, rows_per_block
    )


def uniform(seed: int, stream: str, block: int, rows_per_block: int, columns: int) -> Float32Array:
    """Return one block of noise uniform in [0, 1), ``(rows_per_block, columns)`` float32."""
    return uniform_rows(
        seed, stream, block * rows_per_block, rows_per_block, columns, rows_per_block
    )


def normal_rows(
    seed: int,
    stream: str,
    first_row: int,
    rows: int,
    columns: int,
    rows_per_block: int = ROWS_PER_NOISE_BLOCK,
) -> Float32Array:
    """Return standard normal noise of rows ``[first_row, first_row + rows)``.

    Row i is a function of (seed, stream, i) for given ``columns`` and ``rows_per_block``.

    Returns:
        ``(rows, columns)`` float32.
    """
    return _rows(_draw_normal, seed, stream, first_row, rows, columns, rows_per_block)


def uniform_rows(
    seed: int,
    stream: str,
    first_row: int,
    rows: int,
    columns: int,
    rows_per_block: int = ROWS_PER_NOISE_BLOCK,
) -> Float32Array:
    """Return noise uniform in [0, 1) of rows ``[first_row, first_row + rows)``.

    Row i is a function of (seed, stream, i) for given ``columns`` and ``rows_per_block``.

    Returns:
        ``(rows, columns)`` float32.
    """
    return _rows(_draw_uniform, seed, stream, first_row, rows, columns, rows_per_block)


def normal_of(seed: int, stream: str, rows: Rows, columns: int) -> Float32Array:
    """Return standard normal noise ``(n, columns)`` of the row numbers ``(n,)``, in any order.

    The same numbers as ``normal_rows``; blocks that hold none of the rows are not drawn.
    """
    return _of(_draw_normal, seed, stream, rows, columns)


def uniform_of(seed: int, stream: str, rows: Rows, columns: int) -> Float32Array:
    """Return noise uniform in [0, 1) of the given row numbers, as ``normal_of``."""
    return _of(_draw_uniform, seed, stream, rows, columns)


def _of(draw: Draw, seed: int, stream: str, rows: Rows, columns: int) -> Float32Array:
    size = ROWS_PER_NOISE_BLOCK
    result = np.empty((len(rows), columns), np.float32)
    block_of_row = rows // size
    for block in np.unique(block_of_row).tolist():
        here = block_of_row == block
        whole = _rows(draw, seed, stream, block * size, size, columns, size)
        result[here] = whole[rows[here] - block * size]
    return result


def _draw_normal(source: np.random.Generator, out: Float32Array) -> object:
    return source.standard_normal(dtype=np.float32, out=out)


def _draw_uniform(source: np.random.Generator, out: Float32Array) -> object:
    return source.random(dtype=np.float32, out=out)


def _rows(
    draw: Draw, seed: int, stream: str, first_row: int, rows: int, columns: int, rows_per_block: int
) -> Float32Array:
    result = np.empty((rows, columns), np.float32)
    done = 0
    while done < rows:
        block, skip = divmod(first_row + done, rows_per_block)
        count = min(rows_per_block - skip, rows - done)
        source = generator(seed, stream, block)
        if count == rows_per_block:
            draw(source, result[done : done + count])
        else:
            whole = np.empty((rows_per_block, columns), np.float32)
            draw(source, whole)
            result[done : done + count] = whole[skip : skip + count]
        done += count
    return result


def _two_words(name: str, value: int) -> tuple[int, int]:
    if not 0 <= value < 1 << 64:
        raise ValueError(f"{name} {value}: must be in [0, 2**64)")
    return value & 0xFFFFFFFF, value >> 32
