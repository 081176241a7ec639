"""One pass over all fragments for sums that merge: results come in fragment order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

from distvae.cluster.pool import FragmentWorker, run_fragments
from distvae.cluster.session import Resources
from distvae.data.fragments import Fragment

__all__ = ["pass_over"]

_SMALL_BYTES = 256 << 20


def pass_over(
    factory: Callable[..., FragmentWorker],
    arguments: Mapping[str, Any],
    fragments: Sequence[Fragment],
    input_bytes: int,
    resources: Resources,
) -> Iterator[tuple[Fragment, Any]]:
    """Yield (fragment, result) in the order of ``fragments``; see ``run_fragments``.

    Small inputs are worked through in this process, others on workers. Merged as they come, the
    results are the same bits every time, and those that wait for their turn are few.

    Args:
        factory: makes the worker from ``arguments``.
        arguments: keyword arguments of ``factory``.
        fragments: the work.
        input_bytes: uncompressed size of the input.
        resources: pool size and what each worker reserves.

    Raises:
        DistvaeError: a worker raised it.
    """
    if input_bytes <= _SMALL_BYTES:
        worker = factory(**arguments)
        for fragment in fragments:
            yield fragment, worker.run(fragment)
        return
    waiting: dict[int, tuple[Fragment, Any]] = {}
    order = iter(fragments)
    due = next(order, None)
    for fragment, result in run_fragments(factory, arguments, fragments, resources):
        waiting[fragment.index] = (fragment, result)
        while due is not None and due.index in waiting:
            yield waiting.pop(due.index)
            due = next(order, None)
