"""Convolutional encoder and decoder for pictures, from residual blocks.

A picture's elements lie in H, W, C order, and so do all maps in memory ("channels last"): on a CPU
(28 x 28 x 1, channels 32, 64, one thread, blocks of 128 to 1024 rows) the encoder then runs 1.1 to
1.4 times and the decoder 1.5 to 1.8 times as fast as with planes, and trains about equally fast.
No layer couples rows: there is no batch normalisation.
Shapes: N rows (leading dimensions flattened), H x W pixels, C colours, p parameters per element.
"""

from __future__ import annotations

import contextlib
import math
from collections.abc import Callable, Sequence
from itertools import pairwise

import torch
from torch import Tensor, nn

from distvae.errors import UsageError
from distvae.model.residual import Doubling, Halving, fill, glorot_std, hidden_std, make_activation

__all__ = ["ConvDecoder", "ConvEncoder", "Shape", "reproducible_cudnn"]

Shape = tuple[int, int, int]

# Without gradients rows pass in chunks whose largest map has about this many elements: on a CPU (as
# above) a block of 1024 rows then takes 0.65 (encoder) or 0.95 (decoder) of the time and a fifth of
# the memory; a quarter of these elements costs a tenth of the speed, four times as many a quarter.
_ELEMENTS_PER_CHUNK = 1 << 22
_ELEMENTS_PER_CHUNK_CUDA = 1 << 28
# Pictures start near the decoder's bias, the data's mean. Autoencoders with the gains 0.1, 0.3, 1:
# 0.22, 0.23, 0.29 of the variance unexplained after 200 steps of 50 handwritten digits (8 x 8), and
# 91, 89, 84 nats of cross-entropy after 12,000 rows of MNIST. 0.3 is near the better one of both.
_LAST_GAIN = 0.3
_CHUNK_MULTIPLE = 16  # rows: every chunk of float32 then starts at a multiple of 64 bytes


