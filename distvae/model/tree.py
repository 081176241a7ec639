"""A softmax over very many classes in two levels: a group, then a member of it.

log p(class) = log softmax(group logits)[group] + log softmax(<h, E_members> + b_members)[member].
The decoder gives about sqrt(K) group logits and a vector h; E and b are learned, one row per
class. A training step touches the members of one group per row: O(sqrt K). In the manner of
Goodman 2001, "Classes for fast maximum entropy training", with consecutive classes as groups.
Shapes: G groups of M members, G M >= K, r numbers in h.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from distvae.model.categorical import (
    LARGEST_LOGIT,
    CellHead,
    means_of_classes,
)
from distvae.model.cells import log_masses
from distvae.model.densities import normal_cdf
from distvae.model.drawing import Ladder, rows_last
from distvae.model.heads import Elements

__all__ = ["RANK", "TreeSoftmax"]

RANK = 16
"""r, the numbers by which the decoder tells the members of a group apart."""

_NUMBERS_AT_A_TIME = 1 << 24


class TreeSoftmax(CellHead):
    """The two-level softmax of one column."""

    means: Tensor
    exists: Tensor
    first_logits: Tensor

    def configure(self, elements: Elements, argument: str | None) -> None:
        """Cut the classes into groups; members start alike but for their share in the data."""
        super().configure(elements, argument)
        assert self.width == 1
        classes = self.columns[0].classes
        self.members = math.ceil(math.sqrt(classes))
        self.groups = math.ceil(classes / self.members)
        self.group_ladder = Ladder([self.groups])
        self.member_ladder = Ladder([self.members])
        exists = torch.arange(self.groups * self.members) < classes
        self.register_buffer("exists", exists.unflatten(0, (self.groups, -1)), persistent=False)
        self.register_buffer("means", means_of_classes(self.columns), persistent=False)
        bias = torch.zeros(self.groups * self.members)
        bias[:classes] = log_masses(self.columns)
        bias = bias.unflatten(0, (self.groups, -1))
        # What the members of a group have in common is the group's.
        common = torch.where(self.exists, bias, -torch.inf).logsumexp(1)
        self.register_buffer("first_logits", common, persistent=False)
        self.bias = nn.Parameter(torch.where(self.exists, bias - common[:, None], 0))
        self.embedding = nn.Parameter(torch.zeros(self.groups, self.members, RANK))

    @property
    def outputs(self) -> int:
        """Return p = G + r."""
        return self.groups + RANK

    def log_prob(self, y: Tensor, params: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return the group's, the member's and the cell's log-probabilities, added."""
        del observed
        cell = self.space.cell(y)
        lead = torch.broadcast_shapes(y.shape[:-1], params.shape[:-1])
        target = self.space.class_of_cell[cell].expand(*lead, 1)
        params = params.expand(*lead, -1)
        group, member = target // self.members, target % self.members
        with torch.autocast(params.device.type, enabled=False):
            logits = _bounded(params[..., : self.groups])
            log_group = torch.log_softmax(logits, -1).gather(-1, group)
            found = self._member_logits(params, group[..., 0])
            log_member = torch.log_softmax(found, -1).gather(-1, member)
        return log_group + log_member + self.space.log_within[cell]

    def mean(self, params: Tensor) -> Tensor:
        """Return y of the median where the classes have an order, else of the likeliest class.

        The likeliest class is looked for in the likeliest group.
        """
        if self.columns[0].is_ordered:
            return self._draw(params, params.new_full(params.shape[:-1], 0.5, dtype=torch.float64))
        group = params[..., : self.groups].argmax(-1)
        member = self._member_logits(params, group).argmax(-1)
        likeliest = self.space.center(group * self.members + member)
        return likeliest[..., None].to(params.dtype)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return the inverse of the distribution function at Phi(noise)."""
        return self._draw(params, normal_cdf(noise[..., 0].double()))

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return the log share of every group in the data; h starts at 0."""
        return torch.cat([self.first_logits, self.first_logits.new_zeros(RANK)]).to(mean)

    def raw_error(self, params: Tensor, y: Tensor) -> Tensor:
        """Return sum_k p_k m_k - x with m_k the mean of class k's values."""
        shares = self.log_shares(params).double().exp()
        return (shares * (self.means - self.space.raw(y))).sum(-1, keepdim=True)

    def log_shares(self, params: Tensor) -> Tensor:
        """Return log p of every class, ``(..., K)``: as many numbers as there are classes."""
        log_group = torch.log_softmax(_bounded(params[..., : self.groups]), -1)
        h = params[..., self.groups :]
        members = torch.einsum("...r,gmr->...gm", h, self.embedding) + self.bias
        members = torch.where(self.exists, _bounded(members), -torch.inf)
        joined = log_group[..., None] + torch.log_softmax(members, -1)
        return joined.flatten(-2)[..., : self.columns[0].classes]

    def _member_logits(self, params: Tensor, group: Tensor) -> Tensor:
        """Return the logits within each row's group, ``(..., M)``; -inf beyond the last class."""
        flat, h = group.reshape(-1), params[..., self.groups :].reshape(-1, RANK, 1)
        size = max(1, _NUMBERS_AT_A_TIME // (self.members * RANK))
        parts = [
            torch.bmm(self.embedding[flat[i : i + size]], h[i : i + size])[..., 0]
            for i in range(0, len(flat), size)
        ]
        found = torch.cat(parts).reshape(*group.shape, self.members) if parts else self.bias[flat]
        return torch.where(self.exists[group], _bounded(found + self.bias[group]), -torch.inf)

    def _draw(self, params: Tensor, u: Tensor) -> Tensor:
        """Find the group that holds u, and go on inside it with what is left."""
        odds = _bounded(params[..., : self.groups]).exp()
        group, left = _step(odds, u, self.group_ladder)
        odds = self._member_logits(params, group).exp()
        member, left = _step(odds, left, self.member_ladder)
        y = self.space.place(group * self.members + member, left)
        return y[..., None].to(params.dtype)


def _step(odds: Tensor, u: Tensor, ladder: Ladder) -> tuple[Tensor, Tensor]:
    """Return which of ``odds (..., K)`` holds ``u (...)``, and what is left of u in it."""
    upto, numbers = rows_last(odds).clone(), u.reshape(1, -1)
    chosen = ladder.find(upto, numbers)
    left = ladder.rest(numbers, chosen, upto, torch.zeros_like(chosen[:, 0]))
    return chosen.reshape(u.shape), left.reshape(u.shape)


def _bounded(logits: Tensor) -> Tensor:
    """Bound the value to +-60 and leave the gradient as it is."""
    return logits + (logits.clamp(-LARGEST_LOGIT, LARGEST_LOGIT) - logits).detach()
