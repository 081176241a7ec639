"""A whole report on made-up data, rendered once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from distvae.report import ReportInputs, render
from distvae.reporting import _columns
from tests.tables import mixed_table

LATENT = 6


def _history(epochs: int) -> dict[str, np.ndarray[Any, Any]]:
    """A run that learns, with the columns of history.parquet."""
    epoch = np.arange(1, epochs + 1)
    reconstruction = -100.0 - 900.0 * np.exp(-epoch / 2.0)
    kl = 12.0 * (1.0 - np.exp(-epoch / 4.0))
    weight = np.minimum(1.0, epoch / 5.0)
    return {
        "epoch": epoch,
        "seconds": np.full(epochs, 0.5),
        "rows_per_second": np.full(epochs, 4000.0),
        "train_loss": weight * kl - reconstruction,
        "train_reconstruction": reconstruction,
        "train_kl": kl,
        "validation_loss": weight * kl - reconstruction + 2.0,
        "validation_reconstruction": reconstruction - 2.0,
        "validation_kl": kl,
        "kl_weight": weight,
    }


def _whole_inputs() -> ReportInputs:
    """Every piece given: a scalar, a picture and a plain vector."""
    random = np.random.default_rng(0)

    def rows(count: int) -> dict[str, np.ndarray[Any, Any]]:
        scalar = random.normal(5.0, 2.0, count)
        scalar[::7] = np.nan
        return {
            "height": scalar,
            "pixels": random.integers(0, 17, (count, 64)).astype(np.uint8),
            "spectrum": np.cumsum(random.normal(size=(count, 20)), axis=1).astype(np.float32),
        }

    metrics = {
        "rows": 300,
        "elbo": -110.0,
        "reconstruction": -98.0,
        "kl": 12.0,
        "log_likelihood": -107.5,
        "log_likelihood_se": 0.3,
        "importance_samples": 128,
        "active_units": 4,
        "kl_per_dimension": [0.001, 4.0, 3.0, 2.5, 2.5, 0.002],
        "reconstruction_mse": 0.62,
        "pca_reconstruction_mse": 1.0,
        "explained_variance": 0.87,
    }
    features = [
        {"name": "height", "role": "continuous", "start": 0, "stop": 1},
        {"name": "pixels", "role": "vector", "start": 1, "stop": 65},
        {"name": "spectrum", "role": "vector", "start": 65, "stop": 85},
    ]
    architecture = {"latent_dim": LATENT, "hidden_dims": [32, 32], "features": features}
    return ReportInputs(
        model_name="people",
        model_id="0123456789abcdef" * 4,
        config={"kind": "vae", "architecture": architecture, "training": {"epochs": 30}},
        history=_history(30),
        metrics=metrics,
        mu=random.normal(size=(400, LATENT)) * np.array([0.01, 1, 1, 1, 1, 0.01]),
        colour=random.integers(0, 4, 400),
        colour_name="label",
        originals=rows(20),
        reconstructions=rows(20),
        samples=rows(40),
        real=rows(500),
        synthetic=rows(300),
        image_shapes={"pixels": (8, 8)},
        notes=["Samples use seed 7."],
    )


def _renamed(inputs: ReportInputs, name: str) -> ReportInputs:
    """The same report with a hostile name everywhere a name can stand."""

    def hostile(columns: Any) -> dict[str, Any]:
        return {f"{name} {column}": value for column, value in columns.items()}

    assert inputs.mu is not None
    features = [{"name": f"{name} {i}", "role": name, "width": 1} for i in range(3)]
    return replace(
        inputs,
        model_name=name,
        model_id=name,
        config={
            "kind": name,
            name: {name: name, "features": features, "likelihoods": {name: name}},
        },
        history={f"train_{name}": np.arange(5.0)},
        metrics={**inputs.metrics, name: name},
        colour=np.array([name, "plain"] * (len(inputs.mu) // 2), dtype=object),
        colour_name=name,
        originals=hostile(inputs.originals),
        reconstructions=hostile(inputs.reconstructions),
        samples=hostile(inputs.samples),
        real=hostile(inputs.real),
        synthetic=hostile(inputs.synthetic),
        image_shapes=hostile(inputs.image_shapes),
        notes=[name],
    )


@pytest.fixture(scope="session")
def inputs() -> ReportInputs:
    return _whole_inputs()


@pytest.fixture(scope="session")
def history() -> Callable[[int], dict[str, np.ndarray[Any, Any]]]:
    return _history


@pytest.fixture(scope="session")
def renamed() -> Callable[[ReportInputs, str], ReportInputs]:
    return _renamed


@pytest.fixture(scope="session")
def mixed() -> ReportInputs:
    """Columns of every kind, as they come from Parquet."""
    real, made = _columns(mixed_table(300, 1)), _columns(mixed_table(200, 2))
    few = {name: values[:6] for name, values in real.items()}
    return ReportInputs(
        "mixed", "i", real=real, synthetic=made, originals=few, reconstructions=few, samples=few
    )


@pytest.fixture(scope="session")
def page(inputs: ReportInputs) -> str:
    return render(inputs)
