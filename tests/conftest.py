"""The real command in a process of its own, and a tiny model made without Ray."""

from __future__ import annotations

import io
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

REPOSITORY = Path(__file__).parents[1]
# An upper limit that tells a hang from a busy machine, not a measurement: interpreter, torch and
# Ray take seconds to start on a quiet machine, and a minute on a crowded one.
SECONDS = 180

Run = Callable[..., subprocess.CompletedProcess[str]]


def tiny_table(rows: int = 64, seed: int = 0) -> pa.Table:
    """``id`` int64, ``height`` float32, ``pixels`` fixed_size_list<uint8>[4]."""
    random = np.random.default_rng(seed)
    pixels = random.integers(0, 17, (rows, 4)).astype(np.uint8)
    height = random.normal(170, 10, rows).astype(np.float32)
    lists = pa.FixedSizeListArray.from_arrays(pa.array(pixels.reshape(-1)), 4)
    return pa.table({"id": np.arange(rows), "height": height, "pixels": lists})


def write_tiny_model(
    folder: Path,
    made_of: Mapping[str, Any] | None = None,
    table: pa.Table | None = None,
    **changes: object,
) -> None:
    """A whole model directory, untrained, for ``tiny_table`` or another with an ``id``, left out.

    ``made_of`` changes the architecture, ``changes`` the files.
    """
    from distvae.data.codec import block_layout, feature_specs, fit_codec
    from distvae.data.profile import profile
    from distvae.data.roles import infer_features
    from distvae.data.statistics import summarise
    from distvae.model.architecture import Architecture
    from distvae.model.files import ModelFiles, pack
    from distvae.model.vae import VAE

    table = tiny_table() if table is None else table
    features = infer_features(table.schema, exclude=["id"])
    measured = [feature for feature in features if feature.is_measured]
    found = None
    if len(measured) < len(features):  # categories have classes
        rows = np.arange(table.num_rows)
        found = profile(table, features, rows, table.num_rows, key=0)
    heads = dict((made_of or {}).get("likelihoods", {}))
    codings = {name: "unit" for name, head in heads.items() if head == "bernoulli"}
    codec = fit_codec(features, summarise(table, measured), found, codings)
    architecture = Architecture(
        latent_dim=2,
        features=tuple(feature_specs(codec)),
        blocks=tuple(block_layout(codec)),
        **{"hidden_dims": (8,), **(made_of or {})},
    )
    history = io.BytesIO()
    pq.write_table(pa.table({"epoch": [1], "train_loss": [3.0]}), history)
    state = VAE.from_architecture(architecture, seed=1).state_dict()
    values = {"codec": codec.to_json(), "history": history.getvalue(), "readme": "tiny", **changes}
    folder.mkdir(parents=True)
    for name, data in pack(ModelFiles(architecture, state, **values)).items():
        (folder / name).write_bytes(data)


@pytest.fixture(scope="session")
def tiny_model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The directory of a model that no test may change."""
    folder = tmp_path_factory.mktemp("tiny") / "model"
    write_tiny_model(folder)
    return folder


@pytest.fixture(scope="session")
def command(tmp_path_factory: pytest.TempPathFactory) -> Run:
    """``command("train", "rows.parquet", cwd=folder)`` runs ``python -m distvae train ...``.

    Ray cannot be imported unless ``ray=True``: a mistake that is told without it starts nothing.
    """
    blocked = tmp_path_factory.mktemp("no_ray")
    (blocked / "ray.py").write_text("raise ImportError('this command must not need Ray')\n")

    def run(
        *arguments: str, cwd: Path, ray: bool = False, script: str = "", **environment: str
    ) -> subprocess.CompletedProcess[str]:
        program = [script] if script else ["-m", "distvae"]
        paths = [str(REPOSITORY)] if ray else [str(blocked), str(REPOSITORY)]
        clean = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
        return subprocess.run(
            [sys.executable, *program, *arguments],
            cwd=cwd,
            env={**clean, "PYTHONPATH": os.pathsep.join(paths), "COLUMNS": "100", **environment},
            capture_output=True,
            text=True,
            timeout=SECONDS,
            check=False,
        )

    return run
