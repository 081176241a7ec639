"""The gradient of one training step, however the posterior is found.

Amortised: the bound's gradient reaches encoder and decoder through the reparameterised samples.
Per row and semi-amortised, the classical two steps: first the rows' own posteriors climb the ELBO,
then the decoder follows log p(x|z) at samples of them, without reparameterisation; the encoder of
the semi-amortised scheme follows the ELBO at its own answer.
"""

from __future__ import annotations

from collections.abc import Callable

import torch

from distvae.cluster.batches import Batch
from distvae.model.objectives import Bound, Objective, lower_bound
from distvae.model.refinement import Moments, ascend
from distvae.model.vae import VAE

__all__ = ["add_gradient", "add_two_step_gradient"]


def add_gradient(
    model: VAE, batch: Batch, objective: Objective, kl_weight: float, rows: int
) -> Bound:
    """Add the gradient of -sum(value) / ``rows`` to the parameters'; returns the bound."""
    posterior = model.encode(batch.y, batch.observed)
    bound = lower_bound(model, posterior, batch.y, batch.observed, batch.eps, objective, kl_weight)
    (-bound.value.sum() / rows).backward()
    return bound


def add_two_step_gradient(
    model: VAE,
    batch: Batch,
    noise: Callable[[int], torch.Tensor],
    rates: list[float],
    kl_weight: float,
    rows: int,
    own: tuple[torch.Tensor, Moments] | None,
) -> tuple[Bound, torch.Tensor, Moments]:
    """Climb the rows' posteriors, then add the decoder's (and the encoder's) gradient.

    Args:
        model: with an encoder unless ``own`` is given.
        batch: rows and the noise of the decoder's samples.
        noise: noise(step) -> (1, r, k) of the climb.
        rates: size of each step of the climb.
        kl_weight: of the encoder's ELBO; the climb's is 1.
        rows: rows of the global batch.
        own: where the rows' posteriors stand, with their moments; None starts at the encoder's.

    Returns:
        The bound at the posteriors reached, and these.
    """
    if own is None:
        answer = model.encode_raw(batch.y, batch.observed)
        _add_encoder_gradient(model, batch, answer, kl_weight, rows)
        raw, moments = answer.detach(), None
    else:
        raw, moments = own
    raw, after = ascend(model, batch.y, batch.observed, raw, noise, rates, moments)
    posterior = model.posterior(raw)
    params = model.decode(posterior.sample(batch.eps))
    reconstruction = model.log_likelihood(batch.y, batch.observed, params).mean(0)
    decoder = list(model.decoder.parameters()) + list(model.observation.parameters())
    _add(decoder, torch.autograd.grad(-reconstruction.sum() / rows, decoder, allow_unused=True))
    kl = posterior.kl().sum(-1)
    return Bound(reconstruction - kl_weight * kl, reconstruction, kl), raw, after


def _add_encoder_gradient(
    model: VAE, batch: Batch, answer: torch.Tensor, kl_weight: float, rows: int
) -> None:
    """The ELBO's gradient at the encoder's own answer, for the encoder alone."""
    assert model.encoder is not None
    encoder = list(model.encoder.parameters())
    bound = lower_bound(
        model,
        model.posterior(answer),
        batch.y,
        batch.observed,
        batch.eps,
        Objective(mc_samples=len(batch.eps)),
        kl_weight,
    )
    _add(encoder, torch.autograd.grad(-bound.value.sum() / rows, encoder))


def _add(parameters: list[torch.nn.Parameter], gradients: tuple[torch.Tensor | None, ...]) -> None:
    for parameter, gradient in zip(parameters, gradients, strict=True):
        if gradient is not None:
            assert parameter.grad is not None
            parameter.grad.add_(gradient)
