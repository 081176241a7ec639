"""What a report is made of: plain data, already loaded and already sampled."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeAlias

import numpy as np
import numpy.typing as npt

__all__ = ["Array", "Columns", "ReportInputs", "image_shape"]

Array: TypeAlias = npt.NDArray[Any]
Columns: TypeAlias = Mapping[str, Array]

_SMALLEST_SIDE = 7  # a shorter square list is more likely a plain list than a picture


def image_shape(width: int) -> tuple[int, int] | None:
    """The picture (height, width) that a vector of ``width`` numbers most likely is.

    Only squares from 7 × 7 on are taken for pictures; anything else gives None and needs a
    shape from the user.
    """
    side = math.isqrt(max(width, 0))
    return (side, side) if side >= _SMALLEST_SIDE and side * side == width else None


@dataclass(frozen=True)
class ReportInputs:
    """Everything the page shows. Whatever is left out is said on the page, never guessed.

    Args:
        model_name: what to call the model, for example the name of its directory.
        model_id: the sha256 of the model.
        config: the content of the model's ``config.json``, nested as it stands.
        history: one entry per column of ``history.parquet``, each (epochs,). ``*_reconstruction``
            is E log p(x|z) and ``*_kl`` the KL term, both mean nats per row, so that
            ELBO = reconstruction − KL; ``*_loss`` is what was minimised.
        metrics: the figures of ``evaluate --json``; None where a kind does not have one.
        mu: posterior means (n, latent_dim) of sampled rows, or None.
        colour: one value per row of ``mu``: numbers, strings, dates; None is missing.
        colour_name: the column that ``colour`` came from.
        originals: per column (n,) or (n, w), raw units: numbers (NaN missing), ``datetime64``,
            ``timedelta64``, or objects of text (None missing).
        reconstructions: the same rows and columns, decoded from their own µ.
        samples: synthetic rows to look at, the same columns.
        real: per column (n,) or (n, w), rows of the data for the marginals.
        synthetic: the same columns, synthetic rows; the number of rows may differ.
        fidelity: the figures of `distvae.fidelity.fidelity`, where they were measured.
        image_shapes: (height, width) or (height, width, 3) of the vectors that are pictures.
        notes: lines to print as they are.
    """

    model_name: str
    model_id: str
    config: Mapping[str, Any] = field(default_factory=dict)
    history: Columns = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    mu: Array | None = None
    colour: Array | None = None
    colour_name: str | None = None
    originals: Columns = field(default_factory=dict)
    reconstructions: Columns = field(default_factory=dict)
    samples: Columns = field(default_factory=dict)
    real: Columns = field(default_factory=dict)
    synthetic: Columns = field(default_factory=dict)
    fidelity: Mapping[str, Any] = field(default_factory=dict)
    image_shapes: Mapping[str, tuple[int, ...]] = field(default_factory=dict)
    notes: Sequence[str] = ()

    def __post_init__(self) -> None:
        """Check what the loader of these inputs promises."""
        if self.mu is not None:
            assert np.ndim(self.mu) == 2, "mu is (rows, latent_dim)"
            if self.colour is not None:
                assert len(self.colour) == len(self.mu), "colour has one value per row of mu"

    @property
    def kind(self) -> str:
        """The kind of model, ``vae`` where the config does not say."""
        return str(self.config.get("kind") or "vae")
