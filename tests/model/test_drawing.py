from __future__ import annotations

import numpy as np
import pytest
import torch

from distvae.model.categorical import LARGEST_LOGIT
from distvae.model.drawing import Ladder, rows_last
from distvae.model.heads import elements_of
from distvae.model.likelihoods import make_head
from tests.model.cell_cases import category

CLASSES = (1, 2, 2, 5, 9, 9, 256)


def odds_of(rows: int, seed: int = 0) -> torch.Tensor:
    """Column by column, ``(P, n)``; a third of the classes has no odds."""
    random = np.random.default_rng(seed)
    odds = np.exp(3 * random.normal(size=(sum(CLASSES), rows))) * (
        random.random((sum(CLASSES), rows)) < 2 / 3
    )
    odds[np.cumsum(CLASSES) - 1] += 1e-3
    return torch.from_numpy(odds.astype(np.float32))


def reference(odds: torch.Tensor, u: torch.Tensor) -> tuple[np.ndarray, np.ndarray]:
    """The class by NumPy's search in float64, and how far u is from a border between classes."""
    chosen, gap = np.empty(u.shape, np.int64), np.empty(u.shape)
    for column, own in enumerate(odds.double().split(CLASSES)):
        upto = own.numpy().cumsum(0)
        upto /= upto[-1]
        for row, number in enumerate(u[column].double().numpy()):
            chosen[column, row] = np.searchsorted(upto[:, row], number, side="right")
            gap[column, row] = np.abs(upto[:, row] - number).min()
    return chosen, gap


def test_classes_are_those_of_a_search_in_float64() -> None:
    ladder, odds = Ladder(CLASSES), odds_of(300)
    u = torch.rand(len(CLASSES), 300, generator=torch.Generator().manual_seed(0))
    expected, gap = reference(odds, u)
    upto = odds[ladder.order]
    chosen = ladder.find(upto, u)
    clear = gap > 1e-6
    assert clear.mean() > 0.99
    assert (chosen.numpy() == expected)[clear].all()
    assert (chosen[0] == 0).all()
    columns = torch.tensor([1, 3, 6])
    rest = ladder.rest(u[columns], chosen[columns], upto, columns).numpy()
    for place, column in enumerate(columns.tolist()):
        own = odds.double().split(CLASSES)[column].numpy()
        share = np.take_along_axis(own, expected[[column]], 0)[0]
        before = np.take_along_axis(own.cumsum(0), expected[[column]], 0)[0] - share
        found = (u[column].double().numpy() * own.sum(0) - before) / share
        wide = clear[column] & (share > 0.01 * own.sum(0))
        assert wide.sum() > 200
        np.testing.assert_allclose(rest[place][wide], found[wide], atol=1e-3)


def test_arrays_and_tensors_climb_alike() -> None:
    ladder, odds = Ladder(CLASSES), odds_of(40)[Ladder(CLASSES).order]
    u = torch.rand(len(CLASSES), 40, generator=torch.Generator().manual_seed(1))
    other = odds.clone()
    found = torch.zeros(u.shape, dtype=torch.long)
    ladder._climb(other, u, ladder.last, found)
    assert torch.equal(ladder.find(odds, u), found)
    assert torch.equal(odds, other)


@pytest.mark.parametrize("classes", [255, 256, 257, 600])
def test_a_ladder_counts_beyond_a_byte_and_ends_hold_the_ends(classes: int) -> None:
    ladder = Ladder([classes])
    odds = torch.ones(classes, 3)
    odds[[0, -1], 1] = 0
    chosen = ladder.find(odds, torch.tensor([[0.0, 0.0, 1.0]]))
    assert chosen.tolist() == [[0, 1, classes - 1]]
    odds = torch.ones(classes, 1)
    odds[-1] = 0
    assert ladder.find(odds, torch.ones(1, 1)).tolist() == [[classes - 2]]


def test_no_row_feels_another() -> None:
    ladder, odds = Ladder(CLASSES), odds_of(64)[Ladder(CLASSES).order]
    u = torch.rand(len(CLASSES), 64, generator=torch.Generator().manual_seed(2))
    whole = ladder.find(odds.clone(), u)
    for rows in (slice(0, 1), slice(5, 6), slice(3, 40)):
        assert torch.equal(ladder.find(odds[:, rows].contiguous(), u[:, rows]), whole[:, rows])


def test_any_layout_gives_the_same_draws() -> None:
    one = make_head("categorical", elements_of((category("a", 0, 7), category("b", 1, 3))))
    random = torch.Generator().manual_seed(0)
    params = torch.randn(50, 10, generator=random)
    noise = torch.randn(50, 2, generator=random)
    before = params.clone()
    whole = one.sample(params, noise)
    by_column = params.t().contiguous().t()
    assert torch.equal(one.sample(by_column, noise), whole)
    assert torch.equal(one.sample(params.expand(2, 50, 10), noise)[1], whole)
    assert torch.equal(params, before)
    assert torch.equal(by_column, before)
    assert rows_last(by_column).data_ptr() == by_column.data_ptr()
    # Beyond the bound a logit is the bound.
    far = torch.tensor([[1e4, LARGEST_LOGIT, -1e4, 0, 0, 0, 0, 0, 0, 0]])
    drawn = one.sample(far.expand(50, -1), noise)
    assert torch.equal(drawn, one.sample(far.clamp(-60, 60).expand(50, -1), noise))


def test_parameters_that_are_no_numbers_draw_none() -> None:
    one = make_head("categorical", elements_of((category("a", 0, 3), category("b", 1, 4))))
    params = torch.zeros(2, 7)
    params[1, 4] = torch.nan
    drawn = one.sample(params, torch.zeros(2, 2))
    assert drawn.isnan().tolist() == [[False, False], [False, True]]
