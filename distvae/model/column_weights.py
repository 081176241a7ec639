"""Weights of columns in the training loss, by what their values can tell about other columns.

A column of many values takes most of a code's nats, much of them for what no other column has a
part in: 4 nats for an age to the year, 0.3 for a rare outcome. What the columns have in common is
worth coding at any weight, so that those of high entropy may count less. Weights are part of the
loss alone: densities and the ELBO that is told stay those of the model.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from torch import Tensor

from distvae.model.architecture import FeatureSpec, coding_of
from distvae.model.cells import cells_of

__all__ = ["entropy_weights"]

_FULL_ENTROPY = 1.5  # nats


def entropy_weights(features: Sequence[FeatureSpec]) -> Tensor:
    """Return ``(F,)`` weights: 1.5 nats over the entropy of a feature's classes, at most 1.

    Features without classes, or whose shares are not known, have weight 1.
    """
    return torch.tensor([_weight(spec) for spec in features])


def _weight(spec: FeatureSpec) -> float:
    if coding_of(spec) != "cells":
        return 1.0
    mass = cells_of(spec).mass
    if mass is None or not mass.sum() > 0:
        return 1.0
    shares = mass[mass > 0] / mass.sum()
    entropy = float(-(shares * np.log(shares)).sum())
    return min(1.0, _FULL_ENTROPY / max(entropy, _FULL_ENTROPY))
