"""train: worker processes train what one process trains, and what is in the way is told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

import distvae
from distvae.cli import main
from distvae.errors import OutputError
from tests.cluster.conftest import SMALL_MODEL
from tests.cluster.helpers import make_table, run, write_data
from tests.cluster.test_worlds import TOLERANCE

pytestmark = pytest.mark.ray


def history(model: Path) -> dict[str, list[float]]:
    """``history.parquet`` without its clocks."""
    columns = pq.read_table(model / "history.parquet").to_pydict()
    return {k: v for k, v in columns.items() if k not in ("seconds", "rows_per_second")}


def test_two_processes_train_what_one_trains(ray_nodes: object, tmp_path: Path) -> None:
    # With values missing, in windows that hold a few of the 30 fragments.
    data = write_data(tmp_path / "in", make_table(3000, missing=0.2), 100)
    options = SMALL_MODEL | {"data": str(data), "epochs": 3, "fragment_rows": 100}
    options |= {"memory_per_worker": "50KB"}
    one = run("train", model=tmp_path / "one", **options)
    half = {"workers": 2, "memory_per_worker": "25KB"}  # the same windows, shared by two
    two = run("train", model=tmp_path / "two", **options | half)
    assert one["steps"] == two["steps"] > 3 * -(-one["rows_trained"] // 256)
    for name, values in history(tmp_path / "one").items():
        np.testing.assert_allclose(
            history(tmp_path / "two")[name], values, rtol=TOLERANCE, err_msg=name
        )
    mine, theirs = (distvae.load(str(tmp_path / name)) for name in ("one", "two"))
    table = make_table(50, seed=1)
    for a, b in zip(mine.encode(table), theirs.encode(table), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-3)
    assert not (tmp_path / "two" / "_train").exists()


def test_training_twice_gives_the_same_bits(tmp_path: Path, data: Path, model: Path) -> None:
    result = run("train", data=str(data), model=tmp_path / "m", epochs=3, **SMALL_MODEL)
    assert result["model_id"] == distvae.load(str(model)).id
    assert history(tmp_path / "m") == history(model)


def test_a_loss_that_is_not_finite_ends_with_code_3(
    ray_nodes: object, tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    arguments = ["train", data, "--model", tmp_path / "m", "--workers", 2, "--exclude", "id"]
    arguments += ["--learning-rate", 1e30, "--hidden-dims", 16, "--latent-dim", 3, "--quiet"]
    assert main(list(map(str, arguments))) == 3
    error = [line for line in capfd.readouterr().err.splitlines() if line.startswith("error: ")]
    assert len(error) == 1
    assert "is not finite at step 2 (epoch 1), in columns x, y, v" in error[0]
    assert not (tmp_path / "m" / "config.json").exists()


def test_a_warm_up_that_never_ends_is_told(
    tmp_path: Path, data: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    options: dict[str, Any] = SMALL_MODEL | {"data": str(data), "epochs": 1, "kl_warmup": 3}
    run("train", model=tmp_path / "m", **options)
    told = "--kl-warmup is 3 epochs, but training ends after 1: the KL weight never reaches 1"
    assert told in capfd.readouterr().err


def test_a_model_is_replaced_only_when_asked(tmp_path: Path, data: Path, model: Path) -> None:
    import shutil

    target = tmp_path / "m"
    shutil.copytree(model, target)
    options: dict[str, Any] = SMALL_MODEL | {"data": str(data), "epochs": 1, "seed": 9}
    with pytest.raises(OutputError, match="holds a model already"):
        run("train", model=target, **options)
    with pytest.raises(OutputError, match="seed"):
        run("train", model=target, resume=True, **options)
    assert run("train", model=target, **options | {"seed": 0, "resume": True})["finished"]
    assert distvae.load(str(target)).id == distvae.load(str(model)).id
    replaced = run("train", model=target, overwrite=True, **options)
    assert distvae.load(str(target)).id == replaced["model_id"] != distvae.load(str(model)).id


def test_max_steps_and_patience_reach_the_loop(
    ray_nodes: object, tmp_path: Path, data: Path
) -> None:
    options: dict[str, Any] = SMALL_MODEL | {"data": str(data), "learning_rate": 0.5}
    few = run("train", model=tmp_path / "few", max_steps=5, **options)
    assert (few["steps"], few["epochs"]) == (5, 1)
    patient = run("train", model=tmp_path / "p", patience=2, epochs=60, **options)
    validation = history(tmp_path / "p")["validation_loss"]
    assert patient["epochs"] == int(np.argmin(validation)) + 1 + 2 < 60


def test_a_table_can_be_resumed_for_more_epochs(tmp_path: Path) -> None:
    """The KL weight's rise follows from the epochs, unless it is given: it is no other training."""
    from distvae.cluster.train_plan import train_plan
    from distvae.train_options import TrainConfig

    pq.write_table(pa.table({"a": ["x", "y"] * 200, "b": ["u", "v"] * 200}), tmp_path / "d.parquet")
    base: dict[str, Any] = {"data": (str(tmp_path / "d.parquet"),), "model": str(tmp_path / "m")}

    def items(**options: Any) -> dict[str, Any]:
        return train_plan(TrainConfig(**base, **options)).items

    assert items(epochs=3, max_steps=1) == items(epochs=9) != items(epochs=9, kl_warmup=2)
