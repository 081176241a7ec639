"""What a model is made of, as a plain value that JSON can carry."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from distvae.errors import DataError, UsageError
from distvae.model.networks import ACTIVATIONS
from distvae.model.posteriors import POSTERIORS

__all__ = ["DEFAULT_LIKELIHOODS", "Architecture", "FeatureSpec", "coding_of", "element_values"]

# One column of the table as the model sees it; the keys are those of the codec's description.
FeatureSpec = Mapping[str, Any]
DEFAULT_LIKELIHOODS = {"cells": "categorical", "count": "negative-binomial"}
"""Head by coding; ``gaussian`` for the others."""

_AT_LEAST_ONE = (
    "latent_dim",
    "hidden_dims",
    "decoder_dims",
    "channels",
    "prior_components",
    "landmarks",
)
_CHOICES: dict[str, tuple[str, ...]] = {
    "kind": ("vae", "autoencoder", "pca", "kernel-pca"),
    "activation": tuple(ACTIVATIONS),
    "posterior": POSTERIORS,
    "prior": ("normal", "gaussian", "mixture", "flow"),
    "inference": ("amortised", "per-row", "semi-amortised"),
    "kernel": ("rbf",),
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
        hidden_dims: widths of the encoder's hidden layers.
        decoder_dims: widths of the decoder's hidden layers; None: the encoder's, reversed.
        activation: a name in ``networks.ACTIVATIONS``.
        likelihoods: head by feature name; the others' follows from their coding.
        kind: ``vae``; ``autoencoder``: the same networks, with a point for a posterior and no KL;
            ``pca`` and ``kernel-pca``: linear, in closed form.
        posterior: family of q(z|x); ``point`` is the autoencoder's.
        prior: what synthetic codes are drawn from: ``normal`` N(0, I), or a ``gaussian``, a
            ``mixture`` of them or a ``flow`` fitted to the codes after training.
        prior_components: components of the mixture.
        inference: ``amortised`` by the encoder; ``per-row``: no encoder, every row's posterior is
            found by gradient steps; ``semi-amortised``: steps that start at the encoder's answer.
        inference_steps, inference_rate: those steps per visit in training, and their size.
        images: (height, width, channels) of the vector features that are pictures.
        channels: feature maps of the convolutional stages, each of which halves the picture.
        kernel, kernel_gamma: of the kernel PCA, exp(-gamma |y - y'|^2) on standardised values;
            gamma 0 stands for 1 / D.
        landmarks: rows that span the kernel's features (Nystroem).
        binarize: ``"dynamic"`` when training drew Bernoulli targets afresh each time.
        conditions: names of features that are given: the encoder reads them and the decoder is
            told them beside z, so that the model is p(x | conditions); they have no likelihood.

    Raises:
        UsageError: a value outside its choices, a likelihood, a picture or a condition that is no
            feature, a condition that is a picture, or no feature that is not a condition.
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
    prior_components: int = 16
    inference: str = "amortised"
    inference_steps: int = 1
    inference_rate: float = 0.03
    images: Mapping[str, tuple[int, int, int]] = field(default_factory=dict)
    channels: tuple[int, ...] = (32, 64)
    kernel: str = "rbf"
    kernel_gamma: float = 0.0
    landmarks: int = 512
    binarize: str = "none"
    decoder_dims: tuple[int, ...] | None = None
    conditions: tuple[str, ...] = ()

    _codings: ClassVar[dict[str, str]]

    def __post_init__(self) -> None:
        for name in ("features", "blocks", "hidden_dims", "channels", "conditions"):
            object.__setattr__(self, name, tuple(getattr(self, name)))
        if self.decoder_dims is not None:
            object.__setattr__(self, "decoder_dims", tuple(self.decoder_dims))
        codings = {spec["name"]: coding_of(spec) for spec in self.features}
        object.__setattr__(self, "_codings", codings)
        shapes = {name: tuple(shape) for name, shape in self.images.items()}
        object.__setattr__(self, "images", shapes)
        marked = ({**s, "shape": shapes.get(s["name"])} for s in self.features)
        object.__setattr__(self, "features", tuple(marked))
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                value = repr(getattr(self, name))
                raise UsageError(name, value, "must be one of " + ", ".join(choices))
        for name in _AT_LEAST_ONE:
            value = getattr(self, name)
            numbers = value if isinstance(value, tuple) else (1 if value is None else value,)
            if any(number < 1 for number in numbers):
                raise UsageError(name, str(value), "must be at least 1")
        self._check_names()
        if (self.kind == "autoencoder") != (self.posterior == "point"):
            rule = "point is the posterior of an autoencoder and of nothing else"
            raise UsageError("posterior", repr(self.posterior), rule)
        self._check_features()

    def _check_names(self) -> None:
        named: dict[str, Iterable[str]] = {
            "likelihood": self.likelihoods,
            "image": self.images,
            "condition": self.conditions,
        }
        for option, given in named.items():
            unknown = sorted(set(given) - self._codings.keys())
            if unknown:
                rule = "must name a feature: " + ", ".join(self._codings)
                raise UsageError(option, unknown[0], rule)
        pictures = sorted(set(self.conditions) & self.images.keys())
        if pictures:
            raise UsageError("condition", pictures[0], "must not be a picture")
        if self.features and not self.modelled:
            rule = "at least one feature must be left to model"
            raise UsageError("condition", ", ".join(self.conditions), rule)

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
            shape, width = spec["shape"], spec["stop"] - spec["start"]
            if shape is not None and (len(shape) != 3 or math.prod(shape) != width):
                rule = f"must be (height, width, channels) of {width} elements"
                raise DataError(f"image '{spec['name']}'", f"has the shape {shape}", rule)

    @property
    def width(self) -> int:
        """D, the number of elements over all features."""
        return int(self.features[-1]["stop"])

    @property
    def modelled(self) -> tuple[FeatureSpec, ...]:
        """The features that are no conditions."""
        given = set(self.conditions)
        return tuple(spec for spec in self.features if spec["name"] not in given)

    @property
    def given(self) -> tuple[FeatureSpec, ...]:
        """The features that are conditions, in table order."""
        given = set(self.conditions)
        return tuple(spec for spec in self.features if spec["name"] in given)

    @property
    def decoder_widths(self) -> tuple[int, ...]:
        """Widths of the decoder's hidden layers."""
        return self.hidden_dims[::-1] if self.decoder_dims is None else self.decoder_dims

    def likelihood(self, name: str) -> str:
        """Return the head of a feature, e.g. ``"gaussian-fixed:0.1"``."""
        default = DEFAULT_LIKELIHOODS.get(self._codings[name], "gaussian")
        return self.likelihoods.get(name, default)

    def to_json(self) -> dict[str, Any]:
        """Return plain dictionaries, lists, numbers and strings."""
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        plain["features"] = [{k: v for k, v in s.items() if k != "shape"} for s in self.features]
        plain["blocks"] = [dict(spec) for spec in self.blocks]
        plain["images"] = {name: list(shape) for name, shape in self.images.items()}
        for name in ("hidden_dims", "channels", "conditions", "decoder_dims"):
            value = getattr(self, name)
            plain[name] = None if value is None else list(value)
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


def coding_of(spec: FeatureSpec) -> str:
    """Return how a feature's values become elements: ``standard``, ``unit``, ``count``, ``cells``.

    Descriptions made before there were several have no such key: ``standard``.
    """
    return str(spec.get("coding") or "standard")


def element_values(features: tuple[FeatureSpec, ...], key: str) -> NDArray[np.float64]:
    """Return a number per element of the given features, scalars repeated, ``(w,)`` float64."""
    parts = [
        np.broadcast_to(np.asarray(spec[key], np.float64).reshape(-1), spec["stop"] - spec["start"])
        for spec in features
    ]
    return np.concatenate(parts)
