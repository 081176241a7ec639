from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import chi2

from distvae.model import noise
from distvae.model.heads import elements_of
from distvae.model.likelihoods import make_head
from distvae.model.tree import RANK, TreeSoftmax
from tests.model.cell_cases import category, dense_log_prob, histogram


def tree(classes: int = 300, pooled: int = 4, seed: int = 0) -> TreeSoftmax:
    made = make_head("categorical", elements_of((category("a", 0, classes, pooled),)))
    assert isinstance(made, TreeSoftmax)
    random = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        made.embedding.copy_(torch.randn(made.embedding.shape, generator=random))
        made.bias.copy_(torch.randn(made.bias.shape, generator=random))
    return made


def params(head: TreeSoftmax, n: int, seed: int = 1) -> torch.Tensor:
    return torch.randn(n, head.outputs, generator=torch.Generator().manual_seed(seed))


def dense(head: TreeSoftmax, given: np.ndarray) -> np.ndarray:
    """log p of every class ``(n, K)``, class by class in plain NumPy."""
    embedding, bias = (p.detach().double().numpy() for p in (head.embedding, head.bias))
    result = np.full((len(given), head.groups * head.members), -np.inf)
    groups = given[:, : head.groups]
    log_group = groups - np.log(np.exp(groups).sum(1, keepdims=True))
    for group in range(head.groups):
        first = group * head.members
        count = min(head.members, head.columns[0].classes - first)
        logits = given[:, head.groups :] @ embedding[group, :count].T + bias[group, :count]
        inner = logits - np.log(np.exp(logits).sum(1, keepdims=True))
        result[:, first : first + count] = log_group[:, group, None] + inner
    return result[:, : head.columns[0].classes]


def test_the_decoder_gives_about_the_root_of_the_number_of_classes() -> None:
    head = tree(100_000)
    assert (head.groups, head.members) == (316, 317)
    assert head.outputs == 316 + RANK


@pytest.mark.parametrize("classes", [257, 300, 400])
def test_log_prob_is_that_of_a_dense_computation_and_sums_to_one(classes: int) -> None:
    head = tree(classes)
    given = params(head, 9)
    log_p = dense(head, given.double().numpy())
    np.testing.assert_allclose(np.exp(log_p).sum(1), 1, rtol=1e-12)
    np.testing.assert_allclose(head.log_shares(given).detach().numpy(), log_p, atol=2e-5)
    cells = torch.arange(classes + 5).float() + 0.5
    found = head.log_prob(cells[:, None, None], given).detach().numpy()[..., 0]
    told = head.columns[0]
    expected = log_p[:, told.cell_class] + told.log_within
    np.testing.assert_allclose(found, expected.T, atol=2e-5)
    # Two samples of z to every row.
    both = head.log_prob(cells[:9, None], torch.stack([given, given.flip(0)]))
    torch.testing.assert_close(both[1], head.log_prob(cells[:9, None], given.flip(0)))
    assert dense_log_prob(log_p, _told(head), np.full(9, 3.5)).shape == (9,)


def _told(head: TreeSoftmax) -> dict[str, np.ndarray]:
    told = head.columns[0]
    return {"cell_class": told.cell_class, "log_within": told.log_within}


def test_the_gradient_is_that_of_differences() -> None:
    head = tree(260).double()
    y = torch.tensor([[0.5], [259.5], [17.5]], dtype=torch.float64)
    given = params(head, 3).double().requires_grad_()
    assert torch.autograd.gradcheck(lambda p: head.log_prob(y, p), (given,), fast_mode=True)

    def of_embedding(embedding: torch.Tensor) -> torch.Tensor:
        state = {"embedding": embedding}
        found: torch.Tensor = torch.func.functional_call(_Caller(head), state, (y, given.detach()))
        return found

    leaf = head.embedding.detach().clone().requires_grad_()
    assert torch.autograd.gradcheck(of_embedding, (leaf,), fast_mode=True)


