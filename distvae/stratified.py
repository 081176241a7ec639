"""Four standard normal points per row whose mean behaves like that of many more."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from distvae.model import noise

__all__ = ["DRAWS", "pair_of_draws"]

DRAWS = 2
"""Draws per row; each is used with its negative."""

Float64 = npt.NDArray[np.float64]


def pair_of_draws(
    seed: int, stream: str, rows: npt.NDArray[np.int64], k: int
) -> npt.NDArray[np.float32]:
    """Return two draws from N(0, I) per row, at right angles and of opposite lengths.

    Each alone is exactly N(0, I). With its negative, odd errors of a mean cancel (antithetic
    sampling, Hammersley & Morton 1956); the second one's squared length is the chi-square quantile
    that mirrors the first one's, so that errors in the length cancel too, and its direction is
    orthogonal to the first one's (k > 1). For q near the posterior, where log p(x|z) - log q(z|x)
    varies most with the length of eps, that is most of the error.

    Args:
        seed: of the noise.
        stream: what the noise is for.
        rows: (n,) row numbers; a row's draws depend on (seed, stream, number) alone.
        k: dimensions.

    Returns:
        ``(n, 2 k)`` float32, the first draw and the second.
    """
    from scipy.special import chdtr, chdtrc, chdtri

    plain = noise.normal_of(seed, stream, rows, DRAWS * k).astype(np.float64)
    first, second = plain[:, :k], plain[:, k:]
    square = np.square(first).sum(1)
    # chdtri inverts the upper tail: the mirrored quantile has as upper tail the first one's lower.
    # In the middle both tails are accurate; the smaller one decides which is used.
    lower, upper = chdtr(k, square), chdtrc(k, square)
    tiny = np.finfo(np.float64).tiny
    mirrored = np.where(lower < 0.5, chdtri(k, np.maximum(lower, tiny)), _lower_quantile(k, upper))
    direction = first / np.sqrt(np.maximum(square, tiny))[:, None]
    if k > 1:
        across = second - (second * direction).sum(1, keepdims=True) * direction
        direction = across / np.linalg.norm(across, axis=1, keepdims=True)
    result: npt.NDArray[np.float32] = np.concatenate(
        [first, direction * np.sqrt(mirrored)[:, None]], axis=1
    ).astype(np.float32)
    return result


def _lower_quantile(k: int, lower: Float64) -> Float64:
    """The chi-square quantile of a lower tail, accurate for small ones."""
    from scipy.special import gammaincinv

    quantile: Float64 = 2 * gammaincinv(k / 2, lower)
    return quantile
