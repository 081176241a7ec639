"""The one adapter to Ray Data: a pool of stateful workers, fed one fragment at a time."""

from __future__ import annotations

import logging
import pickle
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, Protocol

import pyarrow as pa

from distvae.cluster.session import Resources
from distvae.data.fragments import Fragment
from distvae.errors import ClusterError, DistvaeError

__all__ = ["FragmentWorker", "run_fragments"]

_FRAGMENTS_PER_WAVE = 4096
_NO_PROGRESS_SECONDS = 1800
_FAULT = "a fault of distvae in a worker; run again with --debug and report the traceback"


class FragmentWorker(Protocol):
    """Built once per worker process; turns one fragment into one small result."""

    def run(self, fragment: Fragment) -> Any:
        """Process a whole fragment and return what the driver needs to know (kilobytes)."""
        ...


def run_fragments(
    factory: Callable[..., FragmentWorker],
    arguments: Mapping[str, Any],
    fragments: Sequence[Fragment],
    resources: Resources,
) -> Iterator[tuple[Fragment, Any]]:
    """Yield (fragment, result) as they finish, in any order.

    Ray Data gives the actor pool, its growth, back-pressure and retries: a worker that dies is
    replaced and its fragments run again. Only results cross the object store.

    Args:
        factory: makes the worker, in the worker's process, from ``arguments``.
        arguments: keyword arguments of ``factory``; sent once per worker.
        fragments: the work; one Ray Data block each.
        resources: pool size and what each worker reserves.

    Raises:
        DistvaeError: a worker raised it; the run stops at the first.
        ClusterError: Ray lost the pool or made no progress for half an hour.
    """
    for start in range(0, len(fragments), _FRAGMENTS_PER_WAVE):
        yield from _wave(
            factory, arguments, fragments[start : start + _FRAGMENTS_PER_WAVE], resources
        )


def _wave(
    factory: Callable[..., FragmentWorker],
    arguments: Mapping[str, Any],
    fragments: Sequence[Fragment],
    resources: Resources,
) -> Iterator[tuple[Fragment, Any]]:
    import ray
    from ray.data import ActorPoolStrategy

    _quiet_context()
    by_index = {fragment.index: fragment for fragment in fragments}
    blocks = [pa.table({"fragment": [pickle.dumps(fragment)]}) for fragment in fragments]
    fewest, most = (min(count, len(fragments)) for count in resources.workers)
    results = ray.data.from_arrow(blocks).map_batches(
        _Adapter,
        fn_constructor_args=(factory, dict(arguments)),
        batch_format="pyarrow",
        batch_size=1,  # one fragment; Ray Data insists on a number when workers have GPUs
        zero_copy_batch=True,
        compute=ActorPoolStrategy(min_size=fewest, max_size=most, max_tasks_in_flight_per_actor=2),
        num_cpus=resources.cpus,
        num_gpus=resources.gpus or None,
        memory=resources.memory or None,
    )
    try:
        batches: Iterator[Any] = iter(
            results.iter_batches(batch_size=None, batch_format="pyarrow", prefetch_batches=0)
        )
        for batch in batches:
            indices, texts = batch["index"].to_pylist(), batch["result"].to_pylist()
            for index, text in zip(indices, texts, strict=True):
                result = pickle.loads(text)  # noqa: S301 - our own worker's
                if isinstance(result, DistvaeError):
                    raise result
                yield by_index[index], result
    except ray.exceptions.RayActorError as error:
        raise _lost(error) from error


def _lost(error: BaseException) -> ClusterError:
    text = " ".join(str(error).split())[:300]
    return ClusterError(
        "workers",
        f"died and could not be replaced ({text})",
        "",
        "see the cluster's logs; resume later",
    )


def _quiet_context() -> None:
    from ray.data import DataContext

    logging.getLogger("ray.data").setLevel(logging.ERROR)  # importing it has set it to INFO
    context = DataContext.get_current()
    context.enable_progress_bars = False
    context.print_on_execution_start = False
    context.execution_options.verbose_progress = False
    context.execution_no_progress_timeout_s = _NO_PROGRESS_SECONDS


class _Adapter:
    """Runs in the worker: one block holds one fragment."""

    def __init__(
        self, factory: Callable[..., FragmentWorker], arguments: Mapping[str, Any]
    ) -> None:
        self._failed: DistvaeError | None = None
        try:
            self._worker = factory(**arguments)
        except DistvaeError as error:  # told by the first fragment; a dead actor would be retried
            self._failed = error

    def __call__(self, batch: pa.Table) -> pa.Table:
        texts = batch["fragment"].to_pylist()
        fragments = [pickle.loads(text) for text in texts]  # noqa: S301 - our own driver's
        results = [pickle.dumps(self._run(fragment)) for fragment in fragments]
        indices = [fragment.index for fragment in fragments]
        return pa.table({"index": indices, "result": pa.array(results, pa.large_binary())})

    def _run(self, fragment: Fragment) -> Any:
        if self._failed is not None:
            return self._failed
        try:
            return self._worker.run(fragment)
        except DistvaeError as error:
            return error
        except Exception as error:  # noqa: BLE001 - told in one line, the traceback with --debug
            fault = DistvaeError(
                f"fragment {fragment.index}", f"{type(error).__name__}: {error}", _FAULT
            )
            fault.add_note(traceback.format_exc())
            return fault
