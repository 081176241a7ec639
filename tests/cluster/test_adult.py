"""Adult, a real table: outliers planted in its held-out rows have the lowest ELBO."""

from __future__ import annotations

import os
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from benchmarks.tables.data import TABLES, split
from benchmarks.tables.outliers import KINDS, PLANTED, areas, plant
from tests.cluster.helpers import run

pytestmark = [pytest.mark.ray, pytest.mark.slow]

FOLDER = Path(os.environ.get("DISTVAE_TABLES", ""))
AT_LEAST = {"shuffled": 0.82, "impossible": 0.87, "extreme": 0.98}


@pytest.mark.skipif(
    not (os.environ.get("DISTVAE_TABLES") and (FOLDER / "adult.parquet").is_file()),
    reason="DISTVAE_TABLES names no folder with adult.parquet",
)
def test_the_elbo_finds_planted_outliers(tmp_path: Path, ray_nodes: object) -> None:
    halves = split(TABLES["adult"], FOLDER, tmp_path)
    options = {"model": tmp_path / "m", "workers": 1}
    run("train", data=[str(halves.train)], max_steps=700, **options)
    train, test = (pq.read_table(path) for path in (halves.train, halves.test))
    pq.write_table(plant(train, test, 300, seed=0), tmp_path / "planted.parquet")
    data = [str(tmp_path / "planted.parquet")]
    run("embed", data=data, out=tmp_path / "e", key=[PLANTED], with_elbo=True, **options)
    found = areas(tmp_path / "e" / "data")
    assert set(found) == set(KINDS)
    assert all(found[kind] > least for kind, least in AT_LEAST.items()), found