class ConvEncoder(nn.Module):
    """Pictures to features.

    A 3 x 3 convolution; per entry of ``channels`` a ``Halving`` and its residual block; one affine
    map. The blocks work on the halved maps: before halving they would cost four times as much.

    Args:
        shape: (H, W, C).
        channels: maps of each stage, at least one stage.
        outputs: width of the result.
        activation: a name in ``ACTIVATIONS``.
        planes: numbers per element: 1 the value; 2 the value and whether it was observed.
        seed: seed of the initial weights; None leaves them unset, to be loaded.
        name: name of this network among those that share the seed.

    Raises:
        UsageError: no stage, or an unknown activation.
    """

    def __init__(
        self,
        shape: Shape,
        channels: Sequence[int],
        outputs: int,
        activation: str = "relu",
        *,
        planes: int = 1,
        seed: int | None = 0,
        name: str = "encoder",
    ) -> None:
        super().__init__()
        sides = _sides(shape, channels)
        self.shape, self.planes, self.outputs = shape, planes, outputs
        self.largest_map = channels[0] * shape[0] * shape[1]
        stem = nn.utils.skip_init(nn.Conv2d, planes * shape[2], channels[0], 3, padding=1)
        self.stem = fill(stem, hidden_std(stem, activation), seed, f"{name}/stem")
        self.stages = nn.Sequential(
            *(
                Halving(maps, maps_after, activation, seed, f"{name}/{index}")
                for index, (maps, maps_after) in enumerate(pairwise([channels[0], *channels]))
            )
        )
        self.activation = make_activation(activation)
        last = nn.utils.skip_init(nn.Linear, channels[-1] * math.prod(sides[-1]), outputs)
        self.last = fill(last, glorot_std(last), seed, f"{name}/last")

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., planes * H * W * C)``, one plane after the other, to ``(..., outputs)``."""
        rows = x.reshape(-1, x.shape[-1])
        return _in_chunks(self._encode, rows, self.largest_map).reshape(*x.shape[:-1], self.outputs)

    def _encode(self, x: Tensor) -> Tensor:
        height, width, colours = self.shape
        planes = x.reshape(len(x), self.planes, height, width, colours).permute(0, 1, 4, 2, 3)
        maps = self.stem(planes.flatten(1, 2)).contiguous(memory_format=torch.channels_last)
        maps = self.activation(self.stages(maps))
        result: Tensor = self.last(maps.permute(0, 2, 3, 1).flatten(1))
        return result


class ConvDecoder(nn.Module):
    """Features to the parameters of pictures, ``ConvEncoder`` the other way round.

    One affine map to the smallest maps; per entry of ``channels``, last first, a ``Doubling``; a
    3 x 3 convolution; and a bias per output, at which the decoder can be started.

    Args:
        inputs: width of the features.
        shape: (H, W, C).
        channels: maps of each stage of the encoder, at least one stage.
        parameters_per_element: p, outputs per element.
        activation: a name in ``ACTIVATIONS``.
        seed: seed of the initial weights; None leaves them unset, to be loaded.
        name: name of this network among those that share the seed.

    Raises:
        UsageError: no stage, or an unknown activation.
    """

    def __init__(
        self,
        inputs: int,
        shape: Shape,
        channels: Sequence[int],
        parameters_per_element: int = 1,
        activation: str = "relu",
        *,
        seed: int | None = 0,
        name: str = "decoder",
    ) -> None:
        super().__init__()
        sides = _sides(shape, channels)
        self.shape, self.parameters_per_element = shape, parameters_per_element
        self.smallest = (*sides[-1], channels[-1])
        self.largest_map = channels[0] * shape[0] * shape[1]
        first = nn.utils.skip_init(nn.Linear, inputs, math.prod(self.smallest))
        self.first = fill(first, hidden_std(first, activation), seed, f"{name}/first")
        widths = pairwise([*reversed(channels), channels[0]])
        self.stages = nn.Sequential(
            *(
                Doubling(pair, sides_after, activation, seed, f"{name}/{index}")
                for index, (pair, sides_after) in enumerate(
                    zip(widths, reversed(sides[:-1]), strict=True)
                )
            )
        )
        self.activation = make_activation(activation)
        outputs = parameters_per_element * shape[2]
        last = nn.utils.skip_init(nn.Conv2d, channels[0], outputs, 3, padding=1, bias=False)
        self.last = fill(last, _LAST_GAIN * glorot_std(last), seed, f"{name}/last")
        self.bias = nn.Parameter(torch.zeros(parameters_per_element * math.prod(shape)))

    def forward(self, features: Tensor) -> Tensor:
        """Map ``(..., inputs)`` to ``(..., p * H * W * C)``, one parameter after the other."""
        rows = features.reshape(-1, features.shape[-1])
        result = _in_chunks(self._decode, rows, self.largest_map)
        return result.reshape(*features.shape[:-1], len(self.bias))

    def set_output_bias(self, bias: Tensor) -> None:
        """Set the bias of the outputs, ``(p * H * W * C,)``."""
        with torch.no_grad():
            self.bias.copy_(bias)

    def _decode(self, features: Tensor) -> Tensor:
        maps = self.first(features).reshape(-1, *self.smallest).permute(0, 3, 1, 2)
        planes: Tensor = self.last(self.activation(self.stages(maps)))
        planes = planes.unflatten(1, (self.parameters_per_element, self.shape[2]))
        return planes.permute(0, 1, 3, 4, 2).flatten(1) + self.bias


def _sides(shape: Shape, channels: Sequence[int]) -> list[tuple[int, int]]:
    """The sides before the first stage, before the second, ..., and after the last."""
    if not channels:
        raise UsageError(
            "channels", "none", "a picture needs at least one stage", "give --channels 32,64"
        )
    sides = [shape[:2]]
    for _ in channels:
        height, width = sides[-1]
        sides.append(((height + 1) // 2, (width + 1) // 2))
    return sides


def _in_chunks(function: Callable[[Tensor], Tensor], rows: Tensor, largest_map: int) -> Tensor:
    """Apply a function of rows ``(N, ...)``, in chunks where no gradient is wanted.

    How N is cut depends on N alone, so a row's bits stay a function of the row, N and its place.
    """
    on_cuda = rows.is_cuda
    with reproducible_cudnn() if on_cuda else contextlib.nullcontext():
        if torch.is_grad_enabled():
            return function(rows)
        most = (_ELEMENTS_PER_CHUNK_CUDA if on_cuda else _ELEMENTS_PER_CHUNK) // largest_map
        size = max(1, most // _CHUNK_MULTIPLE) * _CHUNK_MULTIPLE
        if len(rows) <= size:
            return function(rows)
        return torch.cat([function(part) for part in rows.split(size)])


def reproducible_cudnn() -> contextlib.AbstractContextManager[None]:
    """Let cuDNN choose no algorithm that adds in any order, and no TF32, as for other layers."""
    flags: contextlib.AbstractContextManager[None] = torch.backends.cudnn.flags(
        enabled=torch.backends.cudnn.enabled, deterministic=True, allow_tf32=False
    )
    return flags
