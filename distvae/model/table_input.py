"""The first layer over the columns of a table: numbers linearly, classes by rows of a matrix.

For a column of cells the layer adds the row of its class, which is what a one-hot code times a
weight matrix gives. Missing cells add nothing. Columns of many classes go through an embedding of
16 numbers first. Shapes: n rows, D elements, H outputs.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional

from distvae.model import noise
from distvae.model.architecture import Architecture, FeatureSpec, coding_of
from distvae.model.categorical import MOST_LOGITS
from distvae.model.cells import CellSpace, cells_of
from distvae.model.networks import MLP
from distvae.model.residual import make_activation

__all__ = ["EMBEDDING_WIDTH", "TableEncoder", "TableInput", "flagged_elements", "needs_table_input"]

EMBEDDING_WIDTH = 16
"""Numbers that stand for a class of a column with more than ``MOST_LOGITS`` of them."""


def needs_table_input(features: Sequence[FeatureSpec]) -> bool:
    """Return whether some elements are no plain numbers: cells, or counts."""
    return any(coding_of(spec) in ("cells", "count") for spec in features)


def flagged_elements(features: Sequence[FeatureSpec]) -> list[int]:
    """Return the elements whose observation the encoder is told by a flag.

    Those of features that had missing values in training, unless the element is a cell (missing
    cells show already) or a companion column tells.
    """
    told = {spec.get("companion_of") for spec in features}
    return [
        element
        for spec in features
        if spec["has_missing"] and coding_of(spec) != "cells" and spec["name"] not in told
        for element in range(spec["start"], spec["stop"])
    ]


class TableInput(nn.Module):
    """An affine map of numbers, flags (1 observed, 0 missing) and one-hot classes, to H numbers.

    Counts enter as log(1 + y). Weights start from N(0, gain / inputs), a column of cells being one
    input, as one of its rows is added.

    Args:
        architecture: what the elements are.
        features: those that are read.
        outputs: H.
        gain: of the variance of the weights; 1 gives outputs of variance 1 to standardised inputs.
        seed: seed of the initial weights; None leaves them unset, to be loaded.
        name: name of this layer among those that share the seed.
    """

    numbers: Tensor
    counts: Tensor
    flags: Tensor
    small: Tensor
    large: Tensor

    def __init__(
        self,
        architecture: Architecture,
        features: Sequence[FeatureSpec],
        outputs: int,
        gain: float = 1.0,
        *,
        seed: int | None = 0,
        name: str = "input",
    ) -> None:
        super().__init__()
        specs: dict[str, list[FeatureSpec]] = {
            "numbers": [],
            "counts": [],
            "small": [],
            "large": [],
        }
        for spec in features:
            specs[_kind_of(spec)].append(spec)
        for key, held in specs.items():
            self._keep(key, [e for s in held for e in range(s["start"], s["stop"])])
        own = {e for s in features for e in range(s["start"], s["stop"])}
        flags = flagged_elements(architecture.features)
        self._keep("flags", [e for e in flags if e in own])
        dense = len(self.numbers) + len(self.counts) + len(self.flags)
        inputs = max(1, dense + len(self.small) + len(self.large))
        std = math.sqrt(gain / inputs)
        width = dense + EMBEDDING_WIDTH * len(self.large)
        self.weight = nn.Parameter(_normal(outputs, width, std, seed, f"{name}/weight"))
        self.bias = nn.Parameter(torch.zeros(outputs))
        self.small_space: CellSpace | None = None
        self.large_space: CellSpace | None = None
        if specs["small"]:
            self.small_space = CellSpace([cells_of(spec) for spec in specs["small"]])
            count = self.small_space.class_count
            self.rows = _rows(count, outputs, std, seed, f"{name}/rows")
        if specs["large"]:
            self.large_space = CellSpace([cells_of(spec) for spec in specs["large"]])
            count, short = self.large_space.class_count, 1 / math.sqrt(EMBEDDING_WIDTH)
            self.embedding = _rows(count, EMBEDDING_WIDTH, short, seed, f"{name}/embedding")

    def forward(self, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Map ``y (n, D)`` and ``observed (n, D)`` to ``(n, H)``.

        Only the features that are read count; missing numbers are 0 in y already.
        """
        result = functional.linear(self._dense(y, observed), self.weight, self.bias)
        if self.small_space is None:
            return result
        index = _index(self.small_space, self.small, y, observed)
        last = self.small_space.class_count
        added = functional.embedding_bag(index, self.rows, mode="sum", padding_idx=last)
        return result + added

    def _dense(self, y: Tensor, observed: Tensor | None) -> Tensor:
        parts = [y[:, self.numbers], torch.log1p(y[:, self.counts].clamp(min=0))]
        if len(self.flags):
            seen = y.new_ones(len(y), len(self.flags))
            parts.append(seen if observed is None else observed[:, self.flags].to(y.dtype))
        if self.large_space is not None:
            index = _index(self.large_space, self.large, y, observed)
            last = self.large_space.class_count
            found = functional.embedding(index, self.embedding, padding_idx=last)
            parts.append(found.flatten(1))
        return torch.cat(parts, dim=1)

    def _keep(self, name: str, places: list[int]) -> None:
        self.register_buffer(name, torch.tensor(places, dtype=torch.long), persistent=False)


class TableEncoder(nn.Module):
    """``TableInput``, an activation, and the other layers of an MLP.

    Args:
        architecture: features, hidden layers, activation.
        outputs: width of the result.
        seed: seed of the initial weights; None leaves them unset, to be loaded.
        name: name of this network among those that share the seed.
    """

    def __init__(
        self, architecture: Architecture, outputs: int, seed: int | None = 0, name: str = "encoder"
    ) -> None:
        super().__init__()
        hidden, activation = architecture.hidden_dims, architecture.activation
        features = architecture.features
        first, path = (hidden[0] if hidden else outputs), f"{name}/input"
        gain = 2.0 if hidden and activation != "tanh" else 1.0
        self.input = TableInput(architecture, features, first, gain, seed=seed, name=path)
        self.rest = nn.Sequential()
        if hidden:
            path = f"{name}/rest"
            rest = MLP(first, hidden[1:], outputs, activation, seed=seed, name=path)
            self.rest = nn.Sequential(make_activation(activation), rest)

    def forward(self, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Map ``y (n, D)`` and ``observed (n, D)`` to ``(n, outputs)``."""
        result: Tensor = self.rest(self.input(y, observed))
        return result


def _kind_of(spec: FeatureSpec) -> str:
    coding = coding_of(spec)
    if coding != "cells":
        return "counts" if coding == "count" else "numbers"
    return "large" if spec["cells"]["classes"] > MOST_LOGITS else "small"


def _rows(count: int, width: int, std: float, seed: int | None, name: str) -> nn.Parameter:
    """One row per class and one of zeros, which stands for a missing value and is never trained."""
    drawn = _normal(count, width, std, seed, name)
    return nn.Parameter(torch.cat([drawn, torch.zeros(1, width)]))


def _normal(rows: int, columns: int, std: float, seed: int | None, name: str) -> Tensor:
    if seed is None:
        return torch.empty(rows, columns)
    drawn = noise.normal(seed, f"weights/{name}", 0, rows, columns)
    return torch.from_numpy(drawn * np.float32(std))


def _index(space: CellSpace, columns: Tensor, y: Tensor, observed: Tensor | None) -> Tensor:
    """The classes of ``columns``, numbered through, ``(n, w)``; the row of zeros where missing."""
    index = space.class_of_cell[space.cell(y[:, columns])]
    if observed is None:
        return index
    return torch.where(observed[:, columns], index, space.class_count)
