"""Three real tables: distvae with its defaults beside TVAE, fitted and scored in one run.

``make bench-tables`` or ``python -m benchmarks.tables --data DIR --out FILE``: DIR holds
``adult.parquet``, ``bank_marketing.parquet`` and ``acs_income_2018.parquet``. Of each, 70 % of the
rows train and 30 % test. Ours goes through the command line, no option per table; TVAE (ctgan
package, its own defaults, 300 epochs) runs in a virtual environment of its own. Both write as many
rows as they trained on, scored by ``benchmarks.tables.score``. In Adult's test half outliers are
planted for the ELBO to find (``benchmarks.tables.outliers``). FILE gets every run as JSON.
"""

from __future__ import annotations

import argparse
import importlib.metadata
import json
import os
import platform
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq

from benchmarks.tables import outliers
from benchmarks.tables.data import TABLES, Halves, Table, split
from benchmarks.tables.summary import comparison

_HERE = Path(__file__).parent
_PLANTED = 500  # outliers of each kind
_GENERATED = 10_000_000  # rows of the run that measures how fast rows are written


def ran(line: Sequence[str | Path]) -> tuple[dict[str, Any], float]:
    """The JSON object that a command prints last, and the command's seconds."""
    started = time.monotonic()
    texts = [str(part) for part in line]
    done = subprocess.run(texts, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1]), time.monotonic() - started


def distvae(command: str, *arguments: str | Path) -> tuple[dict[str, Any], float]:
    """The result of one of our commands and its seconds, start of Python and Ray included."""
    return ran([sys.executable, "-m", "distvae", command, *arguments, "--json", "--quiet"])


def peer_python(folder: Path, options: Sequence[str]) -> Path:
    """The interpreter of the peer's virtual environment, made if it is not there."""
    python = folder / "bin" / "python"
    stamp = folder / ".installed"
    if not stamp.exists():
        subprocess.run([sys.executable, "-m", "venv", str(folder)], check=True)
        pins = str(_HERE / "peer-requirements.txt")
        install = ["-m", "pip", "install", "--quiet", "--requirement", pins, *options]
        subprocess.run([str(python), *install], check=True, stdout=sys.stderr)
        stamp.touch()
    return python


def ours(table: Table, halves: Halves, folder: Path, seed: int, options: Sequence[str]) -> Any:
    """Train, generate and score; seconds are those of the whole commands."""
    model, made = folder / "model", folder / "synthetic"
    common = ["--seed", str(seed)]
    _, fit = distvae("train", str(halves.train), "--model", model, *common, *options)
    rows = ["--rows", str(halves.train_rows)]
    _, sampling = distvae("generate", "--model", model, *rows, "--out", made, *common)
    found = {"who": "distvae", "fit_seconds": fit, "sample_seconds": sampling}
    return found | scored(table, halves, made / "data")


def peer(table: Table, halves: Halves, folder: Path, seed: int, python: Path, epochs: int) -> Any:
    """The same of TVAE; its seconds leave out the start of Python and reading the file."""
    made = folder / "synthetic.parquet"
    numbers = [str(number) for number in (halves.train_rows, epochs, seed)]
    figures, _ = ran([python, _HERE / "peer.py", halves.train, made, *numbers])
    return {"who": "TVAE", "epochs": epochs, **figures} | scored(table, halves, made)


def scored(table: Table, halves: Halves, synthetic: Path) -> dict[str, Any]:
    """The judge's figures, by a process of its own."""
    line = [sys.executable, "-m", "benchmarks.tables.score", halves.train, halves.test, synthetic]
    return ran([*line, table.target, table.positive])[0]


def planted(halves: Halves, folder: Path, seed: int) -> dict[str, float]:
    """How well the ELBO of our model finds outliers planted in the test half."""
    tables = [pq.read_table(path) for path in (halves.train, halves.test)]
    rows, made = folder / "planted.parquet", folder / "scored"
    pq.write_table(outliers.plant(*tables, _PLANTED, seed), rows)
    options = ["--key", outliers.PLANTED, "--with-elbo"]
    distvae("embed", str(rows), "--model", folder / "model", "--out", made, *options)
    return outliers.areas(made / "data")


