"""What the tests of the cluster floor share: data, commands, processes to watch and to kill."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from distvae.config import COMMANDS, Config, build
from distvae.console import Console
from distvae.data.fragments import Fragment

ROOT = Path(__file__).parents[2]
PATIENCE_SECONDS = 240.0
WIDTH = 8


def make_table(rows: int, seed: int = 0, missing: float = 0.0) -> pa.Table:
    """``id`` (unique), ``x`` and ``y`` (float64), ``v`` (8 float32), on three latent factors.

    A share ``missing`` of x is null and of v's elements is NaN.
    """
    rng = np.random.default_rng(seed)
    z = rng.normal(size=(rows, 3))
    v = z @ rng.normal(size=(3, WIDTH)) + 0.1 * rng.normal(size=(rows, WIDTH))
    v[rng.random(v.shape) < missing] = np.nan
    absent = rng.random(rows) < missing
    return pa.table(
        {
            "id": pa.array(rng.permutation(rows) + 1000),
            "x": pa.array(z[:, 0] * 3 + 5, mask=absent),
            "y": pa.array(z[:, 1]),
            "v": pa.FixedSizeListArray.from_arrays(pa.array(v.astype(np.float32).ravel()), WIDTH),
        }
    )


def write_data(folder: Path, table: pa.Table, rows_per_group: int) -> Path:
    """Two files, the first with two thirds of the rows."""
    folder.mkdir(parents=True)
    cut = len(table) * 2 // 3
    for name, part in (("a", table.slice(0, cut)), ("b", table.slice(cut))):
        pq.write_table(part, folder / f"{name}.parquet", row_group_size=rows_per_group)
    return folder


def run(command: str, **options: Any) -> dict[str, Any]:
    """Run a command in this process, on the Ray that it is connected to; returns its result."""
    from distvae.cluster.embed import embed
    from distvae.cluster.evaluate import evaluate
    from distvae.cluster.generate import generate
    from distvae.cluster.train import train

    functions: dict[str, Callable[[Any, Console], dict[str, Any]]] = {
        "embed": embed,
        "evaluate": evaluate,
        "generate": generate,
        "train": train,
    }
    texts = {
        key: str(value) if isinstance(value, Path) else value for key, value in options.items()
    }
    config: Config = build(COMMANDS[command], texts)
    return functions[command](config, Console())


def run_here(
    factory: Callable[..., Any], arguments: Mapping[str, Any], fragments: Sequence[Fragment], _: Any
) -> Iterator[tuple[Fragment, Any]]:
    """Stands in for ``pool.run_fragments``: one worker in this process, without Ray."""
    worker = factory(**arguments)
    for fragment in fragments:
        yield fragment, worker.run(fragment)


def parts(directory: Path) -> dict[str, bytes]:
    """The bytes of all parts, by name."""
    return {path.name: path.read_bytes() for path in sorted((directory / "data").iterdir())}


def count_parts(directory: Path) -> int:
    folder = directory / "data"
    return sum(name.startswith("part-") for name in os.listdir(folder)) if folder.exists() else 0


def rows_of(directory: Path) -> pa.Table:
    """All parts in name order as one table."""
    return pa.concat_tables(pq.read_table(p) for p in sorted((directory / "data").iterdir()))


def vectors(table: pa.Table, column: str) -> np.ndarray[Any, Any]:
    """A fixed-size list column as (n, k)."""
    array = table.column(column).combine_chunks()
    return array.flatten().to_numpy().reshape(len(table), -1)


# -- processes -------------------------------------------------------------------------------------


@dataclass
class Driver:
    """``distvae …`` as a process of its own, its output in files."""

    process: subprocess.Popen[bytes]
    folder: Path

    @property
    def errors(self) -> str:
        return (self.folder / "stderr").read_text(encoding="utf-8")

    @property
    def output(self) -> str:
        return (self.folder / "stdout").read_text(encoding="utf-8")

    def wait(self) -> int:
        try:
            return self.process.wait(PATIENCE_SECONDS)
        finally:
            self.end()

    def signal(self, number: int) -> None:
        """Send a signal; it must find the driver alive, or the fault has not landed."""
        assert self.process.poll() is None, f"ended before the signal: {self.errors}"
        self.process.send_signal(number)

    def end(self) -> None:
        if self.process.poll() is None:
            self.process.kill()
            self.process.wait()


def start(folder: Path, *arguments: object) -> Driver:
    """Start ``distvae ARGUMENTS``."""
    folder.mkdir(parents=True)
    command = [sys.executable, "-m", "distvae", *map(str, arguments)]
    with open(folder / "stdout", "wb") as out, open(folder / "stderr", "wb") as err:
        process = subprocess.Popen(command, cwd=ROOT, stdout=out, stderr=err)
    return Driver(process, folder)


def until(
    condition: Callable[[], object], what: str, driver: Driver | None = None, every: float = 0.005
) -> None:
    """Wait until ``condition``, asked ``every`` so many seconds; fail if the driver ends first."""
    deadline = time.monotonic() + PATIENCE_SECONDS
    while not condition():
        if driver is not None and driver.process.poll() is not None:
            raise AssertionError(f"the driver ended before {what}: {driver.errors}")
        assert time.monotonic() < deadline, f"waited in vain for {what}"
        time.sleep(every)


def descendants(root: int) -> dict[int, str]:
    """Titles of all processes below ``root``, by pid."""
    parents: dict[int, int] = {}
    for name in filter(str.isdigit, os.listdir("/proc")):
        try:
            text = Path("/proc", name, "stat").read_text(encoding="utf-8", errors="replace")
        except OSError:
            continue
        parents[int(name)] = int(text.rpartition(")")[2].split()[1])
    below = {root}
    while more := {pid for pid, parent in parents.items() if parent in below} - below:
        below |= more
    return {pid: _title(pid) for pid in below - {root}}


def _title(pid: int) -> str:
    try:
        return (
            Path(f"/proc/{pid}/cmdline").read_bytes().replace(b"\0", b" ").decode(errors="replace")
        )
    except OSError:
        return ""


@dataclass
class Killer:
    """A thread that waits for a moment and kills a worker process with SIGKILL."""

    victims: Callable[[], Sequence[int]]
    moment: Callable[[], bool]
    killed: list[int] = field(default_factory=list)
    state: Any = None

    @contextmanager
    def armed(self, state: Callable[[], Any]) -> Iterator[Killer]:
        """Meanwhile the thread waits; ``state()`` right after the kill is kept."""
        closing = threading.Event()

        def watch() -> None:
            while not closing.wait(0.005):
                if self.moment() and (found := self.victims()):
                    os.kill(found[0], signal.SIGKILL)
                    self.killed.append(found[0])
                    self.state = state()
                    return

        thread = threading.Thread(target=watch, daemon=True)
        thread.start()
        try:
            yield self
        finally:
            closing.set()
            thread.join()
