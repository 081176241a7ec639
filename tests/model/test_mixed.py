from __future__ import annotations

import dataclasses
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from distvae.errors import UsageError
from distvae.model.architecture import Architecture
from distvae.model.inference import run_blocks
from distvae.model.mixed import MixedDecoder, MixedEncoder
from distvae.model.observation import Observation
from tests.model.helpers import block, spec
from tests.model.test_convolution import disturb, numbers

# A number with gaps, a picture with gaps, a number, and a picture in colour.
WIDTH = 97
FLAGGED = [0, *range(1, 21)]


def architecture(**changes: Any) -> Architecture:
    features = (
        spec("a", 0, 1, has_missing=True),
        spec("picture", 1, 21, has_missing=True),
        spec("b", 21, 22),
        spec("colour", 22, 97),
    )
    values: dict[str, Any] = {
        "latent_dim": 3,
        "features": features,
        "blocks": (block(WIDTH),),
        "hidden_dims": (12, 10),
        "images": {"picture": (4, 5, 1), "colour": (5, 5, 3)},
        "channels": (4, 6),
        "likelihoods": {"a": "gaussian-row", "colour": "gaussian-row"},
    }
    return Architecture(**{**values, **changes})


def networks(seed: int | None = 0, **changes: Any) -> tuple[MixedEncoder, MixedDecoder]:
    plan = architecture(**changes)
    flagged = [
        element
        for feature in plan.features
        if feature["has_missing"]
        for element in range(feature["start"], feature["stop"])
    ]
    return MixedEncoder(plan, flagged, 6, seed), MixedDecoder(plan, Observation(plan), seed)


def test_each_picture_goes_through_its_own_encoder() -> None:
    encoder, _ = networks()
    disturb(encoder)
    y, flags = numbers(7, WIDTH), (numbers(7, len(FLAGGED), seed=1) > 0).float()
    parts = [
        encoder.images[0](torch.cat([y[:, 1:21], flags[:, 1:]], dim=1)).relu(),
        encoder.images[1](y[:, 22:]).relu(),
        torch.cat([y[:, :1], flags[:, :1], y[:, 21:22]], dim=1),
    ]
    expected = encoder.joint(torch.cat(parts, dim=1))
    torch.testing.assert_close(encoder(torch.cat([y, flags], dim=1)), expected)


def test_every_input_and_every_latent_counts() -> None:
    encoder, decoder = networks()
    disturb(encoder)
    disturb(decoder)
    x = numbers(5, WIDTH + len(FLAGGED)).requires_grad_()
    z = numbers(2, 5, 3).requires_grad_()
    encoder(x).square().sum().backward()
    decoder(z).square().sum().backward()
    assert x.grad is not None and (x.grad.abs().amax(0) > 0).all()
    assert z.grad is not None and (z.grad.abs().amax((0, 1)) > 0).all()


@pytest.mark.parametrize("hidden", [(), (12,), (12, 10)])
def test_outputs_stand_where_the_heads_look_for_them(hidden: tuple[int, ...]) -> None:
    plan = architecture(hidden_dims=hidden)
    observation = Observation(plan)
    decoder = MixedDecoder(plan, observation)
    with torch.no_grad():
        for name, parameter in decoder.named_parameters():
            if "bias" not in name:
                parameter.zero_()
    mean = torch.arange(WIDTH, dtype=torch.float32)
    bias = observation.output_bias(mean)
    decoder.set_output_bias(bias)
    params = decoder(numbers(2, 4, 3))
    assert torch.equal(params, bias.expand(2, 4, -1))
    assert torch.equal(observation.mean(params), mean.expand(2, 4, -1))


@pytest.mark.parametrize("hidden", [(), (12,), (12, 10)])
def test_shapes_keep_their_leading_dimensions(hidden: tuple[int, ...]) -> None:
    encoder, decoder = networks(hidden_dims=hidden)
    outputs = Observation(architecture(hidden_dims=hidden)).outputs
    assert encoder(numbers(4, WIDTH + len(FLAGGED))).shape == (4, 6)
    assert decoder(numbers(2, 4, 3)).shape == (2, 4, outputs)
    torch.testing.assert_close(decoder(numbers(2, 4, 3))[1], decoder(numbers(2, 4, 3)[1]))