def writing_speed(
    model: Path, folder: Path, rows: int, few: int, few_seconds: float
) -> dict[str, Any]:
    """Rows per second of a long ``generate``: start included, and of what it writes beyond ``few``.

    The latter leaves the start out: both runs have it.
    """
    _, seconds = distvae("generate", "--model", model, "--rows", str(rows), "--out", folder)
    more = seconds - few_seconds
    return {
        "rows": rows,
        "seconds": seconds,
        "rows_per_second": rows / seconds,
        "rows_per_second_running": (rows - few) / more if more > 0 else None,
    }


def machine() -> dict[str, Any]:
    """What it ran on."""
    names = ("torch", "pyarrow", "numpy", "scikit-learn", "sdmetrics", "pandas")
    return {
        "cores": len(os.sched_getaffinity(0)),
        "python": platform.python_version(),
        **{name: importlib.metadata.version(name) for name in names},
    }


def arguments() -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--data", type=Path, required=True, help="folder of the three tables")
    parser.add_argument("--out", type=Path, required=True, help="JSON file to write")
    parser.add_argument("--seeds", type=int, default=3, help="runs of ours on each table")
    parser.add_argument("--peer-seeds", type=int, default=1, help="runs of TVAE on each table")
    parser.add_argument("--tables", default=",".join(TABLES), help="which, comma-separated")
    parser.add_argument("--without-peer", action="store_true", help="ours alone")
    parser.add_argument("--without-ours", action="store_true", help="TVAE alone")
    parser.add_argument("--peer-epochs", type=int, help="instead of each table's own")
    parser.add_argument("--generate-rows", type=int, default=_GENERATED, help="0: leave it out")
    parser.add_argument("--work", type=Path, help="folder to keep (default: a temporary one)")
    parser.add_argument("--pip-args", default="", help="more options of pip for the peer")
    parser.add_argument("--train-args", default="", help="more options of distvae train")
    given = parser.parse_args()
    unknown = [name for name in given.tables.split(",") if name not in TABLES]
    if unknown:
        parser.error(f"--tables: no table {unknown[0]!r}; the tables are {', '.join(TABLES)}")
    for name in given.tables.split(","):
        if not (given.data / f"{name}.parquet").is_file():
            parser.error(f"--data: no {name}.parquet in {given.data}; name its folder")
    return given


def runs(given: argparse.Namespace, work: Path) -> list[dict[str, Any]]:
    """Every table and seed, ours and the peer in turn; each is told as soon as it is there."""
    python = None
    if not given.without_peer:
        python = peer_python(work / "peer-venv", shlex.split(given.pip_args))
    found: list[dict[str, Any]] = []
    given.out.parent.mkdir(parents=True, exist_ok=True)
    for name in given.tables.split(","):
        table, base = TABLES[name], work / name
        halves = split(table, given.data, base)
        for seed in range(given.seeds):
            folder = Path(tempfile.mkdtemp(prefix=f"seed-{seed}-", dir=base))
            done = []
            if not given.without_ours:
                done.append(ours(table, halves, folder, seed, shlex.split(given.train_args)))
                if name == "adult":
                    done[-1]["outliers"] = planted(halves, folder, seed)
                if seed == 0 and given.generate_rows:
                    few = halves.train_rows, done[-1]["sample_seconds"]
                    many = folder / "many"
                    speed = writing_speed(folder / "model", many, given.generate_rows, *few)
                    done[-1]["writing"] = speed
                    shutil.rmtree(many)
            if python is not None and seed < given.peer_seeds:
                epochs = given.peer_epochs or table.peer_epochs
                done.append(peer(table, halves, folder, seed, python, epochs))
            for row in done:
                found.append({"table": name, "seed": seed, **row})
                print(json.dumps(found[-1]), file=sys.stderr, flush=True)
            given.out.write_text(json.dumps({"machine": machine(), "runs": found}, indent=1))
    return found


def main() -> None:
    """Run everything, then print the comparison, Markdown."""
    given = arguments()
    if given.work is not None:
        given.work.mkdir(parents=True, exist_ok=True)
        print(comparison(runs(given, given.work.resolve())))
        return
    with tempfile.TemporaryDirectory() as folder:
        print(comparison(runs(given, Path(folder))))


if __name__ == "__main__":
    main()
