"""Feed-forward networks with an initialisation that is a function of (seed, name) alone."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

from distvae.errors import UsageError
from distvae.model import noise

__all__ = ["ACTIVATIONS", "MLP"]

_LEAKY_SLOPE = 0.01

# In place where the backward pass needs only the result: one pass over memory less.
ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": lambda: nn.ReLU(inplace=True),
    "leaky_relu": lambda: nn.LeakyReLU(_LEAKY_SLOPE, inplace=True),
    "tanh": nn.Tanh,
    "silu": nn.SiLU,
    "gelu": nn.GELU,
}


class MLP(nn.Module):
    """Linear layers with an activation between them, none after the last.

    Hidden layers before a rectifier-like activation start from He et al. 2015, N(0, 2 / fan_in);
    before tanh, and the last layer, from Glorot & Bengio 2010, N(0, 2 / (fan_in + fan_out)).
    Biases start at 0. The torch random state is neither read nor changed.

    Args:
        inputs: width of the input, >= 1.
        hidden: widths of the hidden layers, may be empty (one affine map).
        outputs: width of the output.
        activation: a name in ``ACTIVATIONS``.
        seed: seed of the initial weights; None leaves them unset, to be loaded.
        name: name of this network among those that share the seed.

    Raises:
        UsageError: unknown activation.
    """

    def __init__(
        self,
        inputs: int,
        hidden: Sequence[int],
        outputs: int,
        activation: str = "relu",
        *,
        seed: int | None = 0,
        name: str = "mlp",
    ) -> None:
        super().__init__()
        if activation not in ACTIVATIONS:
            rule = "must be one of " + ", ".join(ACTIVATIONS)
            raise UsageError("activation", repr(activation), rule)
        widths = [inputs, *hidden, outputs]
        layers: list[nn.Module] = []
        for index, (fan_in, fan_out) in enumerate(itertools.pairwise(widths)):
            is_last = index == len(widths) - 2
            saturates = activation == "tanh" or is_last
            variance = 2 / (fan_in + fan_out) if saturates else 2 / fan_in
            layers.append(_linear(fan_in, fan_out, math.sqrt(variance), seed, f"{name}/{index}"))
            if not is_last:
                layers.append(ACTIVATIONS[activation]())
        self.layers = nn.Sequential(*layers)

    def forward(self, x: Tensor) -> Tensor:
        """Map ``(..., inputs)`` to ``(..., outputs)``."""
        result: Tensor = self.layers(x)
        return result

    def by_column(self, x: Tensor) -> Tensor:
        """Return ``forward(x)`` of ``x (n, inputs)``, each output's rows side by side in memory.

        The last bits may differ from those of ``forward``.
        """
        hidden = self.layers[:-1](x)
        return torch.addmm(self.last.bias[:, None], self.last.weight, hidden.t()).t()

    def set_output_bias(self, bias: Tensor) -> None:
        """Start the output at ``bias (outputs,)``."""
        with torch.no_grad():
            self.last.bias.copy_(bias)

    def add_output_bias(self, shift: Tensor) -> None:
        """Add ``shift (outputs,)`` to the output's bias."""
        with torch.no_grad():
            self.last.bias.add_(shift)

    def scale_output_weight(self, gain: Tensor) -> None:
        """Multiply the output layer's weights by ``gain (outputs,)``, one factor per output."""
        with torch.no_grad():
            self.last.weight.mul_(gain[:, None])

    @property
    def last(self) -> nn.Linear:
        """The output layer."""
        layer = self.layers[-1]
        assert isinstance(layer, nn.Linear)
        return layer


def _linear(fan_in: int, fan_out: int, std: float, seed: int | None, name: str) -> nn.Linear:
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)
    if seed is None:
        return layer
    weight = noise.normal(seed, f"weights/{name}", 0, fan_out, fan_in) * std
    with torch.no_grad():
        layer.weight.copy_(torch.from_numpy(weight))
        layer.bias.zero_()
    return layer
