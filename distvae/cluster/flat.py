"""A model's parameters and gradients as two flat buffers: one sum over ranks, one Adam update."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import nn

__all__ = ["Flat", "flatten"]


@dataclass(frozen=True)
class Flat:
    """Views of a model's trainable numbers.

    Attributes:
        values: (P,) all parameters; the model's own tensors are views of it.
        buffer: (P + extras,) gradients, then room for figures that are summed with them.
        gradients: (P,) the head of ``buffer``; each parameter's ``grad`` is a view of it.
        figures: (extras,) the tail of ``buffer``.
    """

    values: nn.Parameter
    buffer: torch.Tensor
    gradients: torch.Tensor
    figures: torch.Tensor


def flatten(model: nn.Module, extras: int) -> Flat:
    """Move the parameters of ``model`` into one buffer, in the order of ``parameters()``."""
    parameters = list(model.parameters())
    values = nn.Parameter(torch.cat([p.detach().reshape(-1) for p in parameters]))
    size = values.numel()
    buffer = torch.zeros(size + extras, dtype=values.dtype, device=values.device)
    start = 0
    for parameter in parameters:
        stop = start + parameter.numel()
        parameter.data = values.data[start:stop].view_as(parameter)
        parameter.grad = buffer[start:stop].view_as(parameter)
        start = stop
    values.grad = buffer[:size]
    return Flat(values, buffer, buffer[:size], buffer[size:])
