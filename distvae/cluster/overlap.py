"""Reading, computing and writing at the same time: bounded queues between threads.

pyarrow and torch release the interpreter's lock while they work, so threads are enough.
"""

from __future__ import annotations

import contextlib
import queue
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

__all__ = ["ahead", "behind"]

T = TypeVar("T")
_END = object()


def ahead(items: Iterator[T], depth: int = 2) -> Iterator[T]:
    """The same items in the same order, made by a thread that runs up to ``depth`` ahead.

    An exception of ``items`` is raised here, at its place. Closing this iterator ends the thread.
    """
    line: queue.Queue[object] = queue.Queue(depth)
    closed = threading.Event()

    def work() -> None:
        try:
            for item in items:
                _put_unless(closed, line, item)
                if closed.is_set():
                    return
        except BaseException as error:  # noqa: BLE001 - whatever it is, the reader raises it
            _put_unless(closed, line, _Raised(error))
        else:
            _put_unless(closed, line, _END)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        while (item := line.get()) is not _END:
            if isinstance(item, _Raised):
                raise item.error
            yield item  # type: ignore[misc]
    finally:
        closed.set()
        thread.join()


@contextmanager
def behind(consume: Callable[[T], None], depth: int = 2) -> Iterator[Callable[[T], None]]:
    """Yields a function that hands items to ``consume`` in a thread, in order.

    At the end of the block everything has been consumed; an exception of ``consume`` is raised
    by the next hand-over or at the end. If the block itself fails, what is queued is dropped.
    """
    line: queue.Queue[object] = queue.Queue(depth)
    failed: list[BaseException] = []

    def work() -> None:
        while (item := line.get()) is not _END:
            if failed:
                continue
            try:
                consume(item)  # type: ignore[arg-type]
            except BaseException as error:  # noqa: BLE001 - the other thread raises it
                failed.append(error)

    def put(item: T) -> None:
        if failed:
            raise failed[0]
        line.put(item)

    thread = threading.Thread(target=work, daemon=True)
    thread.start()
    try:
        yield put
    except BaseException:
        failed.append(RuntimeError("dropped"))
        raise
    finally:
        line.put(_END)
        thread.join()
    if failed:
        raise failed[0]


def _put_unless(closed: threading.Event, line: queue.Queue[object], item: object) -> None:
    """Hand over ``item``, or give up when the reader has gone."""
    while not closed.is_set():
        with contextlib.suppress(queue.Full):
            line.put(item, timeout=0.1)
            return


class _Raised:
    """Carries an exception through the queue."""

    def __init__(self, error: BaseException) -> None:
        self.error = error
