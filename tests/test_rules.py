"""Options of training that contradict each other end in one line."""

from __future__ import annotations

from typing import Any

import pytest

from distvae.config import TrainConfig, build
from distvae.errors import UsageError

CASES: list[tuple[dict[str, Any], str]] = [
    ({"kind": "pca", "posterior": "full"}, "posterior: got full; kind pca has no such choice"),
    ({"kind": "pca", "likelihood": {"a": "bernoulli"}}, "likelihood: got .*; kind pca has no such"),
    ({"kind": "pca", "image": "a"}, "image: got .*; kind pca has no such choice; leave it out"),
    ({"kind": "pca", "inference": "per-row"}, "inference: got per-row; kind pca has no such"),
    ({"kind": "kernel-pca", "objective": "iwae"}, "objective: got iwae; kind kernel-pca has no"),
    ({"kind": "kernel-pca", "binarize": "dynamic"}, "binarize: got dynamic; kind kernel-pca"),
    ({"kind": "autoencoder", "kl_weight": 0.5}, "kl_weight: got 0.5; kind autoencoder has no such"),
    ({"kind": "autoencoder", "free_bits": 0.5}, "free_bits: got 0.5; kind autoencoder has no such"),
    ({"kind": "autoencoder", "prior": "normal"}, "prior: got normal; an autoencoder has no prior"),
    (
        {"kind": "pca", "prior": "flow"},
        "prior: got flow; kind pca has a prior of its own; use --kind vae, or leave it out",
    ),
    (
        {"kind": "pca", "condition_on": "a"},
        r"condition_on: got \('a',\); needs kind vae; leave out --kind",
    ),
    ({"importance_samples": 5}, "importance_samples: got 5; belongs to objective iwae; add --obj"),
    ({"doubly_reparameterized": True}, "doubly_reparameterized: got True; belongs to objective"),
    (
        {"objective": "iwae", "inference": "per-row"},
        "inference: got per-row; needs objective elbo; leave out --objective iwae",
    ),
    ({"objective": "iwae", "kl": "sampled"}, "kl: got sampled; objective iwae has no KL term"),
    (
        {"objective": "iwae", "column_weights": "entropy"},
        "column_weights: got entropy; needs objective elbo; leave it out",
    ),
    ({"objective": "iwae", "free_bits": 1.0}, "free_bits: got 1.0; needs the KL of each dim"),
    ({"kl": "sampled", "free_bits": 1.0}, "free_bits: got 1.0; needs the KL of each dimension"),
    ({"kl_schedule": "cyclic"}, "kl_schedule: got cyclic; needs 0 < kl_warmup <= kl_cycle; add"),
    (
        {"kl_schedule": "cyclic", "kl_warmup": 3, "kl_cycle": 2},
        "kl_schedule: got cyclic; needs 0 < kl_warmup <= kl_cycle",
    ),
    ({"kl_cycle": 3}, "kl_cycle: got 3.0; belongs to a cyclic schedule; add --kl-schedule cyclic"),
    (
        {"posterior": "full", "latent_dim": 2000},
        r"latent_dim: got 2000; a full posterior has k \(k \+ 3\) / 2 numbers per row: at m",
    ),
    (
        {"objective": "iwae", "importance_samples": 1000, "mc_samples": 20},
        "mc_samples: got 20; with importance_samples they make 20,000 samples a row: at",
    ),
    ({"kind": "autoencoder", "latent_dim": 5000}, "latent_dim: got 5000; a prior fitted to the"),
    ({"channels": "8"}, r"channels: got \(8,\); belongs to a picture; add --image COL"),
    ({"landmarks": 9}, "landmarks: got 9; belongs to kernel-pca; leave it out"),
    ({"kernel_gamma": 0.5}, "kernel_gamma: got 0.5; belongs to kernel-pca; leave it out"),
    (
        {"prior": "flow", "prior_components": 3},
        "prior_components: got 3; belongs to a mixture fitted to the codes; leave it out",
    ),
    (
        {"prior": "normal", "prior_spread": 0.5},
        "prior_spread: got 0.5; belongs to a prior fitted to the codes of a vae; leave it out",
    ),
    ({"prior_spread": 1.5}, "prior_spread: got 1.5; must be less than or equal to 1"),
    ({"prior": "flow", "latent_dim": 5000}, "latent_dim: got 5000; a prior fitted to the codes"),
    ({"inference_steps": 3}, "inference_steps: got 3; belongs to another inference than amortised"),
    ({"posterior": "flow"}, "posterior: got 'flow'; must be 'isotropic', 'diagonal' or 'full'"),
    ({"importance_samples": 0}, "importance_samples: got 0; must be greater than or equal to 1"),
    ({"channels": "none", "image": "a"}, r"channels: got \(\); a picture needs at least one stage"),
    ({"channels": "32,0"}, "channels.1: got '0'; must be greater than or equal to 1"),
]


@pytest.mark.parametrize(("changes", "message"), CASES)
def test_contradictions_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        build(TrainConfig, {"data": ["x.parquet"], "model": "m", **changes})


@pytest.mark.parametrize(
    "changes",
    [
        {"kind": "autoencoder"},
        {"kind": "autoencoder", "prior": "gaussian", "likelihood": {"a": "bernoulli"}},
        {"prior": "mixture", "prior_components": 3, "condition_on": "a,b"},
        {"prior_components": 3},
        {"prior": "flow", "prior_spread": 0.0},
        {"kind": "pca", "latent_dim": 3},
        {"kind": "kernel-pca", "kernel_gamma": 0.1, "landmarks": 9},
        {"objective": "iwae", "importance_samples": 5, "doubly_reparameterized": True},
        {"kl_schedule": "cyclic", "kl_warmup": 1.5, "kl_cycle": 3, "free_bits": 0.1},
        {"inference": "semi-amortised", "posterior": "full", "kl": "sampled"},
        {"image": "a=28x28", "channels": "8,16"},
        {"image": {"a": "28x28"}},
    ],
)
def test_what_goes_together_passes(changes: dict[str, Any]) -> None:
    build(TrainConfig, {"data": ["x.parquet"], "model": "m", **changes})
