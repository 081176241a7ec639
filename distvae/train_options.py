"""Options of ``distvae train``."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BeforeValidator, Field, model_validator

from distvae.options import JobConfig, Names, Numbers, need, no_empty, pairs
from distvae.rules import refuse_contradictions

__all__ = ["TrainConfig"]


class TrainConfig(JobConfig):
    """Fits the column codec, trains a VAE data-parallel and writes the model directory."""

    data: Names = Field((), description="Parquet files, folders, globs, URIs or @list.txt.")
    model: str = Field("", description="Model directory to write (path or URI).")
    kind: Literal["vae", "autoencoder", "pca", "kernel-pca"] = Field(
        "vae",
        description="Model family: autoencoder is deterministic, pca and kernel-pca are fitted in "
        "closed form.",
    )
    latent_dim: int = Field(16, ge=1, le=65536, description="Latent dimensions.")
    hidden_dims: Numbers | None = Field(
        None,
        description="Widths of the encoder's hidden layers, as 512,512, or none (a linear model). "
        "Default: 512,512; tables of scalar columns: 256,256, and 256,128 in the decoder.",
    )
    decoder_dims: Numbers | None = Field(
        None,
        description="Widths of the decoder's hidden layers (default: the encoder's, mirrored).",
    )
    activation: Literal["relu", "tanh", "silu", "gelu", "leaky_relu"] = Field(
        "relu", description="Activation of the hidden layers."
    )
    posterior: Literal["isotropic", "diagonal", "full"] = Field(
        "diagonal", description="Covariance of q(z|x): sigma^2 I, diagonal, or full (Cholesky)."
    )
    prior: Literal["auto", "normal", "gaussian", "mixture", "flow"] = Field(
        "auto",
        description="What synthetic codes are drawn from: N(0, I); or a gaussian, a mixture of "
        "Gaussians or a normalizing flow fitted to the codes after training. Default: mixture for "
        "tables and autoencoders, else normal.",
    )
    prior_components: int | None = Field(
        None,
        ge=1,
        le=1024,
        description="Components of the mixture (default: 128; autoencoder: 16).",
    )
    prior_spread: float | None = Field(
        None,
        ge=0,
        le=1,
        description="What a fitted prior takes of the posteriors' spread: 1 fits it to samples of "
        "q(z|x), which has the best ELBO, 0 to their means. Default: 0.7 for tables, else 1.",
    )
    likelihood: Annotated[dict[str, str], BeforeValidator(pairs)] = Field(
        {},
        description="COLUMN=HEAD (or *=HEAD for all): gaussian (one learned sigma per element), "
        "gaussian-feature (one per column), gaussian-row (sigma per row), gaussian-fixed[:SIGMA], "
        "gaussian-full and gaussian-low-rank[:R] (a covariance per row, up to 64 elements), "
        "bernoulli (values in [0, 1], or uint8), histogram (quantile classes, exact densities), "
        "categorical, negative-binomial, zero-inflated-negative-binomial. Default by role: scalar "
        "numbers and dates histogram, categories categorical, vectors gaussian; autoencoder: "
        "gaussian-fixed for numbers.",
    )
    binarize: Literal["none", "dynamic"] = Field(
        "none", description="dynamic: draw fresh 0/1 values from Bernoulli columns at each step."
    )
    objective: Literal["elbo", "iwae"] = Field(
        "elbo", description="What is maximised: the ELBO or the importance-weighted bound."
    )
    importance_samples: int = Field(
        1, ge=1, le=10_000, description="Samples k inside the importance-weighted bound."
    )
    doubly_reparameterized: bool = Field(
        False, description="Use the doubly reparameterised gradient (iwae): less noise for large k."
    )
    mc_samples: int = Field(
        1, ge=1, le=10_000, description="Monte-Carlo samples of z (or of the bound) per row."
    )
    kl: Literal["analytic", "sampled"] = Field(
        "analytic", description="KL term in closed form, or from the samples of z."
    )
    kl_weight: float | None = Field(
        None, ge=0, description="Weight of the KL term, lambda (default: 1; tables: 0.35)."
    )
    kl_schedule: Literal["linear", "cyclic"] = Field(
        "linear", description="The KL weight's rise: once, or anew in every cycle."
    )
    kl_warmup: float | None = Field(
        None,
        ge=0,
        description="Epochs over which the KL weight rises linearly from 0 (default: 0; tables: a "
        "fifth of all).",
    )
    kl_cycle: float = Field(
        0.0, ge=0, description="Epochs per cycle of --kl-schedule cyclic, of which kl-warmup rise."
    )
    column_weights: Literal["auto", "equal", "entropy"] = Field(
        "auto",
        description="Weight of columns in the loss: equal, or those with classes of high entropy "
        "less (auto: entropy for tables).",
    )
    free_bits: float = Field(
        0.0, ge=0, description="Nats of KL per row and dimension that cost nothing."
    )
    inference: Literal["amortised", "per-row", "semi-amortised"] = Field(
        "amortised",
        description="How training finds q(z|x): by the encoder, by gradient steps on every row's "
        "own posterior (no encoder), or by steps that start at the encoder's answer.",
    )
    inference_steps: int = Field(
        5, ge=1, le=1000, description="Gradient steps per row and visit, unless amortised."
    )
    inference_rate: float | None = Field(
        None,
        gt=0,
        description="Size of those steps and of embed --refine (default: 0.03 from the encoder's "
        "answer, 0.1 per row).",
    )
    image: Names = Field(
        (),
        description="Vector column that is a picture, as COL (square), COL=28x28 or COL=32x32x3: "
        "its networks are convolutional.",
    )
    channels: Numbers = Field(
        (32, 64), description="Feature maps per convolutional stage; each halves the sides."
    )
    kernel: Literal["rbf"] = Field("rbf", description="Kernel of kernel-pca.")
    kernel_gamma: float = Field(
        0.0, ge=0, description="Kernel exp(-gamma |y - y'|^2), y standardised (0: 1 / elements)."
    )
    landmarks: int = Field(
        512, ge=1, le=8192, description="Rows that span kernel-pca's features (Nystroem)."
    )
    epochs: int | None = Field(
        None,
        ge=1,
        description="Passes over the training rows (default: 20; tables: as many as make about "
        "2,000 steps, 3 to 300).",
    )
    max_steps: int | None = Field(None, ge=1, description="Stop after this many optimiser steps.")
    batch_size: int | None = Field(
        None,
        ge=1,
        description="Rows per step over all workers together (default: 512; tables: 64 to 1,024).",
    )
    learning_rate: float | None = Field(
        None, gt=0, description="Adam's step size (default: 0.001; tables: up to 0.004)."
    )
    learning_rate_schedule: Literal["auto", "constant", "cosine"] = Field(
        "auto",
        description="cosine: fall to 0 over the epochs along half a cosine (auto: for tables).",
    )
    validation_fraction: float = Field(
        0.05, ge=0, lt=1, description="Share of rows held out of training."
    )
    patience: int = Field(
        0,
        ge=0,
        description="Stop after this many epochs without a better validation loss (0: never).",
    )
    include: Names = Field(
        (), description="Columns to use (default: all but identifiers and free text)."
    )
    exclude: Names = Field((), description="Columns to leave out.")
    role: Annotated[dict[str, str], BeforeValidator(pairs)] = Field(
        {},
        description="COLUMN=ROLE where the inferred one is wrong: continuous, count, boolean, "
        "categorical, datetime or skip. A part of a struct is STRUCT.PART.",
    )
    condition_on: Names = Field(
        (), description="Columns that are given, not modelled: trains p(x | these columns)."
    )
    on_infinite: Literal["error", "clip"] = Field(
        "error", description="An infinite number: an error, or taken as the largest (clip)."
    )
    where: str | None = Field(
        None, description="Use only rows that fit, such as \"age >= 18 and country == 'NL'\"."
    )
    sample_rows: float = Field(
        1.0, gt=0, le=1, description="Share of the rows to train on, drawn by the seed."
    )
    checkpoint_seconds: float = Field(60.0, gt=0, description="Seconds between checkpoints.")
    fragment_rows: int = Field(
        262_144, ge=1, description="Rows per unit of reading, cut at row groups."
    )
    resume: bool = Field(False, description="Go on with a broken-off training of the same options.")
    overwrite: bool = Field(
        False, description="Replace an existing model directory once the new one is whole."
    )

    @property
    def rate_of_inference(self) -> float:
        """The size of the steps on rows' own posteriors, its default resolved."""
        return self.inference_rate or (0.1 if self.inference == "per-row" else 0.03)

    @model_validator(mode="after")
    def _rules(self) -> TrainConfig:
        need(self, "data", "model")
        no_empty("likelihood", [k for k, v in self.likelihood.items() if not k or not v])
        no_empty("role", [k for k, v in self.role.items() if not k or not v])
        if self.resume and self.overwrite:
            raise ValueError("resume: cannot be combined with overwrite; give one of the two")
        if type(self) is TrainConfig:  # defaults written out contradict nothing that was given
            refuse_contradictions(self)
        return self
