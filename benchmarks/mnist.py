"""MNIST as in Burda et al. 2016: VAE k = 1 and IWAE k = 5, 50 at equal epochs, and a longer VAE.

``make bench-mnist`` or ``python -m benchmarks.mnist DIR``: DIR holds ``mnist_train.parquet`` and
``mnist_test.parquet``, each with a column ``pixels`` of 784 bytes a row. Networks 784-200-200-50
and back with tanh, pixels binarised afresh at every step, Adam. The test rows' negative
log-likelihood is estimated with 5,000 importance samples a row. All through the command line.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

# Burda et al. 2016, table 1, one stochastic layer: 3,280 epochs in batches of 20.
_PUBLISHED = {"VAE k=1": 86.76, "IWAE k=5": 85.54, "IWAE k=50": 84.78}
_SHAPE = ["--latent-dim", "50", "--hidden-dims", "200,200", "--activation", "tanh"]
_DATA = ["--include", "pixels", "--likelihood", "pixels=bernoulli", "--binarize", "dynamic"]


def distvae(command: str, *arguments: str) -> tuple[dict[str, Any], float]:
    """The result of a command and its seconds, start of Python and Ray included."""
    started = time.monotonic()
    line = [sys.executable, "-m", "distvae", command, *arguments, "--json", "--quiet"]
    run = subprocess.run(line, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(run.stdout.splitlines()[-1]), time.monotonic() - started


def measure(name: str, data: Path, samples: int, *options: str) -> dict[str, Any]:
    """Train one model and evaluate it on the test rows."""
    with tempfile.TemporaryDirectory() as folder:
        model = str(Path(folder) / "model")
        common = ["--workers", "1", "--validation-fraction", "0", *_SHAPE, *_DATA]
        train = str(data / "mnist_train.parquet")
        trained, seconds = distvae("train", train, "--model", model, *common, *options)
        test = [str(data / "mnist_test.parquet"), "--model", model]
        # One fragment, so one worker: with all cores, on which it runs blocks side by side.
        cores = str(len(os.sched_getaffinity(0)))
        wanted = ["--importance-samples", str(samples), "--cpus-per-worker", cores]
        found, seconds_scoring = distvae("evaluate", *test, *wanted)
    row = {
        "model": name,
        "epochs": trained["epochs"],
        "nll": -found["log_likelihood"],
        "standard_error": found["log_likelihood_se"],
        "elbo": found["elbo"],
        "active_units": found["active_units"],
        "published": _PUBLISHED[name.partition(",")[0]],
        "minutes_training": seconds / 60,
        "minutes_scoring": seconds_scoring / 60,
    }
    print(json.dumps(row), file=sys.stderr, flush=True)
    return row


def main() -> None:
    """Run the four models and print the table, Markdown."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("data", type=Path, help="folder of mnist_train and mnist_test.parquet")
    parser.add_argument("--epochs", type=int, default=8, help="of the three that are compared")
    parser.add_argument("--long-epochs", type=int, default=200, help="of the longer k = 1")
    parser.add_argument("--samples", type=int, default=5000, help="importance samples per row")
    parser.add_argument("--only", action="append", help="model to run, e.g. 'IWAE k=5'; repeatable")
    given = parser.parse_args()
    equal = ["--epochs", str(given.epochs), "--batch-size", "100", "--learning-rate", "1e-3"]
    longer = ["--epochs", str(given.long_epochs), "--batch-size", "128"]
    longer += ["--learning-rate", "2e-3", "--learning-rate-schedule", "cosine"]
    iwae = ["--objective", "iwae", "--importance-samples"]
    wanted = {
        "VAE k=1": equal,
        "IWAE k=5": [*equal, *iwae, "5"],
        "IWAE k=50": [*equal, *iwae, "50"],
        "VAE k=1, longer": longer,
    }
    rows = [
        measure(name, given.data, given.samples, *options)
        for name, options in wanted.items()
        if not given.only or name in given.only
    ]
    print("| model | epochs | test NLL, nats | theirs, 3,280 epochs | ELBO | active | minutes |")
    print("|---|---|---|---|---|---|---|")
    for row in rows:
        minutes = f"{row['minutes_training']:.1f} + {row['minutes_scoring']:.1f}"
        print(
            f"| {row['model']} | {row['epochs']} | {row['nll']:.2f} ± {row['standard_error']:.2f} "
            f"| {row['published']:.2f} | {row['elbo']:.2f} | {row['active_units']} | {minutes} |"
        )
    total = sum(row["minutes_training"] + row["minutes_scoring"] for row in rows)
    print(f"\nminutes in all: {total:.0f}")
    found = {row["model"]: row["nll"] for row in rows}
    if len(found) == len(wanted):
        one, five, fifty = (found[name] for name in list(wanted)[:3])
        print(f"order k=50 < k=5 < k=1: {'holds' if fifty < five < one else 'does not hold'}")


if __name__ == "__main__":
    main()
