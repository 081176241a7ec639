from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from torch import Tensor

from distvae.errors import UsageError
from distvae.model.architecture import Architecture
from distvae.model.likelihoods import elements_of, make_head
from distvae.model.observation import Observation
from tests.model.helpers import block, spec

HEADS = {
    "a": "gaussian-full",
    "b": "gaussian-row",
    "c": "gaussian-full",
    "first": "gaussian-row",
    "second": "gaussian-row",
    "d": "gaussian-low-rank:2",
}


def mixed() -> Architecture:
    """Two joint heads, one of them over features that do not touch, and two pictures."""
    return Architecture(
        latent_dim=2,
        features=(
            spec("a", 0, 1, has_missing=True),
            spec("b", 1, 2, has_missing=True),
            spec("c", 2, 4, scale=3.0, has_missing=True),
            spec("first", 4, 8),
            spec("second", 8, 12),
            spec("d", 12, 15, has_missing=True),
            spec("e", 15, 16),
        ),
        blocks=(block(16),),
        likelihoods=HEADS,
        images={"first": (2, 2, 1), "second": (2, 2, 1)},
    )


def noise(*shape: int) -> Tensor:
    return torch.from_numpy(np.random.default_rng(len(shape)).normal(size=shape)).float()


def test_groups_say_who_takes_which_outputs() -> None:
    """One per head, and one per feature with a shape: full 3*2 + 3, row 2w, low-rank (2 + 2) w."""
    observation = Observation(mixed())
    assert observation.groups == [
        (("a", "c"), slice(0, 9), None),
        (("b",), slice(9, 11), 2),
        (("first",), slice(11, 19), 2),
        (("second",), slice(19, 27), 2),
        (("d",), slice(27, 39), 4),
        (("e",), slice(39, 40), 1),
    ]
    assert observation.outputs == 40
    assert observation.groups[0].features == ("a", "c")
    assert observation.output_bias(torch.zeros(16)).shape == (40,)


def test_the_outputs_of_a_group_reach_its_features_alone() -> None:
    observation = Observation(mixed())
    params = noise(5, 40).requires_grad_()
    feature_of = {spec["name"]: slice(spec["start"], spec["stop"]) for spec in mixed().features}
    log_prob = observation.log_prob(noise(5, 16), params)
    for names, outputs, _ in observation.groups:
        total = sum(log_prob[:, feature_of[name]].sum() for name in names)
        (gradient,) = torch.autograd.grad(total, params, retain_graph=True)
        inside = torch.zeros(40, dtype=torch.bool)
        inside[outputs] = True
        assert (gradient[:, ~inside] == 0).all()
        assert (gradient[:, inside] != 0).any(0).all()


def test_joint_heads_are_told_what_is_observed_and_the_rest_is_zero() -> None:
    architecture = mixed()
    observation = Observation(architecture)
    y, params = noise(6, 16), noise(2, 6, 40)
    observed = torch.from_numpy(np.random.default_rng(0).uniform(size=(6, 16)) < 0.6)
    found = observation.log_prob(y, params, observed)
    assert found.shape == (2, 6, 16)
    assert (found[:, ~observed] == 0).all()
    specs = {spec["name"]: spec for spec in architecture.features}
    for names, outputs, _ in observation.groups:
        members = tuple(specs[name] for name in names)
        columns = [e for s in members for e in range(s["start"], s["stop"])]
        seen = observed[:, columns]
        head = make_head(architecture.likelihood(names[0]), elements_of(members))
        own = head.log_prob(y[:, columns], params[..., outputs], seen)
        torch.testing.assert_close(found[..., columns], torch.where(seen, own, 0))
    everything = torch.ones(6, 16, dtype=torch.bool)
    assert torch.equal(observation.log_prob(y, params, everything), observation.log_prob(y, params))
    # Ignoring the holes would give another sum: the elements of c depend on each other.
    naive = torch.where(observed, observation.log_prob(y, params), 0)
    assert not torch.allclose(naive, found)


def test_draws_and_means_stand_in_feature_order() -> None:
    observation = Observation(mixed())
    bias = observation.output_bias(torch.arange(16.0))
    torch.testing.assert_close(observation.mean(bias[None])[0], torch.arange(16.0))
    drawn = observation.sample(bias, torch.zeros(1, 16))
    torch.testing.assert_close(drawn[0], torch.arange(16.0))


def test_an_image_has_a_covariance_of_its_own() -> None:
    features = (spec("first", 0, 40), spec("second", 40, 80))
    heads = {"first": "gaussian-full", "second": "gaussian-full"}
    flat = Architecture(2, features, (block(80),), likelihoods=heads)
    with pytest.raises(UsageError, match=r"'gaussian-full' over 80 elements \(first, second\)"):
        Observation(flat)
    shapes = {"first": (5, 8, 1), "second": (5, 8, 1)}
    groups = Observation(dataclasses.replace(flat, images=shapes)).groups
    assert [group.features for group in groups] == [("first",), ("second",)]
