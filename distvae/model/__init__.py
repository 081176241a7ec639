"""The model floor: torch and NumPy, plain arrays in and out, no engine and no Arrow."""

from __future__ import annotations

from distvae.model.architecture import Architecture, FeatureSpec
from distvae.model.estimators import active_units, log_likelihood, row_noise, squared_error
from distvae.model.files import ModelFiles, build, pack, unpack
from distvae.model.inference import ROWS_PER_BLOCK, as_tensor, decode_rows, encode_rows
from distvae.model.linear import Pca, fit_pca
from distvae.model.objectives import elbo, kl_weight_at
from distvae.model.vae import VAE, Terms

__all__ = [
    "ROWS_PER_BLOCK",
    "VAE",
    "Architecture",
    "FeatureSpec",
    "ModelFiles",
    "Pca",
    "Terms",
    "active_units",
    "as_tensor",
    "build",
    "decode_rows",
    "elbo",
    "encode_rows",
    "fit_pca",
    "kl_weight_at",
    "log_likelihood",
    "pack",
    "row_noise",
    "squared_error",
    "unpack",
]
