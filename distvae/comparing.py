"""Synthetic rows beside real ones: which of DATA the model learned from, and the figures."""

from __future__ import annotations

from typing import Any

from distvae.config import EvaluateConfig, ReportConfig
from distvae.data.inputs import Inputs
from distvae.data.selection import Split
from distvae.saved import Model

__all__ = ["compare", "split_of"]


def compare(
    model: Model,
    inputs: Inputs,
    config: EvaluateConfig | ReportConfig,
    seed: int = 0,
    where: str | None = None,
) -> dict[str, Any]:
    """Fidelity and privacy of synthetic rows; see `distvae.fidelity.samples.evaluate_synthetic`.

    Args:
        model: that made them.
        inputs: what DATA names.
        config: DATA, the synthetic dataset, training rows where DATA are others, and the target.
        seed: of the samples.
        where: expression that rows of DATA must fit.

    Raises:
        UsageError, DataError, StorageError: the tables cannot be compared.
    """
    from distvae.fidelity.samples import evaluate_synthetic

    assert config.synthetic is not None
    data, training = list(config.data), list(config.training_data)
    split = split_of(model, inputs)
    return evaluate_synthetic(data, config.synthetic, training, config.target, seed, split, where)


def split_of(model: Model, inputs: Inputs) -> Split | None:
    """How training divided DATA, None where the model was trained on something else."""
    training = model.files.training
    found = [[f.relative, f.size, f.footer_sha256] for f in inputs.files]
    if training.get("items", {}).get("inputs") != found or "split" not in training:
        return None
    split = Split(**training["split"])
    return split if split.validation > 0 else None
