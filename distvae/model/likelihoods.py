"""Likelihood heads p(x_j | z): densities in the data's own units, or log-probabilities.

A head covers w elements that share it. ``y`` is standardised, y = (x - shift) / scale, and so are
the head's parameters; ``log_prob`` counts the Jacobian, log p(x) = log p(y) - log scale.
``log_sigma`` is the logarithm of a standard deviation in standardised units.
Shapes: ``y (..., w)``, ``params (..., parameters_per_element * w)``, leading dimensions broadcast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn
from torch.nn.functional import binary_cross_entropy_with_logits

from distvae.errors import DataError, UsageError
from distvae.model.architecture import FeatureSpec, element_values
from distvae.model.densities import (
    HIGHEST_BYTE,
    binarize,
    clipped_mean,
    gaussian_log_prob,
    unit_bin_log_mass,
)
from distvae.model.posteriors import bounded_log_sigma

__all__ = [
    "HEADS",
    "Bernoulli",
    "Elements",
    "FixedGaussian",
    "Gaussian",
    "Head",
    "RowGaussian",
    "elements_of",
    "make_head",
]

# Adam moves every parameter by about the learning rate a step; sigma has further to go than a
# weight (from the data's spread to its noise), so its logarithm moves this many times faster.
_LOG_SIGMA_GAIN = 10.0
_RAREST_MEAN = 1e-3


@dataclass(frozen=True)
class Elements:
    """What heads know about their elements, ``(w,)`` each.

    Attributes:
        scale: raw units per standardised unit, > 0.
        shift: raw value at y = 0.
        floor: smallest sigma in standardised units: resolution / sqrt(12) / scale, the standard
            deviation of rounding to the resolution.
        discrete: whole numbers in [0, 255]: Gaussian heads give the mass of the unit bin.
    """

    scale: Tensor
    shift: Tensor
    floor: Tensor
    discrete: bool


def elements_of(features: tuple[FeatureSpec, ...]) -> Elements:
    """Gather the elements of features with the same ``discrete``.

    Raises:
        DataError: a scale or resolution that is not finite and positive.
    """
    scale = element_values(features, "scale")
    resolution = element_values(features, "resolution")
    for name, values in (("scale", scale), ("resolution", resolution)):
        if not ((values > 0) & (values < math.inf)).all():
            what = f"features {', '.join(spec['name'] for spec in features)}"
            raise DataError(what, f"have a {name} that is not positive", f"{name} must be > 0")
    return Elements(
        scale=torch.from_numpy(scale),
        shift=torch.from_numpy(element_values(features, "shift")),
        floor=torch.from_numpy(resolution / math.sqrt(12) / scale),
        discrete=bool(features[0]["discrete"]),
    )


class Head(nn.Module):
    """One family of distributions over w elements.

    Args:
        elements: what is known about them.
        argument: what follows the colon in the head's name.
    """

    parameters_per_element: ClassVar[int] = 1
    is_binary: ClassVar[bool] = False

    scale: Tensor
    shift: Tensor
    floor: Tensor

    def __init__(self, elements: Elements, argument: str | None = None) -> None:
        super().__init__()
        self.discrete = elements.discrete
        self.width = len(elements.scale)
        for name in ("scale", "shift", "floor"):
            constant = getattr(elements, name).to(torch.get_default_dtype())
            self.register_buffer(name, constant, persistent=False)
        self.configure(argument)

    def configure(self, argument: str | None) -> None:
        """Take the head's argument and make its own parameters.

        Raises:
            UsageError: the head takes no such argument.
        """
        if argument is not None:
            raise UsageError("likelihood", f"':{argument}'", "this head takes no argument")

    def log_prob(self, y: Tensor, params: Tensor) -> Tensor:
        """Return log p(x) elementwise, ``(..., w)``, in nats and raw units."""
        raise NotImplementedError

    def mean(self, params: Tensor) -> Tensor:
        """Return E[y], ``(..., w)``."""
        raise NotImplementedError

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return a draw of y, ``(..., w)``, from standard normal ``noise`` of that shape."""
        raise NotImplementedError

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return the decoder's output bias that starts the head at E[y] = ``mean`` ``(w,)``."""
        raise NotImplementedError


