"""The variational autoencoder: encoder, posterior, latent, decoder, one likelihood per feature.

Kingma & Welling 2014, "Auto-Encoding Variational Bayes". The deterministic autoencoder is the same
networks with a point for a posterior. Shapes as in ``latent``.
"""

from __future__ import annotations

import torch
from torch import Tensor

from distvae.model import posteriors
from distvae.model.architecture import Architecture, FeatureSpec, coding_of
from distvae.model.latent import LatentModel, Terms
from distvae.model.mixed import MixedDecoder, MixedEncoder
from distvae.model.networks import MLP
from distvae.model.posteriors import Posterior
from distvae.model.table_input import (
    TableEncoder,
    TableInput,
    flagged_elements,
    needs_table_input,
)

__all__ = ["VAE", "Architecture", "Terms"]


_WIDEST_CONTEXT = 64


class VAE(LatentModel):
    """A variational autoencoder over standardised elements.

    Args:
        architecture: what to build.
        seed: seed of the initial weights; None leaves them unset, to be loaded.
    """

    flag_columns: Tensor

    def __init__(self, architecture: Architecture, seed: int | None = 0) -> None:
        super().__init__(architecture)
        flagged = flagged_elements(architecture.features)
        self.register_buffer("flag_columns", torch.tensor(flagged, dtype=torch.long), False)
        self.raw_width = posteriors.raw_width(architecture.posterior, architecture.latent_dim)
        self.encoder: MLP | MixedEncoder | TableEncoder | None = None
        if architecture.inference != "per-row":
            self.encoder = self._make_encoder(seed)
        self.conditioner: TableInput | None = self._make_conditioner(seed)
        self.decoder: MLP | MixedDecoder = self._make_decoder(seed)
        if seed is not None:
            self.decoder.scale_output_weight(self.observation.output_gain())

    def _make_encoder(self, seed: int | None) -> MLP | MixedEncoder | TableEncoder:
        architecture = self.architecture
        if architecture.images:
            return MixedEncoder(architecture, self.flag_columns.tolist(), self.raw_width, seed)
        if needs_table_input(architecture.features):
            return TableEncoder(architecture, self.raw_width, seed)
        inputs = architecture.width + len(self.flag_columns)
        hidden, activation = architecture.hidden_dims, architecture.activation
        return MLP(inputs, hidden, self.raw_width, activation, seed=seed, name="encoder")

    def _make_conditioner(self, seed: int | None) -> TableInput | None:
        features = self.architecture.given
        if not features:
            return None
        width = min(_WIDEST_CONTEXT, sum(_inputs_of(spec) for spec in features))
        return TableInput(self.architecture, features, width, seed=seed, name="conditioner")

    def _make_decoder(self, seed: int | None) -> MLP | MixedDecoder:
        architecture = self.architecture
        inputs = architecture.latent_dim
        if self.conditioner is not None:
            inputs += len(self.conditioner.bias)
        if architecture.images:
            return MixedDecoder(architecture, self.observation, seed, inputs=inputs)
        hidden = architecture.decoder_widths
        outputs, activation = self.observation.outputs, architecture.activation
        return MLP(inputs, hidden, outputs, activation, seed=seed, name="decoder")

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

        The encoder reads y and, for features that had missing values in training and no companion
        that tells, one flag per element: 1 observed, 0 missing. Without an encoder (inference per
        row) zeros: the prior.
        """
        if self.encoder is None:
            return y.new_zeros(len(y), self.raw_width)
        if isinstance(self.encoder, TableEncoder):
            raw: Tensor = self.encoder(y, observed).to(y.dtype)
            return raw
        inputs = y
        if len(self.flag_columns):
            if observed is None:
                flags = y.new_ones(len(y), len(self.flag_columns))
            else:
                flags = observed[:, self.flag_columns].to(y.dtype)
            inputs = torch.cat([y, flags], dim=1)
        if isinstance(self.encoder, MixedEncoder):
            raw = self.encoder(inputs, observed).to(y.dtype)
        else:
            raw = self.encoder(inputs).to(y.dtype)
        return raw

    def posterior(self, raw: Tensor) -> Posterior:
        """Return the posterior that raw numbers ``(..., P)`` stand for."""
        return posteriors.split(self.architecture.posterior, raw, self.architecture.latent_dim)

    def encode(self, y: Tensor, observed: Tensor | None = None) -> Posterior:
        """Return the encoder's q(z|x)."""
        return self.posterior(self.encode_raw(y, observed))

    def context(self, y: Tensor, observed: Tensor | None = None) -> Tensor | None:
        """Return what the decoder is told of the conditions, ``(n, c)``; None without conditions.

        An affine map of them, c <= 64, that is learned with the rest.
        """
        if self.conditioner is None:
            return None
        told: Tensor = self.conditioner(y, observed).to(y.dtype)
        return told

    def decode(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return the heads' parameters ``(..., P)`` for ``z (..., k)``, in the dtype of z.

        Raises:
            ValueError: the model has conditions and there is no context.
        """
        params: Tensor = self.decoder(self._decoder_input(z, context)).to(z.dtype)
        return params

    def decode_to_draw(self, z: Tensor, context: Tensor | None = None) -> Tensor:
        """Return ``decode(z, context)`` for ``z (n, k)``, column by column in memory."""
        if not isinstance(self.decoder, MLP):
            return self.decode(z, context)
        return self.decoder.by_column(self._decoder_input(z, context)).to(z.dtype)

    def _decoder_input(self, z: Tensor, context: Tensor | None) -> Tensor:
        if self.conditioner is None:
            return z
        if context is None:
            raise ValueError("decode: a model with conditions needs their context beside z")
        return torch.cat([z, context.to(z).expand(*z.shape[:-1], context.shape[-1])], dim=-1)

    def raw_error(self, params: Tensor, y: Tensor) -> Tensor:
        """Return E[x | z] - x in raw units ``(..., D)`` float64, 0 where not ``measured``."""
        return self.observation.raw_error(params, y)

    def set_output_bias(self, mean: Tensor) -> None:
        """Start the decoder at the data's mean, ``(D,)`` in standardised units."""
        self.decoder.set_output_bias(self.observation.output_bias(mean))


def _inputs_of(spec: FeatureSpec) -> int:
    if coding_of(spec) == "cells":
        return int(spec["cells"]["classes"])
    return int(spec["stop"] - spec["start"])
