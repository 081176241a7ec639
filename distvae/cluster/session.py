"""Finding or starting Ray, quietly, and refusing early what the cluster can never run."""

from __future__ import annotations

import logging
import os
import secrets
import signal
import socket
import sys
import tempfile
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from distvae.config import JobConfig, parse_bytes, worker_range
from distvae.console import human_bytes
from distvae.errors import ClusterError

__all__ = ["Resources", "Session", "connect", "refuse_beyond_machine"]

_ENVIRONMENT = {
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
    "RAY_AUTH_MODE": "token",  # a client given an address fails without it, even on an open network
    "RAY_DATA_USAGE_DISABLED": "1",  # an actor (seconds of imports) that only counts usage
    "RAY_TRAIN_V2_ENABLED": "1",
    "RAY_USAGE_STATS_ENABLED": "0",
}
_LOGGERS = ("ray", "ray.data", "ray.train", "ray.tune")
_CONNECT_SECONDS = 5.0
_SETTINGS = 4
_HTTP2_HELLO = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + bytes([0, 0, 0, _SETTINGS, 0, 0, 0, 0, 0])


@dataclass(frozen=True)
class Resources:
    """What each worker of a job reserves, and how many workers are asked for.

    Attributes:
        workers: (fewest, most) worker processes.
        cpus: CPU cores per worker.
        gpus: GPUs per worker.
        memory: bytes per worker, 0 when not reserved.
    """

    workers: tuple[int, int]
    cpus: int
    gpus: float
    memory: int

    @property
    def device(self) -> str:
        """``"cuda"`` when the worker has a GPU that torch can use, else ``"cpu"``."""
        return "cuda" if self.gpus > 0 else "cpu"


