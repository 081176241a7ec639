"""Calibration: under the prior, every class is as frequent as in the data."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import torch

from distvae.model.architecture import Architecture
from distvae.model.calibration import calibrate, can_calibrate
from distvae.model.categorical import Softmax
from distvae.model.vae import VAE
from tests.model.cell_cases import category, cell_table
from tests.model.helpers import block, spec


def _with_masses(plain: Architecture | None = None, seed: int = 0) -> VAE:
    """A table whose columns have uneven shares, and weights that know nothing of them."""
    random = np.random.default_rng(seed)
    plain = plain or cell_table()
    features = []
    for held in plain.features:
        cells = held.get("cells")
        if cells is not None:
            mass = random.dirichlet(np.full(cells["classes"], 0.7))
            cells = {**cells, "mass": (0.02 + 0.98 * mass).tolist()}
        features.append({**held, "cells": cells} if cells is not None else dict(held))
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
        held["name"]: np.asarray(held["cells"]["mass"]) / np.sum(held["cells"]["mass"])
        for held in network.architecture.features
        if held.get("cells") is not None
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
    assert not can_calibrate(network)


def test_numbers_alone_have_nothing_to_shift() -> None:
    plain = Architecture(3, (spec("height", 0, 1),), (block(1),), hidden_dims=(8,))
    assert not can_calibrate(VAE(plain, seed=1))
    assert can_calibrate(_with_masses())


def test_what_a_struct_holds_counts_where_the_struct_is_there() -> None:
    inside = {"column": "home is present", "class": 1}
    plain = Architecture(
        latent_dim=3,
        features=(
            category("home.city", 0, 4, inside=inside),
            category("home is present", 1, 2),
            category("sex", 2, 2),
            category("home.city is missing", 3, 2, companion_of="home.city", inside=inside),
        ),
        blocks=(block(4),),
        hidden_dims=(8,),
    )
    network = _with_masses(plain)
    z = torch.from_numpy(np.random.default_rng(2).normal(size=(9000, 3)).astype(np.float32))
    calibrate(network, z)
    found = _classes(network, z)
    there = found["home is present"][:, 1]
    weights = {
        "home.city": there * found["home.city is missing"][:, 0],
        "home.city is missing": there,
    }
    for feature in network.architecture.features:
        name, mass = feature["name"], np.asarray(feature["cells"]["mass"])
        own = weights.get(name, torch.ones(len(z), dtype=torch.float64))
        shares = (own @ found[name] / own.sum()).detach().numpy()
        np.testing.assert_allclose(shares, mass / mass.sum(), atol=2e-3)
