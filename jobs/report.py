"""``python jobs/report.py …`` is ``distvae report …``: the script to submit as a Ray job."""

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distvae.cli import run_job  # noqa: E402 - the checkout beside this script comes first

if __name__ == "__main__":
    run_job("report")
