"""Columns of cells for the tests, and a dense second implementation of their likelihood."""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from distvae.model.architecture import Architecture
from tests.model.helpers import block, spec


def category(name: str, start: int, classes: int, pooled: int = 0, **more: Any) -> dict[str, Any]:
    """Categories, the last class holding ``pooled`` of them and one that is never drawn."""
    cell_class = list(range(classes)) + [classes - 1] * (pooled + 1)
    share = np.ones(len(cell_class))
    share[classes - 1 : -1] = np.arange(pooled + 1, 0, -1) / np.arange(pooled + 2).sum()
    share[-1] = 0.0
    seen = np.where(share > 0, share, 0.01)
    cells = {
        "classes": classes,
        "cell_class": cell_class,
        "log_within": np.log(seen).tolist(),
        "share": share.tolist(),
        "low": None,
        "high": None,
        "whole": False,
    }
    return spec(name, start, start + 1, coding="cells", cells=cells, measured=False, **more)


def histogram(name: str, start: int, edges: NDArray[np.float64], **more: Any) -> dict[str, Any]:
    """Intervals, two to a class of shares 0.3 and 0.7, and an atom at each class's upper end.

    ``edges`` holds 2 m + 1 rising numbers; classes are interval pair, atom, pair, atom, ...
    """
    pairs = (len(edges) - 1) // 2
    low, high, cell_class, share = [], [], [], []
    for pair in range(pairs):
        a, b, c = edges[2 * pair : 2 * pair + 3].tolist()
        low += [a, b, c]
        high += [b, c, c]
        cell_class += [2 * pair, 2 * pair, 2 * pair + 1]
        share += [0.3, 0.7, 1.0]
    width = np.subtract(high, low)
    cells = {
        "classes": 2 * pairs,
        "cell_class": cell_class,
        "log_within": (np.log(share) - np.log(np.where(width > 0, width, 1))).tolist(),
        "share": share,
        "low": low,
        "high": high,
        "whole": False,
    }
    return spec(name, start, start + 1, coding="cells", cells=cells, measured=True, **more)


def cell_table(**changes: Any) -> Architecture:
    """Columns in no order of size: a wide histogram, small categories, one pooled, a number."""
    edges = np.random.default_rng(4).normal(size=13).cumsum() * 3
    features = (
        histogram("income", 0, np.sort(edges)),
        category("sex", 1, 2),
        category("city", 2, 5, pooled=3, has_missing=True),
        spec("height", 3, 4, scale=2.0, shift=[1.0]),
        category("colour", 4, 2),
        category("city is missing", 5, 2, companion_of="city"),
    )
    plain: dict[str, Any] = {"latent_dim": 3, "hidden_dims": (8, 6), "activation": "tanh"}
    return Architecture(features=features, blocks=(block(6),), **(plain | changes))


def draw_y(architecture: Architecture, n: int, seed: int = 0) -> NDArray[np.float32]:
    """Any y that the architecture's columns can have, the ends of cells included."""
    random = np.random.default_rng(seed)
    columns = []
    for feature in architecture.features:
        for _ in range(feature["start"], feature["stop"]):
            if feature.get("coding") == "cells":
                cell = random.integers(0, len(feature["cells"]["cell_class"]), n)
                column = cell + random.choice([0.0, 0.25, 0.5, 0.99], n)
            elif feature.get("coding") == "count":
                column = random.integers(0, 9, n)
            else:
                column = random.normal(size=n)
            columns.append(column)
    return np.stack(columns, 1).astype(np.float32)


def dense_log_prob(
    logits: NDArray[np.float64], cells: dict[str, Any], y: NDArray[np.float64]
) -> NDArray[np.float64]:
    """log p of one column, ``(n,)``, for ``logits (n, K)`` in plain NumPy."""
    shifted = logits - logits.max(1, keepdims=True)
    log_p = shifted - np.log(np.exp(shifted).sum(1, keepdims=True))
    cell = np.floor(y).astype(int)
    chosen = np.asarray(cells["cell_class"])[cell]
    result: NDArray[np.float64] = (
        log_p[np.arange(len(y)), chosen] + np.asarray(cells["log_within"])[cell]
    )
    return result
