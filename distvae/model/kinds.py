"""From an architecture to a model of its kind."""

from __future__ import annotations

from distvae.model.architecture import Architecture
from distvae.model.latent import LatentModel
from distvae.model.vae import VAE

__all__ = ["make_model"]


def make_model(architecture: Architecture, seed: int | None = 0) -> LatentModel:
    """Build a model; weights are a function of (architecture, seed), unset where seed is None."""
    if architecture.kind == "pca":
        from distvae.model.principal import PcaModel

        return PcaModel(architecture)
    if architecture.kind == "kernel-pca":
        from distvae.model.kernel import KernelPcaModel

        return KernelPcaModel(architecture)
    return VAE(architecture, seed)
