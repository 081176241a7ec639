"""Embedding 2 million rows of 256 float32: distvae against idiomatic Ray Data, whole processes.

``python -m benchmarks.embed [--rows N] [--rounds N]``. Cold: the wall time of each process, start
to exit. Once running: what further rows cost, (rows - rows / 4) / (seconds - seconds of a quarter
of the rows), so that every start-up cost cancels. Rounds alternate; ratios of medians.
"""

from __future__ import annotations

import argparse
import json
import shutil
import statistics
import subprocess
import sys
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

WIDTH, ROWS_PER_FILE, ROWS_PER_GROUP = 256, 262_144, 65_536


def make_data(folder: Path, rows: int) -> None:
    """Write normal float32 vectors with an id, zstd, 256 k rows per file."""
    folder.mkdir(parents=True)
    generator = np.random.default_rng(0)
    mixing = generator.standard_normal((32, WIDTH), dtype=np.float32)
    for number, start in enumerate(range(0, rows, ROWS_PER_FILE)):
        count = min(ROWS_PER_FILE, rows - start)
        z = generator.standard_normal((count, 32), dtype=np.float32)
        x = z @ mixing + generator.standard_normal((count, WIDTH), dtype=np.float32)
        values = pa.FixedSizeListArray.from_arrays(pa.array(x.reshape(-1)), WIDTH)
        table = pa.table({"id": pa.array(np.arange(start, start + count)), "x": values})
        name = folder / f"rows-{number:03d}.parquet"
        pq.write_table(table, name, row_group_size=ROWS_PER_GROUP, compression="zstd")


def train_model(folder: Path, model: Path) -> None:
    """A model 256-512-512-64; how good it is does not matter here."""
    sample = folder.parent / "sample.parquet"
    pq.write_table(pq.read_table(folder / "rows-000.parquet").slice(0, 20_000), sample)
    options = "--include x --latent-dim 64 --hidden-dims 512,512 --max-steps 20 --batch-size 1024"
    command = [sys.executable, "-m", "distvae", "train", str(sample), "--model", str(model)]
    subprocess.run([*command, *options.split(), "--quiet"], check=True, stdout=subprocess.DEVNULL)


def measure(command: list[str], out: Path) -> dict[str, Any]:
    """Run one process to its end: wall seconds, rows written, peak worker memory."""
    shutil.rmtree(out, ignore_errors=True)
    peak = _PeakMemory()
    started = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        peak.start(process.pid)
        _, errors = process.communicate()
    seconds = time.monotonic() - started
    peak.stop()
    if process.returncode:
        raise SystemExit(errors.decode()[-2000:])
    rows = sum(pq.read_metadata(f).num_rows for f in out.rglob("*.parquet") if f.name[0] != "_")
    return {"seconds": seconds, "rows": rows, "peak_worker_bytes": peak.largest}


class _PeakMemory:
    """Samples the proportional memory of the actor processes below a process."""

    def __init__(self) -> None:
        self.largest = 0
        self.closing = threading.Event()

    def start(self, pid: int) -> None:
        """Sample until ``stop``."""
        self.thread = threading.Thread(target=self._watch, args=(pid,), daemon=True)
        self.thread.start()

    def stop(self) -> None:
        """End the sampling."""
        self.closing.set()
        self.thread.join()

    def _watch(self, pid: int) -> None:
        while not self.closing.wait(0.25):
            for child in _descendants(pid):
                self.largest = max(self.largest, _worker_bytes(child))


def _descendants(pid: int) -> list[int]:
    parents: dict[int, int] = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            fields = stat.read_text().rpartition(")")[2].split()
        except OSError:
            continue
        parents[int(stat.parent.name)] = int(fields[1])
    found, frontier = [], [pid]
    while frontier:
        frontier = [child for child, parent in parents.items() if parent in frontier]
        found += frontier
    return found


def _worker_bytes(pid: int) -> int:
    """Resident bytes of a Ray Data actor, shared memory left out; 0 for other processes."""
    try:
        title = Path(f"/proc/{pid}/cmdline").read_bytes()
        if b"MapWorker" not in title:
            return 0
        fields = Path(f"/proc/{pid}/status").read_text().splitlines()
    except OSError:
        return 0
    held = {line.split(":")[0]: line.split(":")[1] for line in fields if line.startswith("Rss")}
    return sum(int(held[name].split()[0]) for name in ("RssAnon", "RssFile") if name in held) * 1024


def both(work: Path, model: Path, size: int, options: argparse.Namespace) -> dict[str, Any]:
    """Ours, then the peer, over the same rows."""
    data = work / f"data-{size}"
    ours = [sys.executable, "-m", "distvae", "embed", str(data), "--model", str(model)]
    ours += ["--out", str(work / "ours"), "--key", "id", "--quiet"]
    ours += ["--precision", options.precision]
    peer = [sys.executable, "-m", "benchmarks.idiomatic", str(data), str(model), str(work / "peer")]
    return {"ours": measure(ours, work / "ours"), "peer": measure(peer, work / "peer")}


def figures(rounds: list[dict[str, Any]]) -> dict[str, Any]:
    """Rows per second of medians over rounds, cold and once running, and the ratios."""
    found: dict[str, Any] = {}
    for who in ("ours", "peer"):
        quarter, whole = (
            {
                kind: statistics.median(r[size][who][kind] for r in rounds)
                for kind in ("rows", "seconds")
            }
            for size in ("quarter", "whole")
        )
        more = whole["rows"] - quarter["rows"], whole["seconds"] - quarter["seconds"]
        found[who] = {"cold": whole["rows"] / whole["seconds"], "running": more[0] / more[1]}
        found[who]["peak_worker_bytes"] = max(r["whole"][who]["peak_worker_bytes"] for r in rounds)
    for kind in ("cold", "running"):
        found[f"ratio_{kind}"] = found["ours"][kind] / found["peer"][kind]
    return found


def main() -> None:
    """Make data and model, alternate both processes, print one JSON object."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=2_097_152)
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument("--dir", type=Path, default=None, help="keeps the data between runs")
    parser.add_argument("--precision", default="fp32")
    options = parser.parse_args()
    work = options.dir or Path(tempfile.mkdtemp(prefix="distvae-bench-"))
    model, rounds = work / "model", []
    sizes = {"quarter": options.rows // 4, "whole": options.rows}
    for size in sizes.values():
        if not (work / f"data-{size}").exists():
            make_data(work / f"data-{size}", size)
    if not model.exists():
        train_model(work / f"data-{options.rows}", model)
    for number in range(options.rounds):
        rounds.append({name: both(work, model, size, options) for name, size in sizes.items()})
        print(f"round {number + 1}: {figures(rounds[-1:])}", file=sys.stderr, flush=True)
    print(json.dumps({"figures": figures(rounds), "rounds": rounds}))
    if options.dir is None:
        shutil.rmtree(work)


if __name__ == "__main__":
    main()
