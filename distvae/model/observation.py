"""p(x | z) over all features: the heads side by side, and the way from input arrays to y.

Features with the same head and the same ``discrete`` are computed together, so that a table of a
thousand columns costs as many kernel launches as one of two; features with a shape stand alone, so
that a network of their own can fill their part of the decoder's outputs. Shapes: n rows, D elements
in feature order, P decoder outputs, F features.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from distvae.errors import DataError
from distvae.model.architecture import Architecture, FeatureSpec, coding_of, element_values
from distvae.model.categorical import MOST_LOGITS
from distvae.model.densities import binarize
from distvae.model.heads import Head, elements_of
from distvae.model.likelihoods import make_head

__all__ = ["Group", "Observation", "Standardise"]


class Group(NamedTuple):
    """Features whose head is computed together, and their part of the decoder's outputs.

    Attributes:
        features: their names, in table order.
        outputs: where their outputs stand among the P.
        parameters_per_element: c, where the outputs are c blocks of one number per element, the
            elements in order (for an image: c planes); None for a head without such blocks.
    """

    features: tuple[str, ...]
    outputs: slice
    parameters_per_element: int | None


class Standardise(nn.Module):
    """Input arrays to standardised elements, ``y = (x - shift) / scale`` for raw ones.

    Args:
        architecture: tells which features each block holds, in feature order within the block.
    """

    order: Tensor | None

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        count = len(architecture.blocks)
        held = [tuple(s for s in architecture.features if s["block"] == b) for b in range(count)]
        self.widths = [sum(spec["stop"] - spec["start"] for spec in specs) for specs in held]
        self.is_raw = [any(spec["raw"] for spec in specs) for specs in held]
        for block, specs in enumerate(held):
            if self.is_raw[block]:
                shift = torch.from_numpy(element_values(specs, "shift"))
                inverse = torch.from_numpy(1 / element_values(specs, "scale"))
                dtype = torch.get_default_dtype()
                self.register_buffer(f"shift_{block}", shift.to(dtype), persistent=False)
                self.register_buffer(f"inverse_scale_{block}", inverse.to(dtype), persistent=False)
        positions = [_positions(specs) for specs in held if specs]
        self.register_buffer("order", _inverse_permutation(positions), persistent=False)

    def forward(
        self, blocks: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """Return ``y (n, D)`` and ``observed (n, D)`` bool, or None when all is observed.

        A block that is standardised already is handed on without a copy.

        Raises:
            DataError: blocks of the wrong number or width.
        """
        self._check(blocks)
        values, flags = [], []
        for index, (block, mask) in enumerate(zip(blocks, masks, strict=True)):
            if self.widths[index]:
                values.append(self._standardise(index, block, mask))
                flags.append(torch.ones_like(block, dtype=torch.bool) if mask is None else mask)
        y = self._in_feature_order(values)
        return y, None if all(m is None for m in masks) else self._in_feature_order(flags)

    def _standardise(self, index: int, block: Tensor, mask: Tensor | None) -> Tensor:
        y = block
        if self.is_raw[index]:
            shift: Tensor = getattr(self, f"shift_{index}")
            y = torch.sub(block, shift).mul_(getattr(self, f"inverse_scale_{index}"))
        return y if mask is None else torch.where(mask, y, 0)

    def _in_feature_order(self, parts: list[Tensor]) -> Tensor:
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=1)
        return joined if self.order is None else joined[:, self.order]

    def _check(self, blocks: Sequence[Tensor]) -> None:
        found = [block.shape[1] for block in blocks]
        if found != self.widths:
            rule = f"this model takes widths {self.widths}"
            raise DataError("input arrays", f"have the widths {found}", rule)


class Observation(nn.Module):
    """The heads of all features.

    Args:
        architecture: features and their likelihoods.

    Attributes:
        groups: who takes which of the P decoder outputs, in the order of the outputs.
        outputs: P.
        measured: ``(D,)`` bool, the elements whose error in raw units means something: not those
            of categories and dates, nor conditions.
        given_elements: the places of the conditions' elements.

    Raises:
        UsageError: an unknown head, a bad argument, or features that a head does not take.
    """

    order: Tensor | None
    feature_of_element: Tensor
    given_elements: Tensor
    measured: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        given = set(architecture.conditions)
        grouped: dict[tuple[str, bool, str, str | None], list[FeatureSpec]] = {}
        for spec in architecture.features:
            if spec["name"] in given:
                grouped.setdefault(("given", False, coding_of(spec), None), []).append(spec)
                continue
            alone = str(spec["name"]) if spec.get("shape") or _is_large(spec) else None
            likelihood = architecture.likelihood(spec["name"])
            # Two names of one head.
            likelihood = "categorical" if likelihood == "histogram" else likelihood
            key = (likelihood, bool(spec["discrete"]), coding_of(spec), alone)
            grouped.setdefault(key, []).append(spec)
        heads, positions = [], []
        self.groups: list[Group] = []
        self.outputs = 0
        for (likelihood, *_), specs in grouped.items():
            elements = elements_of(tuple(specs))
            head = Given(elements) if likelihood == "given" else make_head(likelihood, elements)
            outputs = slice(self.outputs, self.outputs + head.outputs)
            names = tuple(str(spec["name"]) for spec in specs)
            self.groups.append(Group(names, outputs, head.parameters_per_element))
            self.outputs = outputs.stop
            heads.append(head)
            positions.append(_positions(specs))
        self.heads = nn.ModuleList(heads)
        self.columns = [_as_slice(part) for part in positions]
        self.feature_count = len(architecture.features)
        self.register_buffer("order", _inverse_permutation(positions), persistent=False)
        index = [
            i for i, s in enumerate(architecture.features) for _ in range(s["start"], s["stop"])
        ]
        self.register_buffer("feature_of_element", torch.tensor(index), persistent=False)
        told = [e for s in architecture.given for e in range(s["start"], s["stop"])]
        self.register_buffer("given_elements", torch.tensor(told, dtype=torch.long), False)
        counts = [s["name"] not in given and s.get("measured", True) for s in architecture.features]
        measured = torch.tensor(counts)[self.feature_of_element]
        self.register_buffer("measured", measured, persistent=False)

    def log_prob(self, y: Tensor, params: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return log p(x_j | z) per element, ``(..., D)``, for ``y (n, D)`` and ``(..., P)``.

        Elements that are not ``observed (n, D)`` give 0; the others' sum is log p of them alone.
        """
        parts = []
        zipped = zip(self._heads(), self.columns, self._split(params), strict=True)
        for head, c, p in zipped:
            seen = observed[..., c] if head.is_joint and observed is not None else None
            parts.append(head.log_prob(y[..., c], p, seen))
        log_prob = self._join(parts)
        return log_prob if observed is None else torch.where(observed, log_prob, 0)

    def mean(self, params: Tensor) -> Tensor:
        """Return E[y | z], ``(..., D)``."""
        parts = self._split(params)
        return self._join([h.mean(p) for h, p in zip(self._heads(), parts, strict=True)])

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return a draw of y, ``(..., D)``, from standard normal ``noise (..., D)``."""
        zipped = zip(self._heads(), self.columns, self._split(params), strict=True)
        return self._join([h.sample(p, noise[..., c]) for h, c, p in zipped])

    def raw_error(self, params: Tensor, y: Tensor) -> Tensor:
        """Return E[x | z] - x in raw units, ``(..., D)`` float64, 0 where not ``measured``."""
        zipped = zip(self._heads(), self.columns, self._split(params), strict=True)
        error = self._join([h.raw_error(p, y[..., c]) for h, c, p in zipped])
        return torch.where(self.measured, error, 0)

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return the decoder's output bias ``(P,)`` that starts every head at ``mean (D,)``."""
        zipped = zip(self._heads(), self.columns, strict=True)
        return torch.cat([h.output_bias(mean[c]) for h, c in zipped])

    def output_gain(self) -> Tensor:
        """Return the factors of the decoder's first output weights, ``(P,)``; see ``Head``."""
        return torch.cat([head.output_gain() for head in self._heads()])

    def binarize(self, y: Tensor, u: Tensor) -> Tensor:
        """Draw the elements of binary heads as Bernoulli(y) with uniform ``u (n, D)``."""
        zipped = zip(self._heads(), self.columns, strict=True)
        parts = [binarize(y[..., c], u[..., c]) if h.is_binary else y[..., c] for h, c in zipped]
        return self._join(parts)

    def per_feature(self, elementwise: Tensor) -> Tensor:
        """Sum ``(n, D)`` within features, ``(n, F)``."""
        if elementwise.shape[-1] == self.feature_count:
            return elementwise
        zeros = elementwise.new_zeros(*elementwise.shape[:-1], self.feature_count)
        return zeros.index_add(-1, self.feature_of_element, elementwise)

    def _heads(self) -> list[Head]:
        return [head for head in self.heads if isinstance(head, Head)]

    def _split(self, params: Tensor) -> Sequence[Tensor]:
        return torch.split(params, [head.outputs for head in self._heads()], -1)

    def _join(self, parts: list[Tensor]) -> Tensor:
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return joined if self.order is None else joined[..., self.order]


