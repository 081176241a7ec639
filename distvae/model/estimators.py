"""Estimates that need more than one pass or one row: marginal likelihood, active units, errors."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import ArrayLike
from torch import Tensor

from distvae.model import noise
from distvae.model.latent import LatentModel
from distvae.model.posteriors import Posterior

__all__ = [
    "ACTIVE_VARIANCE",
    "active_units",
    "explained_variance",
    "log_likelihood",
    "mean_and_standard_error",
    "row_noise",
    "squared_error",
]

ACTIVE_VARIANCE = 0.01


def row_noise(
    seed: int, stream: str, first_row: int, rows: int, latent_dim: int
) -> Callable[[int, int], Tensor]:
    """Return noise(first_sample, count) -> ``(count, rows, latent_dim)``.

    The number of (sample, row) is the same however samples and rows are cut.
    """

    def draw(first_sample: int, count: int) -> Tensor:
        samples = [
            noise.normal_rows(seed, f"{stream}/{index}", first_row, rows, latent_dim)
            for index in range(first_sample, first_sample + count)
        ]
        return torch.from_numpy(np.stack(samples))

    return draw


def log_likelihood(
    model: LatentModel,
    y: Tensor,
    observed: Tensor | None,
    eps: Callable[[int, int], Tensor],
    samples: int,
    samples_per_pass: int = 16,
    posterior: Posterior | None = None,
) -> Tensor:
    """Importance-weighted estimate of log p(x) per row (Burda et al. 2016, equation 8), in nats.

    ``logsumexp_s(log p(x|z_s) + log p(z_s) - log q(z_s|x)) - log S`` with
    z_s = mu + L eps_s and p(z) the model's prior. In expectation a lower bound, tight as S grows.
    The passes are joined as one sum over all S, in float64, so their size changes nothing but
    rounding.

    Args:
        model: the model; rows ``y (n, D)`` and ``observed`` as ``model.prepare`` gives them.
        y: standardised rows.
        observed: what is observed, or None.
        eps: eps(first_sample, count) -> standard normal ``(count, n, k)``.
        samples: S, >= 1.
        samples_per_pass: samples held in memory at a time.
        posterior: what the samples are drawn from; by default the encoder's q(z|x).

    Returns:
        ``(n,)`` float64.
    """
    if samples < 1 or samples_per_pass < 1:
        raise ValueError(f"samples {samples}, per pass {samples_per_pass}: must be at least 1")
    proposal = posterior or model.encode(y, observed)
    context = model.context(y, observed)
    total = torch.full((len(y),), -torch.inf, dtype=torch.float64, device=y.device)
    for first in range(0, samples, samples_per_pass):
        noise_block = eps(first, min(samples_per_pass, samples - first)).to(y)
        z = proposal.sample(noise_block)
        log_weight = model.log_likelihood(y, observed, model.decode(z, context)).double()
        log_weight = log_weight + proposal.log_ratio(z, noise_block)
        if model.has_prior_gap:
            log_weight = log_weight - model.prior_gap(z)
        total = torch.logaddexp(total, torch.logsumexp(log_weight, dim=0))
    return total - float(np.log(samples))


def mean_and_standard_error(total: float, total_square: float, n: int) -> tuple[float, float]:
    """Return the mean over n rows and its standard error from two sums (NaN error for n = 1)."""
    mean = total / n
    if n < 2:
        return mean, float("nan")
    variance = max(total_square / n - mean * mean, 0.0) * n / (n - 1)
    return mean, float(np.sqrt(variance / n))


def active_units(mean_sum: ArrayLike, mean_sum_square: ArrayLike, n: int) -> int:
    """Count latent dimensions whose posterior mean varies over rows: Var[mu] > 0.01.

    Burda et al. 2016, section 5.2.

    Args:
        mean_sum: ``(k,)`` sum of mu over rows, float64.
        mean_sum_square: ``(k,)`` sum of mu^2.
        n: number of rows.
    """
    mean = np.asarray(mean_sum, np.float64) / n
    variance = np.asarray(mean_sum_square, np.float64) / n - mean**2
    return int((variance > ACTIVE_VARIANCE).sum())


def squared_error(
    model: LatentModel, y: Tensor, observed: Tensor | None, params: Tensor
) -> tuple[Tensor, Tensor]:
    """Return squared error of E[x|z] per row in raw units, and how many elements it sums over.

    Returns:
        ``(n,)`` float64 sums and ``(n,)`` int64 counts over the elements that are observed and
        measured; see ``Observation.measured``.
    """
    square, measured = model.raw_error(params, y).square(), model.observation.measured
    if observed is None:
        return square.sum(-1), measured.sum().expand(len(y))
    return torch.where(observed, square, 0).sum(-1), (observed & measured).sum(-1)


def explained_variance(squared_error_sum: float, total_squares: float) -> float:
    """Return 1 - SSE / SST, the share of the variance about the mean; NaN when all is constant."""
    return 1 - squared_error_sum / total_squares if total_squares > 0 else float("nan")
