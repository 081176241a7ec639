"""What every node must be able to do before work starts: reach the storage, compute alike."""

from __future__ import annotations

import json
import secrets
from collections.abc import Mapping, Sequence
from typing import Any

from distvae.cluster.session import Resources, Session
from distvae.console import Console
from distvae.data.storage import Location, delete_tree, read_bytes, write_bytes
from distvae.engine import engine_class
from distvae.errors import ClusterError, DistvaeError, StorageError

__all__ = ["prove_storage", "warn_of_idle_gpus", "workers_engine"]

_PROBE = "_probe"
_SECONDS = 120.0
_NODE_START_SECONDS = 1200.0


def workers_engine(session: Session, resources: Resources, precision: str) -> dict[str, str]:
    """The engine class of the nodes that can hold a worker.

    Raises:
        ClusterError: two such nodes differ, or none answers.
    """
    if session.embedded:
        return engine_class(resources.gpus, precision)
    answers = _on_each_node(_engine, (resources.gpus, precision), resources)
    if not answers:  # an autoscaler has to start such a node first
        answers = {"new node": _anywhere(_engine, (resources.gpus, precision), resources)}
    classes = {json.dumps(answer, sort_keys=True): node for node, answer in answers.items()}
    if len(classes) > 1:
        (one, first), (two, second) = list(classes.items())[:2]
        raise ClusterError(
            "workers",
            f"node {first[:8]} computes with {one}, node {second[:8]} with {two}",
            "all workers must be of one engine class, or bytes would depend on placement",
            "use one image and one kind of machine",
        )
    engine: dict[str, str] = json.loads(next(iter(classes)))
    return engine


def warn_of_idle_gpus(console: Console, engine: Mapping[str, str], gpus: float) -> None:
    """Say so when workers reserve GPUs and torch can use none of them."""
    if gpus > 0 and engine["device"] == "cpu":
        console.warn("workers reserve GPUs, but torch sees none there: they compute on the CPU")


def prove_storage(session: Session, folder: Location) -> None:
    """Every node writes a file below ``folder`` and reads the driver's; one node needs no proof.

    Raises:
        StorageError: a node does not see the folder that the driver sees.
    """
    if len(session.nodes) < 2:
        return
    probe = folder.child(_PROBE)
    token = secrets.token_hex(8)
    try:
        write_bytes(probe.child("driver"), token.encode())
        answers = _on_each_node(_touch, (probe, token), None)
        for node, answer in answers.items():
            place = probe.child(node)
            if answer or read_bytes(place) != token.encode():
                raise _unshared(folder, node, answer)
    except StorageError as error:
        raise _unshared(folder, "one of the nodes", str(error)) from None
    finally:
        delete_tree(probe)


def _unshared(folder: Location, node: str, why: str) -> StorageError:
    return StorageError(
        folder.uri,
        f"node {node[:8]} cannot write and read there ({why or 'its file is not seen here'})",
        "all nodes must share the storage",
        "use a shared mount or a URI such as s3://bucket/folder",
    )


def _engine(gpus: float, precision: str) -> dict[str, str]:
    return engine_class(gpus, precision)


def _touch(probe: Location, token: str) -> str:
    """Empty when the node reads the driver's token and has written its own file, else why not."""
    import ray

    try:
        if read_bytes(probe.child("driver")) != token.encode():
            return "reads another file than the driver's"
        write_bytes(probe.child(ray.get_runtime_context().get_node_id()), token.encode())
    except DistvaeError as error:
        return str(error)
    return ""


def _anywhere(function: Any, arguments: Sequence[Any], resources: Resources) -> Any:
    """``function(*arguments)`` on the first node that can hold such a worker, once it is there."""
    import ray

    remote = ray.remote(num_cpus=resources.cpus, num_gpus=resources.gpus)(function)
    try:
        return ray.get(remote.remote(*arguments), timeout=_NODE_START_SECONDS)
    except ray.exceptions.GetTimeoutError:
        raise ClusterError(
            "workers",
            f"no node with {resources.cpus} CPU and {resources.gpus:g} GPU came up",
            f"the autoscaler has {_NODE_START_SECONDS / 60:.0f} minutes",
            "see ray status",
        ) from None


def _on_each_node(
    function: Any, arguments: Sequence[Any], resources: Resources | None
) -> dict[str, Any]:
    """``function(*arguments)`` on each alive node that could hold such a worker, by node id."""
    import ray
    from ray.util.scheduling_strategies import NodeAffinitySchedulingStrategy

    tasks = {}
    for node in ray.nodes():
        offered = node["Resources"]
        enough = resources is None or (
            offered.get("CPU", 0) >= resources.cpus and offered.get("GPU", 0) >= resources.gpus
        )
        if node["Alive"] and enough:
            pinned = NodeAffinitySchedulingStrategy(node["NodeID"], soft=False)
            gpus = 0 if resources is None else resources.gpus
            options: dict[str, Any] = {
                "num_cpus": 0,
                "num_gpus": gpus,
                "scheduling_strategy": pinned,
            }
            tasks[node["NodeID"]] = ray.remote(**options)(function).remote(*arguments)
    try:
        return dict(zip(tasks, ray.get(list(tasks.values()), timeout=_SECONDS), strict=True))
    except (ray.exceptions.GetTimeoutError, ray.exceptions.RayError) as error:
        text = " ".join(str(error).split())[:200]
        raise ClusterError(
            "workers", f"a node does not answer ({text})", "", "see distvae's README on clusters"
        ) from None
