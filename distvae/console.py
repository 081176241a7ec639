"""What a person sees while a job runs: a bar on a terminal, plain lines in a log, nothing if quiet.

Everything here goes to standard error; results alone go to standard output.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Protocol

__all__ = ["Console", "Task", "human_bytes", "human_count", "human_seconds"]

Advance = Callable[..., None]


class Task(Protocol):
    """A running stage: ``advance(done_units, **figures)`` moves it."""

    def __call__(self, done: float, **figures: object) -> None:
        """Move the stage by ``done`` units and show the figures beside it."""
        ...


def human_count(number: float) -> str:
    """``1234567`` → ``1.23 M``."""
    for limit, unit in ((1e9, " G"), (1e6, " M"), (1e4, " k")):
        if abs(number) >= limit:
            return f"{number / (limit if unit != ' k' else 1e3):.3g}{unit}"
    return f"{number:,.0f}"


def human_bytes(number: float) -> str:
    """``123456789`` → ``118 MiB``."""
    for unit in ("B", "KiB", "MiB", "GiB", "TiB"):
        if abs(number) < 1024 or unit == "TiB":
            return f"{number:.3g} {unit}" if number < 1000 else f"{number:.0f} {unit}"
        number /= 1024
    raise AssertionError("unreachable")


def human_seconds(seconds: float) -> str:
    """``3723`` → ``1h02m``."""
    if seconds < 10:
        return f"{seconds:.1f}s"
    if seconds < 120:
        return f"{seconds:.0f}s"
    minutes = int(seconds // 60)
    return (
        f"{minutes}m{int(seconds % 60):02d}s"
        if minutes < 120
        else f"{minutes // 60}h{minutes % 60:02d}m"
    )


def _figures(figures: dict[str, object]) -> str:
    return "  ".join(
        f"{k} {v:.4g}" if isinstance(v, float) else f"{k} {v}" for k, v in figures.items()
    )


class Console:
    """Prints notes, warnings and the progress of named stages.

    Args:
        quiet: show errors and warnings only.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.terminal = sys.stderr.isatty() and not quiet

    def note(self, text: str) -> None:
        """A line of information."""
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def warn(self, text: str) -> None:
        """A line that deserves attention but stops nothing."""
        print(f"warning: {text}", file=sys.stderr, flush=True)

    @contextmanager
    def stage(self, title: str, total: float, unit: str = "rows") -> Iterator[Task]:
        """A stage of known size; yields the function that moves it."""
        if self.quiet:
            yield _silent
        elif self.terminal:
            with _bar(title, total, unit) as task:
                yield task
        else:
            lines = _Lines(title, total, unit)
            yield lines
            lines.close()


def _silent(done: float, **figures: object) -> None:
    del done, figures


class _Lines:
    """Progress as plain lines: at most one each five seconds, and one at the end."""

    def __init__(self, title: str, total: float, unit: str) -> None:
        self.title, self.total, self.unit = title, total, unit
        self.done, self.started, self.shown = 0.0, time.monotonic(), time.monotonic()
        self.figures: dict[str, object] = {}
        self.told = -1.0

    def __call__(self, done: float, **figures: object) -> None:
        self.done += done
        self.figures = figures
        if time.monotonic() - self.shown >= 5:
            self.shown = time.monotonic()
            self._show()

    def _show(self) -> None:
        self.told = self.done
        seconds = max(time.monotonic() - self.started, 1e-9)
        rate = self.done / seconds
        left = max(self.total - self.done, 0) / rate if rate else 0.0
        parts = [f"{self.title}: {human_count(self.done)} of {human_count(self.total)} {self.unit}"]
        parts.append(f"{human_count(rate)} {self.unit}/s")
        parts.append(f"ETA {human_seconds(left)}" if left else human_seconds(seconds))
        print("  ".join([*parts, _figures(self.figures)]).rstrip(), file=sys.stderr, flush=True)

    def close(self) -> None:
        if self.done != self.told:
            self._show()


@contextmanager
def _bar(title: str, total: float, unit: str) -> Iterator[Task]:
    """A Rich progress bar with rate and time left."""
    from rich.console import Console as RichConsole
    from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

    columns = (
        TextColumn("[bold]{task.description:<12}"),
        BarColumn(bar_width=None),
        TextColumn("{task.percentage:>3.0f}%  {task.fields[rate]}"),
        TimeRemainingColumn(),
        TextColumn("[dim]{task.fields[figures]}"),
    )
    started, seen = time.monotonic(), 0.0
    with Progress(*columns, console=RichConsole(stderr=True), transient=False) as progress:
        bar = progress.add_task(title, total=total, rate="", figures="")

        def task(done: float, **figures: object) -> None:
            nonlocal seen
            seen += done
            rate = seen / max(time.monotonic() - started, 1e-9)
            shown = f"{human_count(rate)} {unit}/s"
            progress.update(bar, completed=seen, rate=shown, figures=_figures(figures))

        yield task
