"""Heads whose spread comes from the decoder train as safely as the one whose spread does not."""

from __future__ import annotations

import dataclasses

import numpy as np
import torch
from torch import Tensor

from distvae.model.architecture import Architecture
from distvae.model.vae import VAE
from tests.model.helpers import block, spec

ROWS, HELD_OUT, WIDTH, K, EPOCHS, BATCH = 512, 512, 6, 4, 40, 64


def table() -> Tensor:
    """Three factors behind six columns, noise 0.3, standardised."""
    generator = np.random.default_rng(0)
    weight = generator.normal(size=(3, WIDTH))
    x = generator.normal(size=(ROWS + HELD_OUT, 3)) @ weight
    x += 0.3 * generator.normal(size=x.shape)
    return torch.from_numpy(x / x.std(0)).float()


def held_out_elbo(likelihood: str, y: Tensor) -> Tensor:
    """Train, and return the ELBO of each held-out row over 32 samples, in nats."""
    features = tuple(spec(f"c{i}", i, i + 1) for i in range(WIDTH))
    heads = {f"c{i}": likelihood for i in range(WIDTH)}
    model = VAE.from_architecture(
        Architecture(K, features, (block(WIDTH),), (32,), likelihoods=heads), 0
    )
    model.set_output_bias(y[:ROWS].mean(0))
    adam = torch.optim.Adam(model.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(0)
    for _ in range(EPOCHS):
        for rows in torch.randperm(ROWS, generator=generator).split(BATCH):
            terms = model.terms(y[rows], None, torch.randn(1, len(rows), K, generator=generator))
            loss = -(terms.reconstruction - terms.kl.sum(-1)).mean()
            adam.zero_grad()
            loss.backward()
            adam.step()
    with torch.no_grad():
        terms = model.terms(y[ROWS:], None, torch.randn(32, HELD_OUT, K, generator=generator))
    return terms.reconstruction - terms.kl.sum(-1)


def test_a_spread_from_the_decoder_is_no_worse_than_a_learned_one() -> None:
    """With room of e^10 for sigma(z), and a random start, gaussian-row came to -2e7 here."""
    y = table()
    plain = held_out_elbo("gaussian", y)
    for likelihood in ("gaussian-row", "gaussian-low-rank", "gaussian-full"):
        found = held_out_elbo(likelihood, y)
        assert found.mean() > plain.mean() - 0.2, likelihood
        assert found.min() > min(5 * plain.min().item(), -100.0), likelihood


def test_covariances_start_alike_for_all_rows_and_means_do_not() -> None:
    features = (spec("a", 0, 4), spec("b", 4, 8), spec("c", 8, 12))
    heads = {"a": "gaussian-row", "b": "gaussian-row", "c": "gaussian-full"}
    for images in ({}, {"a": (2, 2, 1)}):
        architecture = Architecture(K, features, (block(12),), (8,), likelihoods=heads)
        model = VAE(dataclasses.replace(architecture, images=images), 0)
        params = model.decode(torch.randn(5, K, generator=torch.Generator().manual_seed(1)))
        moves = (params - params[:1]).abs().max(0).values > 0
        assert torch.equal(moves, model.observation.output_gain() > 0)
        assert int(moves.sum()) == 12
