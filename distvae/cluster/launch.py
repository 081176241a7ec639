"""Ray Train around the training loop: worker processes, messages to the driver, restarts."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from distvae.cluster.checkpoints import read_state
from distvae.cluster.loop import train_loop
from distvae.cluster.memory import keep_freed_memory
from distvae.cluster.session import Resources, Session
from distvae.cluster.shards import TrainJob
from distvae.cluster.world import World
from distvae.console import Console, Task
from distvae.engine import has_cuda
from distvae.errors import ClusterError, DistvaeError

__all__ = ["run_training"]

_POLL_SECONDS = 0.5
_MOST_FAILURES = 3
_OPERATIONS_PER_THREAD = 10**9

Message = dict[str, Any]


class _Listener:
    """Takes the workers' messages on the driver's side."""

    def __init__(self, console: Console, advance: Task, job: TrainJob) -> None:
        self.console, self.advance, self.job = console, advance, job
        self.failure: DistvaeError | None = None
        self.validation: float | None = None
        self.seen = 0.0

    def __call__(self, message: Message) -> None:
        """Show one message, or keep the failure it brings."""
        kind = message["kind"]
        if kind == "progress":
            self.seen += message["rows"]
            self._show(message)
        elif kind == "epoch":
            self.validation = message.get("validation_loss", self.validation)
            if not self.console.terminal:
                self.console.note(_line(message, self.job.config.epochs))
        elif kind == "resumed":
            self.console.note(f"goes on in epoch {message['epoch'] + 1}, step {message['steps']}")
            self.advance(max(message["rows"] - self.seen, 0.0))
            self.seen = max(message["rows"], self.seen)
        elif kind == "failure":
            self.failure = self.failure or message["error"]

    def _show(self, message: Message) -> None:
        figures: dict[str, object] = {"epoch": f"{message['epoch']}/{self.job.config.epochs}"}
        figures["loss"] = message["loss"]
        if self.validation is not None:
            figures["validation"] = self.validation
        self.advance(message["rows"], **figures)


def _line(row: Message, epochs: int) -> str:
    shown = [f"epoch {row['epoch']:.0f}/{epochs}", f"loss {row['train_loss']:.5g}"]
    if "validation_loss" in row:
        shown.append(f"validation {row['validation_loss']:.5g}")
    shown += [f"kl {row['train_kl']:.4g}", f"{row['rows_per_second']:,.0f} rows/s"]
    return "  ".join(shown)


def run_training(job: TrainJob, session: Session, resources: Resources, console: Console) -> None:
    """Train until the checkpoint in ``job.folder`` is the final one.

    One worker without a GPU on an embedded Ray trains in this process, with all its threads;
    otherwise worker processes are started, and restarted from the last checkpoint when they die.

    Raises:
        DistvaeError: what a worker told, or ClusterError when workers keep dying.
    """
    total = float(sum(job.training_rows)) * job.config.epochs
    alone = session.embedded and resources.workers[1] == 1 and resources.gpus == 0
    with console.stage("train", total) as advance:
        listener = _Listener(console, advance, job)
        if alone:
            _fit(job, resources, 0, listener)
        else:
            with _board(listener) as board:
                _fit(job, resources, resources.workers[1], board)
    if listener.failure is not None:
        raise listener.failure
    state = read_state(job.folder)
    if state is None or not state.position.finished:
        raise ClusterError(
            "training", "ended early", "its last checkpoint is not final", "go on with --resume"
        )


def _fit(job: TrainJob, resources: Resources, workers: int, board: Any) -> None:
    from ray.train import FailureConfig, RunConfig, ScalingConfig
    from ray.train.torch import TorchConfig, TorchTrainer

    cuda = resources.gpus > 0
    per_worker: dict[str, float] = {"CPU": resources.cpus}
    if cuda:
        per_worker["GPU"] = resources.gpus
    if resources.memory:
        per_worker["memory"] = resources.memory
    elastic = resources.workers[0] != resources.workers[1]
    count: Any = resources.workers if elastic and workers else workers
    scaling = ScalingConfig(num_workers=count, use_gpu=cuda, resources_per_worker=per_worker)
    place = job.folder.child("ray")
    trainer = TorchTrainer(
        _entry,
        train_loop_config={"job": job, "board": board, "cpus": resources.cpus},
        torch_config=TorchConfig(backend="nccl" if cuda and has_cuda() else "gloo"),
        scaling_config=scaling,
        run_config=RunConfig(
            name="run",
            storage_path=place.path,
            storage_filesystem=place.fs,
            failure_config=FailureConfig(max_failures=_MOST_FAILURES),
        ),
    )
    try:
        trainer.fit()
    except DistvaeError:
        raise
    except RuntimeError as error:  # Ray Train's own errors: workers that died too often
        text = " ".join(str(error).split())[:300]
        raise ClusterError(
            "training",
            f"workers failed ({text})",
            "",
            "see the cluster's logs; go on with --resume",
        ) from error


def _entry(config: dict[str, Any]) -> None:
    """Runs in every worker process (or in the driver, when it trains alone)."""
    import ray.train.torch
    import torch

    context = ray.train.get_context()
    keep_freed_memory()
    device = "cuda" if has_cuda() and torch.distributed.is_initialized() else "cpu"
    if device == "cuda":
        torch.cuda.set_device(ray.train.torch.get_device())
        torch.backends.cudnn.deterministic = True  # the same bits in every run
        torch.backends.cudnn.allow_tf32 = False
    cores = torch.get_num_threads() if callable(config["board"]) else config["cpus"]
    lanes = 2 if device == "cpu" and cores > 1 else 1
    world = World(context.get_world_rank(), context.get_world_size(), device, lanes)
    board = config["board"]
    if callable(board):
        with _threads(config["job"], config["cpus"]):
            train_loop(config["job"], world, board)
        return
    if ray.get(board.has_failed.remote()):
        return  # a user's mistake is the same in every attempt: end, the driver tells it
    try:
        train_loop(config["job"], world, board.put.remote)
    except DistvaeError as error:
        ray.get(board.put.remote({"kind": "failure", "error": error}))
        raise


@contextmanager
def _threads(job: TrainJob, cpus: int) -> Iterator[None]:
    """Intra-op threads for training alone: as many as each has a billion operations a step.

    Threads meet after every small operation; on a busy machine, a step that is too small for
    them runs nine times slower with two threads than with one. At least ``cpus`` are used.
    """
    import torch

    before = torch.get_num_threads()
    config = job.config
    widths = [job.architecture.width, *config.hidden_dims, 2 * config.latent_dim]
    weights = sum(a * b for a, b in itertools.pairwise(widths))
    samples = config.mc_samples * config.importance_samples  # through the decoder alone
    operations = 6 * weights * config.batch_size * (1 + samples)
    torch.set_num_threads(max(cpus, min(before, operations // _OPERATIONS_PER_THREAD), 1))
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _board(listener: _Listener) -> Iterator[Any]:
    """An actor that holds the workers' messages until a thread of the driver fetches them."""
    import ray

    board: Any = ray.remote(num_cpus=0)(_Board).remote()
    closing = threading.Event()

    def drain() -> None:
        for message in ray.get(board.take.remote()):
            listener(message)

    def poll() -> None:
        while not closing.wait(_POLL_SECONDS):
            drain()

    thread = threading.Thread(target=poll, daemon=True)
    thread.start()
    try:
        yield board
    finally:
        closing.set()
        thread.join()
        drain()
        ray.kill(board)


class _Board:
    """Messages in the order of their arrival."""

    def __init__(self) -> None:
        self.messages: list[Message] = []
        self.failed = False

    def put(self, message: Message) -> None:
        self.failed = self.failed or message["kind"] == "failure"
        self.messages.append(message)

    def has_failed(self) -> bool:
        return self.failed

    def take(self) -> list[Message]:
        taken, self.messages = self.messages, []
        return taken