@dataclass(frozen=True)
class Session:
    """A connection to Ray.

    Attributes:
        embedded: whether this process started Ray for itself.
        nodes: ids of the nodes that are alive.
        totals: the cluster's resources by name.
    """

    embedded: bool
    nodes: tuple[str, ...]
    totals: dict[str, float]

    def resources(self, config: JobConfig, units: int) -> Resources:
        """How ``config`` spreads over this cluster for ``units`` independent pieces of work.

        Raises:
            ClusterError: no node offers what one worker asks for.
        """
        memory = parse_bytes(config.memory_per_worker) if config.memory_per_worker else 0
        need = {
            "CPU": float(config.cpus_per_worker),
            "GPU": config.gpus_per_worker,
            "memory": float(memory),
        }
        self._refuse_impossible({name: amount for name, amount in need.items() if amount})
        if config.workers == "auto":
            offered = _most_offered(self.totals)
            room = min(
                int(offered.get(name, 0) // amount) for name, amount in need.items() if amount
            )
            filled = max(1, min(room, units))
            workers = (filled, filled)
        else:
            fewest, most = worker_range(config.workers)
            workers = (min(fewest, max(units, 1)), min(most, max(units, 1)))
        return Resources(workers, config.cpus_per_worker, config.gpus_per_worker, memory)

    def _refuse_impossible(self, need: dict[str, float]) -> None:
        import ray

        best = [node["Resources"] for node in ray.nodes() if node["Alive"]]
        best += [dict(group.resources) for group in _node_groups()]
        if any(
            all(node.get(name, 0.0) >= amount for name, amount in need.items()) for node in best
        ):
            return
        for name, amount in need.items():
            most = max((node.get(name, 0.0) for node in best), default=0.0)
            if most < amount:
                raise _too_much(name, amount, most, "the largest node of this cluster")
        raise ClusterError(
            "workers", f"need {need} on one node", "no node offers all of it", "ask for less"
        )


def _node_groups() -> list[Any]:
    """What an autoscaler could start, from the cluster's own configuration; often nothing."""
    from ray._private.state import state

    config = state.get_cluster_config()
    return [] if config is None else list(config.node_group_configs)


def _most_offered(totals: Mapping[str, float]) -> dict[str, float]:
    """Per resource, what the cluster has or could grow to."""
    offered = dict(totals)
    for group in _node_groups():
        for name, amount in group.resources.items():
            grown = float(amount) * max(int(group.max_count), 1)
            offered[name] = max(offered.get(name, 0.0), grown)
    return offered


def refuse_beyond_machine(config: JobConfig) -> None:
    """Tell before anything starts what a local Ray could never offer; with a cluster do nothing.

    Raises:
        ClusterError: a worker asks for more than this machine has.
    """
    if _is_connected() or _address(config) != "local":
        return
    need = {
        "CPU": float(config.cpus_per_worker),
        "GPU": config.gpus_per_worker,
        "memory": float(parse_bytes(config.memory_per_worker or "0")),
    }
    for name, amount in need.items():
        if amount and amount > (most := _of_this_machine(name)):
            raise _too_much(name, amount, most, "this machine")


def _of_this_machine(name: str) -> float:
    if name == "CPU":
        return float(_cores())
    if name == "memory":
        return float(os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"))
    import torch

    return float(torch.cuda.device_count())


def _too_much(name: str, amount: float, most: float, where: str) -> ClusterError:
    option = {"CPU": "cpus_per_worker", "GPU": "gpus_per_worker", "memory": "memory_per_worker"}[
        name
    ]
    shown = human_bytes if name == "memory" else "{:g}".format
    unit = {"CPU": " CPU cores", "GPU": " GPUs", "memory": " of memory"}[name]
    return ClusterError(
        option,
        f"got {shown(amount)}",
        f"{where} offers {shown(most)}{unit}",
        f"lower --{option.replace('_', '-')}, or use a cluster with such a node",
    )


@contextmanager
def connect(config: JobConfig, meanwhile: Callable[[], object] | None = None) -> Iterator[Session]:
    """Connect to ``--address``, to ``$RAY_ADDRESS`` (inside a Ray job), or start a local Ray.

    A local Ray takes all CPU cores of the machine, has no dashboard, and ends with the block. A
    connection that already exists in this process is used as it is and left open.

    Args:
        config: of the job.
        meanwhile: what a thread does while a local Ray starts, such as imports.

    Raises:
        ClusterError: the cluster cannot be reached or refuses us.
    """
    address = _address(config)
    if not _is_connected():
        refuse_beyond_machine(config)
        _refuse_unreachable(address)
    for name, value in _ENVIRONMENT.items():
        os.environ.setdefault(name, value)
    import ray

    if ray.is_initialized():
        yield _session(embedded=address == "local")
        return
    for name in _LOGGERS:
        logging.getLogger(name).setLevel(logging.ERROR)
    with _native_log():
        # Starting Ray is mostly waiting for processes: what comes next is imported meanwhile.
        def beside() -> None:
            _import_ray_data()
            if meanwhile is not None and address == "local":
                meanwhile()

        importing = threading.Thread(target=beside, daemon=True)
        importing.start()
        try:
            with _own_sigterm():
                _init(address)
        finally:
            importing.join()
        try:
            yield _session(embedded=address == "local")
        finally:
            ray.shutdown()


def _import_ray_data() -> None:
    import ray.data  # noqa: F401 - for its effect: two seconds that `pool` need not wait for


def _address(config: JobConfig) -> str:
    return config.address or os.environ.get("RAY_ADDRESS") or "local"


def _one_line(error: BaseException) -> str:
    return " ".join(str(error).split())[:300]


def _is_connected() -> bool:
    """Whether this process has a connection to Ray already; does not import Ray."""
    ray = sys.modules.get("ray")
    return bool(ray and ray.is_initialized())


def _cores() -> int:
    affine = hasattr(os, "sched_getaffinity")
    return len(os.sched_getaffinity(0)) if affine else os.cpu_count() or 1


@contextmanager
def _own_sigterm() -> Iterator[None]:
    """Ray puts its own handler on SIGTERM, which ends with code 15: the process keeps its own."""
    before = signal.getsignal(signal.SIGTERM)
    try:
        yield
    finally:
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)


@contextmanager
def _native_log() -> Iterator[None]:
    """Ray's C++ layer writes remarks to file descriptor 2 that no setting silences entirely.

    Meanwhile the descriptor leads to a file; Python's own ``sys.stderr`` keeps its place.
    """
    if os.environ.get("DISTVAE_NATIVE_LOG"):
        yield
        return
    kept, python_stderr = os.dup(2), sys.stderr
    with tempfile.TemporaryFile() as sink, os.fdopen(kept, "w", buffering=1) as stream:
        sys.stderr.flush()
        os.dup2(sink.fileno(), 2)
        if python_stderr is sys.__stderr__:
            sys.stderr = stream
        try:
            yield
        finally:
            stream.flush()
            os.dup2(kept, 2)
            sys.stderr = python_stderr


def _init(address: str) -> None:
    import ray

    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if address == "local":
        _ensure_private_token()
        try:
            ray.init(address="local", num_cpus=_cores(), include_dashboard=False, **options)
        except Exception as error:  # noqa: BLE001 - Ray tells a failed start by a bare Exception
            raise ClusterError(
                "local Ray",
                f"did not start ({_one_line(error)})",
                "it needs a minute, memory and room in /tmp",
                "try again, or name a cluster with --address",
            ) from None
        return
    try:
        ray.init(address=address, runtime_env={"py_modules": [_package()]}, **options)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        raise ClusterError(
            f"--address {address}",
            f"cannot join the cluster ({_one_line(error)})",
            "Ray and Python versions must be the cluster's, and its token must be known here",
            "set RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH to the cluster's token",
        ) from None


def _ensure_private_token() -> None:
    """A local Ray makes a token that everybody can read unless there is one: make it first."""
    if os.environ.get("RAY_AUTH_TOKEN") or os.environ.get("RAY_AUTH_TOKEN_PATH"):
        return
    path = Path.home() / ".ray" / "auth_token"
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        return
    except OSError:  # no home to write to: a token for this process and its workers alone
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
        return
    with os.fdopen(handle, "w") as stream:
        stream.write(secrets.token_hex(32))


def _package() -> str:
    """The folder of this package: workers of a cluster run the driver's own version of it."""
    return str(Path(__file__).resolve().parents[1])


def _refuse_unreachable(address: str) -> None:
    """A wrong address is told in seconds; Ray itself would wait for minutes."""
    if address in ("auto", "local"):
        return
    host, colon, port = address.rpartition(":")
    if "://" in address or not colon or not port.isdigit():
        raise ClusterError(
            "--address",
            f"got {address}",
            "must be HOST:PORT of the cluster's head, such as 10.0.0.1:6379",
            "a dashboard's http:// address belongs to ray job submit",
        )
    try:
        with socket.create_connection((host, int(port)), timeout=_CONNECT_SECONDS) as stream:
            stream.sendall(_HTTP2_HELLO)
            answer = stream.recv(9)
    except OSError as error:
        raise ClusterError(
            "--address",
            f"got {address}",
            f"nothing answers there ({error.strerror or error})",
            "check host and port",
        ) from None
    _refuse_not_ray(address, answer)


def _refuse_not_ray(address: str, answer: bytes) -> None:
    """A Ray head speaks gRPC: its first words are an HTTP/2 SETTINGS frame."""
    if len(answer) < 4 or answer[3] != _SETTINGS:
        raise ClusterError(
            "--address",
            f"got {address}",
            "what answers there is no Ray head",
            "give the head's own port (6379 unless it was changed), not the dashboard's",
        )


def _session(embedded: bool) -> Session:
    import ray

    alive = [node for node in ray.nodes() if node["Alive"]]
    totals: dict[str, float] = ray.cluster_resources()
    return Session(embedded, tuple(node["NodeID"] for node in alive), totals)
