"""Training's position on disk: weights, Adam's moments, epoch and step; safetensors and JSON."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, field

import torch
from safetensors import SafetensorError
from safetensors.torch import load, save

from distvae.data.storage import Location, exists, read_bytes, write_bytes
from distvae.errors import DataError

__all__ = ["Position", "State", "read_state", "write_state"]

_NAME = "checkpoint.safetensors"


@dataclass
class Position:
    """Where training stands; everything that is not a tensor.

    Attributes:
        fingerprint: of the options and the input.
        epoch: epoch in progress (0 first).
        window: window of the epoch in progress.
        step: next step within the window.
        steps: optimiser steps made so far.
        seconds: training time so far.
        sums: sums of the epoch in progress, by figure.
        history: one dict per finished epoch.
        best: best validation loss so far.
        stale: epochs since then.
        finished: whether training is over and ``weights`` are final.
    """

    fingerprint: str
    epoch: int = 0
    window: int = 0
    step: int = 0
    steps: int = 0
    seconds: float = 0.0
    epoch_seconds: float = 0.0
    sums: list[float] = field(default_factory=list)
    history: list[dict[str, float]] = field(default_factory=list)
    best: float | None = None
    stale: int = 0
    finished: bool = False


@dataclass
class State:
    """A position and the tensors that belong to it: weights (P,), moments (P,), best (P,)."""

    position: Position
    tensors: dict[str, torch.Tensor]


def write_state(folder: Location, state: State) -> None:
    """Write the checkpoint whole, replacing the one before."""
    tensors = {name: tensor.detach().cpu().contiguous() for name, tensor in state.tensors.items()}
    position = json.dumps(asdict(state.position))
    write_bytes(folder.child(_NAME), save(tensors, metadata={"position": position}))


def read_state(folder: Location) -> State | None:
    """The last checkpoint in ``folder``, or None.

    Raises:
        DataError: the file is damaged.
    """
    place = folder.child(_NAME)
    if not exists(place):
        return None
    data = read_bytes(place)
    try:
        tensors = load(data)
        header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
        position = Position(**json.loads(header["__metadata__"]["position"]))
    except (SafetensorError, ValueError, KeyError, TypeError) as error:
        raise DataError(
            place.uri,
            f"is no checkpoint ({error})",
            "",
            "remove the folder and train again without --resume",
        ) from None
    return State(position, tensors)
