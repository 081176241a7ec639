"""``python jobs/train.py …`` is ``distvae train …``, to submit as a Ray job."""

import sys
from pathlib import Path

# The checkout beside this script comes first.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from distvae.cli import run_job

if __name__ == "__main__":
    run_job("train")
