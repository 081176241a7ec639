"""Held-out figures: sums over rows that add up over fragments, and the metrics made of them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
import torch

from distvae.data.codec import Encoded
from distvae.model import noise
from distvae.model.estimators import (
    active_units,
    explained_variance,
    log_likelihood,
    mean_and_standard_error,
)
from distvae.model.inference import run_blocks
from distvae.model.linear import reconstruct
from distvae.saved import Model

__all__ = ["Sums", "add", "elbo_rows", "log_likelihood_rows", "metrics", "score"]

Sums = dict[str, npt.NDArray[np.float64]]
Float64 = npt.NDArray[np.float64]
_SAMPLES_PER_PASS = 16


def elbo_rows(
    model: Model, encoded: Encoded, rows: npt.NDArray[np.int64], seed: int, precision: str = "fp32"
) -> tuple[Float64, Float64]:
    """Per row: ELBO (nats, one sample of z) and squared error of decoding mu (raw units), (n,).

    The noise of a row depends on (seed, its absolute number) alone.
    """
    parts = _terms(model, encoded, rows, seed, precision)
    return parts[:, 0] - parts[:, 1 : 1 + model.latent_dim].sum(1), parts[:, 1 + model.latent_dim]


def log_likelihood_rows(
    model: Model, encoded: Encoded, rows: npt.NDArray[np.int64], samples: int, seed: int
) -> Float64:
    """Importance-weighted estimate of ln p(x) per row, (n,), in nats."""
    vae, k = model.vae, model.latent_dim
    blocks = len(encoded.blocks)
    uniforms = _binary_noise(model, rows, seed)

    def estimate(arrays: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor, ...]:
        y, observed = _prepared(model, arrays, blocks)
        numbers = arrays[-1]
        assert numbers is not None
        places = numbers[:, 0].long().cpu().numpy()

        def eps(first: int, count: int) -> torch.Tensor:
            drawn = [
                noise.normal_of(seed, f"score-z/{s}", places, k)
                for s in range(first, first + count)
            ]
            return torch.from_numpy(np.stack(drawn))

        per_pass = min(_SAMPLES_PER_PASS, samples)
        return (log_likelihood(vae, y, observed, eps, samples, per_pass)[:, None],)

    arrays = [*encoded.blocks, *encoded.masks, uniforms, rows.astype(np.float64)[:, None]]
    result = run_blocks(estimate, arrays, (1,), model.device)[0]
    return result[:, 0].astype(np.float64)


def score(
    model: Model, encoded: Encoded, rows: npt.NDArray[np.int64], samples: int, seed: int
) -> Sums:
    """Sums over the usable rows of a batch: everything that `metrics` needs.

    Args:
        model: whose figures these are.
        encoded: the batch; rejected rows are left out.
        rows: (n,) absolute row numbers, for the noise.
        samples: importance samples per row.
        seed: of the noise.
    """
    k = model.latent_dim
    usable = ~encoded.rejected
    parts = _terms(model, encoded, rows, seed)[usable]
    weighted = log_likelihood_rows(model, encoded, rows, samples, seed)[usable]
    kl, mu = parts[:, 1 : 1 + k], parts[:, 2 + k : 2 + 2 * k]
    sums: Sums = {
        "rows": np.array([float(usable.sum())]),
        "rejected": np.array([float((~usable).sum())]),
        "reconstruction": parts[:, :1].sum(0),
        "kl": kl.sum(0),
        "log_likelihood": np.array([weighted.sum(), np.square(weighted).sum()]),
        "mu": mu.sum(0),
        "mu2": np.square(mu).sum(0),
        "squared_error": parts[:, 1 + k : 2 + k].sum(0),
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
    """The figures of DESIGN A5 from sums over all rows; nats per row, densities in raw units."""
    n = int(sums["rows"][0])
    values = float(sums["values"][0])
    total = sums["log_likelihood"]
    likelihood, error = mean_and_standard_error(float(total[0]), float(total[1]), n)
    reconstruction, kl = float(sums["reconstruction"][0]) / n, sums["kl"] / n
    about_mean = float((sums["d2"] - np.square(sums["d"]) / np.maximum(sums["n"], 1)).sum())
    explained = explained_variance(float(sums["squared_error"][0]), about_mean)
    has_pca = model.files.pca is not None
    binary = any(
        head.startswith("bernoulli") for head in model.files.architecture.likelihoods.values()
    )
    return {
        "rows": n,
        "rows_rejected": int(sums["rejected"][0]),
        "elbo": _number(reconstruction - float(kl.sum())),
        "kl": _number(float(kl.sum())),
        "reconstruction": _number(reconstruction),
        "log_likelihood": _number(likelihood),
        "log_likelihood_se": _number(error),
        "importance_samples": samples,
        "active_units": active_units(sums["mu"], sums["mu2"], n),
        "latent_dim": model.latent_dim,
        "kl_per_dimension": [_number(float(value)) for value in kl],
        "reconstruction_mse": _ratio(float(sums["squared_error"][0]), values),
        "pca_reconstruction_mse": _ratio(float(sums["pca_error"][0]), values if has_pca else 0.0),
        "explained_variance": _number(explained),
        "binarize": "dynamic" if binary else "none",
    }


def _ratio(value: float, count: float) -> float | None:
    return _number(value / count) if count else None


def _number(value: float) -> float | None:
    return value if np.isfinite(value) else None


def _terms(
    model: Model,
    encoded: Encoded,
    rows: npt.NDArray[np.int64],
    seed: int,
    precision: str = "fp32",
) -> Float64:
    """(n, 2 + 2k): reconstruction, KL per dimension, squared error of decoding mu, mu."""
    vae, k = model.vae, model.latent_dim
    blocks = len(encoded.blocks)
    eps = noise.normal_of(seed, "score-elbo", rows, k)
    uniforms = _binary_noise(model, rows, seed)

    def evaluate(arrays: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor, ...]:
        y, observed = _prepared(model, arrays[:-1], blocks)
        draw = arrays[-1]
        assert draw is not None
        terms = vae.terms(y, observed, draw[None])
        plain = arrays[:blocks], arrays[blocks : 2 * blocks]
        exact, _ = vae.prepare([a for a in plain[0] if a is not None], plain[1])
        mu, _ = vae.encode(exact, observed)
        error = (vae.reconstruction_mean(vae.decode(mu)) - exact).double() * vae.element_scale
        square = error.square() if observed is None else torch.where(observed, error.square(), 0)
        # The root keeps large raw units within float32, in which results travel.
        return terms.reconstruction[:, None], terms.kl, square.sum(-1, keepdim=True).sqrt(), mu

    arrays = [*encoded.blocks, *encoded.masks, uniforms, eps]
    parts = run_blocks(evaluate, arrays, (1, k, 1, k), model.device, precision)
    parts64 = [part.astype(np.float64) for part in parts]
    parts64[2] = np.square(parts64[2])
    return np.concatenate(parts64, axis=1)


def _prepared(
    model: Model, arrays: Sequence[torch.Tensor | None], blocks: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return y and observed of a block; the uniforms after blocks and masks draw Bernoullis."""
    values = [array for array in arrays[:blocks] if array is not None]
    y, observed = model.vae.prepare(values, arrays[blocks : 2 * blocks])
    uniforms = arrays[2 * blocks]
    return (y if uniforms is None else model.vae.binarize(y, uniforms)), observed


