"""What a likelihood head is: one family of distributions p(x_j | z) over elements that share it.

``y`` is standardised, y = (x - shift) / scale, and so are the head's parameters; ``log_prob``
counts the Jacobian, log p(x) = log p(y) - log scale. Shapes: ``y (..., w)``, ``params (..., p)``
with p = ``Head.outputs``, leading dimensions broadcast. The families are in ``likelihoods``.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from distvae.errors import DataError, UsageError
from distvae.model.architecture import FeatureSpec, coding_of, element_values
from distvae.model.cells import Cells, cells_of
from distvae.model.posteriors import bounded_log_sigma

__all__ = ["Elements", "Head", "column_log_sigma", "elements_of", "floored", "row_log_sigma"]

# Adam moves every parameter by about the learning rate a step; sigma has further to go than a
# weight (from the data's spread to its noise), so its logarithm moves this many times faster.
_LOG_SIGMA_GAIN = 10.0
# How far a row's log sigma may go from the column's. A network says anything at all where it has
# seen little: with room of 10 a single z far out cost 1e6 nats and more, in training too, and the
# encoder learned to avoid the decoder instead of using it. Rows in real tables differ by less.
_ROOM_OF_A_ROW = 3.0


@dataclass(frozen=True)
class Elements:
    """What heads know about their elements, ``(w,)`` each.

    Attributes:
        scale: raw units per standardised unit, > 0.
        shift: raw value at y = 0.
        floor: smallest sigma in standardised units: resolution / sqrt(12) / scale, the standard
            deviation of rounding to the resolution.
        discrete: whole numbers in [0, 255]: Gaussian heads give the mass of the unit bin.
        feature: int64 number of the element's feature, from 0; None where all are of one.
        names: the features' names, for messages.
        cells: of each feature that is coded as cells; empty for other codings.
        coding: how values became elements, see ``architecture.coding_of``.
    """

    scale: Tensor
    shift: Tensor
    floor: Tensor
    discrete: bool
    feature: Tensor | None = None
    names: tuple[str, ...] = ()
    cells: tuple[Cells, ...] = ()
    coding: str = "standard"

    @property
    def width(self) -> int:
        """w, the number of elements."""
        return len(self.scale)


def elements_of(features: tuple[FeatureSpec, ...]) -> Elements:
    """Gather the elements of features with the same ``discrete`` and the same coding.

    Raises:
        DataError: a scale or resolution that is not finite and positive.
    """
    scale = element_values(features, "scale")
    resolution = element_values(features, "resolution")
    names = tuple(str(spec["name"]) for spec in features)
    for name, values in (("scale", scale), ("resolution", resolution)):
        if not ((values > 0) & (values < math.inf)).all():
            what = f"features {', '.join(names)}"
            raise DataError(what, f"have a {name} that is not positive", f"{name} must be > 0")
    coding = coding_of(features[0])
    widths = torch.tensor([spec["stop"] - spec["start"] for spec in features])
    return Elements(
        scale=torch.from_numpy(scale),
        shift=torch.from_numpy(element_values(features, "shift")),
        floor=torch.from_numpy(resolution / math.sqrt(12) / scale),
        discrete=bool(features[0]["discrete"]),
        feature=torch.repeat_interleave(torch.arange(len(features)), widths),
        names=names,
        cells=tuple(cells_of(spec) for spec in features) if coding == "cells" else (),
        coding=coding,
    )


def floored(log_sigma: Tensor, floor: Tensor) -> Tensor:
    """Return the log of sqrt(sigma^2 + floor^2): the variance of rounding is added.

    So sigma stays above the floor and the gradient never stops.
    """
    return 0.5 * torch.logaddexp(2 * log_sigma, 2 * torch.log(floor))


def column_log_sigma(scaled: Tensor) -> Tensor:
    """Return the log of a learned sigma, within e^-10 and e^10, from its parameter; 0 is 0."""
    return bounded_log_sigma(_LOG_SIGMA_GAIN * scaled)


def row_log_sigma(scaled: Tensor, raw: Tensor, floor: Tensor) -> Tensor:
    """Return the floored log of sigma_j(z) = s_j exp(b(raw_j)), b bounded smoothly to (-3, 3).

    s_j is learned for all rows, as a plain Gaussian's; the decoder makes a row up to 20 times
    quieter or louder than that. So log p(x | z) at an unlucky z is worse than the plain Gaussian's
    by a bounded factor, and noise that differs between rows by more than 20^2 is beyond the head.

    Args:
        scaled: the parameter of s_j, ``(w,)``; see ``column_log_sigma``.
        raw: the decoder's outputs, ``(..., w)``.
        floor: smallest sigma in standardised units, ``(w,)``.
    """
    return floored(column_log_sigma(scaled) + bounded_log_sigma(raw, _ROOM_OF_A_ROW), floor)


class Head(nn.Module):
    """One family of distributions over w elements.

    Args:
        elements: what is known about them.
        argument: what follows the colon in the head's name.

    Attributes:
        parameters_per_element: p / w where the decoder's outputs are that many blocks of w, one
            number per element each; None where they are no such blocks.
        is_binary: targets may be drawn as Bernoulli(y).
        codings: what the elements may be coded as.
        is_joint: the elements depend on each other given z, so that ``log_prob`` must be told
            which of them are observed.
    """

    parameters_per_element: int | None = 1
    is_binary: ClassVar[bool] = False
    is_joint: ClassVar[bool] = False
    codings: ClassVar[tuple[str, ...]] = ("standard", "unit")

    scale: Tensor
    shift: Tensor
    floor: Tensor

    def __init__(self, elements: Elements, argument: str | None = None) -> None:
        super().__init__()
        self.discrete = elements.discrete
        self.width = elements.width
        for name in ("scale", "shift", "floor"):
            constant = getattr(elements, name).to(torch.get_default_dtype())
            self.register_buffer(name, constant, persistent=False)
        self.configure(elements, argument)

    def configure(self, elements: Elements, argument: str | None) -> None:
        """Take the head's argument and make its own parameters.

        Raises:
            UsageError: the head takes no such argument, or no such elements.
        """
        del elements
        if argument is not None:
            raise UsageError("likelihood", f"':{argument}'", "this head takes no argument")

    @property
    def outputs(self) -> int:
        """p, the number of decoder outputs that the head takes."""
        assert self.parameters_per_element is not None
        return self.parameters_per_element * self.width

    def log_prob(self, y: Tensor, params: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return log p(x) elementwise, ``(..., w)``, in nats and raw units.

        The observed elements' sum is log p(x_observed | z); what stands at the others is finite
        and means nothing. Heads that are not joint have no use for ``observed``.

        Args:
            y: targets; any finite number where missing.
            params: the decoder's outputs.
            observed: bool, in the shape of y; None where all are.
        """
        raise NotImplementedError

    def mean(self, params: Tensor) -> Tensor:
        """Return E[y], ``(..., w)``."""
        raise NotImplementedError

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return a draw of y, ``(..., w)``, from standard normal ``noise`` of that shape."""
        raise NotImplementedError

    def raw_error(self, params: Tensor, y: Tensor) -> Tensor:
        """Return E[x | z] - x in raw units, ``(..., w)`` float64."""
        return (self.mean(params) - y).double() * self.scale

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return the decoder's output bias ``(p,)`` that starts the head at E[y] = ``mean``."""
        raise NotImplementedError

    def output_gain(self) -> Tensor:
        """Return the factors ``(p,)`` of the decoder's first output weights.

        1 for the w means, which come first, and 0 for whatever else: a covariance that starts at
        random in z drives training astray before the means have learned anything.
        """
        gain = self.scale.new_zeros(self.outputs)
        gain[: self.width] = 1
        return gain
