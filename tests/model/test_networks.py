from __future__ import annotations

import math

import numpy as np
import pytest
import torch

from distvae.errors import UsageError
from distvae.model.networks import ACTIVATIONS, MLP

ACTIVATION_FORMULAS = {
    "relu": lambda x: np.maximum(x, 0),
    "leaky_relu": lambda x: np.where(x > 0, x, 0.01 * x),
    "tanh": np.tanh,
    "silu": lambda x: x / (1 + np.exp(-x)),
    "gelu": lambda x: x * 0.5 * np.vectorize(math.erfc)(-x / math.sqrt(2)),
}


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_against_numpy(activation: str) -> None:
    net = MLP(3, [5, 4], 2, activation).double()
    x = np.random.default_rng(0).normal(size=(7, 3))
    weights = [v.detach().numpy() for v in net.state_dict().values()]
    expected = x
    for index in range(3):
        expected = expected @ weights[2 * index].T + weights[2 * index + 1]
        expected = ACTIVATION_FORMULAS[activation](expected) if index < 2 else expected
    np.testing.assert_allclose(net(torch.from_numpy(x)).detach().numpy(), expected, rtol=1e-10)


def test_gradients_are_right_where_the_activation_works_in_place() -> None:
    for activation in ("relu", "leaky_relu"):
        net = MLP(3, [5], 2, activation).double()
        x = torch.randn(4, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
        assert torch.autograd.gradcheck(net, [x.requires_grad_()])


def test_initial_weights_are_a_function_of_seed_and_name_alone() -> None:
    state = torch.get_rng_state()
    nets = [MLP(4, [8], 2, seed=s, name=n) for s, n in [(1, "a"), (1, "a"), (2, "a"), (1, "b")]]
    same, other_seed, other_name = (
        torch.equal(nets[0].last.weight, net.last.weight) for net in nets[1:]
    )
    assert (same, other_seed, other_name) == (True, False, False)
    assert torch.equal(torch.get_rng_state(), state)


def test_signals_keep_their_size_through_many_layers() -> None:
    net = MLP(256, [256] * 8, 256, "relu")
    x = torch.randn(512, 256, generator=torch.Generator().manual_seed(1))
    assert 0.3 < net(x).std().item() < 3


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(UsageError, match="activation: 'swish'; must be one of relu, "):
        MLP(1, [], 1, "swish")
