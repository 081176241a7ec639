"""``ray_cluster.yaml`` as Ray's own loader sees it, and in step with the rest of the repository."""

from __future__ import annotations

import copy
import json
import re
from pathlib import Path
from typing import Any

import pytest
import yaml

import distvae

pytestmark = pytest.mark.ray

ROOT = Path(__file__).parents[1]
CLUSTER_FILE = ROOT / "ray_cluster.yaml"
MADE_BY_MAKE_WHEEL = "./dist"


@pytest.fixture
def written() -> dict[str, Any]:
    cluster: dict[str, Any] = yaml.safe_load(CLUSTER_FILE.read_text(encoding="utf-8"))
    return cluster


@pytest.fixture
def prepared(written: dict[str, Any]) -> dict[str, Any]:
    return _load(written)


def _load(cluster: dict[str, Any]) -> dict[str, Any]:
    """What ``ray up`` makes of the file before it talks to the cloud; raises if it refuses it."""
    from ray.autoscaler._private.util import prepare_config, validate_config

    ready: dict[str, Any] = prepare_config(copy.deepcopy(cluster))
    validate_config(ready)
    return ready


def _images(cluster: dict[str, Any]) -> set[str]:
    nodes = cluster["available_node_types"].values()
    places = [cluster["docker"], *(node.get("docker", {}) for node in nodes)]
    names = ("image", "head_image", "worker_image")
    return {place[name] for place in places for name in names if name in place}


def test_the_file_fits_the_schema_that_ray_ships(written: dict[str, Any]) -> None:
    import jsonschema
    import ray.autoscaler

    folder = Path(ray.autoscaler.__file__).parent
    schema = json.loads((folder / "ray-schema.json").read_text(encoding="utf-8"))
    jsonschema.validate(written, schema)


def test_rays_loader_accepts_the_file(prepared: dict[str, Any]) -> None:
    assert prepared["head_node_type"] == "head"
    assert set(prepared["available_node_types"]) == {"head", "gpu_worker", "cpu_worker"}


@pytest.mark.parametrize("path", ["max_worker", "docker.images", "available_node_types.head.cpus"])
def test_rays_loader_refuses_a_misspelt_field(written: dict[str, Any], path: str) -> None:
    import jsonschema

    *parents, field = path.split(".")
    place = written
    for parent in parents:
        place = place[parent]
    place[field] = 1
    with pytest.raises(jsonschema.ValidationError, match=re.escape(field)):
        _load(written)


def test_images_are_pinned_to_the_tested_ray_and_python(written: dict[str, Any]) -> None:
    pins = (ROOT / "constraints.txt").read_text(encoding="utf-8")
    found = re.search(r"^ray==(\S+)$", pins, flags=re.MULTILINE)
    assert found is not None
    images = _images(written)
    assert len(images) == 2
    for image in images:
        assert re.fullmatch(rf"rayproject/ray:{re.escape(found[1])}-py311-(cpu|gpu)", image)


def test_token_authentication_is_on_in_every_container(prepared: dict[str, Any]) -> None:
    assert "--env RAY_AUTH_MODE=token" in prepared["docker"]["run_options"]
    assert prepared["file_mounts"]["~/.ray/auth_token"] == "~/.ray/auth_token"
    # Nothing may switch it off again, and the dashboard may not listen to the world.
    text = CLUSTER_FILE.read_text(encoding="utf-8")
    assert "RAY_AUTH_MODE=disabled" not in text
    assert "0.0.0.0" not in text
    assert any("--dashboard-host=127.0.0.1" in line for line in prepared["head_start_ray_commands"])


@pytest.mark.parametrize(("kind", "gpus"), [("gpu_worker", 1), ("cpu_worker", 0)])
def test_workers_scale_from_none(prepared: dict[str, Any], kind: str, gpus: int) -> None:
    worker = prepared["available_node_types"][kind]
    assert worker["min_workers"] == 0
    assert 0 < worker["max_workers"] <= prepared["max_workers"]
    assert worker["resources"].get("GPU", 0) == gpus


def test_no_work_is_scheduled_on_the_head(prepared: dict[str, Any]) -> None:
    assert prepared["available_node_types"]["head"]["resources"] == {"CPU": 0}


def test_nodes_install_this_version_with_the_tested_set(written: dict[str, Any]) -> None:
    wheel = f"~/distvae/dist/distvae-{distvae.__version__}-py3-none-any.whl"
    (install,) = (line for line in written["setup_commands"] if line.startswith("pip install"))
    assert install == f"pip install --constraint ~/distvae/constraints.txt {wheel}"
    local = {mount for mount in written["file_mounts"].values() if not mount.startswith("~")}
    assert local == {"./constraints.txt", MADE_BY_MAKE_WHEEL}
    assert all((ROOT / mount).exists() for mount in local - {MADE_BY_MAKE_WHEEL})
