"""Encoded rows to posteriors and per-row figures, in fixed blocks, noise keyed by the row's number.

Shapes: n rows, k latent dimensions, P raw numbers of a posterior.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt
import torch

from distvae.data.codec import Encoded
from distvae.errors import UsageError
from distvae.model import noise
from distvae.model.estimators import log_likelihood
from distvae.model.inference import run_blocks
from distvae.model.posteriors import Posterior
from distvae.model.refinement import falling, refine
from distvae.model.vae import VAE
from distvae.saved import Model
from distvae.stratified import DRAWS, pair_of_draws

__all__ = [
    "Codes",
    "RowTerms",
    "codes",
    "infer_raw",
    "log_likelihood_rows",
    "posterior_sample",
    "refining_steps",
    "row_terms",
]

Float32 = npt.NDArray[np.float32]
Float64 = npt.NDArray[np.float64]
Rows = npt.NDArray[np.int64]
_SAMPLES_PER_PASS = 4  # larger tensors come from the kernel page by page: 0.9 of the speed at 16
# A model without an encoder starts at the prior and needs as many steps to arrive.
_STEPS_WITHOUT_ENCODER = 200
# They fall to 0, training's don't, and have further to go. On MNIST, 200 steps of 0.2 from the
# prior end 1.0 nats per row above 200 of 0.1, and 2.0 above a good encoder's answer.
_FROM_THE_PRIOR = 2.0


@dataclass(frozen=True)
class Codes:
    """What embeddings hold: mu (n, k), sigma (n, k), and L packed (n, k (k + 1) / 2) if full."""

    mu: Float32
    sigma: Float32
    scale_tril: Float32 | None


@dataclass(frozen=True)
class RowTerms:
    """Per row, in nats but for the error in raw units.

    Attributes:
        reconstruction: (n,) E_q[log p(x|z)].
        kl: (n, k) KL(q || N(0, I)) by dimension.
        prior_gap: (n,) E_q[log N(z; 0, I) - log p(z)]: with it, ``kl`` adds up to KL(q || p(z)).
        squared_error: (n,) of decoding mu, over measured values.
        missingness: (n,) the part of the reconstruction that says which values are missing.
        mu: (n, k).
    """

    reconstruction: Float64
    kl: Float64
    prior_gap: Float64
    squared_error: Float64
    missingness: Float64
    mu: Float64

    @property
    def elbo(self) -> Float64:
        """Return the ELBO, (n,), in nats."""
        difference: Float64 = self.reconstruction - self.kl.sum(1) - self.prior_gap
        return difference


def refining_steps(model: Model, steps: int) -> int:
    """Gradient steps per row that the model needs or the user asks for.

    Raises:
        UsageError: fewer than 0, or the kind of model has nothing to refine.
    """
    architecture = model.files.architecture
    if steps < 0:
        raise UsageError("refine", f"got {steps}", "must be 0 or more", "leave it out")
    if architecture.kind == "vae":
        return steps or (_STEPS_WITHOUT_ENCODER if architecture.inference == "per-row" else 0)
    if steps:
        rule = f"kind {architecture.kind} has no ELBO that steps could raise"
        raise UsageError("refine", f"got {steps}", rule, "leave it out")
    return 0


def infer_raw(
    model: Model,
    encoded: Encoded,
    rows: Rows,
    seed: int,
    steps: int,
    precision: str = "fp32",
    binarized: bool = False,
) -> Float32 | None:
    """Raw posteriors (n, P) after ``steps`` refining steps; None without any: the encoder's hold.

    A row's noise depends on (seed, its number) alone: the steps' own, and the one by which the
    result is judged, which is that of `row_terms`: no row's ELBO there is lower than without steps.

    Args:
        model: any model when ``steps`` is 0, else a VAE.
        encoded: the rows.
        rows: (n,) their numbers.
        seed: of the noise.
        steps: see `refining_steps`.
        precision: of the matrix products.
        binarized: as for `row_terms`.
    """
    if steps == 0:
        return None
    vae = _as_vae(model)
    k, blocks = model.latent_dim, len(encoded.blocks)
    rate = model.files.architecture.inference_rate
    rates = falling(rate if vae.encoder is not None else _FROM_THE_PRIOR * rate, steps)
    judge = pair_of_draws(seed, "score-elbo", rows, k)  # as in `row_terms`
    uniforms = _binary_noise(model, rows, seed) if binarized else None

    def infer(arrays: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor, ...]:
        y, observed = _prepared(model, arrays[:-2], blocks)
        numbers, judging = arrays[-2:]
        assert numbers is not None
        assert judging is not None
        places = numbers[:, 0].long().cpu().numpy()

        def draw(step: int) -> torch.Tensor:
            drawn = noise.normal_of(seed, f"refine/{step}", places, k)
            return torch.from_numpy(drawn)[None].to(y)

        start = vae.encode_raw(y, observed)
        return (refine(vae, y, observed, start, draw, rates, _with_negatives(judging)),)

    arrays = [*encoded.blocks, *encoded.masks, uniforms, rows.astype(np.float64)[:, None], judge]
    return run_blocks(infer, arrays, (vae.raw_width,), model.device, precision)[0]


def codes(
    model: Model, encoded: Encoded, raw: Float32 | None = None, precision: str = "fp32"
) -> Codes:
    """Posterior mean, standard deviation and, where it is full, Cholesky factor of each row.

    Args:
        model: whose codes.
        encoded: the rows.
        raw: their refined posteriors, or None for the encoder's.
        precision: of the matrix products.
    """
    k, blocks = model.latent_dim, len(encoded.blocks)
    full = model.files.architecture.posterior == "full" and model.files.architecture.kind == "vae"
    widths = (k, k, k * (k + 1) // 2) if full else (k, k)

    def encode(arrays: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor, ...]:
        y, observed = _prepared(model, (*arrays[:-1], None), blocks)
        posterior = _posterior(model, arrays[-1], y, observed)
        found = (posterior.mu, posterior.sigma)
        return (*found, posterior.packed_scale_tril()) if full else found

    results = run_blocks(
        encode, [*encoded.blocks, *encoded.masks, raw], widths, model.device, precision
    )
    return Codes(results[0], results[1], results[2] if full else None)


def posterior_sample(found: Codes, eps: Float32) -> Float32:
    """Return mu + L eps (n, k) for standard normal ``eps (n, k)``."""
    if found.scale_tril is None:
        return found.mu + found.sigma * eps
    k = eps.shape[1]
    factor = np.zeros((len(eps), k, k), np.float32)
    factor[(slice(None), *np.tril_indices(k))] = found.scale_tril
    z: Float32 = found.mu + np.einsum("nij,nj->ni", factor, eps)
    return z


def row_terms(
    model: Model,
    encoded: Encoded,
    rows: Rows,
    seed: int,
    raw: Float32 | None = None,
    precision: str = "fp32",
    binarized: bool = False,
) -> RowTerms:
    """ELBO terms (nats) and squared error of decoding mu, row by row.

    E_q[log p(x|z)] is estimated from four samples of z, see `pair_of_draws`. The noise of a row
    depends on (seed, its number) alone.

    Args:
        model: whose terms.
        encoded: the rows.
        rows: (n,) their numbers.
        seed: of the noise.
        raw: their posteriors from `infer_raw` of the same ``binarized``, None for the encoder's.
        precision: of the matrix products.
        binarized: whether Bernoulli columns are drawn as 0 and 1 first, by the seed: q(z|x) and
            ELBO are then those of the drawn rows. Else they are taken as they are, and the ELBO is
            the mean over all such draws under one q, that of the intensities. The squared error
            is of the values as they are either way.
    """
    network, k, blocks = model.network, model.latent_dim, len(encoded.blocks)
    eps = pair_of_draws(seed, "score-elbo", rows, k)
    uniforms = _binary_noise(model, rows, seed) if binarized else None
    companions = [
        index
        for index, spec in enumerate(model.files.architecture.features)
        if spec.get("companion_of") is not None
    ]

    def evaluate(arrays: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor, ...]:
        draw, own = arrays[-2:]
        assert draw is not None
        y, observed = _prepared(model, arrays[:-2], blocks)
        posterior = _posterior(model, own, y, observed)
        per_feature = bool(len(companions))
        terms = network.terms_of(posterior, y, observed, _with_negatives(draw), per_feature)
        exact, mu = y, posterior.mu
        if uniforms is not None:
            exact, _ = _prepared(model, (*arrays[: 2 * blocks], None), blocks)
            mu = _posterior(model, own, exact, observed).mu
        params = network.decode(mu, network.context(exact, observed))
        square = network.raw_error(params, exact).square()
        if observed is not None:
            square = torch.where(observed, square, 0)
        # The root keeps large raw units within float32, in which results travel.
        root = square.sum(-1, keepdim=True).sqrt()
        zero = torch.zeros_like(root)
        gap = zero if terms.prior_gap is None else terms.prior_gap[:, None]
        missing = zero
        if terms.per_feature is not None:
            missing = terms.per_feature[:, companions].sum(-1, keepdim=True)
        return terms.reconstruction[:, None], terms.kl, gap, root, missing, mu

    arrays = [*encoded.blocks, *encoded.masks, uniforms, eps, raw]
    parts = run_blocks(evaluate, arrays, (1, k, 1, 1, 1, k), model.device, precision)
    reconstruction, kl, gap, root, missing, mu = (part.astype(np.float64) for part in parts)
    error = np.square(root[:, 0])
    return RowTerms(reconstruction[:, 0], kl, gap[:, 0], error, missing[:, 0], mu)


def log_likelihood_rows(
    model: Model,
    encoded: Encoded,
    rows: Rows,
    samples: int,
    seed: int,
    raw: Float32 | None = None,
) -> Float64:
    """Log-likelihood ln p(x) per row, (n,), in nats: closed form or importance-weighted estimate.

    NaN for kinds without a density. Bernoulli columns are binarised by the seed.

    Args:
        model: whose likelihood.
        encoded: the rows.
        rows: (n,) their numbers.
        samples: K, samples per row.
        seed: of the noise.
        raw: posteriors to sample from (`infer_raw`, binarised), None for the encoder's.
    """
    network, k, blocks = model.network, model.latent_dim, len(encoded.blocks)
    if not network.has_likelihood:
        return np.full(len(rows), np.nan)
    uniforms = _binary_noise(model, rows, seed)

    def estimate(arrays: tuple[torch.Tensor | None, ...]) -> tuple[torch.Tensor, ...]:
        y, observed = _prepared(model, arrays[:-2], blocks)
        exact = network.exact_log_likelihood(y, observed)
        if exact is not None:
            return (exact[:, None],)
        numbers, own = arrays[-2:]
        assert numbers is not None
        places = numbers[:, 0].long().cpu().numpy()

        def eps(first: int, count: int) -> torch.Tensor:
            drawn = [
                noise.normal_of(seed, f"score-z/{s}", places, k)
                for s in range(first, first + count)
            ]
            return torch.from_numpy(np.stack(drawn))

        per_pass = min(_SAMPLES_PER_PASS, samples)
        posterior = _posterior(model, own, y, observed)
        found = log_likelihood(network, y, observed, eps, samples, per_pass, posterior)
        return (found[:, None],)

    numbers = rows.astype(np.float64)[:, None]
    arrays = [*encoded.blocks, *encoded.masks, uniforms, numbers, raw]
    result = run_blocks(estimate, arrays, (1,), model.device)[0]
    return result[:, 0].astype(np.float64)


def _binary_noise(model: Model, rows: Rows, seed: int) -> Float32 | None:
    """Uniform numbers that binarise the Bernoulli columns, or None when there are none."""
    architecture = model.files.architecture
    heads = [architecture.likelihood(spec["name"]) for spec in architecture.features]
    if not any(head.startswith("bernoulli") for head in heads):
        return None
    return noise.uniform_of(seed, "score-binarize", rows, architecture.width)


def _with_negatives(eps: torch.Tensor) -> torch.Tensor:
    """Noise (n, draws * k) as (2 * draws, n, k), the draws and their negatives."""
    drawn = eps.unflatten(1, (DRAWS, -1)).transpose(0, 1)
    return torch.cat([drawn, -drawn])


def _as_vae(model: Model) -> VAE:
    assert isinstance(model.network, VAE)
    return model.network


def _posterior(
    model: Model, raw: torch.Tensor | None, y: torch.Tensor, observed: torch.Tensor | None
) -> Posterior:
    return model.network.encode(y, observed) if raw is None else _as_vae(model).posterior(raw)


def _prepared(
    model: Model, arrays: Sequence[torch.Tensor | None], blocks: int
) -> tuple[torch.Tensor, torch.Tensor | None]:
    """Return y and observed of a block; the uniforms after blocks and masks draw Bernoullis."""
    values = [array for array in arrays[:blocks] if array is not None]
    y, observed = model.network.prepare(values, arrays[blocks : 2 * blocks])
    uniforms = arrays[2 * blocks]
    return (y if uniforms is None else model.network.binarize(y, uniforms)), observed
