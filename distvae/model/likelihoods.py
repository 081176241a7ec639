"""Likelihood heads p(x_j | z): densities in the data's own units, or log-probabilities.

``HEADS`` is the plug for further ones: subclass ``heads.Head`` (``log_prob``, ``mean``, ``sample``
and ``output_bias``; ``configure`` for an argument after a colon and for learned parameters;
``parameters_per_element``, or ``outputs``, for what the decoder gives) and enter the class here
under the name that ``--likelihood COLUMN=NAME`` shall take. Nothing else needs to know.
``log_sigma`` is the logarithm of a standard deviation in standardised units. Shapes as in
``heads``: ``y (..., w)``, ``params (..., p)``, leading dimensions broadcast.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor, nn

from distvae.errors import UsageError
from distvae.model.categorical import MOST_LOGITS, Softmax
from distvae.model.counts import NegativeBinomial, ZeroInflatedNegativeBinomial
from distvae.model.densities import (
    HIGHEST_BYTE,
    bernoulli_log_prob,
    binarize,
    clipped_mean,
    gaussian_log_prob,
    normal_cdf,
    unit_bin_log_mass,
)
from distvae.model.heads import (
    Elements,
    Head,
    column_log_sigma,
    elements_of,
    floored,
    row_log_sigma,
)
from distvae.model.joint import FullGaussian, LowRankGaussian
from distvae.model.tree import TreeSoftmax

__all__ = [
    "HEADS",
    "Bernoulli",
    "Elements",
    "FeatureGaussian",
    "FixedGaussian",
    "FullGaussian",
    "Gaussian",
    "Head",
    "LowRankGaussian",
    "NegativeBinomial",
    "RowGaussian",
    "Softmax",
    "TreeSoftmax",
    "ZeroInflatedNegativeBinomial",
    "elements_of",
    "make_head",
]

_RAREST_MEAN = 1e-3


class Gaussian(Head):
    """N(mean, sigma^2) with one learned sigma per element, the same for all rows.

    sigma^2 = exp(2 log_sigma) + floor^2; see ``heads.floored``.
    """

    def configure(self, elements: Elements, argument: str | None) -> None:
        """Start at sigma = 1."""
        super().configure(elements, argument)
        self.scaled_log_sigma = nn.Parameter(torch.zeros(self.width))

    def location_and_log_sigma(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean ``(..., w)`` and the floored log_sigma, broadcastable to it."""
        return params, floored(column_log_sigma(self.scaled_log_sigma), self.floor)

    def log_prob(self, y: Tensor, params: Tensor, observed: Tensor | None = None) -> Tensor:
        """Density in raw units, or the mass of the unit bin where discrete."""
        del observed
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


class FeatureGaussian(Gaussian):
    """N(mean, sigma^2) with one learned sigma per feature, which its elements share.

    A feature has one scale, so for a vector Sigma = sigma^2 I in raw units too: the noise of
    probabilistic PCA (Tipping & Bishop 1999).
    """

    feature: Tensor

    def configure(self, elements: Elements, argument: str | None) -> None:
        """Start at sigma = 1."""
        Head.configure(self, elements, argument)
        feature = elements.feature
        if feature is None:
            feature = torch.zeros(self.width, dtype=torch.long)
        self.register_buffer("feature", feature, persistent=False)
        self.scaled_log_sigma = nn.Parameter(torch.zeros(int(feature.max()) + 1))

    def location_and_log_sigma(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Return the mean and the floored log_sigma ``(w,)``."""
        log_sigma = column_log_sigma(self.scaled_log_sigma)
        return params, floored(log_sigma[self.feature], self.floor)


class RowGaussian(Gaussian):
    """N(mean, sigma^2) with mean and sigma of every element from the decoder, row by row.

    sigma is a learned one per element, as a ``Gaussian``'s, times a factor of the row within 1/20
    and 20; see ``heads.row_log_sigma``.
    """

    parameters_per_element = 2

    def location_and_log_sigma(self, params: Tensor) -> tuple[Tensor, Tensor]:
        """Split the parameters; the row's factor is bounded smoothly and sigma floored."""
        location, raw = params.chunk(2, dim=-1)
        return location, row_log_sigma(self.scaled_log_sigma, raw, self.floor)

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return the mean, and 0 for the logarithm of the row's factor."""
        return torch.cat([mean, torch.zeros_like(mean)])


class FixedGaussian(Gaussian):
    """N(mean, sigma^2) with a given sigma in standardised units (default 1), floored."""

    def configure(self, elements: Elements, argument: str | None) -> None:
        """Take sigma from ``gaussian-fixed:SIGMA``.

        Raises:
            UsageError: not a finite number above 0.
        """
        del elements
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

    def log_prob(self, y: Tensor, params: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return minus the cross-entropy; log-probabilities have no Jacobian."""
        del observed
        return bernoulli_log_prob(y, params)

    def mean(self, params: Tensor) -> Tensor:
        """Return p."""
        return torch.sigmoid(params)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return 1 where Phi(noise) < p, else 0."""
        return binarize(torch.sigmoid(params), normal_cdf(noise))

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return logit(mean), with the mean kept within [0.001, 0.999]."""
        return torch.logit(mean, eps=_RAREST_MEAN)


HEADS: dict[str, type[Head]] = {
    "gaussian": Gaussian,
    "gaussian-feature": FeatureGaussian,
    "gaussian-row": RowGaussian,
    "gaussian-fixed": FixedGaussian,
    "gaussian-full": FullGaussian,
    "gaussian-low-rank": LowRankGaussian,
    "bernoulli": Bernoulli,
    "categorical": Softmax,
    "histogram": Softmax,
    "negative-binomial": NegativeBinomial,
    "zero-inflated-negative-binomial": ZeroInflatedNegativeBinomial,
}


def make_head(likelihood: str, elements: Elements) -> Head:
    """Build a head from ``"NAME"`` or ``"NAME:ARGUMENT"``.

    Raises:
        UsageError: unknown name, bad argument, or elements that the head does not take.
    """
    name, colon, argument = likelihood.partition(":")
    if colon and not argument:
        raise UsageError("likelihood", repr(likelihood), "nothing follows the colon")
    if name not in HEADS:
        raise UsageError("likelihood", repr(likelihood), "must be one of " + ", ".join(HEADS))
    head = HEADS[name]
    if elements.coding not in head.codings:
        found = f"{name!r} for {', '.join(elements.names[:5])}"
        rule = f"takes columns coded as {' or '.join(head.codings)}, not as {elements.coding}"
        raise UsageError("likelihood", found, rule)
    if head is Softmax and max(c.classes for c in elements.cells) > MOST_LOGITS:
        head = TreeSoftmax
    return head(elements, argument or None)
