"""Every row's own posterior while training infers per row: raw numbers and Adam's moments."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distvae.cluster.world import World, sum_over_ranks
from distvae.model.refinement import Moments

__all__ = ["Index", "RowPosteriors", "bytes_per_posterior"]

Index = npt.NDArray[np.int64] | slice


class RowPosteriors:
    """P raw numbers and their two moments for each row that a rank owns, all zero at the start.

    Args:
        numbers: (n,) number of each own row among ``total``.
        total: rows of all ranks.
        width: P.
        table: (total, 3 P) of an earlier run, or None.
    """

    def __init__(
        self,
        numbers: npt.NDArray[np.int64],
        total: int,
        width: int,
        table: torch.Tensor | None = None,
    ) -> None:
        self.numbers, self.total = numbers, total
        own = torch.zeros(len(numbers), 3 * width)
        self.values = own if table is None else table.cpu()[torch.from_numpy(numbers)]

    def take(self, index: Index, steps: int, device: Any) -> tuple[torch.Tensor, Moments]:
        """Raw numbers (r, P) of the rows at ``index`` and their moments after ``steps`` steps."""
        part = self.values[_places(index)].to(device)
        raw, mean, square = part.chunk(3, dim=1)
        return raw, Moments(mean, square, steps)

    def put(self, index: Index, raw: torch.Tensor, moments: Moments) -> None:
        """Keep what a visit has found."""
        joined = torch.cat([raw, moments.mean, moments.square], dim=1)
        self.values[_places(index)] = joined.cpu()

    def gathered(self, world: World) -> torch.Tensor:
        """The table of all ranks, (total, 3 P), on every rank; all must call it together."""
        whole = torch.zeros(self.total, self.values.shape[1])
        whole[torch.from_numpy(self.numbers)] = self.values
        on_device = whole.to(world.device)
        sum_over_ranks(on_device, world)
        return on_device.cpu()


def bytes_per_posterior(width: int) -> int:
    """Bytes of a row's P raw numbers and their moments, float32."""
    return 3 * 4 * width


def _places(index: Index) -> torch.Tensor | slice:
    return index if isinstance(index, slice) else torch.from_numpy(index)
