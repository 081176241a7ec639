"""The gradient of one training step, however the posterior is found.

Amortised: the bound's gradient reaches encoder and decoder through the reparameterised samples.
Per row and semi-amortised, the classical two steps: first the rows' own posteriors climb the ELBO,
then the decoder follows log p(x|z) at samples of them, without reparameterisation; the encoder of
the semi-amortised scheme follows the objective at its own answer.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace

import torch

from distvae.cluster.batches import Batch
from distvae.model.objectives import Bound, Objective, lower_bound
from distvae.model.posteriors import Posterior
from distvae.model.refinement import Climb, Moments, ascend
from distvae.model.vae import VAE

__all__ = ["add_gradient", "add_two_step_gradient"]


def add_gradient(
    model: VAE, batch: Batch, objective: Objective, kl_weight: float, rows: int
) -> Bound:
    """Add the gradient of -sum(value) / ``rows`` to the parameters'; returns the bound."""
    posterior = model.encode(batch.y, batch.observed)
    bound = _bound(model, posterior, batch, objective, kl_weight)
    (-bound.value.sum() / rows).backward()
    return bound


def add_two_step_gradient(
    model: VAE,
    batch: Batch,
    noise: Callable[[int], torch.Tensor],
    rates: list[float],
    climb: Climb,
    rows: int,
    own: torch.Tensor | None,
) -> tuple[Bound, torch.Tensor, Moments]:
    """Climb the rows' posteriors, then add the decoder's (and the encoder's) gradient.

    Args:
        model: with an encoder unless ``own`` is given.
        batch: rows and the noise of the decoder's samples.
        noise: noise(step) -> (1, r, k) of the climb.
        rates: size of each step of the climb.
        climb: the objective, which the encoder follows too, and moments of earlier visits.
        rows: rows of the global batch.
        own: where the rows' posteriors stand; None starts at the encoder's answer.

    Returns:
        The bound at the posteriors reached, these, and their moments.
    """
    objective = replace(climb.objective, mc_samples=len(batch.eps))
    start = own
    if start is None:
        answer = model.encode_raw(batch.y, batch.observed)
        bound = _bound(model, model.posterior(answer), batch, objective, climb.kl_weight)
        assert model.encoder is not None
        encoder = list(model.encoder.parameters())
        _add(encoder, torch.autograd.grad(-bound.value.sum() / rows, encoder))
        start = answer.detach()
    one = replace(climb, objective=replace(climb.objective, mc_samples=1))
    raw, after = ascend(model, batch.y, batch.observed, start, noise, rates, one)
    # raw has no history: z is a plain sample, and of the bound log p(x|z) alone has a gradient.
    bound = _bound(model, model.posterior(raw), batch, objective, climb.kl_weight)
    decoder = list(model.decoder.parameters()) + list(model.observation.parameters())
    loss = -bound.value.sum() / rows
    _add(decoder, torch.autograd.grad(loss, decoder, allow_unused=True))
    return bound, raw, after


def _bound(
    model: VAE, posterior: Posterior, batch: Batch, objective: Objective, kl_weight: float
) -> Bound:
    return lower_bound(model, posterior, batch.y, batch.observed, batch.eps, objective, kl_weight)


def _add(parameters: list[torch.nn.Parameter], gradients: tuple[torch.Tensor | None, ...]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            assert parameter.grad is not None
            parameter.grad.add_(gradient)
