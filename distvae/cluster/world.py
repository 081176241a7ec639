"""The world as a value: who this training process is, and how sums cross processes."""

from __future__ import annotations

from dataclasses import dataclass

import torch

__all__ = ["World", "sum_over_ranks"]


@dataclass(frozen=True)
class World:
    """One of ``size`` data-parallel processes.

    Attributes:
        rank: number of this process, 0 first.
        size: how many there are.
        device: ``"cpu"`` or ``"cuda"``.
        lanes: threads, 1 or 2, that share the rows of a large step.
    """

    rank: int = 0
    size: int = 1
    device: str = "cpu"
    lanes: int = 1


def sum_over_ranks(values: torch.Tensor, world: World) -> torch.Tensor:
    """Sum ``values`` over all ranks, in place."""
    if world.size > 1:
        torch.distributed.all_reduce(values)
    return values
