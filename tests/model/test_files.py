from __future__ import annotations

import dataclasses
import json
import math

import numpy as np
import pytest
import torch

from distvae.errors import DataError
from distvae.model import files
from distvae.model.architecture import Architecture
from distvae.model.linear import Pca, fit_pca, reconstruct
from distvae.model.vae import VAE
from tests.model.helpers import block, spec


def example(seed: int = 0, pca: Pca | None = None) -> files.ModelFiles:
    architecture = Architecture(2, (spec("v", 0, 4),), (block(4),), hidden_dims=(3,))
    return files.ModelFiles(
        architecture=architecture,
        state=VAE.from_architecture(architecture, seed).state_dict(),
        codec='{"columns": ["v\u00e9"]}',
        pca=pca,
        training={"epochs": 3, "learning_rate": 1e-3},
        metrics={"elbo": -1.5, "kl": None},
        history=b"PAR1...PAR1",
        readme="# A model\n",
    )


def test_everything_comes_back() -> None:
    mean = np.array([1e9 + 0.25, 0, -3, 1e-3])
    pca = fit_pca(mean, np.diag([4.0, 3.0, 2.0, 1.0]), 2)
    saved = example(pca=pca)
    found = files.unpack(files.pack(saved), "M")
    assert (found.codec, found.training, found.metrics) == (
        saved.codec,
        saved.training,
        saved.metrics,
    )
    assert (found.history, found.readme) == (saved.history, saved.readme)
    assert found.architecture.to_json() == saved.architecture.to_json()
    x = mean + np.eye(4)
    np.testing.assert_allclose(found.pca.mean, mean, rtol=1e-14)
    np.testing.assert_allclose(reconstruct(found.pca, x), reconstruct(pca, x), rtol=1e-13)
    model = files.build(found)
    assert not model.training
    for name, tensor in model.state_dict().items():
        assert torch.equal(tensor, saved.state[name])
    assert files.unpack(files.pack(example()), "M").pca is None


def test_the_config_comes_last_and_packing_is_deterministic() -> None:
    content = files.pack(example())
    assert list(content)[-1] == "config.json"
    assert set(content) == {
        "config.json",
        "codec.json",
        "model.safetensors",
        "history.parquet",
        "metrics.json",
        "README.md",
    }
    assert content == files.pack(example())
    config = json.loads(content["config.json"])
    assert config["kind"] == "vae"
    assert config["files"]["codec.json"]["bytes"] == len(content["codec.json"])


def test_the_model_id_covers_config_codec_and_weights_only() -> None:
    def identity(saved: files.ModelFiles) -> str:
        return str(json.loads(files.pack(saved)["config.json"])["model_id"])

    base = example()
    same = dataclasses.replace(base, metrics={}, history=b"", readme="")
    others = [
        dataclasses.replace(base, codec="{}"),
        dataclasses.replace(base, training={"epochs": 4}),
        example(seed=1),
        dataclasses.replace(
            base, architecture=dataclasses.replace(base.architecture, activation="tanh")
        ),
    ]
    assert identity(same) == identity(base)
    assert len({identity(base), *map(identity, others)}) == 5


def test_any_changed_byte_or_lost_tail_is_named() -> None:
    content = files.pack(example())
    generator = np.random.default_rng(0)
    tried = 0
    for name, data in content.items():
        for position in generator.integers(0, len(data), 12):
            flipped = bytearray(data)
            flipped[position] ^= 1 << int(generator.integers(8))
            for changed in (bytes(flipped), data[:position]):
                tried += 1
                with pytest.raises(DataError) as caught:
                    files.unpack({**content, name: changed}, "dir/M")
                assert str(caught.value).startswith("dir/M/")
                if name != "config.json":
                    assert f"dir/M/{name}: has SHA-256" in str(caught.value)
    assert tried == 12 * 2 * 6


def test_a_missing_file_is_named() -> None:
    content = files.pack(example())
    for name in content:
        rest = {n: data for n, data in content.items() if n != name}
        with pytest.raises(DataError, match=f"M/{name}: is missing"):
            files.unpack(rest, "M")


def repacked(content: dict[str, bytes], **changes: object) -> dict[str, bytes]:
    """The content with another config and hashes that fit it again."""
    config = {**json.loads(content["config.json"]), **changes}
    for name in config["files"]:
        config["files"][name] = {"sha256": files.sha256(content[name]), "bytes": len(content[name])}
    codec, weights = content["codec.json"], content["model.safetensors"]
    config["model_id"] = files.model_id(config, codec, weights)
    return {**content, "config.json": json.dumps(config).encode()}


def test_files_that_do_not_belong_together_are_refused() -> None:
    content = files.pack(example())
    taller = dataclasses.replace(example().architecture, hidden_dims=(9,)).to_json()
    with pytest.raises(
        DataError, match=r"M/model[.]safetensors: tensor '\S+' has shape \(3,\); the"
    ):
        files.unpack(repacked(content, architecture=taller), "M")
    with pytest.raises(DataError, match=r"M/config[.]json: describes no model that can be built"):
        files.unpack(repacked(content, architecture={**taller, "posterior": "flow"}), "M")
    with pytest.raises(
        DataError, match=r"M/config[.]json: has format 2; this version reads format 1"
    ):
        files.unpack(repacked(content, format=2), "M")
    with pytest.raises(DataError, match=r"M/model[.]safetensors: is not a safetensors file"):
        files.unpack(repacked({**content, "model.safetensors": b"\x80\x04pickle"}), "M")
    for changes, message in (
        ({"model_id": "000"}, "has model id 000; its content gives"),
        ({"kind": "pca"}, "does not fit its content in kind"),
        ({"extra": 1}, "does not fit its content in extra"),
    ):
        config = {**json.loads(content["config.json"]), **changes}
        with pytest.raises(DataError, match=rf"M/config[.]json: {message}"):
            files.unpack({**content, "config.json": json.dumps(config).encode()}, "M")
    with pytest.raises(DataError, match=r"M/config[.]json: has no hash of codec[.]json"):
        files.unpack({**content, "config.json": b'{"format": 1}'}, "M")
    with pytest.raises(DataError, match=r"M/config[.]json: is not a JSON object"):
        files.unpack({**content, "config.json": b"[]"}, "M")


def test_weights_that_are_not_finite_are_refused() -> None:
    saved = example()
    saved.state["decoder.layers.0.bias"][0] = math.nan
    with pytest.raises(
        DataError, match=r"'decoder[.]layers.0.bias' holds values that are not finite"
    ):
        files.unpack(files.pack(saved), "M")
