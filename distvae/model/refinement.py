"""Variational inference per row: gradient steps on each row's own posterior.

The two-step scheme of classical variational inference (Jordan et al. 1999, "An introduction to
variational methods for graphical models"; Kim et al. 2018, "Semi-amortized variational
autoencoders"): gamma_i <- gamma_i + eta d ELBO(x_i; theta, gamma_i) / d gamma_i, where gamma_i are
the raw numbers that ``posteriors.split`` turns into q. Steps are scaled by Adam's moments, number
by number, so that no row's step depends on another row. Shapes: n rows, P raw numbers, m samples.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field

import torch
from torch import Tensor

from distvae.model.objectives import Objective, elbo, lower_bound
from distvae.model.vae import VAE

__all__ = ["Climb", "Moments", "ascend", "falling", "refine", "row_elbo"]

_BETA_1, _BETA_2, _TINY = 0.9, 0.99, 1e-8


@dataclass(frozen=True)
class Moments:
    """Adam's running means of the gradient and its square (Kingma & Ba 2015), ``(n, P)`` each."""

    mean: Tensor
    square: Tensor
    steps: int = 0

    @classmethod
    def like(cls, raw: Tensor) -> Moments:
        """Moments before the first step."""
        return cls(torch.zeros_like(raw), torch.zeros_like(raw))


@dataclass(frozen=True)
class Climb:
    """What the steps raise, and what earlier steps have left.

    Attributes:
        objective: with one sample of z a step, whose KL and free bits count.
        kl_weight: lambda.
        moments: those of earlier steps on the same rows.
    """

    objective: Objective = field(default_factory=Objective)
    kl_weight: float = 1.0
    moments: Moments | None = None


def row_elbo(model: VAE, y: Tensor, observed: Tensor | None, raw: Tensor, eps: Tensor) -> Tensor:
    """ELBO per row ``(n,)`` under the posteriors ``raw``, with noise ``eps (m, n, k)``, in nats."""
    return elbo(model.terms_of(model.posterior(raw), y, observed, eps))


def ascend(
    model: VAE,
    y: Tensor,
    observed: Tensor | None,
    raw: Tensor,
    noise: Callable[[int], Tensor],
    rates: list[float],
    climb: Climb = Climb(),
) -> tuple[Tensor, Moments]:
    """One step per entry of ``rates`` up each row's objective, by default its ELBO.

    Args:
        model: its weights stay as they are.
        y: standardised rows ``(n, D)``.
        observed: what is observed, or None.
        raw: ``(n, P)`` where to start.
        noise: noise(step) -> standard normal ``(m, n, k)``, fresh for every step.
        rates: eta of each step.
        climb: what to climb, and the moments of earlier steps on the same rows.

    Returns:
        raw ``(n, P)`` and the moments, without history.
    """
    state = climb.moments or Moments.like(raw)
    mean, square, done = state.mean, state.square, state.steps
    current = raw.detach()
    for step, rate in enumerate(rates):
        leaf = current.requires_grad_(True)
        with torch.enable_grad():
            bound = lower_bound(
                model,
                model.posterior(leaf),
                y,
                observed,
                noise(step),
                climb.objective,
                climb.kl_weight,
            )
            total = bound.value.sum()
            (gradient,) = torch.autograd.grad(total, leaf)
        done += 1
        mean = _BETA_1 * mean + (1 - _BETA_1) * gradient
        square = _BETA_2 * square + (1 - _BETA_2) * gradient.square()
        root = (square / (1 - _BETA_2**done)).sqrt() + _TINY
        current = leaf.detach() + rate / (1 - _BETA_1**done) * mean / root
    return current, Moments(mean, square, done)


def falling(rate: float, steps: int) -> list[float]:
    """Return step sizes that fall linearly from ``rate`` to 0: the steps' noise averages away."""
    return [rate * (1 - step / steps) for step in range(steps)]


def refine(
    model: VAE,
    y: Tensor,
    observed: Tensor | None,
    raw: Tensor,
    noise: Callable[[int], Tensor],
    rates: list[float],
    judge: Tensor,
) -> Tensor:
    """Raise each row's ELBO by gradient steps; a row whose ELBO would fall keeps its start.

    Costs a forward-and-backward pass of the decoder per step and two forward passes.

    Args:
        model: its weights stay as they are.
        y: standardised rows ``(n, D)``.
        observed: what is observed, or None.
        raw: ``(n, P)`` where to start.
        noise: noise(step) -> standard normal ``(m, n, k)``, fresh for every step.
        rates: eta of each step, e.g. ``falling(0.1, 10)``.
        judge: standard normal ``(m, n, k)``, each row's own and fixed, independent of ``noise``:
            the ELBO estimated with it never falls.

    Returns:
        ``(n, P)``.
    """
    if not rates:
        return raw
    moved, _ = ascend(model, y, observed, raw, noise, rates)
    with torch.no_grad():
        before = row_elbo(model, y, observed, raw, judge)
        after = row_elbo(model, y, observed, moved, judge)
    return torch.where((after > before)[:, None], moved, raw)