class _Caller(torch.nn.Module):
    """The head's log_prob as ``forward``."""

    def __init__(self, head: TreeSoftmax) -> None:
        super().__init__()
        self.head = [head]
        self.embedding = torch.nn.Parameter(head.embedding.detach().clone())

    def forward(self, y: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        result: torch.Tensor = torch.func.functional_call(
            _Forward(self.head[0]), {"head.embedding": self.embedding}, (y, given)
        )
        return result


class _Forward(torch.nn.Module):
    def __init__(self, head: TreeSoftmax) -> None:
        super().__init__()
        self.head = head

    def forward(self, y: torch.Tensor, given: torch.Tensor) -> torch.Tensor:
        return self.head.log_prob(y, given)


def test_draws_have_the_frequencies_of_the_classes() -> None:
    head, n = tree(300, pooled=2), 60_000
    given = params(head, 1)
    told = head.columns[0]
    p = np.exp(dense(head, given.double().numpy())[0])[told.cell_class] * told.share
    drawn = head.sample(given.expand(n, -1), torch.from_numpy(noise.normal(5, "t", 0, n, 1)))
    y = drawn.detach().numpy()[:, 0]
    counts = np.bincount(y.astype(int), minlength=len(p))
    often = n * p > 5
    statistic = (np.square(counts - n * p)[often] / (n * p[often])).sum()
    assert chi2.sf(statistic, often.sum() - 1) > 1e-3
    assert counts[p == 0].sum() == 0
    assert (y % 1 == 0.5).all()


def test_the_mean_is_the_mode_and_for_numbers_the_median() -> None:
    head = tree(300)
    given = 3 * params(head, 50)
    log_p = dense(head, given.double().numpy())
    found = head.mean(given).detach().numpy()[:, 0].astype(int)
    group = given[:, : head.groups].argmax(1).numpy()
    within = np.arange(300) // head.members == group[:, None]
    assert np.array_equal(found, np.where(within, log_p, -np.inf).argmax(1))
    column = histogram("x", 0, np.arange(301.0))
    one = make_head("histogram", elements_of((column,)))
    assert isinstance(one, TreeSoftmax)
    start = one.output_bias(torch.zeros(1))
    # All alike: 150 intervals of width 2 and 150 atoms, the median between the middle ones.
    assert one.mean(start).item() == pytest.approx(224.5, abs=1)
    error = one.raw_error(start[None], torch.tensor([[0.0]]))
    low, high = (np.array(column["cells"][key]) for key in ("low", "high"))
    mean = (np.array(column["cells"]["share"]) * (low + high) / 2).sum() / 300
    assert error.item() == pytest.approx(mean, rel=1e-6)


def test_masses_are_where_it_starts_and_rows_stand_alone() -> None:
    column = category("a", 0, 300)
    mass = np.random.default_rng(0).dirichlet(np.ones(300))
    column["cells"]["mass"] = mass.tolist()
    head = make_head("categorical", elements_of((column,)))
    assert isinstance(head, TreeSoftmax)
    shares = head.log_shares(head.output_bias(torch.zeros(1))).exp()
    np.testing.assert_allclose(shares.detach().numpy(), mass, rtol=1e-4, atol=1e-8)
    other = tree(300)
    given, y = params(other, 64), torch.arange(64.0)[:, None] + 0.5
    eps = torch.randn(64, 1)
    whole = other.log_prob(y, given), other.sample(given, eps)
    assert torch.equal(other.log_prob(y[3:40], given[3:40]), whole[0][3:40])
    assert torch.equal(other.sample(given[3:40], eps[3:40]), whole[1][3:40])


def test_extreme_outputs_are_finite() -> None:
    head = tree(300)
    given = (params(head, 4).sign() * 1e4).requires_grad_()
    value = head.log_prob(torch.tensor([[0.5], [299.5], [150.5], [20.5]]), given)
    (gradient,) = torch.autograd.grad(value.sum(), given)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
    assert torch.isfinite(head.sample(given.detach(), torch.full((4, 1), 6.0))).all()
