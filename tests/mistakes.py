"""A folder full of things that users get wrong, for ``test_mistakes``."""

from __future__ import annotations

import json
import shutil
import socket
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from tests.conftest import tiny_table, write_tiny_model

__all__ = ["make_world"]


def make_world(world: Path, tiny_model: Path) -> None:
    """Write every file and folder that the mistakes name."""
    _write_inputs(world)
    _write_odd_values(world)
    _write_lists(world)
    _write_models(world, tiny_model)
    _write_outputs(world)


def free_port() -> int:
    """A port on which nothing listens."""
    with socket.socket() as found:
        found.bind(("127.0.0.1", 0))
        return int(found.getsockname()[1])


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
    middle = len(whole) // 2
    footer = bytearray(whole)
    footer[-40:-20] = bytes(20)
    (world / "footer.parquet").write_bytes(footer)
    assert middle > 12
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
    pq.write_table(_replaced(table, "height", names), world / "wrong_type.parquet")
    pq.write_table(table.drop_columns("height"), world / "wrong_columns.parquet")
    three = pa.FixedSizeListArray.from_arrays(pa.array(np.zeros(rows * 3, np.uint8)), 3)
    pq.write_table(_replaced(table, "pixels", three), world / "wrong_length.parquet")
    ragged = pa.array([[1, 2]] * (rows - 1) + [[1, 2, 3]], pa.list_(pa.float32()))
    pq.write_table(_replaced(table, "pixels", ragged), world / "ragged.parquet")
    nothing = pa.array([None] * rows, pa.list_(pa.float32()))
    pq.write_table(_replaced(table, "pixels", nothing), world / "no_lists.parquet")
    height = table.column("height").to_numpy().copy()
    for name, value in (("infinite", np.inf), ("huge", 1e31)):
        changed = height.copy()
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
    (world / "begun" / "_train" / "run.json").write_text('{"items": {"command": "train"}}\n')
    shutil.rmtree(world / "old_codec")
    codec = json.loads((tiny_model / "codec.json").read_text())
    write_tiny_model(world / "old_codec", codec=json.dumps({**codec, "format": 0}))


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
