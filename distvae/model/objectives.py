"""Training objectives per row; nothing here averages over rows.

Shapes: n rows, k latent dimensions, m samples (or bounds), K importance samples per bound.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import Tensor

from distvae.model.latent import LatentModel, Terms
from distvae.model.posteriors import Posterior

__all__ = ["Bound", "Objective", "elbo", "kl_weight_at", "lower_bound"]


@dataclass(frozen=True)
class Objective:
    """What is maximised.

    Attributes:
        name: ``elbo``, or ``iwae`` for the importance-weighted bound.
        mc_samples: m, samples (iwae: bounds) that are averaged.
        importance_samples: K, samples inside each bound; 1 for the ELBO.
        kl: ``analytic``, or ``sampled`` from the m samples.
        free_bits: nats of KL per row and dimension that cost nothing.
        doubly: whether the bound's gradient is doubly reparameterised.
        weights: ``(F,)`` of the features' log p(x|z), for the ELBO; None: all 1.
    """

    name: str = "elbo"
    mc_samples: int = 1
    importance_samples: int = 1
    kl: str = "analytic"
    free_bits: float = 0.0
    doubly: bool = False
    weights: Tensor | None = None

    @property
    def samples(self) -> int:
        """Samples of z per row."""
        return self.mc_samples * self.importance_samples


@dataclass(frozen=True)
class Bound:
    """An objective's value and figures per row, ``(n,)`` each, in nats.

    Attributes:
        value: to be maximised; its gradient is the objective's.
        reconstruction: E_q[log p(x|z)].
        kl: KL(q(z|x) || p(z)), unweighted.
    """

    value: Tensor
    reconstruction: Tensor
    kl: Tensor


def elbo(
    terms: Terms, kl_weight: float = 1.0, free_bits: float = 0.0, weights: Tensor | None = None
) -> Tensor:
    """Evidence lower bound per row, E_q[log p(x|z)] - kl_weight * KL(q(z|x) || p(z)), in nats.

    Where the prior p is not N(0, I) the KL to it is that to N(0, I) plus ``terms.prior_gap``.

    Kingma & Welling 2014, equation 3; with another weight than 1 Higgins et al. 2017 (beta-VAE),
    and then no longer a bound when below 1. ``free_bits`` F counts every dimension's KL as at
    least F (Kingma et al. 2016, "Improved variational inference with inverse autoregressive flow",
    equation 15, per row instead of per minibatch: no loss couples rows here). ``weights (F,)``
    multiply the features' parts of the reconstruction, for which ``terms.per_feature`` is needed.

    Returns:
        ``(n,)``; the loss is minus its mean over rows.
    """
    kl = terms.kl.clamp(min=free_bits) if free_bits > 0 else terms.kl
    reconstruction = _weighted(terms.reconstruction, terms.per_feature, weights)
    return reconstruction - kl_weight * _with_gap(kl.sum(-1), terms.prior_gap)


def lower_bound(
    model: LatentModel,
    posterior: Posterior,
    y: Tensor,
    observed: Tensor | None,
    eps: Tensor,
    objective: Objective,
    kl_weight: float = 1.0,
) -> Bound:
    """Return the objective of rows ``y (n, D)`` under ``posterior``.

    Args:
        model: gives p(x|z).
        posterior: q(z|x) of the rows.
        y: standardised rows.
        observed: what is observed, or None.
        eps: standard normal ``(objective.samples, n, k)``.
        objective: what to compute.
        kl_weight: weight of log q - log p.
    """
    if objective.name == "iwae":
        return _importance_weighted(model, posterior, y, observed, eps, objective, kl_weight)
    if objective.kl == "analytic":
        weights = objective.weights
        terms = model.terms_of(posterior, y, observed, eps, per_feature=weights is not None)
        value = elbo(terms, kl_weight, objective.free_bits, weights)
        return Bound(value, terms.reconstruction, _with_gap(terms.kl.sum(-1), terms.prior_gap))
    z = posterior.sample(eps)
    params = model.decode(z, model.context(y, observed))
    elementwise = model.elementwise(y, observed, params)
    reconstruction = elementwise.sum(-1).mean(0)
    per_feature = model.observation.per_feature(elementwise).mean(0)
    counted = _weighted(reconstruction, per_feature, objective.weights)
    kl = _with_gap(-posterior.log_ratio(z, eps), _gap(model, z)).mean(0)
    return Bound(counted - kl_weight * kl, reconstruction, kl)


def _importance_weighted(
    model: LatentModel,
    posterior: Posterior,
    y: Tensor,
    observed: Tensor | None,
    eps: Tensor,
    objective: Objective,
    kl_weight: float,
) -> Bound:
    """Return log (1/K) sum_s p(x|z_s) (p(z_s) / q(z_s|x))^weight, averaged over m such bounds.

    Burda et al. 2016, "Importance weighted autoencoders", equation 8. Doubly reparameterised
    (Tucker et al. 2019, "Doubly reparameterized gradient estimators", equation 8): q's parameters
    are constants in log q, and z's gradient is weighted by the squared normalised weights.
    """
    z = posterior.sample(eps)
    params = model.decode(z, model.context(y, observed))
    reconstruction = model.log_likelihood(y, observed, params)
    gap = _gap(model, z)
    if not objective.doubly:
        ratio = _with_gap(-posterior.log_ratio(z, eps), gap)
        log_weight = reconstruction - kl_weight * ratio
        joined = log_weight.unflatten(0, (objective.mc_samples, objective.importance_samples))
        value = torch.logsumexp(joined, 1).mean(0) - math.log(objective.importance_samples)
    else:
        weighted = reconstruction if gap is None else reconstruction - kl_weight * gap
        value = _doubly(posterior, z, weighted, objective, kl_weight)
    kl = _with_gap(posterior.kl().sum(-1), None if gap is None else gap.mean(0))
    return Bound(value, reconstruction.mean(0), kl)


def _doubly(
    posterior: Posterior, z: Tensor, reconstruction: Tensor, objective: Objective, kl_weight: float
) -> Tensor:
    fixed = posterior.detach()
    ratio = -0.5 * (z.square() - fixed.standardised(z).square()).sum(-1) + fixed.log_det()
    log_weight = reconstruction + kl_weight * ratio
    shape = (objective.mc_samples, objective.importance_samples)
    joined = log_weight.unflatten(0, shape)
    value = torch.logsumexp(joined, 1).mean(0) - math.log(objective.importance_samples)
    weights = torch.softmax(joined.detach(), 1).flatten(0, 1)
    if z.requires_grad:
        z.register_hook(lambda gradient: gradient * weights[..., None])
    surrogate = (weights * log_weight).sum(0) / objective.mc_samples
    return surrogate + (value - surrogate).detach()


def _weighted(reconstruction: Tensor, parts: Tensor | None, weights: Tensor | None) -> Tensor:
    if weights is None:
        return reconstruction
    assert parts is not None
    return parts @ weights.to(parts)


def _gap(model: LatentModel, z: Tensor) -> Tensor | None:
    return model.prior_gap(z) if model.has_prior_gap else None


def _with_gap(kl: Tensor, gap: Tensor | None) -> Tensor:
    return kl if gap is None else kl + gap


def kl_weight_at(step: int, warmup_steps: int, weight: float = 1.0, cycle_steps: int = 0) -> float:
    """KL weight at an optimiser step, rising linearly from 0 to ``weight`` in ``warmup_steps``.

    Sønderby et al. 2016, "Ladder variational autoencoders"; with ``cycle_steps`` > 0 the rise
    begins anew every so many steps (Fu et al. 2019, "Cyclical annealing schedule").
    ``step`` counts from 0; without warm-up the weight is constant.
    """
    place = step % cycle_steps if cycle_steps > 0 else step
    if warmup_steps <= 0 or place >= warmup_steps:
        return weight
    return weight * (place / warmup_steps)
