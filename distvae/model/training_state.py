"""A training run's state as bytes: weights and optimiser as safetensors, the rest as JSON.

A run continued from here takes bit-identical steps. ``state.json`` comes last, with the hash of
the other file.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Any

import safetensors.torch
import torch
from torch import Tensor, nn

from distvae.model.files import damaged, parse_json, parse_tensors, sha256

__all__ = ["STATE", "STATE_TENSORS", "pack_training_state", "unpack_training_state"]

STATE = "state.json"
STATE_TENSORS = "state.safetensors"
_FORMAT_VERSION = 1


def pack_training_state(
    model: nn.Module, optimizer: torch.optim.Optimizer, position: Mapping[str, Any]
) -> dict[str, bytes]:
    """Return name -> bytes in the order to write them, ``state.json`` last.

    Args:
        model: the model itself, not a parallel wrapper of it.
        optimizer: Adam or another whose state is tensors and plain numbers per parameter.
        position: JSON-able: where training stands (epoch, step, seed, ...).
    """
    tensors = {f"model.{name}": value for name, value in model.state_dict().items()}
    saved = optimizer.state_dict()
    plain: dict[str, dict[str, Any]] = {}
    for parameter, values in saved["state"].items():
        for name, value in values.items():
            if isinstance(value, Tensor):
                tensors[f"optimizer.{parameter}.{name}"] = value
            else:
                plain.setdefault(str(parameter), {})[name] = value
    data = safetensors.torch.save(
        {name: value.detach().cpu().contiguous().clone() for name, value in tensors.items()}
    )
    description = {
        "format": _FORMAT_VERSION,
        "sha256": sha256(data),
        "position": dict(position),
        "optimizer": {"groups": saved["param_groups"], "plain": plain},
    }
    return {STATE_TENSORS: data, STATE: json.dumps(description, allow_nan=False).encode()}


def unpack_training_state(
    content: Mapping[str, bytes], model: nn.Module, optimizer: torch.optim.Optimizer, where: str
) -> dict[str, Any]:
    """Load what ``pack_training_state`` returned into a model and its optimiser.

    Args:
        content: name -> bytes.
        model: of the same architecture; its weights are overwritten.
        optimizer: over the same parameters; its state and options are overwritten.
        where: the checkpoint's name, for messages.

    Returns:
        ``position`` as it was packed.

    Raises:
        DataError: a file is missing, damaged, or of another model or optimiser.
    """
    for name in (STATE, STATE_TENSORS):
        if name not in content:
            raise damaged(where, name, "is missing")
    description = parse_json(content[STATE], where, STATE)
    if description.get("format") != _FORMAT_VERSION:
        rule = f"this version reads format {_FORMAT_VERSION}"
        raise damaged(where, STATE, f"has format {description.get('format')!r}", rule)
    if description.get("sha256") != sha256(content[STATE_TENSORS]):
        raise damaged(where, STATE_TENSORS, "is not the file that state.json was written for")
    tensors = parse_tensors(content[STATE_TENSORS], where, STATE_TENSORS)
    prefix = "model."
    weights = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    try:
        position: dict[str, Any] = description["position"]
        state = _optimizer_state(tensors, description["optimizer"])
        model.load_state_dict(weights)
        optimizer.load_state_dict(state)
    except (KeyError, TypeError, RuntimeError, ValueError) as error:
        raise damaged(where, STATE, "is of another model or optimiser") from error
    return position


def _optimizer_state(tensors: Mapping[str, Tensor], saved: Mapping[str, Any]) -> dict[str, Any]:
    state: dict[int, dict[str, Any]] = {}
    for parameter, values in saved["plain"].items():
        state.setdefault(int(parameter), {}).update(values)
    for full_name, value in tensors.items():
        if full_name.startswith("optimizer."):
            _, parameter, name = full_name.split(".", 2)
            state.setdefault(int(parameter), {})[name] = value
    groups = [{n: tuple(v) if n == "betas" else v for n, v in g.items()} for g in saved["groups"]]
    return {"state": state, "param_groups": groups}
