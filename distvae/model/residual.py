"""Residual stages of a convolutional network, and how its weights start.

No layer couples rows: there is no batch normalisation. Shapes: N rows, maps of H x W pixels.
"""

from __future__ import annotations

import math
from typing import TypeVar

import torch
from torch import Tensor, nn

from distvae.errors import UsageError
from distvae.model import noise
from distvae.model.networks import ACTIVATIONS

__all__ = [
    "Doubling",
    "Halving",
    "ResidualBlock",
    "fill",
    "glorot_std",
    "hidden_std",
    "make_activation",
]

Layer = TypeVar("Layer", nn.Linear, nn.Conv2d, nn.ConvTranspose2d)


class ResidualBlock(nn.Module):
    """x + conv(a(conv(a(x)))): pre-activation, two 3 x 3 convolutions (He et al. 2016).

    The second convolution starts at 0, and so the block as the identity (Zhang et al. 2019,
    "Fixup"), which takes the place of normalisation.

    Args:
        channels: maps, in and out.
        activation: a name in ``ACTIVATIONS``.
        seed: seed of the initial weights; None leaves them unset, to be loaded.
        name: name of this block among those that share the seed.
    """

    def __init__(
        self, channels: int, activation: str = "relu", *, seed: int | None = 0, name: str = "block"
    ) -> None:
        super().__init__()
        # Not in place: the sum needs x as it was.
        self.before_first = make_activation(activation, in_place=False)
        first = nn.utils.skip_init(nn.Conv2d, channels, channels, 3, padding=1)
        self.first = fill(first, hidden_std(first, activation), seed, f"{name}/first")
        self.before_second = make_activation(activation)
        second = nn.utils.skip_init(nn.Conv2d, channels, channels, 3, padding=1)
        self.second = fill(second, 0.0, seed, f"{name}/second")

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, channels, H, W)`` to the same shape."""
        change: Tensor = self.second(self.before_second(self.first(self.before_first(x))))
        return x + change


class Halving(nn.Module):
    """a, a 3 x 3 convolution of stride 2, a residual block: sides become ceil(side / 2)."""

    def __init__(
        self, inputs: int, outputs: int, activation: str, seed: int | None, name: str
    ) -> None:
        super().__init__()
        self.activation = make_activation(activation)
        conv = nn.utils.skip_init(nn.Conv2d, inputs, outputs, 3, stride=2, padding=1)
        self.conv = fill(conv, hidden_std(conv, activation), seed, f"{name}/conv")
        self.block = ResidualBlock(outputs, activation, seed=seed, name=f"{name}/block")

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, H, W)`` to ``(N, outputs, ceil(H / 2), ceil(W / 2))``."""
        result: Tensor = self.block(self.conv(self.activation(x)))
        return result


class Doubling(nn.Module):
    """A residual block, a, and a 4 x 4 transposed convolution of stride 2, cut to ``sides``.

    Stride divides kernel, so every pixel gets four taps and no checkerboard shows (Odena et al.
    2016). It holds every 3 x 3 convolution after a nearest-neighbour doubling as a special case
    and takes half its time.
    """

    def __init__(
        self,
        widths: tuple[int, int],
        sides: tuple[int, int],
        activation: str,
        seed: int | None,
        name: str,
    ) -> None:
        super().__init__()
        self.height, self.width = sides
        self.block = ResidualBlock(widths[0], activation, seed=seed, name=f"{name}/block")
        self.activation = make_activation(activation)
        conv = nn.utils.skip_init(nn.ConvTranspose2d, *widths, 4, stride=2, padding=1)
        self.conv = fill(conv, hidden_std(conv, activation), seed, f"{name}/conv")

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(N, inputs, h, w)`` to ``(N, outputs, height <= 2 h, width <= 2 w)``."""
        result: Tensor = self.conv(self.activation(self.block(x)))
        return result[..., : self.height, : self.width]


def make_activation(name: str, in_place: bool = True) -> nn.Module:
    """Build an activation; ``in_place`` False keeps its input, otherwise it may be overwritten.

    Raises:
        UsageError: unknown activation.
    """
    if name not in ACTIVATIONS:
        rule = "must be one of " + ", ".join(ACTIVATIONS)
        raise UsageError("activation", repr(name), rule)
    module = ACTIVATIONS[name]()
    if isinstance(module, nn.ReLU | nn.LeakyReLU):
        module.inplace = in_place
    return module


def fill(layer: Layer, std: float, seed: int | None, name: str) -> Layer:
    """Set weights to N(0, std^2), a function of (seed, name) alone, and the bias to 0.

    Without a seed the weights stay unset, to be loaded. The torch random state is not touched.
    """
    if seed is None:
        return layer
    shape = layer.weight.shape
    with torch.no_grad():
        if std == 0:
            layer.weight.zero_()
        else:
            rows = noise.normal(seed, f"weights/{name}", 0, shape[0], math.prod(shape[1:]))
            layer.weight.copy_(torch.from_numpy(rows * std).reshape(shape))
        if layer.bias is not None:
            layer.bias.zero_()
    return layer


def hidden_std(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d, activation: str) -> float:
    """He et al. 2015, N(0, 2 / fan_in), after a rectifier-like activation; else Glorot."""
    return glorot_std(layer) if activation == "tanh" else math.sqrt(2 / _fans(layer)[0])


def glorot_std(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> float:
    """Glorot & Bengio 2010, N(0, 2 / (fan_in + fan_out))."""
    return math.sqrt(2 / sum(_fans(layer)))


def _fans(layer: nn.Linear | nn.Conv2d | nn.ConvTranspose2d) -> tuple[float, float]:
    """Terms in one output, and outputs that one input enters, a stride's gaps counted."""
    weight = layer.weight
    if isinstance(layer, nn.Linear):
        return weight.shape[1], weight.shape[0]
    field, gaps = math.prod(weight.shape[2:]), math.prod(layer.stride)
    if isinstance(layer, nn.ConvTranspose2d):
        return weight.shape[0] * field / gaps, weight.shape[1] * field
    return weight.shape[1] * field, weight.shape[0] * field / gaps