def test_a_picture_alone() -> None:
    features = (spec("picture", 0, 16),)
    encoder, decoder = networks(
        features=features, blocks=(block(16),), images={"picture": [4, 4, 1]}, likelihoods={}
    )
    assert decoder.rest is None and len(encoder.rest) == 0
    decoder.set_output_bias(torch.arange(16.0))
    assert decoder(encoder(numbers(2, 16))[:, :3]).shape == (2, 16)


def test_names_in_the_model_file() -> None:
    encoder, decoder = networks(channels=(4,))
    tops = [sorted({key.split(".")[0] for key in net.state_dict()}) for net in (encoder, decoder)]
    assert tops == [["images", "joint"], ["images", "rest", "trunk"]]
    assert "images.1.stages.0.block.first.weight" in encoder.state_dict()
    assert "images.1.bias" in decoder.state_dict()


def test_weights_are_a_function_of_the_seed_or_left_to_be_loaded() -> None:
    state = torch.get_rng_state()
    x, z = numbers(2, WIDTH + len(FLAGGED)), numbers(2, 3)
    first, same, other, empty = networks(1), networks(1), networks(2), networks(None)
    for net, source in zip(empty, first, strict=True):
        net.load_state_dict(source.state_dict())
    for net, equal in ((same, True), (other, False), (empty, True)):
        assert torch.equal(net[0](x), first[0](x)) == equal
        assert torch.equal(net[1](z), first[1](z)) == equal
    weights = [image.stages[0].conv.weight for image in first[0].images]
    assert not torch.equal(*weights)
    assert torch.equal(torch.get_rng_state(), state)


def through(net: nn.Module, rows: np.ndarray, outputs: int, threads: int) -> np.ndarray:
    def function(arrays: tuple[Tensor | None, ...]) -> tuple[Tensor, ...]:
        assert arrays[0] is not None
        return (net(arrays[0]),)

    return run_blocks(function, [rows], (outputs,), rows_per_block=64, threads=threads)[0]


def test_bits_do_not_depend_on_rows_or_threads() -> None:
    encoder, decoder = networks()
    outputs = Observation(architecture()).outputs
    for net, inputs, width in ((encoder, WIDTH + len(FLAGGED), 6), (decoder, 3, outputs)):
        disturb(net)
        rows = np.random.default_rng(0).normal(size=(150, inputs)).astype(np.float32)
        whole = through(net, rows, width, 1)
        assert np.array_equal(through(net, rows, width, 2), whole)
        assert np.array_equal(through(net, rows[:101], width, 1), whole[:101])
        others = rows[::-1] * 1e3
        others[3::7] = rows[3::7]
        assert np.array_equal(through(net, others, width, 2)[3::7], whole[3::7])


def test_a_head_over_all_elements_together_is_refused_for_a_picture() -> None:
    plan = architecture(likelihoods={"picture": "gaussian-full"})
    message = (
        "likelihood: picture=gaussian-full; a picture's head must have the same number of "
        "parameters for each element; choose another head, or leave out --image picture"
    )
    with pytest.raises(UsageError, match=message):
        MixedDecoder(plan, Observation(plan))


def test_a_low_rank_head_fits_a_picture() -> None:
    plan = architecture(likelihoods={"picture": "gaussian-low-rank:2"})
    observation = Observation(plan)
    decoder = MixedDecoder(plan, observation)
    assert decoder(numbers(2, 3)).shape == (2, 20 * 4 + 2 + 75)
    assert observation.mean(decoder(numbers(2, 3))).shape == (2, WIDTH)


def test_stages_are_needed() -> None:
    plan = dataclasses.replace(architecture(), channels=())
    with pytest.raises(UsageError, match="channels: none; a picture needs at least one stage"):
        MixedEncoder(plan, FLAGGED, 6)
