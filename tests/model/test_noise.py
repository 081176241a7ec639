from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distvae.model import noise


@given(st.integers(0, 5000), st.integers(0, 700), st.integers(0, 700))
@settings(max_examples=30, deadline=None)
def test_rows_are_the_same_however_they_are_cut(first: int, rows: int, cut: int) -> None:
    cut = min(cut, rows)
    for draw in (noise.normal_rows, noise.uniform_rows):
        whole = draw(7, "s", first, rows, 3, 128)
        parts = [draw(7, "s", first, cut, 3, 128), draw(7, "s", first + cut, rows - cut, 3, 128)]
        assert np.array_equal(whole, np.concatenate(parts))
        assert whole.dtype == np.float32
        assert whole.shape == (rows, 3)


def test_blocks_are_slices_of_the_rows() -> None:
    assert np.array_equal(noise.normal(1, "a", 3, 64, 5), noise.normal_rows(1, "a", 192, 64, 5, 64))
    assert np.array_equal(
        noise.uniform(1, "a", 3, 64, 5), noise.uniform_rows(1, "a", 192, 64, 5, 64)
    )


def test_seeds_streams_and_blocks_never_share_numbers() -> None:
    keys = [(s, name, b) for s in (0, 1, 2, 2**32) for name in ("a", "b") for b in (0, 1, 2, 2**32)]
    firsts = {noise.normal(*key, 4, 2).tobytes() for key in keys}
    assert len(firsts) == len(keys)


def test_a_known_block_stays_what_it_was() -> None:
    found = noise.generator(42, "latent", 7).integers(0, 2**32, 3, dtype=np.uint64).tolist()
    assert found == [69963351, 3300998094, 1676813293]


def test_moments_are_those_of_the_distribution() -> None:
    draws = noise.normal_rows(3, "m", 0, 50_000, 4)
    count = draws.size
    assert abs(draws.mean()) <= 5 / math.sqrt(count)
    assert abs((draws.astype(np.float64) ** 2).mean() - 1) <= 5 * math.sqrt(2 / count)
    correlation = np.corrcoef(draws.T) - np.eye(4)
    assert np.abs(correlation).max() <= 5 / math.sqrt(len(draws))
    even = noise.uniform_rows(3, "m", 0, 50_000, 4)
    assert even.min() >= 0
    assert even.max() < 1
    assert abs(even.mean() - 0.5) <= 5 * math.sqrt(1 / 12 / count)


@pytest.mark.parametrize(
    ("seed", "block", "name"), [(-1, 0, "seed"), (2**64, 0, "seed"), (0, -1, "block")]
)
def test_out_of_range_keys_are_refused(seed: int, block: int, name: str) -> None:
    with pytest.raises(ValueError, match=rf"{name} .*: must be in \[0, 2\*\*64\)"):
        noise.generator(seed, "x", block)
