"""A folder full of things that users get wrong, for ``test_mistakes``."""

from __future__ import annotations

import io
import json
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.conftest import tiny_table, write_tiny_model

__all__ = ["make_world"]


def make_world(world: Path, tiny_model: Path) -> None:
    """Write every file and folder that the mistakes name."""
    _write_inputs(world)
    _write_odd_values(world)
    _write_lists(world)
    _write_models(world, tiny_model)
    _write_outputs(world)


def _write_inputs(world: Path) -> None:
    table = tiny_table()
    pq.write_table(table, world / "rows.parquet")
    whole = (world / "rows.parquet").read_bytes()
    (world / "truncated.parquet").write_bytes(whole[: len(whole) // 2])
    (world / "text.parquet").write_text("id,height\n1,170\n2,180\n")
    (world / "none.parquet").write_bytes(b"")
    (world / "empty").mkdir()
    (world / "csv").mkdir()
    (world / "csv" / "rows.csv").write_text("id,height\n1,170\n")
    footer = int.from_bytes(whole[-8:-4], "little") + 8
    (world / "footer.parquet").write_bytes(whole[:-footer] + bytes(footer - 8) + whole[-8:])
    pq.write_table(table.slice(0, 0), world / "zero.parquet")
    (world / "two").mkdir()
    pq.write_table(table, world / "two" / "a.parquet")
    pq.write_table(table.drop_columns("height"), world / "two" / "b.parquet")
    (world / "types").mkdir()
    pq.write_table(table, world / "types" / "a.parquet")
    text = pa.array([str(i) for i in range(table.num_rows)])
    pq.write_table(_replaced(table, "height", text), world / "types" / "b.parquet")


def _write_odd_values(world: Path) -> None:
    table = tiny_table()
    rows = table.num_rows
    names = pa.array(["a", "b"] * (rows // 2))
    pq.write_table(table.append_column("name", names), world / "named.parquet")
    blobs = pa.array([b"x"] * rows)
    pq.write_table(table.append_column("blob", blobs), world / "binary.parquet")
    pq.write_table(_replaced(table, "height", names), world / "wrong_type.parquet")
    pq.write_table(table.drop_columns("height"), world / "wrong_columns.parquet")
    three = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * 3, np.uint8)), 3)
    pq.write_table(_replaced(table, "pixels", three), world / "wrong_length.parquet")
    ragged = pa.array([[1, 2]] * (rows - 1) + [[1, 2, 3]], pa.list_(pa.float32()))
    pq.write_table(_replaced(table, "pixels", ragged), world / "ragged.parquet")
    nothing = pa.array([None] * rows, pa.list_(pa.float32()))
    pq.write_table(_replaced(table, "pixels", nothing), world / "no_lists.parquet")
    height = table.column("height").to_numpy().copy()
    for name, value in (("infinite", np.inf), ("huge", 1e101)):
        changed = height.astype(np.float64)
        changed[3] = value
        pq.write_table(_replaced(table, "height", pa.array(changed)), world / f"{name}.parquet")
    nan = pa.array(np.full(rows, np.nan, np.float32))
    pq.write_table(_replaced(table, "height", nan), world / "nan.parquet")
    null = pa.array([None] * rows, pa.float32())
    pq.write_table(_replaced(table, "height", null), world / "null.parquet")
    untyped = pa.nulls(rows)
    pq.write_table(_replaced(table, "height", untyped), world / "untyped.parquet")
    pq.write_table(table.append_column("mu", table.column("height")), world / "mu.parquet")
    pq.write_table(pa.table({"x": [None, None, 1.0]}), world / "lone.parquet")


def _column(table: pa.Table, name: str) -> bytes:
    """One column of the table as Parquet."""
    sink = io.BytesIO()
    pq.write_table(table.select([name]), sink)
    return sink.getvalue()


def _replaced(table: pa.Table, name: str, values: pa.Array) -> pa.Table:
    return table.set_column(table.column_names.index(name), name, values)


def _write_lists(world: Path) -> None:
    (world / "list.txt").write_text("# nothing yet\n\n")
    (world / "stale.txt").write_text("rows.parquet\ngone.parquet\n")
    (world / "binary.txt").write_bytes(b"\xff\xfe\x00rows")
    (world / "unknown.yaml").write_text("latent-dim: 4\nlatnet_dims: 8\n")
    (world / "broken.yaml").write_text("latent_dim: [4\n")
    (world / "list.yaml").write_text("- latent_dim\n- 4\n")
    (world / "binary.yaml").write_bytes(b"\xff\xfe\x00")
    (world / "negative.yaml").write_text("latent_dim: -3\n")


def _write_models(world: Path, tiny_model: Path) -> None:
    names = ("model", "no_config", "no_weights", "bad_weights", "bad_codec", "not_json", "future")
    for name in (*names, "begun", "forged", "old_codec"):
        shutil.copytree(tiny_model, world / name)
    (world / "no_config" / "config.json").unlink()
    (world / "no_weights" / "model.safetensors").unlink()
    _flip(world / "bad_weights" / "model.safetensors")
    _flip(world / "bad_codec" / "codec.json")
    (world / "not_json" / "config.json").write_text("{")
    _edit(world / "future" / "config.json", format=99)
    _edit(world / "forged" / "config.json", model_id="0" * 64)
    (world / "begun" / "config.json").unlink()
    (world / "begun" / "_train").mkdir()
    shutil.copytree(world / "begun", world / "bad_note")
    (world / "bad_note" / "_train" / "run.json").write_text("{")
    _write_note(world, "begun")
    shutil.rmtree(world / "old_codec")
    codec = json.loads((tiny_model / "codec.json").read_text())
    write_tiny_model(world / "autoencoder", {"kind": "autoencoder", "posterior": "point"})
    write_tiny_model(world / "old_codec", codec=json.dumps({**codec, "format": 0}))
    conditional = {"conditions": ["name"]}
    named = pq.read_table(world / "named.parquet")
    write_tiny_model(world / "conditional", conditional, named, conditions=_column(named, "name"))


def _write_note(world: Path, model: str) -> None:
    """What a training of 3 latent dimensions leaves when it is killed at once."""
    from distvae.cluster.train import train_plan
    from distvae.config import TrainConfig

    data = (str(world / "rows.parquet"),)
    plan = train_plan(TrainConfig(data=data, model=str(world / model), latent_dim=3))
    note = json.dumps({"items": plan.items, "bytes_for_rows": 1 << 20})
    (world / model / "_train" / "run.json").write_text(note)


def _flip(file: Path) -> None:
    """Change one byte in the middle."""
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)