class Gaussian(Head):
    """N(mean, sigma^2) with one learned sigma per element, the same for all rows.

    sigma^2 = exp(2 log_sigma) + floor^2: the variance of rounding is added, so sigma stays above
    the floor and the gradient never stops.
    """

    def configure(self, argument: str | None) -> None:
        """Start at sigma = 1."""
        super().configure(argument)
        self.scaled_log_sigma = nn.Parameter(torch.zeros(self.width))

    def location_and_log_sigma(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean ``(..., w)`` and the floored log_sigma, broadcastable to it."""
        return params, self._floored(bounded_log_sigma(_LOG_SIGMA_GAIN * self.scaled_log_sigma))

    def log_prob(self, y: Tensor, params: Tensor) -> Tensor:
        """Density in raw units, or the mass of the unit bin where discrete."""
        location, log_sigma = self.location_and_log_sigma(params)
        if self.discrete:
            return unit_bin_log_mass(y, location, log_sigma, self.scale, self.shift)
        return gaussian_log_prob(y, location, log_sigma) - torch.log(self.scale)

    def mean(self, params: Tensor) -> Tensor:
        """Return E[y]; where discrete, of the Gaussian with its tails moved to the edges."""
        location, log_sigma = self.location_and_log_sigma(params)
        if not self.discrete:
            return location
        low = -self.shift / self.scale
        high = (HIGHEST_BYTE - self.shift) / self.scale
        return clipped_mean(location, log_sigma.exp(), low, high)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return mean + sigma * noise; rounding and clipping are the codec's."""
        location, log_sigma = self.location_and_log_sigma(params)
        return location + log_sigma.exp() * noise

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return the mean itself."""
        return mean

    def _floored(self, log_sigma: Tensor) -> Tensor:
        return 0.5 * torch.logaddexp(2 * log_sigma, 2 * torch.log(self.floor))


class RowGaussian(Gaussian):
    """N(mean, sigma^2) with mean and sigma of every element from the decoder, row by row."""

    parameters_per_element = 2

    def configure(self, argument: str | None) -> None:
        """Take no argument; there is nothing to learn here."""
        Head.configure(self, argument)

    def location_and_log_sigma(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Split the parameters; sigma is bounded smoothly and floored."""
        location, raw_log_sigma = params.chunk(2, dim=-1)
        return location, self._floored(bounded_log_sigma(raw_log_sigma))

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return the mean, and 0 for log sigma."""
        return torch.cat([mean, torch.zeros_like(mean)])


class FixedGaussian(Gaussian):
    """N(mean, sigma^2) with a given sigma in standardised units (default 1), floored."""

    def configure(self, argument: str | None) -> None:
        """Take sigma from ``gaussian-fixed:SIGMA``.

        Raises:
            UsageError: not a finite number above 0.
        """
        try:
            sigma = float(argument) if argument is not None else 1.0
        except ValueError:
            sigma = math.nan
        if not 0 < sigma < math.inf:
            rule = "sigma must be a number above 0, in standard deviations of the column"
            raise UsageError("likelihood", f"'gaussian-fixed:{argument}'", rule)
        self.sigma = sigma

    def location_and_log_sigma(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the constant log_sigma ``(w,)``."""
        return params, torch.log(self.floor.clamp(min=self.sigma))


class Bernoulli(Head):
    """Bernoulli with p = sigmoid(logit), for targets y in [0, 1].

    log p = y * logit - softplus(logit), the negative cross-entropy from logits. With y strictly
    between 0 and 1 this is no normalised likelihood; see ``binarize``.
    """

    is_binary = True

    def log_prob(self, y: Tensor, params: Tensor) -> Tensor:
        """Return minus the cross-entropy; log-probabilities have no Jacobian."""
        target = y.expand(params.shape)
        return -binary_cross_entropy_with_logits(params, target, reduction="none")

    def mean(self, params: Tensor) -> Tensor:
        """Return p."""
        return torch.sigmoid(params)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return 1 where Phi(noise) < p, else 0."""
        return binarize(torch.sigmoid(params), torch.special.ndtr(noise))

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return logit(mean), with the mean kept within [0.001, 0.999]."""
        return torch.logit(mean, eps=_RAREST_MEAN)


HEADS: dict[str, type[Head]] = {
    "gaussian": Gaussian,
    "gaussian-row": RowGaussian,
    "gaussian-fixed": FixedGaussian,
    "bernoulli": Bernoulli,
}


def make_head(likelihood: str, elements: Elements) -> Head:
    """Build a head from ``"NAME"`` or ``"NAME:ARGUMENT"``.

    Raises:
        UsageError: unknown name or bad argument.
    """
    name, _, argument = likelihood.partition(":")
    if name not in HEADS:
        raise UsageError("likelihood", repr(likelihood), "must be one of " + ", ".join(HEADS))
    return HEADS[name](elements, argument or None)
