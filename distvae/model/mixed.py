"""Networks over tables with pictures: convolutions for the pictures, linear layers for the rest.

Shapes: D elements, F flags (1 observed, 0 missing), P outputs of the decoder, k latent dimensions.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distvae.errors import UsageError
from distvae.model.architecture import Architecture
from distvae.model.convolution import ConvDecoder, ConvEncoder
from distvae.model.networks import MLP
from distvae.model.observation import Observation
from distvae.model.residual import fill, glorot_std, make_activation
from distvae.model.table_input import TableInput, needs_table_input

__all__ = ["MixedDecoder", "MixedEncoder"]

_WIDTH_WITHOUT_HIDDEN = 256


class MixedEncoder(nn.Module):
    """Each picture through its own ``ConvEncoder``, then all with the rest through an MLP.

    The rest enters as it is, or, where some of it are cells or counts, through a ``TableInput`` of
    the first hidden layer's width.

    A picture becomes as many features as the first hidden layer is wide, 256 where there is none.

    Args:
        architecture: features, which of them are pictures (at least one), sizes.
        flagged: the F elements that have a flag, ascending; all elements of a feature or none.
        outputs: width of the result.
        seed: seed of the initial weights; None leaves them unset, to be loaded.
        name: name of this network among those that share the seed.

    Raises:
        UsageError: an architecture without convolutional stages.
    """

    rest: Tensor

    def __init__(
        self,
        architecture: Architecture,
        flagged: Sequence[int],
        outputs: int,
        seed: int | None = 0,
        name: str = "encoder",
    ) -> None:
        super().__init__()
        hidden, activation = architecture.hidden_dims, architecture.activation
        width = hidden[0] if hidden else _WIDTH_WITHOUT_HIDDEN
        place_of_flag = {e: architecture.width + i for i, e in enumerate(flagged)}
        self.stretches: list[list[slice]] = []
        encoders: list[nn.Module] = []
        rest: list[int] = []
        scalars = [s for s in architecture.features if s["name"] not in architecture.images]
        is_table = needs_table_input(scalars)
        for spec in architecture.features:
            stretches = [slice(spec["start"], spec["stop"])]
            if spec["start"] in place_of_flag:
                first = place_of_flag[spec["start"]]
                stretches.append(slice(first, first + spec["stop"] - spec["start"]))
            shape = architecture.images.get(spec["name"])
            if shape is None:
                if is_table:
                    continue
                rest += [column for s in stretches for column in range(s.start, s.stop)]
                continue
            self.stretches.append(stretches)
            encoder = ConvEncoder(
                shape,
                architecture.channels,
                width,
                activation,
                planes=len(stretches),
                seed=seed,
                name=f"{name}/images/{len(encoders)}",
            )
            encoders.append(encoder)
        self.images = nn.ModuleList(encoders)
        self.width = architecture.width
        self.register_buffer("rest", torch.tensor(rest, dtype=torch.long), persistent=False)
        self.activation = make_activation(activation)
        inputs = len(encoders) * width + len(rest)
        self.table: TableInput | None = None
        if is_table:
            path = f"{name}/table"
            self.table = TableInput(architecture, scalars, width, 2.0, seed=seed, name=path)
            inputs += width
        self.joint = MLP(inputs, hidden, outputs, activation, seed=seed, name=f"{name}/joint")

    def forward(self, x: Tensor, observed: Tensor | None = None) -> Tensor:
        """Map elements and their flags, ``(n, D + F)``, to ``(n, outputs)``.

        Args:
            x: the elements, then the flags.
            observed: ``(n, D)`` what is observed, None for all; read where there are cells.
        """
        parts = []
        for encoder, stretches in zip(self.images, self.stretches, strict=True):
            planes = [x[..., stretch] for stretch in stretches]
            joined = planes[0] if len(planes) == 1 else torch.cat(planes, dim=-1)
            parts.append(self.activation(encoder(joined)))
        if self.table is not None:
            parts.append(self.activation(self.table(x[..., : self.width], observed)))
        if len(self.rest):
            parts.append(x[..., self.rest])
        result: Tensor = self.joint(parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1))
        return result


class MixedDecoder(nn.Module):
    """An MLP, then a ``ConvDecoder`` for each picture and one affine map for all other outputs.

    Args:
        architecture: which features are pictures (at least one), sizes.
        observation: which stretch of the P outputs belongs to which features.
        seed: seed of the initial weights; None leaves them unset, to be loaded.
        name: name of this network among those that share the seed.
        inputs: width of the input where it is more than a code: with a context beside it.

    Raises:
        UsageError: an architecture without convolutional stages, or a picture's head with
            parameters that belong to no single element.
    """

    def __init__(
        self,
        architecture: Architecture,
        observation: Observation,
        seed: int | None = 0,
        name: str = "decoder",
        inputs: int | None = None,
    ) -> None:
        super().__init__()
        k, hidden = inputs or architecture.latent_dim, architecture.decoder_widths
        activation = architecture.activation
        width = hidden[-1] if hidden else k
        self.trunk = nn.Sequential()
        if hidden:
            trunk = MLP(k, hidden[:-1], width, activation, seed=seed, name=f"{name}/trunk")
            self.trunk = nn.Sequential(trunk, make_activation(activation))
        # One entry per group of features: the number of its picture, or None.
        self.image_of_group: list[int | None] = []
        self.stretches: list[slice] = []
        decoders: list[nn.Module] = []
        for group in observation.groups:
            name_of_first, count = group.features[0], group.parameters_per_element
            if group.outputs.start == group.outputs.stop:
                continue  # conditions
            shape = architecture.images.get(name_of_first)
            self.stretches.append(group.outputs)
            self.image_of_group.append(None if shape is None else len(decoders))
            if shape is None:
                continue
            if count is None:
                raise UsageError(
                    "likelihood",
                    f"{name_of_first}={architecture.likelihood(name_of_first)}",
                    "a picture's head must have the same number of parameters for each element",
                    f"choose another head, or leave out --image {name_of_first}",
                )
            path = f"{name}/images/{len(decoders)}"
            decoder = ConvDecoder(
                width, shape, architecture.channels, count, activation, seed=seed, name=path
            )
            decoders.append(decoder)
        self.images = nn.ModuleList(decoders)
        self.rest_widths = [s.stop - s.start for s in self._of_the_rest()]
        self.rest: nn.Linear | None = None
        if self.rest_widths:
            rest = nn.utils.skip_init(nn.Linear, width, sum(self.rest_widths))
            self.rest = fill(rest, glorot_std(rest), seed, f"{name}/rest")

    def forward(self, z: Tensor) -> Tensor:
        """Map ``(..., k)`` to the heads' parameters, ``(..., P)``."""
        features = self.trunk(z)
        rest: list[Tensor] = []
        if self.rest is not None:
            rest = list(torch.split(self.rest(features), self.rest_widths, -1))
        parts = [
            rest.pop(0) if image is None else self.images[image](features)
            for image in self.image_of_group
        ]
        return parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)

    def set_output_bias(self, bias: Tensor) -> None:
        """Start the outputs at ``bias (P,)``."""
        for stretch, image in zip(self.stretches, self.image_of_group, strict=True):
            if image is not None:
                decoder = self.images[image]
                assert isinstance(decoder, ConvDecoder)
                decoder.set_output_bias(bias[stretch])
        if self.rest is not None:
            with torch.no_grad():
                self.rest.bias.copy_(torch.cat([bias[s] for s in self._of_the_rest()]))

    def add_output_bias(self, shift: Tensor) -> None:
        """Add ``shift (P,)`` to the outputs' bias; pictures keep theirs."""
        if self.rest is not None:
            with torch.no_grad():
                self.rest.bias.add_(torch.cat([shift[s] for s in self._of_the_rest()]))

    def scale_output_weight(self, gain: Tensor) -> None:
        """Multiply the weights of the outputs by ``gain (P,)``, for a picture one per plane."""
        with torch.no_grad():
            for stretch, image in zip(self.stretches, self.image_of_group, strict=True):
                if image is not None:
                    decoder = self.images[image]
                    assert isinstance(decoder, ConvDecoder)
                    planes = gain[stretch].unflatten(0, (decoder.parameters_per_element, -1))
                    each = planes[:, 0].repeat_interleave(decoder.shape[2])
                    decoder.last.weight.mul_(each[:, None, None, None])
            if self.rest is not None:
                rest = torch.cat([gain[s] for s in self._of_the_rest()])
                self.rest.weight.mul_(rest[:, None])

    def _of_the_rest(self) -> list[slice]:
        pairs = zip(self.stretches, self.image_of_group, strict=True)
        return [stretch for stretch, image in pairs if image is None]
