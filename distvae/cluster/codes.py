"""A prior for the codes of a model that has none: rows drawn from the input, encoded, fitted to.

The draw is bounded however large the input is, and spread over it: all training rows while they
are few, else some from each of a few fragments. It is a function of the seed and the plan.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.cluster.shards import TrainJob
from distvae.data.codec import encode
from distvae.data.fragments import ROWS_PER_FRAGMENT
from distvae.data.reading import join_tables
from distvae.data.selection import read_batches, split_rows
from distvae.inferring import codes, infer_raw, posterior_sample, refining_steps
from distvae.model import noise
from distvae.model.flow import FlowPrior, fit_flow
from distvae.model.mixture import fit_mixture
from distvae.model.priors import Prior, fit_gaussian
from distvae.saved import Model

__all__ = [
    "MOST_ROWS",
    "Draw",
    "draw_rows",
    "fit_code_prior",
    "most_components",
    "read_codes",
]

MOST_ROWS = 100_000
"""Codes that a prior is fitted to; fewer where they are longer than 671 numbers."""
ROWS_PER_DIMENSION = 10
"""Rows of a component for each dimension of its mean and covariance, and one more."""

_MOST_NUMBERS = 1 << 26
_MOST_SAMPLES = 4
_MOST_FRAGMENTS = 16
_ROWS_PER_BATCH = 16_384
_IDLE_VARIANCE = 0.95

Rows = npt.NDArray[np.int64]


class Draw(NamedTuple):
    """Training rows of one fragment.

    Attributes:
        fragment: its index.
        numbers: ``(m,)`` which of its training rows, ascending; counted from 0 in input order.
    """

    fragment: int
    numbers: Rows


def fit_code_prior(model: Model, job: TrainJob, kind: str, components: int) -> Prior | FlowPrior:
    """Fit a prior to the codes of training rows; held-out rows are never used.

    The codes of a VAE are samples of q(z|x), so that the prior is fitted to the aggregate posterior
    (Makhzani et al. 2016; Tomczak & Welling 2018, "VAE with a VampPrior", section 2: its optimum).
    With ``prior_spread`` s below 1 they lie closer to its means, mu + s L eps: a decoder of a table
    blurs what columns have in common, and so does the mixture, and a narrower prior makes up for
    it.

    Args:
        model: what encodes.
        job: the training whose rows to draw.
        kind: ``"gaussian"``, ``"mixture"`` or ``"flow"``.
        components: of the mixture; fewer where there are few rows, see ``most_components``; of a
            VAE with too few for a single one the prior stays N(0, I).

    Raises:
        DataError: codes that are not finite, or a file that cannot be decoded.
        StorageError: a file that cannot be read.
    """
    most_rows = max(1, min(MOST_ROWS, _MOST_NUMBERS // model.latent_dim))
    draws = draw_rows(job.training_rows, job.config.seed, most_rows)
    rows = sum(len(draw.numbers) for draw in draws)
    if model.network.has_sigma and rows < ROWS_PER_DIMENSION * (model.latent_dim + 1):
        return Prior()
    drawn = np.concatenate(list(read_codes(model, job, draws, job.config.prior_spread)))
    if kind == "gaussian":
        return fit_gaussian(drawn)
    if kind == "flow":
        return fit_flow(drawn, job.config.seed)
    count = min(components, most_components(rows, model.latent_dim))
    return fit_mixture(drawn, count, job.config.seed)


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
    model: Model, job: TrainJob, draws: Sequence[Draw], spread: float = 1.0
) -> Iterator[npt.NDArray[np.float32]]:
    """Yield codes ``(s m, k)`` of the drawn rows, samples of their posteriors, draw by draw.

    Few rows give several samples each, so that the prior follows the posteriors' width too. The
    samples are mu + ``spread`` L eps, where a dimension tells something: one whose posteriors are
    on average as wide as N(0, 1) keeps that width, or its draws would be none of theirs.

    Rows that the codec rejects are left out. A fragment is read up to its last drawn row.

    Raises:
        DataError: a file that cannot be decoded.
        StorageError: a file that cannot be read.
    """
    drawn = sum(len(draw.numbers) for draw in draws)
    samples = min(max(1, MOST_ROWS // max(drawn, 1)), _MOST_SAMPLES)
    for draw in draws:
        table = join_tables(list(_tables(job, draw)))
        encoded = encode(model.codec, table)
        steps = refining_steps(model, 0)
        rows = np.arange(len(encoded.rejected), dtype=np.int64)
        raw = infer_raw(model, encoded, rows, job.config.seed, steps)
        found = codes(model, encoded, raw)
        usable = ~encoded.rejected
        if not model.network.has_sigma:
            yield found.mu[usable]
            continue
        variance = np.square(found.sigma[usable]).sum(0, dtype=np.float64) / max(1, usable.sum())
        is_idle = variance > _IDLE_VARIANCE
        spreads = np.where(is_idle, 1.0, spread).astype(np.float32)
        for sample in range(samples):
            stream = f"code-sample/{draw.fragment}/{sample}"
            eps = noise.normal_rows(job.config.seed, stream, 0, *found.mu.shape)
            yield posterior_sample(found, eps * spreads)[usable]


def most_components(rows: int, k: int) -> int:
    """Components that can be told from ``rows`` codes: each takes ten times k + 1 of them."""
    return max(1, rows // (ROWS_PER_DIMENSION * (k + 1)))


def _tables(job: TrainJob, draw: Draw) -> Iterator[pa.Table]:
    """The drawn rows of one fragment, batch by batch."""
    seen, stop = 0, int(draw.numbers[-1])
    batches = read_batches(
        job.files, job.fragments[draw.fragment], job.columns, _ROWS_PER_BATCH, job.config.where
    )
    for batch in batches:
        places = np.flatnonzero(split_rows(batch.rows, job.split)[0])
        first, last = np.searchsorted(draw.numbers, [seen, seen + len(places)])
        chosen = np.zeros(len(batch.rows), np.bool_)
        chosen[places[draw.numbers[first:last] - seen]] = True
        # Unlike take, filter leaves the dictionaries of chunks as they are.
        yield batch.table.filter(pa.array(chosen))
        seen += len(places)
        if seen > stop:
            return
