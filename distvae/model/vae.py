"""The variational autoencoder: encoder, posterior, latent, decoder, one likelihood per feature.

Shapes: n rows, D elements over all features, k latent dimensions, m samples, P decoder outputs.
No operation couples rows.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from distvae.model import posteriors
from distvae.model.architecture import Architecture, element_values
from distvae.model.networks import MLP
from distvae.model.observation import Observation, Standardise

__all__ = ["VAE", "Architecture", "Terms"]


@dataclass(frozen=True)
class Terms:
    """The pieces of a loss, per row, in nats.

    Attributes:
        reconstruction: ``(n,)`` E_q[log p(x|z)], averaged over the m samples.
        kl: ``(n, k)`` KL(q(z|x) || p(z)) per latent dimension.
        per_feature: ``(n, F)`` the reconstruction split by feature, if asked for.
    """

    reconstruction: Tensor
    kl: Tensor
    per_feature: Tensor | None = None


class VAE(nn.Module):
    """A variational autoencoder over standardised elements.

    Args:
        architecture: what to build.
        seed: seed of the initial weights; None leaves them unset, to be loaded.
    """

    flag_columns: Tensor
    element_scale: Tensor

    def __init__(self, architecture: Architecture, seed: int | None = 0) -> None:
        super().__init__()
        self.architecture = architecture
        hidden, k = architecture.hidden_dims, architecture.latent_dim
        flagged = [
            element
            for spec in architecture.features
            if spec["has_missing"]
            for element in range(spec["start"], spec["stop"])
        ]
        self.register_buffer("flag_columns", torch.tensor(flagged, dtype=torch.long), False)
        scale = torch.from_numpy(element_values(architecture.features, "scale"))
        self.register_buffer("element_scale", scale, False)
        self.standardise = Standardise(architecture)
        self.observation = Observation(architecture)
        inputs = architecture.width + len(flagged)
        outputs, activation = self.observation.outputs, architecture.activation
        self.encoder = MLP(inputs, hidden, 2 * k, activation, seed=seed, name="encoder")
        self.decoder = MLP(k, hidden[::-1], outputs, activation, seed=seed, name="decoder")

    @classmethod
    def from_architecture(cls, architecture: Architecture, seed: int | None = 0) -> VAE:
        """Build a model with fresh weights, a function of (architecture, seed) alone."""
        return cls(architecture, seed)

    def prepare(
        self, blocks: Sequence[Tensor], masks: Sequence[Tensor | None]
    ) -> tuple[Tensor, Tensor | None]:
        """Standardise input arrays on the device they are on; see ``Standardise.forward``."""
        result: tuple[Tensor, Tensor | None] = self.standardise(blocks, masks)
        return result

    def encode(self, y: Tensor, observed: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Return the posterior's ``mu`` and ``log_sigma``, ``(n, k)`` each, in the dtype of y.

        The encoder reads y and, for features that had missing values in training, one flag per
        element: 1 observed, 0 missing.
        """
        inputs = y
        if len(self.flag_columns):
            if observed is None:
                flags = y.new_ones(len(y), len(self.flag_columns))
            else:
                flags = observed[:, self.flag_columns].to(y.dtype)
            inputs = torch.cat([y, flags], dim=1)
        return posteriors.split(self.encoder(inputs).to(y.dtype))

    def decode(self, z: Tensor) -> Tensor:
        """Return the heads' parameters ``(..., P)`` for ``z (..., k)``, in the dtype of z."""
        params: Tensor = self.decoder(z).to(z.dtype)
        return params

    def reconstruction_mean(self, params: Tensor) -> Tensor:
        """Return E[y | z], ``(..., D)``."""
        return self.observation.mean(params)

    def log_likelihood(self, y: Tensor, observed: Tensor | None, params: Tensor) -> Tensor:
        """Return log p(x | z) summed over the observed elements, ``(...)``, in nats.

        Continuous features count as densities in the data's own units.
        """
        return self._elementwise(y, observed, params).sum(-1)

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
        mu, log_sigma = self.encode(y, observed)
        params = self.decode(posteriors.sample(mu, log_sigma, eps))
        elementwise = self._elementwise(y, observed, params)
        return Terms(
            reconstruction=elementwise.sum(-1).mean(0),
            kl=posteriors.kl(mu, log_sigma),
            per_feature=self.observation.per_feature(elementwise.mean(0)) if per_feature else None,
        )

    def forward(self, y: Tensor, observed: Tensor | None, eps: Tensor) -> Terms:
        """Return ``terms(y, observed, eps)``."""
        return self.terms(y, observed, eps)

    def set_output_bias(self, mean: Tensor) -> None:
        """Start the decoder at the data's mean, ``(D,)`` in standardised units."""
        bias = self.decoder.last.bias
        with torch.no_grad():
            bias.copy_(self.observation.output_bias(mean.to(bias)))

    def _elementwise(self, y: Tensor, observed: Tensor | None, params: Tensor) -> Tensor:
        log_prob = self.observation.log_prob(y, params)
        return log_prob if observed is None else torch.where(observed, log_prob, 0)
