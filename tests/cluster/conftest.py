"""One Ray cluster of two nodes for all tests of this folder, small data, and a model of it."""

from __future__ import annotations

import logging
import secrets
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from tests.cluster.helpers import descendants, make_table, run, run_here, write_data

ROWS, ROWS_PER_GROUP = 6000, 100
SMALL_MODEL: dict[str, Any] = {
    "exclude": ["id"],
    "latent_dim": 3,
    "hidden_dims": "16",
    "batch_size": 256,
    "workers": 1,
}


@dataclass(frozen=True)
class RayNodes:
    """The running cluster: 2 + 2 logical CPUs; the second node declares a GPU that is not there.

    Attributes:
        address: HOST:PORT for ``--address``.
        raylets: process ids of the nodes' raylets, the head's first.
    """

    address: str
    raylets: tuple[int, int]

    def workers(self, title: str) -> list[tuple[int, int]]:
        """(node, pid) of the worker processes whose title holds ``title``."""
        return [
            (node, pid)
            for node, raylet in enumerate(self.raylets)
            for pid, shown in descendants(raylet).items()
            if shown.startswith("ray::") and title in shown
        ]


@pytest.fixture(scope="session")
def ray_nodes() -> Iterator[RayNodes]:
    """Start the cluster and connect to it; every job that runs in this process uses it."""
    settings = {
        "RAY_AUTH_MODE": "token",
        "RAY_AUTH_TOKEN": secrets.token_hex(32),
        "RAY_TRAIN_V2_ENABLED": "1",
        "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
        "RAY_BACKEND_LOG_LEVEL": "fatal",
    }
    with pytest.MonkeyPatch.context() as patch:
        patch.delenv("RAY_ADDRESS", raising=False)
        for name, value in settings.items():
            patch.setenv(name, value)
        import ray
        from ray.cluster_utils import Cluster

        for name in ("ray", "ray.data", "ray.train", "ray.tune"):
            logging.getLogger(name).setLevel(logging.ERROR)
        nodes = Cluster(
            initialize_head=True, head_node_args={"num_cpus": 2, "include_dashboard": False}
        )
        try:
            second = nodes.add_node(num_cpus=2, num_gpus=1)
            ray.init(nodes.address, log_to_driver=False, logging_level=logging.ERROR)
            raylets = [
                node.all_processes["raylet"][0].process.pid for node in (nodes.head_node, second)
            ]
            yield RayNodes(nodes.address, (raylets[0], raylets[1]))
        finally:
            ray.shutdown()
            nodes.shutdown()


@pytest.fixture(scope="session", autouse=True)
def one_thread() -> Iterator[None]:
    """Torch computes in one thread, here and in drivers: two cores are shared by many processes."""
    import torch

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        yield
    torch.set_num_threads(before)


@pytest.fixture
def in_process(ray_nodes: RayNodes, monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs run their fragments in this process: for tests of what is written, not of who does it.

    ``test_embed`` and ``test_generate`` show that worker processes write the same bytes.
    """
    monkeypatch.setattr("distvae.cluster.dataset.run_fragments", run_here)
    monkeypatch.setattr("distvae.cluster.evaluate.run_fragments", run_here)


@pytest.fixture(scope="session")
def table() -> pa.Table:
    return make_table(ROWS)


@pytest.fixture(scope="session")
def data(tmp_path_factory: pytest.TempPathFactory, table: pa.Table) -> Path:
    return write_data(tmp_path_factory.mktemp("input") / "rows", table, ROWS_PER_GROUP)


@pytest.fixture(scope="session")
def model(ray_nodes: RayNodes, tmp_path_factory: pytest.TempPathFactory, data: Path) -> Path:
    folder = tmp_path_factory.mktemp("model") / "m"
    run("train", data=str(data), model=folder, epochs=3, **SMALL_MODEL)
    return folder


@pytest.fixture(scope="session")
def embedded(tmp_path_factory: pytest.TempPathFactory, data: Path, model: Path) -> Path:
    """What one worker process makes of ``data``, undisturbed: 60 fragments."""
    out = tmp_path_factory.mktemp("embedded") / "e"
    options = embed_options(data, model)
    result = run("embed", out=out, workers=1, **options)
    assert (result["parts"], result["rows_out"]) == (ROWS // ROWS_PER_GROUP, ROWS)
    return out


def embed_options(data: Path, model: Path) -> dict[str, Any]:
    return {"data": str(data), "model": model, "key": "id", "fragment_rows": ROWS_PER_GROUP}
