from __future__ import annotations

import json

import pytest
import torch

from distvae.errors import DataError
from distvae.model import noise
from distvae.model.architecture import Architecture
from distvae.model.objectives import elbo
from distvae.model.training_state import pack_training_state, unpack_training_state
from distvae.model.vae import VAE
from tests.model.helpers import block, spec


def fresh(
    seed: int = 0, hidden: int = 16, amsgrad: bool = False
) -> tuple[VAE, torch.optim.Optimizer]:
    architecture = Architecture(2, (spec("v", 0, 6),), (block(6),), hidden_dims=(hidden,))
    model = VAE.from_architecture(architecture, seed)
    return model, torch.optim.Adam(model.parameters(), 1e-3, betas=(0.8, 0.99), amsgrad=amsgrad)


def train(model: VAE, optimizer: torch.optim.Optimizer, first: int, stop: int) -> list[float]:
    losses = []
    for step in range(first, stop):
        y = torch.from_numpy(noise.normal(0, "data", step, 32, 6))
        eps = torch.from_numpy(noise.normal(0, "eps", step, 32, 2))[None]
        loss = -elbo(model.terms(y, None, eps)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


@pytest.mark.parametrize("amsgrad", [False, True])
@pytest.mark.parametrize("stop", [0, 1, 7])
def test_a_resumed_run_takes_bit_identical_steps(stop: int, amsgrad: bool) -> None:
    model, optimizer = fresh(amsgrad=amsgrad)
    expected = train(model, optimizer, 0, 12)
    first, first_optimizer = fresh(amsgrad=amsgrad)
    train(first, first_optimizer, 0, stop)
    for group in first_optimizer.param_groups:
        group["lr"] = 1e-3
    content = pack_training_state(first, first_optimizer, {"step": stop, "seed": 2**63 + 1})
    again, again_optimizer = fresh(seed=5, amsgrad=amsgrad)
    again_optimizer.param_groups[0]["lr"] = 0.5
    position = unpack_training_state(content, again, again_optimizer, "C")
    assert position == {"step": stop, "seed": 2**63 + 1}
    assert again_optimizer.param_groups[0]["betas"] == (0.8, 0.99)
    assert train(again, again_optimizer, stop, 12) == expected[stop:]
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, again.state_dict()[name])


def test_the_position_comes_last_and_is_plain_json() -> None:
    content = pack_training_state(*fresh(), {"step": 1})
    assert list(content) == ["state.safetensors", "state.json"]
    assert json.loads(content["state.json"])["position"] == {"step": 1}


def test_damaged_or_foreign_states_are_refused_by_name() -> None:
    model, optimizer = fresh()
    train(model, optimizer, 0, 2)
    content = pack_training_state(model, optimizer, {})
    for name in content:
        with pytest.raises(DataError, match=f"C/{name}: is missing"):
            unpack_training_state({n: d for n, d in content.items() if n != name}, *fresh(), "C")
    cut = {**content, "state.safetensors": content["state.safetensors"][:-1]}
    with pytest.raises(DataError, match=r"C/state[.]safetensors: is not the file that"):
        unpack_training_state(cut, *fresh(), "C")
    with pytest.raises(DataError, match=r"C/state[.]json: is not JSON"):
        unpack_training_state({**content, "state.json": b"{"}, *fresh(), "C")
    with pytest.raises(DataError, match=r"C/state[.]json: has format None"):
        unpack_training_state({**content, "state.json": b"{}"}, *fresh(), "C")
    with pytest.raises(DataError, match=r"C/state[.]json: is of another model or optimiser"):
        unpack_training_state(content, *fresh(hidden=17), "C")
    half = {**json.loads(content["state.json"]), "optimizer": {}}
    with pytest.raises(DataError, match=r"C/state[.]json: is of another model or optimiser"):
        unpack_training_state({**content, "state.json": json.dumps(half).encode()}, *fresh(), "C")
