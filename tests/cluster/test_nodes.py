"""Two nodes, joined through ``--address`` by a driver of its own."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

import distvae
from distvae.data.storage import locate
from distvae.data.verify import verify
from tests.cluster.conftest import ROWS, ROWS_PER_GROUP, RayNodes, embed_options
from tests.cluster.helpers import Driver, parts, rows_of, start, until

pytestmark = [pytest.mark.ray, pytest.mark.slow]


def result_of(driver: Driver) -> dict[str, object]:
    assert driver.wait() == 0, driver.errors
    return dict(json.loads(driver.output.splitlines()[-1]))


def test_the_whole_story_on_two_nodes(ray_nodes: RayNodes, tmp_path: Path, data: Path) -> None:
    common = ("--address", ray_nodes.address, "--workers", 2, "--json")
    model = tmp_path / "m"
    shape = ("--exclude", "id", "--latent-dim", 2, "--hidden-dims", 8, "--epochs", 2)
    train = start(tmp_path / "t", "train", data, "--model", model, *shape, *common)
    trained = result_of(train)
    assert trained["epochs"] == 2
    assert distvae.load(str(model)).id == trained["model_id"]

    embed = start(tmp_path / "e", "embed", data, "--model", model, "--out", tmp_path / "o", *common)
    rows = ("--rows", 3000, "--fragment-rows", 1000)
    generate = start(
        tmp_path / "g", "generate", "--model", model, "--out", tmp_path / "s", *rows, *common
    )
    assert result_of(embed)["rows_out"] == ROWS
    assert result_of(generate)["rows_out"] == 3000
    assert rows_of(tmp_path / "s").equals(distvae.load(str(model)).sample(3000))
    for name in ("o", "s"):
        verify(locate(str(tmp_path / name)))
        assert not (tmp_path / name / "_probe").exists()


def test_workers_with_a_gpu_run_where_one_is(
    ray_nodes: RayNodes, tmp_path: Path, data: Path, model: Path, embedded: Path
) -> None:
    options = embed_options(data, model)
    arguments = ("--model", model, "--key", "id", "--fragment-rows", options["fragment_rows"])
    gpu = ("--gpus-per-worker", 1, "--address", ray_nodes.address, "--json")
    before = set(ray_nodes.workers("MapWorker"))  # of an earlier run, on their way out
    driver = start(tmp_path / "d", "embed", data, *arguments, *gpu, "--out", tmp_path / "o")
    seen: set[int] = set()

    def ended() -> bool:
        seen.update(node for node, _ in set(ray_nodes.workers("MapWorker")) - before)
        return driver.process.poll() is not None

    try:
        until(ended, "the end", every=0.2)
    finally:
        driver.end()
    result = result_of(driver)
    assert seen == {1}
    assert result["workers"] == 1 and result["parts"] == ROWS // ROWS_PER_GROUP
    assert parts(tmp_path / "o") == parts(embedded)  # torch sees no GPU: the same engine class
    assert "warning: workers reserve GPUs, but torch sees none" in driver.errors


def test_more_gpus_than_any_node_has_end_with_code_8(
    ray_nodes: RayNodes, tmp_path: Path, data: Path, model: Path
) -> None:
    address = ("--address", ray_nodes.address)
    arguments = ("--model", model, "--gpus-per-worker", 2, *address, "--out", tmp_path / "o")
    driver = start(tmp_path / "d", "embed", data, *arguments)
    assert driver.wait() == 8
    (line,) = [line for line in driver.errors.splitlines() if line.startswith("error: ")]
    assert "gpus_per_worker" in line and "offers 1 GPU" in line
    assert not (tmp_path / "o").exists()
