"""The model card says what was trained, option by option."""

from __future__ import annotations

from typing import Any

import pytest

from distvae.cluster.card import _objective, _table
from distvae.defaults import TrainSettings


@pytest.mark.parametrize(
    ("options", "text"),
    [
        ({}, "trained on the ELBO, analytic KL, KL weight 1"),
        ({"kl": "sampled", "mc_samples": 4}, "ELBO, sampled KL, 4 Monte-Carlo samples, KL weight"),
        ({"kl_warmup": 5, "free_bits": 0.5}, "rising over 5 epochs, 0.5 nats per dimension free"),
        ({"column_weights": "entropy"}, "KL, columns of high entropy weighted less, KL weight 1"),
        (
            {"kl_schedule": "cyclic", "kl_warmup": 5, "kl_cycle": 10},
            "KL weight 1, rising over 5 epochs of every 10",
        ),
        (
            {"objective": "iwae", "importance_samples": 8, "doubly_reparameterized": True},
            "importance-weighted bound of 8 samples, doubly reparameterised gradient, KL weight 1",
        ),
    ],
)
def test_the_objective_in_words(options: dict[str, Any], text: str) -> None:
    is_weighted = options.get("column_weights") == "entropy"
    assert text in _objective(TrainSettings(data=("d",), model="m", **options), is_weighted)


def test_the_table_shows_what_there_is_and_no_null() -> None:
    scored = {"rows": 10, "elbo": -2.5, "kl": None, "log_likelihood": -2.0}
    shown = "\n".join(_table(scored | {"importance_samples": 50}, "vae"))
    assert "| elbo | -2.5 |" in shown and "kl" not in shown
    assert shown.endswith("Nats per row; log-likelihood with 50 importance samples.\n")
    assert "in closed form" in "\n".join(_table(scored, "pca"))
    bare = "\n".join(_table({"rows": 10, "pca_reconstruction_mse": 1.0}, "kernel-pca"))
    assert bare.endswith("| pca_reconstruction_mse (same latent size) | 1 |\n")
    assert list(_table({}, "vae")) == []
