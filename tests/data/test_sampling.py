from __future__ import annotations

import time
from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from distvae.data.sampling import held_out, mix, positions, schedule, shard, windows


def chi_square(counts: np.ndarray) -> float:
    """Chi-square against equal counts, as standard deviations above its mean."""
    expected = counts.sum() / counts.size
    degrees = counts.size - 1
    return float((((counts - expected) ** 2 / expected).sum() - degrees) / np.sqrt(2 * degrees))


def test_mix_tells_values_their_order_and_their_number_apart() -> None:
    cases = [(), (0,), (0, 0), (1,), (1, 0), (0, 1), (2**32,), (1, 1), (2**64 - 1,), (2**32 - 1,)]
    assert len({mix(*case) for case in cases}) == len(cases)
    assert mix(1, 2) == mix(1, 2)
    assert all(0 <= mix(*case) < 2**64 for case in cases)
    seeds = {mix(seed, epoch) for seed in range(50) for epoch in range(50)}
    assert len(seeds) == 2500  # seed + epoch would give 99


@pytest.mark.parametrize("value", [-1, 2**64])
def test_mix_refuses_what_does_not_fit(value: int) -> None:
    with pytest.raises(ValueError, match="values lie in"):
        mix(1, value)


def test_held_out_is_a_function_of_the_row_alone() -> None:
    whole = held_out(1000, 5000, 0.1, 7)
    parts = [held_out(1000 + a, 500, 0.1, 7) for a in range(0, 5000, 500)]
    assert np.array_equal(np.concatenate(parts), whole)
    assert not np.array_equal(held_out(1000, 5000, 0.1, 8), whole)
    assert not held_out(0, 1000, 0.0, 7).any()
    assert held_out(0, 1000, 1.0, 7).all()
    assert (held_out(0, 5000, 0.2, 7) >= held_out(0, 5000, 0.1, 7)).all()  # nested
    with pytest.raises(ValueError, match="outside"):
        held_out(0, 1, 1.5, 0)


def test_held_out_takes_its_share_everywhere() -> None:
    mask = held_out(0, 200_000, 0.1, 3)
    assert abs(chi_square(mask.reshape(100, -1).sum(axis=1))) < 4
    runs = mask[1:] & mask[:-1]
    assert abs(runs.mean() - 0.01) < 4 * np.sqrt(0.01 / runs.size)


@given(
    rows=st.lists(st.integers(0, 50), max_size=30),
    limit=st.integers(1, 200),
    seed=st.integers(0, 99),
    epoch=st.integers(0, 9),
)
def test_windows_hold_every_fragment_once_within_the_limit(
    rows: list[int], limit: int, seed: int, epoch: int
) -> None:
    grouped = windows(rows, limit, seed, epoch)
    assert sorted(index for window in grouped for index in window) == list(range(len(rows)))
    assert all(window for window in grouped)
    assert all(sum(rows[i] for i in w) <= limit or len(w) == 1 for w in grouped)
    assert windows(rows, limit, seed, epoch) == grouped


def test_windows_shuffle_by_seed_and_epoch_only_when_not_all_fits() -> None:
    rows = [10] * 40
    assert windows(rows, 400, 1, 0) == windows(rows, 400, 2, 5) == (tuple(range(40)),)
    assert windows(rows, 399, 1, 0) != windows(rows, 399, 1, 1)
    assert windows(rows, 399, 1, 0) != windows(rows, 399, 2, 0)
    assert windows([], 10, 1, 0) == ()


@given(n=st.integers(1, 3000), key=st.integers(0, 2**64 - 1))
def test_positions_are_a_bijection(n: int, key: int) -> None:
    rows = np.arange(n)
    place = positions(rows, n, key)
    assert np.array_equal(np.sort(place), rows)
    subset = rows[::3][::-1]
    assert np.array_equal(positions(subset, n, key), place[subset])


def test_positions_are_a_bijection_for_every_small_n() -> None:
    for n in range(1, 300):
        assert np.array_equal(np.sort(positions(np.arange(n), n, n)), np.arange(n))


@pytest.mark.parametrize("n", [2**40, 2**60, 10**18 + 9])
def test_positions_of_a_huge_window(n: int) -> None:
    rows = np.unique(np.linspace(0, n - 1, 10_000).astype(np.int64).clip(0, n - 1))
    place = positions(rows, n, 5)
    assert len(np.unique(place)) == len(rows)
    assert place.min() >= 0
    assert place.max() < n
    assert abs(chi_square(np.histogram(place, bins=20, range=(0, n))[0])) < 4