def _edit(file: Path, **changes: object) -> None:
    file.write_text(json.dumps({**json.loads(file.read_text()), **changes}))


def _write_outputs(world: Path) -> None:
    (world / "file").write_text("a file\n")
    (world / "full").mkdir()
    (world / "full" / "notes.txt").write_text("mine\n")
    (world / "read_only").mkdir(mode=0o555)
    for name in (
        "whole",
        "changed",
        "short",
        "foreign",
        "no_manifest",
        "bad_manifest",
        "begun_out",
    ):
        _write_dataset(world, name)
    part = next((world / "changed" / "data").iterdir())
    _flip(part)
    next((world / "short" / "data").iterdir()).unlink()
    (world / "foreign" / "data" / "more.parquet").write_bytes(part.read_bytes())
    (world / "no_manifest" / "_manifest.parquet").unlink()
    _flip(world / "bad_manifest" / "_manifest.parquet")
    (world / "begun_out" / "_SUCCESS").unlink()
    shutil.copytree(world / "begun_out", world / "bad_run")
    (world / "bad_run" / "_run.json").write_text("{")


def _write_dataset(world: Path, name: str) -> None:
    """Embed ``rows.parquet`` as ``distvae embed`` does, in this process and without Ray."""
    from distvae.cluster.embed import embed
    from distvae.cluster.session import Resources
    from distvae.config import EmbedConfig
    from distvae.console import Console

    @contextmanager
    def connect(config: object) -> Iterator[Any]:
        resources = Resources((1, 1), 1, 0.0, 0)
        yield SimpleNamespace(nodes=("one",), embedded=True, resources=lambda *_: resources)

    def run_fragments(
        factory: Any, arguments: Any, fragments: Any, resources: object
    ) -> Iterator[Any]:
        worker = factory(**arguments)
        yield from ((fragment, worker.run(fragment)) for fragment in fragments)

    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        patch.setattr("distvae.cluster.dataset.connect", connect)
        patch.setattr("distvae.cluster.dataset.run_fragments", run_fragments)
        patch.setattr("distvae.cluster.dataset._inside_cluster", lambda: False)
        data, model = str(world / "rows.parquet"), str(world / "model")
        config = EmbedConfig(data=(data,), model=model, out=str(world / name), key=("id",))
        embed(config, Console(quiet=True))
