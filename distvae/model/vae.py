"""The variational autoencoder: encoder, posterior, latent, decoder, one likelihood per feature.

Kingma & Welling 2014, "Auto-Encoding Variational Bayes". The deterministic autoencoder is the same
networks with a point for a posterior. Shapes as in ``latent``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distvae.model import posteriors
from distvae.model.architecture import Architecture
from distvae.model.latent import LatentModel, Terms
from distvae.model.mixed import MixedDecoder, MixedEncoder
from distvae.model.networks import MLP
from distvae.model.posteriors import Posterior

__all__ = ["VAE", "Architecture", "Terms"]


class VAE(LatentModel):
    """A variational autoencoder over standardised elements.

    Args:
        architecture: what to build.
        seed: seed of the initial weights; None leaves them unset, to be loaded.
    """

    flag_columns: Tensor

    def __init__(self, architecture: Architecture, seed: int | None = 0) -> None:
        super().__init__(architecture)
        flagged = [
            element
            for spec in architecture.features
            if spec["has_missing"]
            for element in range(spec["start"], spec["stop"])
        ]
        self.register_buffer("flag_columns", torch.tensor(flagged, dtype=torch.long), False)
        self.raw_width = posteriors.raw_width(architecture.posterior, architecture.latent_dim)
        self.encoder: MLP | MixedEncoder | None = None
        if architecture.inference != "per-row":
            self.encoder = self._make_encoder(seed)
        self.decoder: MLP | MixedDecoder = self._make_decoder(seed)
        if seed is not None:
            self.decoder.scale_output_weight(self.observation.output_gain())

    def _make_encoder(self, seed: int | None) -> MLP | MixedEncoder:
        architecture = self.architecture
        if architecture.images:
            return MixedEncoder(architecture, self.flag_columns.tolist(), self.raw_width, seed)
        inputs = architecture.width + len(self.flag_columns)
        hidden, activation = architecture.hidden_dims, architecture.activation
        return MLP(inputs, hidden, self.raw_width, activation, seed=seed, name="encoder")

    def _make_decoder(self, seed: int | None) -> MLP | MixedDecoder:
        architecture = self.architecture
        if architecture.images:
            return MixedDecoder(architecture, self.observation, seed)
        k, hidden = architecture.latent_dim, architecture.hidden_dims[::-1]
        outputs, activation = self.observation.outputs, architecture.activation
        return MLP(k, hidden, outputs, activation, seed=seed, name="decoder")

    @classmethod
    def from_architecture(cls, architecture: Architecture, seed: int | None = 0) -> VAE:
        """Build a model with fresh weights, a function of (architecture, seed) alone."""
        return cls(architecture, seed)

    @property
    def has_sigma(self) -> bool:  # type: ignore[override]
        """Whether a code has a spread: not where the posterior is a point."""
        return self.architecture.posterior != "point"

    @property
    def has_likelihood(self) -> bool:  # type: ignore[override]
        """Whether there is a density p(x): not without a prior on the codes."""
        return self.architecture.posterior != "point"

    def encode_raw(self, y: Tensor, observed: Tensor | None = None) -> Tensor:
        """Return the encoder's raw numbers ``(n, P)``, in the dtype of y; see ``posteriors.split``.

        The encoder reads y and, for features that had missing values in training, one flag per
        element: 1 observed, 0 missing. Without an encoder (inference per row) zeros: the prior.
        """
        if self.encoder is None:
            return y.new_zeros(len(y), self.raw_width)
        inputs = y
        if len(self.flag_columns):
            if observed is None:
                flags = y.new_ones(len(y), len(self.flag_columns))
            else:
                flags = observed[:, self.flag_columns].to(y.dtype)
            inputs = torch.cat([y, flags], dim=1)
        raw: Tensor = self.encoder(inputs).to(y.dtype)
        return raw

    def posterior(self, raw: Tensor) -> Posterior:
        """Return the posterior that raw numbers ``(..., P)`` stand for."""
        return posteriors.split(self.architecture.posterior, raw, self.architecture.latent_dim)

    def encode(self, y: Tensor, observed: Tensor | None = None) -> Posterior:
        """Return the encoder's q(z|x)."""
        return self.posterior(self.encode_raw(y, observed))

    def decode(self, z: Tensor) -> Tensor:
        """Return the heads' parameters ``(..., P)`` for ``z (..., k)``, in the dtype of z."""
        params: Tensor = self.decoder(z).to(z.dtype)
        return params

    def set_output_bias(self, mean: Tensor) -> None:
        """Start the decoder at the data's mean, ``(D,)`` in standardised units."""
        self.decoder.set_output_bias(self.observation.output_bias(mean))
