"""What a model is made of, as a plain value that JSON can carry."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from distvae.errors import DataError, UsageError
from distvae.model.networks import ACTIVATIONS
from distvae.model.posteriors import POSTERIORS

__all__ = ["DEFAULT_LIKELIHOOD", "Architecture", "FeatureSpec", "element_values"]

# One column of the table as the model sees it; the keys are those of the codec's description.
FeatureSpec = Mapping[str, Any]
DEFAULT_LIKELIHOOD = "gaussian"

_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": ("vae",),
    "activation": tuple(ACTIVATIONS),
    "posterior": POSTERIORS,
    "prior": ("normal",),
    "binarize": ("none", "dynamic"),
}


@dataclass(frozen=True)
class Architecture:
    """Enough to rebuild a model without its data.

    Attributes:
        latent_dim: k, >= 1.
        features: one description per feature, in table order; ``start`` and ``stop`` cut
            [0, D) into the features' elements.
        blocks: one description per input array, in the order in which they are handed over.
        hidden_dims: widths of the encoder's hidden layers; the decoder has them reversed.
        activation: a name in ``networks.ACTIVATIONS``.
        likelihoods: head by feature name, ``DEFAULT_LIKELIHOOD`` for the others.
        kind, posterior, prior: one choice each for now.
        binarize: ``"dynamic"`` when training drew Bernoulli targets afresh each time.

    Raises:
        UsageError: a value outside its choices, or a likelihood for an unknown feature.
        DataError: features that do not cut [0, D) into consecutive ranges.
    """

    latent_dim: int
    features: tuple[FeatureSpec, ...]
    blocks: tuple[Mapping[str, Any], ...]
    hidden_dims: tuple[int, ...] = (512, 512)
    activation: str = "relu"
    likelihoods: Mapping[str, str] = field(default_factory=dict)
    kind: str = "vae"
    posterior: str = "diagonal"
    prior: str = "normal"
    binarize: str = "none"

    def __post_init__(self) -> None:
        for name in ("features", "blocks", "hidden_dims"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                value = repr(getattr(self, name))
                raise UsageError(name, value, "must be one of " + ", ".join(choices))
        for name, values in (("latent_dim", (self.latent_dim,)), ("hidden_dims", self.hidden_dims)):
            if any(value < 1 for value in values):
                raise UsageError(name, str(getattr(self, name)), "must be at least 1")
        unknown = sorted(set(self.likelihoods) - {spec["name"] for spec in self.features})
        if unknown:
            rule = "must name a feature: " + ", ".join(spec["name"] for spec in self.features)
            raise UsageError("likelihood", unknown[0], rule)
        self._check_features()

    def _check_features(self) -> None:
        if not self.features:
            raise DataError("features", "there are none", "a model needs at least one")
        position = 0
        for spec in self.features:
            what = f"feature '{spec['name']}'"
            if spec["start"] != position or spec["stop"] <= position:
                found = f"covers elements [{spec['start']}, {spec['stop']})"
                raise DataError(what, found, f"must start at {position} and not be empty")
            if not 0 <= spec["block"] < len(self.blocks):
                raise DataError(what, f"block {spec['block']}", f"there are {len(self.blocks)}")
            position = spec["stop"]

    @property
    def width(self) -> int:
        """D, the number of elements over all features."""
        return int(self.features[-1]["stop"])

    def likelihood(self, name: str) -> str:
        """Return the head of a feature, e.g. ``"gaussian-fixed:0.1"``."""
        return self.likelihoods.get(name, DEFAULT_LIKELIHOOD)

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, numbers and strings."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        for name in ("features", "blocks"):
            plain[name] = [dict(spec) for spec in plain[name]]
        plain["hidden_dims"] = list(self.hidden_dims)
        plain["likelihoods"] = dict(self.likelihoods)
        return plain

    @classmethod
    def from_json(cls, plain: Mapping[str, Any]) -> Architecture:
        """Rebuild from ``to_json``.

        Raises:
            DataError: unknown or missing fields.
            UsageError: a value outside its choices.
        """
        known = {item.name for item in dataclasses.fields(cls)}
        unknown = sorted(set(plain) - known)
        if unknown:
            raise DataError("architecture", f"has the field '{unknown[0]}'", "it is unknown here")
        try:
            return cls(**plain)
        except (KeyError, TypeError) as error:
            raise DataError("architecture", f"is incomplete ({error})") from error


def element_values(features: tuple[FeatureSpec, ...], key: str) -> NDArray[np.float64]:
    """Return a number per element of the given features, scalars repeated, ``(w,)`` float64."""
    parts = [
        np.broadcast_to(np.asarray(spec[key], np.float64).reshape(-1), spec["stop"] - spec["start"])
        for spec in features
    ]
    return np.concatenate(parts)
