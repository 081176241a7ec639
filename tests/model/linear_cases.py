"""Tables through the real codec to models in closed form, and their rows as the models see them."""

from __future__ import annotations

from functools import cache
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import torch
from scipy.stats import multivariate_normal

from distvae.data.codec import block_layout, encode, feature_specs, fit_codec
from distvae.data.roles import infer_features, peek_widths
from distvae.data.statistics import covariance, summarise
from distvae.model.architecture import Architecture, element_values
from distvae.model.latent import LatentModel
from distvae.model.linear import fit_pca
from distvae.model.principal import PcaModel

Floats = npt.NDArray[np.float64]


def vector_table(x: npt.NDArray[Any]) -> pa.Table:
    """Rows (n, D) as one list column of x's own type, NaN kept."""
    return pa.table({"v": pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), x.shape[1])})


def scalar_table(x: Floats) -> pa.Table:
    """Rows (n, D) as D float64 columns, NaN kept."""
    return pa.table({f"c{i}": column for i, column in enumerate(x.T)})


@cache
def digits() -> npt.NDArray[np.uint8]:
    """scikit-learn's handwritten digits, (1797, 64) in 0..16; three pixels are constant."""
    from sklearn.datasets import load_digits

    return np.asarray(load_digits().data, np.uint8)


def odd_table(rows: int = 500, missing: float = 0.0) -> Floats:
    """Correlated columns of scales 1e-3 to 1e3, far from 0, and a constant one."""
    rng = np.random.default_rng(3)
    scales = np.array([1e-3, 1.0, 1e3, 0.02, 50.0, 1.0])
    x = rng.normal(size=(rows, 6)) @ rng.normal(size=(6, 6)) * scales + 1e4 * scales
    x[:, 5] = 7.0
    x[rng.random(x.shape) < missing] = np.nan
    x[np.isnan(x).all(1), 0] = 0.0
    return x


def graded_table(rows: int = 600) -> Floats:
    """Correlated columns with standard deviations of 1e-3 to 1e6, one of them 1e9 from 0."""
    rng = np.random.default_rng(3)
    x = rng.normal(size=(rows, 6)) @ (np.eye(6) + 0.3 * rng.normal(size=(6, 6)))
    x *= np.array([1e-3, 1e6, 1.0, 1e3, 0.02, 1.5])
    x[:, 3] += 1e9
    return x


def architecture_of(table: pa.Table, k: int, **options: Any) -> tuple[Architecture, Any]:
    """(architecture, codec) as training makes them."""
    features = infer_features(table.schema, widths=peek_widths(table, table.schema))
    codec = fit_codec(features, summarise(table, features))
    parts = {"features": tuple(feature_specs(codec)), "blocks": tuple(block_layout(codec))}
    return Architecture(latent_dim=k, **parts, **options), codec


def pca_model(table: pa.Table, k: int) -> tuple[PcaModel, torch.Tensor, torch.Tensor | None]:
    """(model, y, observed) of a table."""
    architecture, codec = architecture_of(table, k, kind="pca")
    mean, matrix = covariance(summarise(table, codec.features))
    model = PcaModel.from_pca(architecture, fit_pca(mean, matrix, k))
    return model, *rows_of(model, codec, table)


def rows_of(
    model: LatentModel, codec: Any, table: pa.Table
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Rows of a table as the model sees them: y, observed."""
    encoded = encode(codec, table)
    blocks = [torch.tensor(np.array(block)) for block in encoded.blocks]
    masks = [None if mask is None else torch.tensor(mask) for mask in encoded.masks]
    y, observed = model.prepare(blocks, masks)
    return y, observed


def raw(model: PcaModel, y: torch.Tensor) -> Floats:
    """Standardised rows in raw units, float64."""
    shift = element_values(model.architecture.features, "shift")
    return y.double().numpy() * model.element_scale.numpy() + shift


def mean_and_covariance(model: PcaModel) -> tuple[Floats, Floats]:
    """Of the density that the model states, (D,) and (D, D), from its numbers alone."""
    u = (model.components + model.components_rest).numpy()
    signal, noise = model.signal.numpy(), float(model.noise_variance)
    matrix = u.T * signal @ u + noise * np.eye(u.shape[1])
    shift = element_values(model.architecture.features, "shift")
    return shift + model.unit * model.offset.numpy(), model.unit**2 * matrix


def log_normal(x: Floats, mean: Floats, matrix: Floats) -> float:
    """ln N(x; mean, matrix); of the correlations, for scipy calls scales so unlike singular."""
    scale = np.sqrt(np.diag(matrix))
    correlation = matrix / np.outer(scale, scale)
    density = multivariate_normal(cov=correlation, allow_singular=True)
    assert np.linalg.eigvalsh(correlation).min() > 1e-10
    return float(density.logpdf((x - mean) / scale) - np.log(scale).sum())
