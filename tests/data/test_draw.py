from __future__ import annotations

from functools import reduce
from itertools import pairwise

import numpy as np
from hypothesis import given, settings
from hypothesis import strategies as st

from distvae.data.draw import Drawn, draw, merge_draws
from distvae.data.sampling import mix


@given(
    total=st.integers(1, 300),
    count=st.integers(1, 40),
    cuts=st.lists(st.integers(0, 300), max_size=4),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**32),
)
@settings(max_examples=60, deadline=None)
def test_any_cut_draws_the_same_rows(
    total: int, count: int, cuts: list[int], share: float, seed: int
) -> None:
    may = np.flatnonzero(np.random.default_rng(seed).random(total) < share)
    key = mix(seed, 5)
    whole = draw(may, total, count, key)
    assert len(whole.rows) == min(count, len(may))
    assert set(whole.rows) <= set(may)
    edges = [0, *sorted(min(cut, total) for cut in cuts), total]
    parts = [draw(may[(may >= a) & (may < b)], total, count, key) for a, b in pairwise(edges)]
    merged = reduce(lambda a, b: merge_draws(a, b, count), parts)
    assert np.array_equal(merged.rows, whole.rows)
    assert np.array_equal(merged.places, whole.places)


def test_every_row_is_as_likely_as_any_other() -> None:
    hits = np.zeros(50)
    for seed in range(2000):
        hits[draw(np.arange(50), 50, 10, mix(seed)).rows] += 1
    # Each is drawn with probability 0.2: 400 times, standard deviation 18.
    assert np.abs(hits - 400).max() < 5 * 18


def test_no_rows_draw_none() -> None:
    none = draw(np.empty(0, np.int64), 10, 3, 1)
    assert isinstance(none, Drawn)
    assert len(merge_draws(none, none, 3).rows) == 0
