"""Weights of columns in the loss follow the entropy of their classes."""

from __future__ import annotations

import math

import pytest

from distvae.model.column_weights import entropy_weights
from tests.model.cell_cases import category
from tests.model.helpers import spec


def test_weights_fall_with_the_entropy_beyond_one_and_a_half_nats() -> None:
    features = [
        category(name, i, n) for i, (name, n) in enumerate(zip("abc", (2, 4, 100), strict=True))
    ]
    for feature in features:
        classes = feature["cells"]["classes"]
        feature["cells"]["mass"] = [1 / classes] * classes
    rare = category("d", 3, 100)
    rare["cells"]["mass"] = [0.99] + [0.01 / 99] * 99
    unknown = category("e", 4, 100)
    number = spec("f", 5, 6)
    weights = entropy_weights([*features, rare, unknown, number]).tolist()
    assert weights == pytest.approx([1, 1, 1.5 / math.log(100), 1, 1, 1])