def _binary_noise(
    model: Model, rows: npt.NDArray[np.int64], seed: int
) -> npt.NDArray[np.float32] | None:
    """Uniform numbers that binarise the Bernoulli columns, or None when there are none."""
    architecture = model.files.architecture
    heads = [architecture.likelihood(spec["name"]) for spec in architecture.features]
    if not any(head.startswith("bernoulli") for head in heads):
        return None
    return noise.uniform_of(seed, "score-binarize", rows, architecture.width)


def _raw_sums(model: Model, encoded: Encoded, usable: npt.NDArray[np.bool_]) -> Sums:
    """In raw units, about the training mean: sums per element, and the PCA baseline's error."""
    x, observed = _raw_values(model, encoded)
    x, observed = x[usable], observed[usable]
    mean = np.concatenate([column.shift for column in model.codec.columns])
    pca = model.files.pca
    if pca is not None:
        mean = np.asarray(pca.mean, np.float64)
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


def _raw_values(model: Model, encoded: Encoded) -> tuple[Float64, npt.NDArray[np.bool_]]:
    """(n, D) values in raw units and whether they were observed, elements in codec order."""
    n = len(encoded.rejected)
    x = np.empty((n, model.codec.width))
    observed = np.ones((n, model.codec.width), np.bool_)
    used: dict[int, int] = {}
    for column in model.codec.columns:
        first = used.get(column.block, 0)
        used[column.block] = first + column.feature.width
        inside = slice(first, used[column.block])
        values = encoded.blocks[column.block][:, inside].astype(np.float64)
        place = slice(column.start, column.stop)
        x[:, place] = values if column.raw else values * column.scale + column.shift
        mask = encoded.masks[column.block]
        if mask is not None:
            observed[:, place] = mask[:, inside]
    return x, observed
