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
import math
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from distvae.model.cells import Cells, CellSpace, log_masses
from distvae.model.densities import normal_cdf
from distvae.model.drawing import Ladder, rows_last
from distvae.model.heads import Elements, Head

__all__ = [
    "LARGEST_LOGIT",
    "MOST_LOGITS",
    "Bucket",
    "CellHead",
    "Softmax",
    "means_of_classes",
]

LARGEST_LOGIT = 60.0
_LOG2_E = math.log2(math.e)
_LARGEST_LOG2 = LARGEST_LOGIT * _LOG2_E
MOST_LOGITS = 256
"""Classes of a column to which the decoder gives a logit each; beyond, see ``tree``."""


class Bucket(NamedTuple):
    """Neighbouring columns with the same number of classes.

    Attributes:
        columns: where they stand among the w columns, in the order of the logits.
        logits: where their classes stand among the P.
        classes: of each.
    """

    columns: slice
    logits: slice
    classes: int


def _buckets_of(columns: Sequence[Cells]) -> list[Bucket]:
    """Return the stretches of equal numbers of classes, in order."""
    found, column, start = [], 0, 0
    for classes, group in itertools.groupby(columns, lambda c: c.classes):
        members = list(group)
        stop, end = column + len(members), start + classes * len(members)
        found.append(Bucket(slice(column, stop), slice(start, end), classes))
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
        for columns, stretch, classes in buckets:
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
        for columns, stretch, classes in ctx.buckets:
            own = odds[:, stretch].unflatten(1, (-1, classes))
            into = result[:, stretch].unflatten(1, (-1, classes))
            torch.mul(own, factor[:, columns, None], out=into)
        return result.scatter_add_(1, target, gradients[0]), None, None


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
        self.ladder = Ladder([c.classes for c in self.columns])
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
        logits = rows_last(params)
        y = self._drawn(logits, logits.new_full((self.width, logits.shape[1]), 0.5))
        first = self.space.first_class[:, None]
        for columns, stretch, classes in self.buckets:
            mode = logits[stretch].unflatten(0, (-1, classes)).argmax(1)
            likeliest = self.space.center(mode + first[columns])
            y[columns] = torch.where(self.is_ordered[columns, None], y[columns], likeliest)
        return self.restored(y.t().reshape(*params.shape[:-1], self.width))

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return the inverse of the distribution function at Phi(noise)."""
        lead = torch.broadcast_shapes(params.shape[:-1], noise.shape[:-1])
        logits = rows_last(params.expand(*lead, self.outputs))
        u = normal_cdf(rows_last(self.ordered(noise).expand(*lead, self.width)))
        return self.restored(self._drawn(logits, u).t().reshape(*lead, self.width))

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
        for columns, stretch, classes in self.buckets:
            shares = torch.softmax(bounded[..., stretch].unflatten(-1, (-1, classes)), -1)
            gap = self.means[stretch].unflatten(0, (-1, classes)) - x[..., columns, None]
            error[..., columns] = (shares * gap).sum(-1)
        return self.restored(error)

    def _drawn(self, logits: Tensor, u: Tensor) -> Tensor:
        """Return y ``(w, n)`` of u ``(w, n)`` for logits ``(P, n)``, in their type."""
        # 2^(x log2 e): half the time of e^x, and as exact as float32 logits are.
        powers = logits.index_select(0, self.ladder.order).mul_(_LOG2_E)
        odds = powers.clamp_(-_LARGEST_LOG2, _LARGEST_LOG2).exp2_()
        chosen = self.ladder.find(odds, u)
        numbered = chosen + self.space.first_class[:, None]
        # A network that has lost its numbers must not draw the first class.
        middle, total = self.space.center(numbered), odds[self.ladder.last]
        y = torch.where(total > 0, middle, torch.nan).to(logits.dtype)
        some = self.with_rest
        if len(some):
            rest = self.ladder.rest(u[some], chosen[some], odds, some)
            y[some] = self.space.place(numbered[some], rest).to(y.dtype)
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
