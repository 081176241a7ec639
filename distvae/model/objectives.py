"""Training objectives from per-row terms; nothing here averages over rows."""

from __future__ import annotations

from torch import Tensor

from distvae.model.vae import Terms

__all__ = ["elbo", "kl_weight_at"]


def elbo(terms: Terms, kl_weight: float = 1.0) -> Tensor:
    """Evidence lower bound per row, E_q[log p(x|z)] - kl_weight * KL(q(z|x) || p(z)), in nats.

    Kingma & Welling 2014, equation 3; with another weight than 1 Higgins et al. 2017 (beta-VAE),
    and then no longer a bound when below 1.

    Returns:
        ``(n,)``; the loss is minus its mean over rows.
    """
    return terms.reconstruction - kl_weight * terms.kl.sum(-1)


def kl_weight_at(step: int, warmup_steps: int, weight: float = 1.0) -> float:
    """KL weight at an optimiser step, rising linearly from 0 to ``weight`` in ``warmup_steps``.

    Sønderby et al. 2016, "Ladder Variational Autoencoders". ``step`` counts from 0;
    without warm-up the weight is constant.
    """
    if warmup_steps <= 0 or step >= warmup_steps:
        return weight
    return weight * (step / warmup_steps)
