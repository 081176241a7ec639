"""Small models and plain second implementations shared by the tests of the model floor."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from distvae.model.architecture import Architecture
from distvae.model.vae import VAE


def spec(name: str, start: int, stop: int, block: int = 0, **changes: Any) -> dict[str, Any]:
    """A feature description: by default a standardised continuous column of shift 0, scale 1."""
    width = stop - start
    values: dict[str, Any] = {
        "name": name,
        "start": start,
        "stop": stop,
        "role": "continuous" if width == 1 else "vector",
        "scale": 1.0,
        "shift": [0.0] * width,
        "resolution": 1e-4,
        "integer": False,
        "discrete": False,
        "minimum": -5.0,
        "maximum": 5.0,
        "has_missing": False,
        "block": block,
        "raw": False,
        "dtype": "float32",
    }
    return {**values, **changes}


def block(width: int, **changes: Any) -> dict[str, Any]:
    """A block description."""
    return {"dtype": "float32", "width": width, "raw": False, "has_missing": False, **changes}


def linear_gaussian(
    data_width: int, latent_dim: int, sigma: float, seed: int = 0
) -> tuple[VAE, NDArray[np.float64], NDArray[np.float64]]:
    """A VAE with a linear decoder and fixed sigma, in float64, and its W (D, k) and b (D,)."""
    architecture = Architecture(
        latent_dim=latent_dim,
        hidden_dims=(),
        features=(spec("v", 0, data_width),),
        blocks=(block(data_width),),
        likelihoods={"v": f"gaussian-fixed:{sigma}"},
    )
    model = VAE.from_architecture(architecture, seed).double()
    generator = np.random.default_rng(seed)
    weight = generator.normal(size=(data_width, latent_dim))
    bias = generator.normal(size=data_width)
    with torch.no_grad():
        model.decoder.last.weight.copy_(torch.from_numpy(weight))
        model.decoder.last.bias.copy_(torch.from_numpy(bias))
    return model, weight, bias


def set_exact_posterior(
    model: VAE, weight: NDArray[np.float64], bias: NDArray[np.float64], sigma: float
) -> None:
    """Give the encoder the exact posterior's mean and standard deviation of each dimension."""
    latent_dim = weight.shape[1]
    precision = np.eye(latent_dim) + weight.T @ weight / sigma**2
    gain = np.linalg.solve(precision, weight.T) / sigma**2
    log_sigma = 0.5 * np.log(np.diag(np.linalg.inv(precision)))
    raw = log_sigma / np.sqrt(1 - (log_sigma / 10.0) ** 2)
    with torch.no_grad():
        model.encoder.last.weight.zero_()
        model.encoder.last.weight[:latent_dim].copy_(torch.from_numpy(gain))
        model.encoder.last.bias[:latent_dim].copy_(torch.from_numpy(-gain @ bias))
        model.encoder.last.bias[latent_dim:].copy_(torch.from_numpy(raw))


def exact_log_likelihood(
    x: NDArray[np.float64], weight: NDArray[np.float64], bias: NDArray[np.float64], sigma: float
) -> NDArray[np.float64]:
    """log N(x; b, W W^T + sigma^2 I), per row, in plain NumPy."""
    width = len(bias)
    covariance = weight @ weight.T + sigma**2 * np.eye(width)
    residual = x - bias
    squares = (residual * np.linalg.solve(covariance, residual.T).T).sum(1)
    log_det = np.linalg.slogdet(covariance)[1]
    result: NDArray[np.float64] = -0.5 * (squares + log_det + width * math.log(2 * math.pi))
    return result
