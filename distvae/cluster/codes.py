"""A prior for the codes of a model that has none: rows drawn from the input, encoded, fitted to.

The draw is bounded however large the input is, and spread over it: all training rows while they
are few, else some from each of a few fragments. It is a function of the seed and the plan.
"""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.cluster.shards import TrainJob
from distvae.data.codec import encode
from distvae.data.fragments import ROWS_PER_FRAGMENT
from distvae.data.selection import read_batches, split_rows
from distvae.model import noise
from distvae.model.inference import encode_rows
from distvae.model.priors import (
    VARIANCE_FLOOR,
    Prior,
    fit_gaussian,
    from_standardised,
    standardise_codes,
)
from distvae.saved import Model

__all__ = [
    "MOST_ROWS",
    "Draw",
    "draw_rows",
    "fit_code_prior",
    "fit_mixture",
    "most_components",
    "read_codes",
]

MOST_ROWS = 50_000
"""Rows that a prior is fitted to; fewer where codes are longer than 1,342 numbers."""
ROWS_PER_DIMENSION = 10
"""Rows of a component for each dimension of its mean and covariance, and one more."""

_MOST_NUMBERS = 1 << 26
_MOST_FRAGMENTS = 16
_ROWS_PER_BATCH = 16_384
# A mixture starts from k-means and climbs on some rows, and takes its last steps on all of them:
# for 50,000 codes of 32 dimensions and 16 components 14 s instead of 46, imports included, on a
# busy CPU of two cores.
_CLIMBING_ROWS, _CLIMBING_STEPS, _LAST_STEPS = 10_000, 100, 5
# Multiplications and additions after which no further step is started.
_MOST_OPERATIONS = 1e12

Rows = npt.NDArray[np.int64]


class Draw(NamedTuple):
    """Training rows of one fragment.

    Attributes:
        fragment: its index.
        numbers: ``(m,)`` which of its training rows, ascending; counted from 0 in input order.
    """

    fragment: int
    numbers: Rows