@pytest.mark.parametrize("n", [1000, 1024, 1025, 40_000])
def test_positions_look_uniform(n: int) -> None:
    """One key: where rows of each tenth land. Many keys: where one row, and a pair, lands."""
    rows = np.arange(n)
    tenth = rows * 10 // n
    place = positions(rows, n, 11)
    table = np.zeros((10, 10))
    np.add.at(table, (tenth, place * 10 // n), 1)
    assert chi_square(table) < 4
    few = np.array([0, 1, n // 2, n - 1])
    drawn = np.array([positions(few, n, mix(key)) for key in range(2000)]) * 10 // n
    for column in range(4):
        assert abs(chi_square(np.bincount(drawn[:, column], minlength=10))) < 4
    pairs = np.zeros((10, 10))
    np.add.at(pairs, (drawn[:, 0], drawn[:, 1]), 1)
    assert abs(chi_square(pairs)) < 4


def test_small_windows_take_all_orders() -> None:
    drawn = [tuple(positions(np.arange(4), 4, mix(key)).tolist()) for key in range(4800)]
    orders, counts = np.unique(drawn, axis=0, return_counts=True)
    assert len(orders) == 24
    assert counts.min() > 100


def test_neighbours_do_not_stay_neighbours() -> None:
    place = positions(np.arange(100_000), 100_000, 3)
    step = np.diff(place)
    assert abs(np.corrcoef(place, np.arange(100_000))[0, 1]) < 0.02
    assert abs(np.corrcoef(place[1:], place[:-1])[0, 1]) < 0.02
    assert np.unique(step).size > 50_000
    other = positions(np.arange(100_000), 100_000, 4)
    assert abs(np.corrcoef(place, other)[0, 1]) < 0.02


def test_positions_refuse_rows_outside() -> None:
    for rows, n in (([5], 5), ([-1], 5), ([0], 2**61)):
        with pytest.raises(ValueError, match="rows must lie in"):
            positions(np.array(rows), n, 0)
    assert positions(np.array([], np.int64), 0, 0).size == 0


def test_a_million_positions_take_well_under_a_second_of_cpu() -> None:
    rows = np.arange(1_000_000)
    best = min(_seconds(rows) for _ in range(3))
    assert best < 0.3


def _seconds(rows: np.ndarray) -> float:
    start = time.process_time()
    positions(rows, 1_000_000, 1)
    return time.process_time() - start


@given(
    n=st.integers(0, 500),
    batch=st.integers(1, 120),
    world=st.sampled_from([1, 2, 3, 7]),
    key=st.integers(0, 2**64 - 1),
)
@settings(max_examples=150)
def test_batches_are_the_same_sets_for_any_world(n: int, batch: int, world: int, key: int) -> None:
    alone = schedule(n, batch, 0, n, key)
    ranks = [schedule(n, batch, *shard(n, rank, world), key) for rank in range(world)]
    assert {rank.steps for rank in ranks} == {-(-n // batch)}
    seen = []
    for step in range(alone.steps):
        together = [r.order[r.bounds[step] : r.bounds[step + 1]] for r in ranks]
        expected = alone.order[alone.bounds[step] : alone.bounds[step + 1]]
        assert len(expected) == min(batch, n - step * batch)
        assert np.array_equal(np.sort(np.concatenate(together)), np.sort(expected))
        seen.append(expected)
    rows = np.concatenate(seen) if seen else np.array([], np.int64)
    assert np.array_equal(np.sort(rows), np.arange(n))  # every row exactly once
    assert np.array_equal(alone.positions, np.arange(n))


def test_any_step_is_reached_without_the_ones_before() -> None:
    start, stop = shard(1000, 1, 3)
    whole = schedule(1000, 64, start, stop, 9)
    again = schedule(1000, 64, start, stop, 9)
    for step in range(whole.steps):
        a = whole.order[whole.bounds[step] : whole.bounds[step + 1]]
        b = again.order[again.bounds[step] : again.bounds[step + 1]]
        assert np.array_equal(a, b)
        place = positions(a, 1000, 9)
        assert (place // 64 == step).all()
    assert not np.array_equal(schedule(1000, 64, start, stop, 10).order, whole.order)


def test_shards_cover_the_window_and_differ_by_one_row_at_most() -> None:
    for n in (0, 1, 5, 7, 100):
        for world in (1, 2, 3, 7):
            edges = [shard(n, rank, world) for rank in range(world)]
            assert edges[0][0] == 0
            assert edges[-1][1] == n
            assert all(a[1] == b[0] for a, b in pairwise(edges))
            sizes = [stop - start for start, stop in edges]
            assert max(sizes) - min(sizes) <= 1


def test_wrong_worlds_and_batches_are_refused() -> None:
    with pytest.raises(ValueError, match="rank 2 of a world of 2"):
        shard(5, 2, 2)
    with pytest.raises(ValueError, match="batch_size 0"):
        schedule(5, 0, 0, 5, 1)


def test_numbers_never_change() -> None:
    """A checkpoint's position means the same rows for ever: frozen values."""
    assert mix(1, 2, 3) == 18001877160497339420
    assert positions(np.arange(10), 10, 1).tolist() == [6, 0, 4, 9, 1, 5, 8, 7, 3, 2]
    assert np.flatnonzero(held_out(0, 100, 0.05, 1)).tolist() == [19, 28, 73, 85, 95, 97]
    assert windows([5] * 6, 12, 1, 1) == ((0, 5), (4, 3), (2, 1))
