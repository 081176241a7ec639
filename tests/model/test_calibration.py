"""Calibration: under the prior, every class is as frequent as in the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from distvae.model.calibration import calibrate
from distvae.model.categorical import Softmax
from distvae.model.vae import VAE
from tests.model.cell_cases import cell_table


def _with_masses(seed: int = 0) -> VAE:
    """A table whose columns have uneven shares, and weights that know nothing of them."""
    random = np.random.default_rng(seed)
    plain = cell_table()
    features = []
    for spec in plain.features:
        cells = spec.get("cells")
        if cells is not None:
            mass = random.dirichlet(np.full(cells["classes"], 0.7))
            cells = {**cells, "mass": (0.02 + 0.98 * mass).tolist()}
        features.append({**spec, "cells": cells} if cells is not None else dict(spec))
    network = VAE(replace(plain, features=tuple(features)), seed=1)
    with torch.no_grad():
        for weight in network.decoder.parameters():
            weight.mul_(3.0)
    return network


def _classes(network: VAE, z: torch.Tensor) -> dict[str, torch.Tensor]:
    """Probabilities (n, K) of each column's classes."""
    params, found = network.decode(z).double(), {}
    for head, group in zip(network.observation.heads, network.observation.groups, strict=True):
        if isinstance(head, Softmax):
            start = group.outputs.start
            for cells in head.columns:
                found[cells.name] = torch.softmax(params[:, start : start + cells.classes], 1)
                start += cells.classes
    return found


def test_classes_are_as_frequent_as_in_the_data_where_a_value_is_there() -> None:
    network = _with_masses()
    z = torch.from_numpy(np.random.default_rng(2).normal(size=(4096, 3)).astype(np.float32))
    wanted = {
        spec["name"]: np.asarray(spec["cells"]["mass"]) / np.sum(spec["cells"]["mass"])
        for spec in network.architecture.features
        if spec.get("cells") is not None
    }
    before = _classes(network, z)
    calibrate(network, z)
    after = _classes(network, z)
    assert set(after) == set(wanted)
    for name, shares in wanted.items():
        weights = torch.ones(len(z), dtype=torch.float64)
        if name == "city":  # its frequencies count where the companion says that it is present
            weights = after["city is missing"][:, 0]
        found = (weights @ after[name] / weights.sum()).detach().numpy()
        np.testing.assert_allclose(found, shares, atol=2e-3)
        assert np.abs(before[name].mean(0).detach().numpy() - shares).max() > 0.004


def test_only_the_bias_changes_and_numbers_keep_theirs() -> None:
    network = _with_masses()
    before = {name: value.clone() for name, value in network.state_dict().items()}
    calibrate(network, torch.randn(512, 3, generator=torch.Generator().manual_seed(0)))
    changed = [n for n, v in network.state_dict().items() if not torch.equal(v, before[n])]
    assert len(changed) == 1
    assert changed[0].startswith("decoder.")
    assert changed[0].endswith("bias")
    shift = network.state_dict()[changed[0]] - before[changed[0]]
    for head, group in zip(network.observation.heads, network.observation.groups, strict=True):
        if not isinstance(head, Softmax):
            assert not shift[group.outputs].any()


def test_a_conditional_model_stays_as_it_is() -> None:
    network = VAE(cell_table(conditions=("sex",)), seed=1)
    before = {name: value.clone() for name, value in network.state_dict().items()}
    calibrate(network, torch.zeros(8, 3))
    assert all(torch.equal(v, before[n]) for n, v in network.state_dict().items())