class Given(Head):
    """Conditions: no outputs, no likelihood, 0 for a draw, to be filled by whoever gives them."""

    parameters_per_element = 0
    codings = ("standard", "unit", "count", "cells")

    def log_prob(self, y: Tensor, params: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return zeros."""
        del y, observed
        return self.mean(params)

    def mean(self, params: Tensor) -> Tensor:
        """Return zeros."""
        return params.new_zeros(*params.shape[:-1], self.width)

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return zeros."""
        del noise
        return self.mean(params)

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return nothing."""
        return mean[:0]

    def output_gain(self) -> Tensor:
        """Return nothing."""
        return self.scale[:0]


def _is_large(spec: FeatureSpec) -> bool:
    return coding_of(spec) == "cells" and spec["cells"]["classes"] > MOST_LOGITS


def _positions(specs: Sequence[FeatureSpec]) -> Tensor:
    return torch.cat([torch.arange(spec["start"], spec["stop"]) for spec in specs])


def _as_slice(positions: Tensor) -> slice | Tensor:
    first, last = int(positions[0]), int(positions[-1])
    return slice(first, last + 1) if last - first + 1 == len(positions) else positions


def _inverse_permutation(positions: list[Tensor]) -> Tensor | None:
    """Return where each element stands after concatenation; None when that is its place already."""
    joined = torch.cat(positions)
    if torch.equal(joined, torch.arange(len(joined))):
        return None
    return torch.argsort(joined)
