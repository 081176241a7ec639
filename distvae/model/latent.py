"""What every kind of model offers: rows to codes and back, term by term, row by row.

Shapes: n rows, D elements over all features, k latent dimensions, m samples, P decoder outputs.
No operation couples rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, nn

from distvae.model.architecture import Architecture, element_values
from distvae.model.flow import FlowPrior
from distvae.model.observation import Observation, Standardise
from distvae.model.posteriors import Posterior, standard_normal_log_prob
from distvae.model.priors import Prior

__all__ = ["LatentModel", "Terms"]


@dataclass(frozen=True)
class Terms:
    """The pieces of a loss, per row, in nats.

    Attributes:
        reconstruction: ``(n,)`` E_q[log p(x|z)], averaged over the m samples.
        kl: ``(n, k)`` KL(q(z|x) || p(z)) per latent dimension.
        per_feature: ``(n, F)`` the reconstruction split by feature, if asked for.
        prior_gap: ``(n,)`` E_q[log N(z; 0, I) - log p(z)] over the same samples: what is to be
            added to the KL to N(0, I) for the KL to the prior. None where that is N(0, I).
    """

    reconstruction: Tensor
    kl: Tensor
    per_feature: Tensor | None = None
    prior_gap: Tensor | None = None


class LatentModel(nn.Module):
    """A model with a latent code per row, over standardised elements.

    Args:
        architecture: what it is made of.

    Attributes:
        has_sigma: whether a code has a spread; where not, sigma and KL are no figures.
        has_likelihood: whether there is a density p(x); where not, ELBO and ln p(x) are none.
        prior: what the codes of synthetic rows are drawn from.
    """

    has_sigma: ClassVar[bool] = True
    has_likelihood: ClassVar[bool] = True

    element_scale: Tensor

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        self.architecture = architecture
        self.prior: Prior | FlowPrior = Prior()
        scale = torch.from_numpy(element_values(architecture.features, "scale"))
        self.register_buffer("element_scale", scale, False)
        self.standardise = Standardise(architecture)
        self.observation = Observation(architecture)

    def prepare(
        self, blocks: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """Standardise input arrays on the device they are on; see ``Standardise.forward``."""
        result: tuple[Tensor, Tensor | None] = self.standardise(blocks, masks)
        return result

    def encode(self, y: Tensor, observed: Tensor | None = None) -> Posterior:
        """Return q(z|x) of rows ``y (n, D)``, ``observed (n, D)`` True where not missing."""
        raise NotImplementedError

    def context(self, y: Tensor, observed: Tensor | None = None) -> Tensor | None:
        """Return what the decoder is told of the conditions, ``(n, c)``; None without conditions.

        Args:
            y: ``(n, D)``; only the conditions' elements are read.
            observed: ``(n, D)`` True where not missing.
        """
        del y, observed
        return None

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the heads' parameters ``(..., P)`` for ``z (..., k)``, in the dtype of z.

        Args:
            z: codes ``(n, k)`` or ``(m, n, k)``.
            context: what ``context`` gave for the n rows.
        """
        raise NotImplementedError

    def decode_to_draw(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return ``decode(z, context)`` for ``z (n, k)``, laid out in memory for ``sample_data``.

        The last bits may differ from those of ``decode``.
        """
        return self.decode(z, context)

    @property
    def has_prior_gap(self) -> bool:
        """Whether the KL of ``terms`` and of posteriors, which is to N(0, I), is not the prior's.

        So it is for a VAE whose prior was fitted. Closed forms have their own KL.
        """
        return self.architecture.kind == "vae" and not self.prior.is_standard

    def prior_gap(self, z: Tensor) -> Tensor:
        """Return log N(z; 0, I) - log p(z) ``(...)`` for ``z (..., k)``, in nats, in z's dtype.

        Exactly 0 where ``has_prior_gap`` is False.
        """
        if not self.has_prior_gap:
            return z.new_zeros(z.shape[:-1])
        with torch.autocast(z.device.type, enabled=False):
            wide = z.double()
            return (standard_normal_log_prob(wide) - self.prior.log_density(wide)).to(z)

    def exact_log_likelihood(self, y: Tensor, observed: Tensor | None) -> Tensor | None:
        """Return ln p(x) ``(n,)`` float64 in nats where it has a closed form, else None."""
        del y, observed
        return None

    def reconstruction_mean(self, params: Tensor) -> Tensor:
        """Return E[y | z], ``(..., D)``; for cells the median's or the mode's, for conditions 0."""
        return self.observation.mean(params)

    def raw_error(self, params: Tensor, y: Tensor) -> Tensor:
        """Return E[x | z] - x in raw units ``(..., D)`` float64, 0 where not ``measured``."""
        error = (self.reconstruction_mean(params) - y).double()
        return error * self.element_scale

    def log_likelihood(self, y: Tensor, observed: Tensor | None, params: Tensor) -> Tensor:
        """Return log p(x | z) summed over the observed elements, ``(...)``, in nats.

        Continuous features count as densities in the data's own units.
        """
        return self.elementwise(y, observed, params).sum(-1)

    def elementwise(self, y: Tensor, observed: Tensor | None, params: Tensor) -> Tensor:
        """Return log p(x | z) by element ``(..., D)``, 0 where missing."""
        return self.observation.log_prob(y, params, observed)

    def sample_data(self, params: Tensor, noise: Tensor) -> Tensor:
        """Return a draw of y, ``(..., D)``, from standard normal ``noise (..., D)``."""
        return self.observation.sample(params, noise)

    def binarize(self, y: Tensor, u: Tensor) -> Tensor:
        """Draw Bernoulli features afresh with uniform ``u (n, D)``; others stay as they are."""
        return self.observation.binarize(y, u)

    def terms(
        self, y: Tensor, observed: Tensor | None, eps: Tensor, per_feature: bool = False
    ) -> Terms:
        """Return the per-row terms for standard normal ``eps (m, n, k)``."""
        return self.terms_of(self.encode(y, observed), y, observed, eps, per_feature)

    def terms_of(
        self,
        posterior: Posterior,
        y: Tensor,
        observed: Tensor | None,
        eps: Tensor,
        per_feature: bool = False,
    ) -> Terms:
        """Return the per-row terms under another posterior than the encoder's."""
        z = posterior.sample(eps)
        params = self.decode(z, self.context(y, observed))
        elementwise = self.elementwise(y, observed, params)
        return Terms(
            reconstruction=elementwise.sum(-1).mean(0),
            kl=posterior.kl(),
            per_feature=self.observation.per_feature(elementwise.mean(0)) if per_feature else None,
            prior_gap=self.prior_gap(z).mean(0) if self.has_prior_gap else None,
        )

    def forward(self, y: Tensor, observed: Tensor | None, eps: Tensor) -> Terms:
        """Return ``terms(y, observed, eps)``."""
        return self.terms(y, observed, eps)
