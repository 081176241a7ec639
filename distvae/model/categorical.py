"""Softmax heads over the classes of cells, all columns of a table side by side.

log p(x | z) = log softmax(logits)[class of x] + log p(x | class), the second a constant of x's
cell. Logits beyond +-60 count as +-60 (the gradient is as if they did not), which bounds a class's
odds at e^120: their exponentials then need no maximum subtracted, a third of the work. Columns
with the same number of classes stand beside each other, so that a table of a thousand columns
takes as many kernels as it has different numbers. Shapes: N rows (leading dimensions flattened),
w columns, P classes over all of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distvae.model.cells import Cells, CellSpace, log_masses
from distvae.model.densities import normal_cdf
from distvae.model.heads import Elements, Head

__all__ = [
    "LARGEST_LOGIT",
    "LARGEST_U",
    "MOST_LOGITS",
    "Bucket",
    "CellHead",
    "Softmax",
    "inverse_cdf",
    "means_of_classes",
    "rest_of",
]

LARGEST_LOGIT = 60.0
LARGEST_U = 1 - 2.0**-23
MOST_LOGITS = 256
"""Classes of a column to which the decoder gives a logit each; beyond, see ``tree``."""


class Bucket(NamedTuple):
    """Neighbouring columns with the same number of classes.

    Attributes:
        columns: where they stand among the w columns, in the order of the logits.
        logits: where their classes stand among the P.
        classes: of each.
        several: how many of them, the first ones, have classes that are more than one value.
    """

    columns: slice
    logits: slice
    classes: int
    several: int


def _buckets_of(columns: Sequence[Cells]) -> list[Bucket]:
    """Return the stretches of equal numbers of classes, in order."""
    found, column, start = [], 0, 0
    for classes, group in itertools.groupby(columns, lambda c: c.classes):
        members = list(group)
        stop, end = column + len(members), start + classes * len(members)
        several = sum(c.has_rest for c in members)
        found.append(Bucket(slice(column, stop), slice(start, end), classes, several))
        column, start = stop, end
    return found


class _SoftmaxLogProb(torch.autograd.Function):
    """logits (N, P), target (N, w) places among the P -> log softmax at the targets (N, w)."""

    @staticmethod
    def forward(ctx: Any, logits: Tensor, target: Tensor, buckets: list[Bucket]) -> Tensor:
        bounded = logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
        picked = bounded.gather(1, target)
        odds = bounded.exp_()
        totals = torch.empty_like(picked)
        for columns, stretch, classes, _ in buckets:
            own = odds[:, stretch].unflatten(1, (-1, classes))
            torch.sum(own, -1, out=totals[:, columns])
        ctx.save_for_backward(odds, totals, target)
        ctx.buckets = buckets
        return picked - totals.log()

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor, None, None]:
        odds, totals, target = ctx.saved_tensors
        factor = gradients[0] / -totals
        result = torch.empty_like(odds)
        for columns, stretch, classes, _ in ctx.buckets:
            own = odds[:, stretch].unflatten(1, (-1, classes))
            into = result[:, stretch].unflatten(1, (-1, classes))
            torch.mul(own, factor[:, columns, None], out=into)
        return result.scatter_add_(1, target, gradients[0]), None, None


def inverse_cdf(odds: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
    """Return which of the classes holds u, and the odds up to and including it.

    Class i holds u where the odds before it are <= u times their sum < those up to it; a class
    without odds holds nothing.

    Args:
        odds: ``(..., K)``, >= 0 with a positive sum.
        u: ``(...)`` in [0, 1 - 2^-23], of the same type: u times the sum is then below the sum.

    Returns:
        ``(...)`` int64, and ``(..., K)`` the cumulated odds.
    """
    upto = odds.cumsum(-1)
    wanted = upto[..., -1] * u
    return torch.searchsorted(upto, wanted[..., None], right=True)[..., 0], upto


def rest_of(u: Tensor, chosen: Tensor, upto: Tensor, odds: Tensor) -> Tensor:
    """Return how far inside the chosen class u lies, ``(..., c)`` float64 in [0, 1].

    Args:
        u: ``(..., c)`` float64, for the first c columns.
        chosen: ``(..., c)`` int64, from ``inverse_cdf``.
        upto: ``(..., >= c, K)`` the cumulated odds.
        odds: ``(..., >= c, K)``.
    """
    index = chosen[..., None]
    end, share = (values.gather(-1, index)[..., 0].double() for values in (upto, odds))
    total = upto[..., : u.shape[-1], -1]
    return ((u * total - (end - share)) / share).clamp(0, 1)


class CellHead(Head):
    """What heads over cells share.

    Attributes:
        columns: the cells of each column, those of few classes first, and of these those that have
            classes of more than one value.
        space: the same as arrays.
    """

    parameters_per_element = None
    codings = ("cells",)
    order: Tensor | None
    place: Tensor | None
    columns: tuple[Cells, ...]
    space: CellSpace

    def configure(self, elements: Elements, argument: str | None) -> None:
        """Take the cells."""
        super().configure(elements, argument)
        keys = [(c.classes, not c.has_rest, i) for i, c in enumerate(elements.cells)]
        order = [i for *_, i in sorted(keys)]
        self.columns = tuple(elements.cells[i] for i in order)
        self.space = CellSpace(self.columns)
        is_sorted = order == sorted(order)
        for name, indices in (("order", order), ("place", np.argsort(order).tolist())):
            buffer = None if is_sorted else torch.tensor(indices)
            self.register_buffer(name, buffer, persistent=False)

    def ordered(self, y: Tensor) -> Tensor:
        """Put ``(..., w)`` into the order of ``columns``."""
        return y if self.order is None else y[..., self.order]

    def restored(self, values: Tensor) -> Tensor:
        """Undo ``ordered``."""
        return values if self.place is None else values[..., self.place]

    def output_gain(self) -> Tensor:
        """Return ones: no output is a mean."""
        return self.scale.new_ones(self.outputs)


class Softmax(CellHead):
    """One logit per class from the decoder, for columns of few classes."""

    means: Tensor
    is_ordered: Tensor
    with_rest: Tensor

    def configure(self, elements: Elements, argument: str | None) -> None:
        """Lay out the logits by number of classes."""
        super().configure(elements, argument)
        self.buckets = _buckets_of(self.columns)
        means = means_of_classes(self.columns)
        self.register_buffer("means", means, persistent=False)
        is_ordered = torch.tensor([c.is_ordered for c in self.columns])
        self.register_buffer("is_ordered", is_ordered, persistent=False)
        rest = [i for i, c in enumerate(self.columns) if c.has_rest]
        self.register_buffer("with_rest", torch.tensor(rest, dtype=torch.long), persistent=False)

    @property
    def outputs(self) -> int:
        """p, the number of classes over all columns."""
        return self.space.class_count

    def log_prob(self, y: Tensor, params: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return the class's log-probability plus log p(x | class)."""
        del observed
        cell = self.space.cell(self.ordered(y))
        lead = torch.broadcast_shapes(y.shape[:-1], params.shape[:-1])
        target = self.space.class_of_cell[cell].expand(*lead, self.width)
        log_prob: Tensor = _SoftmaxLogProb.apply(  # type: ignore[no-untyped-call]
            params.expand(*lead, -1).reshape(-1, self.outputs),
            target.reshape(-1, self.width),
            self.buckets,
        )
        return self.restored(log_prob.reshape(target.shape) + self.space.log_within[cell])

    def mean(self, params: Tensor) -> Tensor:
        """Return y of the median for columns with an order, of the likeliest class for others."""
        half = params.new_full((*params.shape[:-1], self.width), 0.5, dtype=torch.float64)
        y = self._placed(*self._choose(params, half))
        for columns, stretch, classes, _ in self.buckets:
            mode = params[..., stretch].unflatten(-1, (-1, classes)).argmax(-1)
            likeliest = self.space.center(mode + self.space.first_class[columns])
            y[..., columns] = torch.where(self.is_ordered[columns], y[..., columns], likeliest)
        return self.restored(y.to(params.dtype))

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return the inverse of the distribution function at Phi(noise)."""
        chosen, rest = self._choose(params, normal_cdf(self.ordered(noise).double()))
        return self.restored(self._placed(chosen, rest).to(params.dtype))

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return the log share of every class in the data; the mean says nothing here."""
        return log_masses(self.columns).to(mean)

    def raw_error(self, params: Tensor, y: Tensor) -> Tensor:
        """Return sum_k p_k m_k - x with m_k the mean of class k's values."""
        x = self.space.raw(self.ordered(y))
        error = torch.empty(
            (*params.shape[:-1], self.width), dtype=torch.float64, device=params.device
        )
        bounded = params.double().clamp(-LARGEST_LOGIT, LARGEST_LOGIT)
        for columns, stretch, classes, _ in self.buckets:
            shares = torch.softmax(bounded[..., stretch].unflatten(-1, (-1, classes)), -1)
            gap = self.means[stretch].unflatten(0, (-1, classes)) - x[..., columns, None]
            error[..., columns] = (shares * gap).sum(-1)
        return self.restored(error)

    def _choose(self, params: Tensor, u: Tensor) -> tuple[Tensor, Tensor]:
        """Return classes, numbered through, and what is left of u in them, ``(..., w)``.

        What is left is only there for columns ``with_rest``, in that order.
        """
        chosen = torch.empty(u.shape, dtype=torch.long, device=u.device)
        odds = params.clamp(-LARGEST_LOGIT, LARGEST_LOGIT).exp_()
        narrow = u.clamp(max=LARGEST_U).to(odds.dtype)
        rests = [u[..., :0]]
        for columns, stretch, classes, several in self.buckets:
            own = odds[..., stretch].unflatten(-1, (-1, classes))
            at, upto = inverse_cdf(own, narrow[..., columns])
            chosen[..., columns] = at
            if several:
                numbers = u[..., columns][..., :several]
                rests.append(rest_of(numbers, at[..., :several], upto, own))
        return chosen + self.space.first_class, torch.cat(rests, -1)

    def _placed(self, chosen: Tensor, rest: Tensor) -> Tensor:
        y = self.space.center(chosen)
        if len(self.with_rest):
            y[..., self.with_rest] = self.space.place(chosen[..., self.with_rest], rest)
        return y


def means_of_classes(columns: Sequence[Cells]) -> Tensor:
    """Return the mean of each class's values in raw units ``(K,)`` float64; 0 for categories."""
    parts = []
    for c in columns:
        middle = np.zeros(len(c.share))
        if c.low is not None and c.high is not None:
            middle = 0.5 * c.low + 0.5 * c.high
        parts.append(np.bincount(c.cell_class, c.share * middle, c.classes))
    return torch.from_numpy(np.concatenate(parts))
