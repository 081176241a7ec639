"""The content of a model directory as bytes: JSON and safetensors, no pickle anywhere.

``config.json`` comes last and holds the others' SHA-256, so a directory with it is whole.
The model id is the SHA-256 over what defines the model: config, codec and weights.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import safetensors
import safetensors.torch
import torch
from torch import Tensor

from distvae.errors import DataError, UsageError
from distvae.model.architecture import Architecture
from distvae.model.flow import PREFIX, FlowPrior
from distvae.model.kinds import make_model
from distvae.model.latent import LatentModel
from distvae.model.linear import Pca
from distvae.model.priors import Prior

__all__ = [
    "CODEC",
    "CONDITIONS",
    "CONFIG",
    "FORMAT_VERSION",
    "HISTORY",
    "METRICS",
    "README",
    "WEIGHTS",
    "ModelFiles",
    "build",
    "damaged",
    "model_id",
    "pack",
    "parse_json",
    "parse_tensors",
    "sha256",
    "unpack",
]

FORMAT_VERSION = 1
CONFIG = "config.json"
CODEC = "codec.json"
WEIGHTS = "model.safetensors"
HISTORY = "history.parquet"
METRICS = "metrics.json"
README = "README.md"
CONDITIONS = "conditions.parquet"

_LISTED = (CODEC, WEIGHTS, HISTORY, METRICS, README)
_CORE = ("format", "architecture", "training")

_PCA_NAMES = ("pca.mean", "pca.mean_rest", "pca.components", "pca.variances", "pca.total_variance")


@dataclass(frozen=True)
class ModelFiles:
    """What a model directory holds.

    Attributes:
        architecture: enough to rebuild the model.
        state: the model's weights by name, float32.
        codec: the codec's own JSON text, kept as it is.
        pca: the PCA baseline, if fitted.
        prior: what synthetic codes are drawn from, if not the model's own.
        training: training options, JSON-able.
        metrics: final held-out figures, JSON-able.
        history: the bytes of ``history.parquet``.
        readme: the model card.
        conditions: the bytes of ``conditions.parquet``, training rows of the columns that a
            conditional model is given; empty where there are none.
    """

    architecture: Architecture
    state: Mapping[str, Tensor]
    codec: str
    pca: Pca | None = None
    prior: Prior | FlowPrior | None = None
    training: Mapping[str, Any] = field(default_factory=dict)
    metrics: Mapping[str, Any] = field(default_factory=dict)
    history: bytes = b""
    readme: str = ""
    conditions: bytes = b""


def pack(files: ModelFiles) -> dict[str, bytes]:
    """Return name -> bytes in the order to write them, ``config.json`` last."""
    weights = {name: t.detach().cpu().float().contiguous() for name, t in files.state.items()}
    content = {
        CODEC: files.codec.encode(),
        WEIGHTS: safetensors.torch.save(
            {
                **weights,
                **_pca_tensors(files.pca),
                **(files.prior.to_tensors() if files.prior else {}),
            }
        ),
        HISTORY: files.history,
        METRICS: _json_bytes(files.metrics),
        README: files.readme.encode(),
        **({CONDITIONS: files.conditions} if files.conditions else {}),
    }
    core = {
        "format": FORMAT_VERSION,
        "architecture": files.architecture.to_json(),
        "training": dict(files.training),
    }
    return {**content, CONFIG: _json_bytes(_config(core, content))}


def unpack(content: Mapping[str, bytes], where: str) -> ModelFiles:
    """Check and open what ``pack`` returned.

    Args:
        content: name -> bytes; other names than those in the config are ignored.
        where: the directory's name, for messages.

    Raises:
        DataError: a file is missing, damaged or does not match, by name.
    """
    if CONFIG not in content:
        raise damaged(where, CONFIG, "is missing", "it is written last: training did not finish")
    config = parse_json(content[CONFIG], where, CONFIG)
    if config.get("format") != FORMAT_VERSION:
        rule = f"this version reads format {FORMAT_VERSION}"
        raise damaged(where, CONFIG, f"has format {config.get('format')!r}", rule)
    _check_hashes(config, content, where)
    try:
        architecture = Architecture.from_json(config["architecture"])
    except (DataError, UsageError, KeyError, TypeError) as error:
        raise damaged(where, CONFIG, f"describes no model that can be built ({error})") from error
    tensors = parse_tensors(content[WEIGHTS], where, WEIGHTS)
    pca = _take_pca(tensors)
    prior = _take_prior(tensors)
    files = ModelFiles(
        architecture=architecture,
        state=tensors,
        codec=content[CODEC].decode(),
        pca=pca,
        prior=prior,
        training=config["training"],
        metrics=parse_json(content[METRICS], where, METRICS),
        history=content[HISTORY],
        readme=content[README].decode(),
        conditions=content[CONDITIONS] if CONDITIONS in config["files"] else b"",
    )
    _check_state(files, where)
    return files


def build(files: ModelFiles) -> LatentModel:
    """Return the model with its weights, in float32 on the CPU, in evaluation mode."""
    model = make_model(files.architecture, seed=None)
    model.load_state_dict(dict(files.state))
    if files.prior is not None:
        model.prior = files.prior
    return model.eval()


def model_id(core: Mapping[str, Any], codec: bytes, weights: bytes) -> str:
    """Return the SHA-256 over config, codec and weights.

    Args:
        core: ``format``, ``architecture`` and ``training`` of the config; other keys are left out,
            so that figures and timings don't change the id.
        codec: bytes of ``codec.json``.
        weights: bytes of ``model.safetensors``.
    """
    core = {name: core[name] for name in _CORE}
    return sha256("\n".join([sha256(_json_bytes(core)), sha256(codec), sha256(weights)]).encode())


def sha256(data: bytes) -> str:
    """Return the SHA-256 in hexadecimal."""
    return hashlib.sha256(data).hexdigest()


def damaged(where: str, name: str, found: str, rule: str = "") -> DataError:
    """Return the error for a file that cannot be used."""
    return DataError(f"{where}/{name}", found, rule, "restore it from a copy, or train again")


def parse_json(data: bytes, where: str, name: str) -> dict[str, Any]:
    """Parse a JSON object.

    Raises:
        DataError: it is none.
    """
    try:
        value = json.loads(data)
    except (UnicodeDecodeError, json.JSONDecodeError, RecursionError) as error:
        raise damaged(where, name, f"is not JSON ({error})") from error
    if not isinstance(value, dict):
        raise damaged(where, name, "is not a JSON object")
    return value


def parse_tensors(data: bytes, where: str, name: str) -> dict[str, Tensor]:
    """Parse a safetensors file.

    Raises:
        DataError: it is none.
    """
    try:
        tensors: dict[str, Tensor] = safetensors.torch.load(data)
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        raise damaged(where, name, f"is not a safetensors file ({error})") from error
    return tensors


def _config(core: Mapping[str, Any], content: Mapping[str, bytes]) -> dict[str, Any]:
    names = [name for name in (*_LISTED, CONDITIONS) if name in content]
    listed = {n: {"sha256": sha256(content[n]), "bytes": len(content[n])} for n in names}
    return {
        "kind": core["architecture"]["kind"],
        "model_id": model_id(core, content[CODEC], content[WEIGHTS]),
        **{name: core[name] for name in _CORE},
        "files": listed,
    }


def _check_hashes(config: Mapping[str, Any], content: Mapping[str, bytes], where: str) -> None:
    listed = config.get("files")
    more = [CONDITIONS] if isinstance(listed, dict) and CONDITIONS in listed else []
    for name in (*_LISTED, *more):
        try:
            expected = config["files"][name]["sha256"]
        except (KeyError, TypeError) as error:
            raise damaged(where, CONFIG, f"has no hash of {name}") from error
        if name not in content:
            raise damaged(where, name, "is missing")
        found = sha256(content[name])
        if found != expected:
            rule = f"{CONFIG} says {str(expected)[:12]}"
            raise damaged(where, name, f"has SHA-256 {found[:12]}", rule)
    try:
        whole = _config(config, {name: content[name] for name in config["files"]})
    except (KeyError, TypeError) as error:
        raise damaged(where, CONFIG, f"is incomplete ({error})") from error
    if config.get("model_id") != whole["model_id"]:
        found = f"has model id {str(config.get('model_id'))[:12]}"
        raise damaged(where, CONFIG, found, f"its content gives {whole['model_id'][:12]}")
    if config != whole:
        names = sorted(n for n in {**config, **whole} if config.get(n) != whole.get(n))
        raise damaged(where, CONFIG, f"does not fit its content in {', '.join(names)}")


def _check_state(files: ModelFiles, where: str) -> None:
    expected = make_model(files.architecture, seed=None).state_dict()
    found = {name: tuple(tensor.shape) for name, tensor in files.state.items()}
    for name in sorted(expected.keys() | found.keys()):
        shape = tuple(expected[name].shape) if name in expected else None
        if shape != found.get(name):
            rule = f"the architecture in {CONFIG} has {shape}"
            raise damaged(where, WEIGHTS, f"tensor '{name}' has shape {found.get(name)}", rule)
        if not torch.isfinite(files.state[name]).all():
            raise damaged(where, WEIGHTS, f"tensor '{name}' holds values that are not finite")


def _pca_tensors(pca: Pca | None) -> dict[str, Tensor]:
    # Weights are float32; the mean is split in two, since columns may sit far from 0.
    if pca is None:
        return {}
    mean = torch.from_numpy(np.array(pca.mean))
    values = (
        mean.float(),
        (mean - mean.float()).float(),
        torch.from_numpy(np.array(pca.components)).float(),
        torch.from_numpy(np.array(pca.variances)).float(),
        torch.tensor([pca.total_variance], dtype=torch.float32),
    )
    return dict(zip(_PCA_NAMES, values, strict=True))


def _take_pca(tensors: dict[str, Tensor]) -> Pca | None:
    if _PCA_NAMES[0] not in tensors:
        return None
    mean, rest, components, variances, total = (
        tensors.pop(name).double().numpy() for name in _PCA_NAMES
    )
    return Pca(mean + rest, components, variances, float(total[0]))


def _take_prior(tensors: dict[str, Tensor]) -> Prior | FlowPrior | None:
    named = {name: tensors.pop(name) for name in list(tensors) if name.startswith("prior.")}
    if any(name.startswith(PREFIX) for name in named):
        return FlowPrior.from_tensors(named)
    return Prior.from_tensors(named) if named else None


def _json_bytes(value: Mapping[str, Any]) -> bytes:
    text = json.dumps(value, sort_keys=True, indent=1, allow_nan=False, ensure_ascii=False)
    return (text + "\n").encode()
