"""Held-out figures: sums over rows that add up over fragments, and the metrics made of them."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt

from distvae.data.codec import Encoded, numbers
from distvae.inferring import infer_raw, log_likelihood_rows, row_terms
from distvae.model.estimators import active_units, explained_variance, mean_and_standard_error
from distvae.model.linear import reconstruct
from distvae.model.principal import PcaModel
from distvae.saved import Model

__all__ = ["Sums", "add", "metrics", "score"]

Sums = dict[str, npt.NDArray[np.float64]]
Float64 = npt.NDArray[np.float64]


def score(
    model: Model,
    encoded: Encoded,
    rows: npt.NDArray[np.int64],
    samples: int,
    seed: int,
    steps: int = 0,
) -> Sums:
    """Sums over the usable rows of a batch: everything that `metrics` needs.

    Args:
        model: whose figures these are.
        encoded: the batch; rejected rows are left out.
        rows: (n,) absolute row numbers, for the noise.
        samples: importance samples per row.
        seed: of the noise.
        steps: refining steps per row.
    """
    usable = ~encoded.rejected
    raw = infer_raw(model, encoded, rows, seed, steps, binarized=True)
    terms = row_terms(model, encoded, rows, seed, raw, binarized=True)
    weighted = log_likelihood_rows(model, encoded, rows, samples, seed, raw)[usable]
    kl, mu = terms.kl[usable], terms.mu[usable]
    sums: Sums = {
        "rows": np.array([float(usable.sum())]),
        "rejected": np.array([float((~usable).sum())]),
        "reconstruction": terms.reconstruction[usable].sum(keepdims=True),
        "kl": kl.sum(0),
        "prior_gap": terms.prior_gap[usable].sum(keepdims=True),
        "missingness": terms.missingness[usable].sum(keepdims=True),
        "log_likelihood": np.array([weighted.sum(), np.square(weighted).sum()]),
        "mu": mu.sum(0),
        "mu2": np.square(mu).sum(0),
        "squared_error": terms.squared_error[usable].sum(keepdims=True),
    }
    return sums | _raw_sums(model, encoded, usable)


def add(a: Sums, b: Sums) -> Sums:
    """The sums of both; an empty one is zero."""
    if not a or not b:
        return a or b
    return {name: a[name] + b[name] for name in a}


def metrics(
    model: Model, sums: Mapping[str, npt.NDArray[np.float64]], samples: int
) -> dict[str, Any]:
    """The figures of DESIGN A5 from sums over all rows; nats per row, densities in raw units.

    A figure that the kind of model does not have is None.
    """
    n = int(sums["rows"][0])
    values = float(sums["values"][0])
    total = sums["log_likelihood"]
    likelihood, error = mean_and_standard_error(float(total[0]), float(total[1]), n)
    reconstruction, kl = float(sums["reconstruction"][0]) / n, sums["kl"] / n
    gap = float(sums["prior_gap"][0]) / n
    about_mean = float((sums["d2"] - np.square(sums["d"]) / np.maximum(sums["n"], 1)).sum())
    explained = explained_variance(float(sums["squared_error"][0]), about_mean)
    has_pca = model.files.pca is not None
    network = model.network
    dense, spread = network.has_likelihood, network.has_sigma
    kind = model.files.architecture.kind
    moving = active_units(sums["mu"], sums["mu2"], n) if kind == "vae" else None
    if isinstance(network, PcaModel):  # its codes are in raw units: variance says nothing
        moving = network.active_units()
    binary = any(
        head.startswith("bernoulli") for head in model.files.architecture.likelihoods.values()
    )
    return {
        "rows": n,
        "rows_rejected": int(sums["rejected"][0]),
        "elbo": _number(reconstruction - float(kl.sum()) - gap) if dense else None,
        "kl": _number(float(kl.sum()) + gap) if spread else None,
        "reconstruction": _number(reconstruction) if kind != "kernel-pca" else None,
        "missingness": _number(float(sums["missingness"][0]) / n) if kind == "vae" else None,
        "log_likelihood": _number(likelihood),
        "log_likelihood_se": _number(error),
        "importance_samples": samples if dense and kind != "pca" else None,
        "active_units": moving,
        "latent_dim": model.latent_dim,
        "kl_per_dimension": [_number(float(value)) for value in kl] if spread else None,
        "reconstruction_mse": _ratio(float(sums["squared_error"][0]), values),
        "pca_reconstruction_mse": _ratio(float(sums["pca_error"][0]), values if has_pca else 0.0),
        "explained_variance": _number(explained),
        "binarize": "dynamic" if binary else "none",
        "kernel_variance_captured": getattr(network, "captured_variance", None),
    }


def _ratio(value: float, count: float) -> float | None:
    return _number(value / count) if count else None


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _raw_sums(model: Model, encoded: Encoded, usable: npt.NDArray[np.bool_]) -> Sums:
    """In raw units, about the training mean: sums per element, and the PCA baseline's error."""
    x, observed = numbers(model.codec, encoded)
    x, observed = x[usable], observed[usable]
    pca = model.files.pca
    mean = _centre(model) if pca is None else np.asarray(pca.mean, np.float64)
    d = np.where(observed, x - mean, 0.0)
    sums = {
        "values": np.array([float(observed.sum())]),
        "n": observed.sum(0).astype(np.float64),
        "d": d.sum(0),
        "d2": np.square(d).sum(0),
        "pca_error": np.zeros(1),
    }
    if pca is not None and len(x):
        error = reconstruct(pca, d + mean) - mean - d
        sums["pca_error"] = np.array([np.square(np.where(observed, error, 0.0)).sum()])
    return sums


def _centre(model: Model) -> Float64:
    """(Dm,) values near the measured elements' means, from which sums of squares keep digits."""
    parts = [
        np.full(column.feature.width, 0.5 * (column.minimum + column.maximum))
        if column.coding == "cells"
        else column.shift
        for column in model.codec.columns
        if column.companion_of is None and column.feature.is_measured
    ]
    return np.concatenate(parts) if parts else np.empty(0)
