"""p(x | z) over all features: the heads side by side, and the way from input arrays to y.

Features with the same head and the same ``discrete`` are computed together, so that a table of a
thousand columns costs as many kernel launches as one of two. Shapes: n rows, D elements in feature
order, P decoder outputs, F features.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from distvae.errors import DataError
from distvae.model.architecture import Architecture, FeatureSpec, element_values
from distvae.model.densities import binarize
from distvae.model.likelihoods import Head, elements_of, make_head

__all__ = ["Observation", "Standardise"]


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

    Raises:
        UsageError: an unknown head or a bad argument.
    """

    order: Tensor | None
    feature_of_element: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        grouped: dict[tuple[str, bool], list[FeatureSpec]] = {}
        for spec in architecture.features:
            key = (architecture.likelihood(spec["name"]), bool(spec["discrete"]))
            grouped.setdefault(key, []).append(spec)
        heads, positions = [], []
        for (likelihood, _), specs in grouped.items():
            heads.append(make_head(likelihood, elements_of(tuple(specs))))
            positions.append(_positions(specs))
        self.heads = nn.ModuleList(heads)
        self.columns = [_as_slice(part) for part in positions]
        self.outputs = sum(head.parameters_per_element * head.width for head in heads)
        self.feature_count = len(architecture.features)
        self.register_buffer("order", _inverse_permutation(positions), persistent=False)
        index = [
            i for i, s in enumerate(architecture.features) for _ in range(s["start"], s["stop"])
        ]
        self.register_buffer("feature_of_element", torch.tensor(index), persistent=False)

    def log_prob(self, y: Tensor, params: Tensor) -> Tensor:
        """Return log p(x_j | z) per element, ``(..., D)``, for ``y (n, D)`` and ``(..., P)``."""
        parts = self._split(params)
        return self._join(
            [
                h.log_prob(y[..., c], p)
                for h, c, p in zip(self._heads(), self.columns, parts, strict=True)
            ]
        )

    def mean(self, params: Tensor) -> Tensor:
        """Return E[y | z], ``(..., D)``."""
        parts = self._split(params)
        return self._join([h.mean(p) for h, p in zip(self._heads(), parts, strict=True)])

    def sample(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return a draw of y, ``(..., D)``, from standard normal ``noise (..., D)``."""
        zipped = zip(self._heads(), self.columns, self._split(params), strict=True)
        return self._join([h.sample(p, noise[..., c]) for h, c, p in zipped])

    def output_bias(self, mean: Tensor) -> Tensor:
        """Return the decoder's output bias ``(P,)`` that starts every head at ``mean (D,)``."""
        zipped = zip(self._heads(), self.columns, strict=True)
        return torch.cat([h.output_bias(mean[c]) for h, c in zipped])

    def binarize(self, y: Tensor, u: Tensor) -> Tensor:
        """Draw the elements of binary heads as Bernoulli(y) with uniform ``u (n, D)``."""
        zipped = zip(self._heads(), self.columns, strict=True)
        parts = [binarize(y[..., c], u[..., c]) if h.is_binary else y[..., c] for h, c in zipped]
        return self._join(parts)

    def per_feature(self, elementwise: Tensor) -> Tensor:
        """Sum ``(n, D)`` within features, ``(n, F)``."""
        zeros = elementwise.new_zeros(*elementwise.shape[:-1], self.feature_count)
        return zeros.index_add(-1, self.feature_of_element, elementwise)

    def _heads(self) -> list[Head]:
        return [head for head in self.heads if isinstance(head, Head)]

    def _split(self, params: Tensor) -> Sequence[Tensor]:
        return torch.split(params, [h.parameters_per_element * h.width for h in self._heads()], -1)

    def _join(self, parts: list[Tensor]) -> Tensor:
        joined = parts[0] if len(parts) == 1 else torch.cat(parts, dim=-1)
        return joined if self.order is None else joined[..., self.order]


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
