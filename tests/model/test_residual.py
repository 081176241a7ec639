from __future__ import annotations

import pytest
import torch
from torch import Tensor, nn
from torch.nn import functional

from distvae.errors import UsageError
from distvae.model.networks import ACTIVATIONS
from distvae.model.residual import Doubling, Halving, ResidualBlock, fill, hidden_std


def maps(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("activation", list(ACTIVATIONS))
def test_a_block_starts_as_the_identity_and_leaves_its_input_alone(activation: str) -> None:
    x = maps(2, 8, 5, 6)
    before = x.clone()
    block = ResidualBlock(8, activation)
    assert torch.equal(block(x), x)
    assert torch.equal(x, before)
    block(x).square().sum().backward()
    assert block.second.weight.grad is not None and block.second.weight.grad.abs().max() > 0


@pytest.mark.parametrize("sides", [(4, 4), (5, 7), (1, 2)])
def test_halving_rounds_up_and_doubling_undoes_it(sides: tuple[int, int]) -> None:
    x = maps(3, 4, *sides)
    small = Halving(4, 6, "relu", 0, "h")(x.clone())
    assert small.shape == (3, 6, -(-sides[0] // 2), -(-sides[1] // 2))
    assert Doubling((6, 4), sides, "relu", 0, "d")(small).shape == x.shape


@pytest.mark.parametrize("sides", [(6, 8), (5, 7)])
def test_doubling_holds_a_convolution_after_nearest_neighbours(sides: tuple[int, int]) -> None:
    stage = Doubling((3, 2), sides, "relu", 0, "d").double()
    kernel = maps(2, 3, 3, 3).double()
    # Each tap of the 3 x 3 kernel falls on a square of 2 x 2 equal pixels.
    spread = functional.conv_transpose2d(
        kernel.reshape(6, 1, 3, 3), torch.ones(1, 1, 2, 2).double()
    )
    with torch.no_grad():
        stage.conv.weight.copy_(spread.reshape(2, 3, 4, 4).transpose(0, 1).flip(2, 3))
    x = maps(4, 3, 3, 4).double().abs()
    doubled = x.repeat_interleave(2, 2).repeat_interleave(2, 3)
    expected = functional.conv2d(doubled, kernel, padding=1)[..., : sides[0], : sides[1]]
    torch.testing.assert_close(stage(x), expected)


@pytest.mark.parametrize(
    "layer", [nn.Linear(64, 64), nn.Conv2d(8, 8, 3), nn.ConvTranspose2d(8, 8, 4, 2, 1)]
)
def test_a_rectifier_and_its_layer_keep_the_second_moment(layer: nn.Module) -> None:
    assert isinstance(layer, nn.Linear | nn.Conv2d | nn.ConvTranspose2d)
    fill(layer, hidden_std(layer, "relu"), 0, "l")
    x = maps(64, 64) if isinstance(layer, nn.Linear) else maps(32, 8, 32, 32)
    assert layer(x.relu()).square().mean().item() == pytest.approx(1, rel=0.25)


def test_weights_are_a_function_of_seed_and_name_alone() -> None:
    state = torch.get_rng_state()
    blocks = [ResidualBlock(4, seed=s, name=n) for s, n in [(1, "a"), (1, "a"), (2, "a"), (1, "b")]]
    same, other_seed, other_name = (
        torch.equal(blocks[0].first.weight, block.first.weight) for block in blocks[1:]
    )
    assert (same, other_seed, other_name) == (True, False, False)
    assert torch.equal(torch.get_rng_state(), state)


def test_an_unknown_activation_is_refused() -> None:
    with pytest.raises(UsageError, match="activation: 'swish'; must be one of relu, "):
        ResidualBlock(4, "swish")
