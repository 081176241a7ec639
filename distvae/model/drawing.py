"""Which class holds a number: inverse distribution functions of many columns and rows at once.

Class i holds u where the odds before it are <= u times their sum < those up to it; a class without
odds holds nothing. Rows stand last in memory and classes first, so that to sum up K classes is to
add K blocks, and the class is the number of sums that were passed: no row takes a way of its own.
Shapes: w columns by rising number of classes, P classes over all of them, n rows.
"""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

__all__ = ["Ladder", "rows_last"]

_LARGEST_U = 1 - 2.0**-23


def rows_last(values: Tensor) -> Tensor:
    """Return ``(..., w)`` as ``(w, n)`` in memory, without a copy where it lies like that already.

    The leading dimensions become n; the result must not be written to.
    """
    return values.detach().reshape(-1, values.shape[-1]).t().contiguous()


class Ladder(nn.Module):
    """The classes of w columns by level: the first of all, the second of those that have one, ...

    Args:
        classes: of each column, rising.

    Attributes:
        order: ``(P,)`` which of the classes, numbered through column by column, stands where.
        first, last: places of the first class of each level, less its column; of each column's
            last class.
        stretches: levels of the same columns: where they stand, and how many columns these are.
    """

    order: Tensor
    first: Tensor
    last: Tensor

    def __init__(self, classes: Sequence[int]) -> None:
        super().__init__()
        counts = np.array(classes)
        holds = np.arange(counts[-1])[:, None] < counts
        of_level, of_column = np.nonzero(holds)
        columns = holds.sum(1)
        start = np.cumsum(columns) - columns
        # Class k of column c stands at first[k] + c: level k is of the last columns.
        first = start - (len(counts) - columns)
        buffers = {
            "order": of_level + (np.cumsum(counts) - counts)[of_column],
            "first": first,
            "last": first[counts - 1] + np.arange(len(counts)),
        }
        for name, values in buffers.items():
            self.register_buffer(name, torch.from_numpy(values), persistent=False)
        self.stretches: list[tuple[slice, int]] = []
        stop = 0
        for m, levels in itertools.groupby(columns.tolist()):
            begin, stop = stop, stop + m * len(list(levels))
            self.stretches.append((slice(begin, stop), m))

    def find(self, odds: Tensor, u: Tensor) -> Tensor:
        """Return the class that holds u ``(w, n)``, int64, and cumulate the odds in place.

        Args:
            odds: ``(P, n)`` in the order of the levels and contiguous, >= 0, with a positive sum
                per column.
            u: ``(w, n)`` in [0, 1]; what is above 1 - 2^-23 counts as that, for u times the sum
                has to stay below the sum.
        """
        u = u.clamp(max=_LARGEST_U).to(odds.dtype)
        chosen = torch.zeros(u.shape, dtype=torch.long, device=u.device)
        if odds.device.type == "cpu":
            # NumPy's calls cost half of torch's, and there is one for every level.
            self._climb(odds.numpy(), u.numpy(), self.last.numpy(), chosen.numpy())
        else:
            self._climb(odds, u, self.last, chosen)
        return chosen

    def rest(self, u: Tensor, chosen: Tensor, upto: Tensor, columns: Tensor) -> Tensor:
        """Return how far inside the chosen class u lies, ``(c, n)`` float64 in [0, 1].

        Args:
            u: ``(c, n)``, of some columns.
            chosen: ``(c, n)`` int64, from ``find``.
            upto: ``(P, n)`` the cumulated odds.
            columns: ``(c,)`` which these are.
        """
        place = columns[:, None]
        end = upto.gather(0, self.first[chosen] + place).double()
        before = upto.gather(0, self.first[(chosen - 1).clamp(min=0)] + place).double()
        before = torch.where(chosen > 0, before, 0.0)
        return ((u * upto[self.last[columns]].double() - before) / (end - before)).clamp(0, 1)

    def _climb(self, odds: Any, u: Any, last: Any, chosen: Any) -> None:
        """Do the work of ``find``, for arrays as for tensors; ``chosen`` starts at 0."""
        blocks = [(odds[rows].reshape(-1, m, odds.shape[1]), m) for rows, m in self.stretches]
        below = blocks[0][0][:0]
        for block, m in blocks:
            for before, own in itertools.pairwise([*(b[-m:] for b in below), *block]):
                own[:] += before
            below = block[-1:]
        wanted = u * odds[last]
        for block, m in blocks:
            chosen[-m:] += _count(block <= wanted[-m:])


def _count(passed: Any) -> Any:
    """How many of ``(levels, m, n)`` truth values hold, ``(m, n)``."""
    if isinstance(passed, Tensor) or len(passed) > 255:
        return passed.sum(0)
    return np.add.reduce(passed.view(np.uint8), 0, dtype=np.uint8)