def fit_code_prior(model: Model, job: TrainJob, kind: str, components: int) -> Prior:
    """Fit a prior to the codes of training rows; held-out rows are never used.

    Args:
        model: what encodes.
        job: the training whose rows to draw.
        kind: ``"gaussian"`` or ``"mixture"``.
        components: of the mixture; fewer where there are few rows, see ``most_components``.

    Raises:
        DataError: codes that are not finite, or a file that cannot be decoded.
        StorageError: a file that cannot be read.
    """
    most_rows = max(1, min(MOST_ROWS, _MOST_NUMBERS // model.latent_dim))
    draws = draw_rows(job.training_rows, job.config.seed, most_rows)
    codes = np.concatenate(list(read_codes(model, job, draws)))
    if kind == "gaussian":
        return fit_gaussian(codes)
    return fit_mixture(codes, components, job.config.seed)


def draw_rows(
    training_rows: Sequence[int], seed: int, most_rows: int = MOST_ROWS
) -> tuple[Draw, ...]:
    """Choose at most ``most_rows`` training rows, all of them if they are no more.

    Else some fragments are chosen, at most 16, evenly spread over the rows from a random start, so
    that the chance of a fragment grows with its rows, and rows within each without replacement.
    Of a fragment beyond the usual size only the first rows are drawn from: it is read only so far.

    Args:
        training_rows: of each fragment.
        seed: of the job.
        most_rows: the bound.
    """
    rows = np.asarray(training_rows, np.int64)
    if rows.sum() <= most_rows:
        everything = [Draw(i, np.arange(n)) for i, n in enumerate(rows.tolist()) if n]
        return tuple(everything)
    random = noise.generator(seed, "code-rows", 0)
    ends = np.cumsum(rows)
    points = (np.arange(_MOST_FRAGMENTS) + random.random()) / _MOST_FRAGMENTS * ends[-1]
    chosen, hits = np.unique(np.searchsorted(ends, points, side="right"), return_counts=True)
    draws = []
    for fragment, hit in zip(chosen.tolist(), hits.tolist(), strict=True):
        within = min(int(rows[fragment]), ROWS_PER_FRAGMENT)
        count = min(most_rows * hit // _MOST_FRAGMENTS, within)
        draws.append(Draw(fragment, np.sort(random.choice(within, count, replace=False))))
    return tuple(draws)


def read_codes(
    model: Model, job: TrainJob, draws: Sequence[Draw]
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield the codes ``(m, k)`` of the drawn rows, the posterior's mean, draw by draw.

    Rows that the codec rejects are left out. A fragment is read up to its last drawn row.

    Raises:
        DataError: a file that cannot be decoded.
        StorageError: a file that cannot be read.
    """
    for draw in draws:
        table = pa.concat_tables(_tables(job, draw)).combine_chunks()
        encoded = encode(model.codec, table)
        mu, _ = encode_rows(model.network, encoded.blocks, encoded.masks, device=model.device)
        yield mu[~encoded.rejected]


def most_components(rows: int, k: int) -> int:
    """Components that can be told from ``rows`` codes: each takes ten times k + 1 of them."""
    return max(1, rows // (ROWS_PER_DIMENSION * (k + 1)))


def fit_mixture(codes: npt.NDArray[np.floating], components: int, seed: int) -> Prior:
    """Fit a mixture of Gaussians with full covariances to ``codes (n, k)``.

    Expectation maximisation from k-means (Dempster, Laird & Rubin 1977; scikit-learn), first on
    10,000 of the codes, then a few steps on all. They are standardised, and ``VARIANCE_FLOOR`` is
    added to every variance, so that constant or repeated codes are no obstacle. The same codes
    and seed give the same prior.

    Args:
        codes: the codes.
        components: how many, >= 1; at most ``most_components(n, k)`` are fitted.
        seed: of the start.

    Raises:
        DataError: no row, or a code that is not finite.
    """
    from sklearn.exceptions import ConvergenceWarning
    from sklearn.mixture import GaussianMixture
    from threadpoolctl import threadpool_limits  # type: ignore[import-untyped]

    count = min(components, most_components(*codes.shape))
    if count == 1:
        return fit_gaussian(codes)
    y, mean, scale = standardise_codes(codes)
    random = noise.generator(seed, "code-mixture", 0)
    mixture = GaussianMixture(
        count,
        covariance_type="full",
        reg_covar=VARIANCE_FLOOR,
        random_state=int(random.integers(1 << 32)),
        warm_start=True,
    )
    some = y[random.permutation(len(y))[:_CLIMBING_ROWS]]
    # k-means adds up its threads' parts in the order in which they finish: one thread, one result.
    with threadpool_limits(1), warnings.catch_warnings():
        # Steps that run out still leave a mixture, and repeated codes only a component too many.
        warnings.simplefilter("ignore", ConvergenceWarning)
        for rows, steps in ((some, _CLIMBING_STEPS), (y, _LAST_STEPS)):
            mixture.set_params(max_iter=_affordable(steps, count, *rows.shape)).fit(rows)
    return from_standardised(
        mixture.weights_, mixture.means_, mixture.covariances_, mean=mean, scale=scale
    )


def _affordable(steps: int, components: int, n: int, k: int) -> int:
    """Steps of expectation maximisation within the operations allowed, at least one."""
    operations = 4.0 * components * n * k * k
    return max(1, min(steps, int(_MOST_OPERATIONS / operations)))


def _tables(job: TrainJob, draw: Draw) -> Iterator[pa.Table]:
    """The drawn rows of one fragment, batch by batch."""
    seen, stop = 0, int(draw.numbers[-1])
    batches = read_batches(
        job.files, job.fragments[draw.fragment], job.columns, _ROWS_PER_BATCH, job.config.where
    )
    for batch in batches:
        places = np.flatnonzero(split_rows(batch.rows, job.split)[0])
        first, last = np.searchsorted(draw.numbers, [seen, seen + len(places)])
        yield batch.table.take(pa.array(places[draw.numbers[first:last] - seen]))
        seen += len(places)
        if seen > stop:
            return
