"""The judge's table of docs/model.md: what each posterior and estimator lacks to ln p(x).

``python -m benchmarks.judge``, from a checkout; the setting is ``tests/model/test_judge.py``'s.
"""

from __future__ import annotations

import math

import numpy as np
import torch
from torch import Tensor

from distvae.model.linear_gaussian import LinearGaussian
from distvae.model.objectives import Objective, elbo, lower_bound
from distvae.model.refinement import falling, refine, row_elbo
from distvae.model.vae import VAE
from distvae.stratified import pair_of_draws
from tests.model.test_judge import (
    LATENT,
    closed_form_gap,
    cubature,
    drawn,
    fitted,
    set_full_posterior,
    with_posterior,
)

FAMILIES = ("full", "diagonal", "isotropic")


def normal(samples: int, rows: int, seed: int) -> Tensor:
    """Standard normal noise (samples, rows, k)."""
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(samples, rows, LATENT)))


def refined(model: VAE, x: Tensor, raw: Tensor, best: np.ndarray, rate: float, steps: int) -> float:
    """How far below the family's best ``steps`` from ``raw`` end, nats per row."""
    pair = torch.from_numpy(pair_of_draws(0, "judge", np.arange(len(x)), LATENT)).double()
    judge = pair.unflatten(1, (2, -1)).transpose(0, 1)
    judge = torch.cat([judge, -judge])

    def noise(step: int) -> Tensor:
        return normal(1, len(x), 100 + step)

    found = refine(model, x, None, raw, noise, falling(rate, steps), judge)
    with torch.no_grad():
        value = row_elbo(model, x, None, found, cubature(len(x), LATENT)).numpy()
    return float((best - value).mean())


def family(name: str, truth: LinearGaussian, model: VAE, x: Tensor, likelihood: np.ndarray) -> None:
    """A fitted encoder of one family, then the same one set wrong and refined."""
    other = with_posterior(model, name)
    assert other.encoder is not None
    found = fitted(other, x, list(other.encoder.parameters())).numpy()
    gap = closed_form_gap(truth, name)
    off = np.abs(likelihood - found - gap).max()
    print(f"{name}: gap {gap:.6f} in closed form, {(likelihood - found).mean():.6f} fitted", end="")
    print(f", largest row {off:.0e} off")
    with torch.no_grad():
        other.encoder.last.bias[:LATENT] += 0.3
        other.encoder.last.bias[LATENT : 2 * LATENT] += 0.5
    wrong, best = other.encode_raw(x).detach(), likelihood - gap
    for start, raw in (("wrong encoder", wrong), ("prior", torch.zeros_like(wrong))):
        shown = [
            f"{steps}: {refined(other, x, raw, best, 0.1, steps):.2f}"
            for steps in (0, 100, 200, 500)
        ]
        print(f"  below the best after refining from the {start}, steps {', '.join(shown)}")


def main() -> None:
    """Print everything."""
    torch.set_num_threads(1)
    model, truth, x, likelihood = drawn()
    full = with_posterior(model, "full")
    set_full_posterior(full, truth)
    with torch.no_grad():
        exact = elbo(full.terms(x, None, cubature(len(x), LATENT))).numpy()
    print(f"full, put in: largest row {np.abs(exact - likelihood).max():.0e} off")
    for name in FAMILIES:
        family(name, truth, model, x, likelihood)
    set_full_posterior(full, truth)
    with torch.no_grad():
        full.encoder.last.bias[:LATENT] += 0.3
        full.encoder.last.bias[LATENT : 2 * LATENT] += 0.5
        many, lnp = x[:1].expand(4000, -1), likelihood[0]
        eps = normal(64, 4000, 0)
        for k in (1, 2, 8, 64):
            objective = Objective("iwae", 64 // k, k)
            value = lower_bound(full, full.encode(many), many, None, eps, objective).value.numpy()
            error = value.std() / math.sqrt(len(value))
            print(f"importance-weighted, K = {k}: {lnp - value.mean():.3f} below, se {error:.3f}")


if __name__ == "__main__":
    main()
