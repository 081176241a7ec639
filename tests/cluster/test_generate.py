"""generate: row i of an endless table, the same whoever writes it and however it is cut."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

import distvae
from distvae.data.storage import locate
from distvae.data.verify import verify
from tests.cluster.helpers import parts, rows_of, run, vectors

pytestmark = pytest.mark.ray

# Beyond the 8,192 rows of a batch, so that batches and fragments end at different rows.
ROWS = 20_000


@pytest.fixture(scope="module")
def whole(ray_nodes: object, model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("whole") / "o"
    options = {"fragment_rows": 3000, "with_latents": True, "seed": 5}
    result = run("generate", model=model, rows=ROWS, out=out, workers=1, **options)
    assert (result["rows_out"], result["parts"]) == (ROWS, 7)
    verify(locate(str(out)))
    return out


def test_bytes_do_not_depend_on_the_workers(tmp_path: Path, model: Path, whole: Path) -> None:
    options = {"fragment_rows": 3000, "with_latents": True, "seed": 5}
    run("generate", model=model, rows=ROWS, out=tmp_path / "o", workers=2, **options)
    assert parts(tmp_path / "o") == parts(whole)


def test_it_is_the_table_that_the_model_samples(model: Path, whole: Path) -> None:
    loaded = distvae.load(str(model))
    written = rows_of(whole)
    assert written.drop_columns(["z"]).equals(loaded.sample(ROWS, seed=5))
    assert written.schema.names == ["x", "y", "v", "z"]
    assert written.drop_columns(["z"]).schema.equals(loaded.schema)
    z = vectors(written, "z")
    # Standard normal: mean within 5 standard errors, variance (its own is 2 / n) as well.
    assert np.abs(z.mean(0)).max() < 5 / ROWS**0.5
    assert np.abs(z.var(0) - 1).max() < 5 * (2 / ROWS) ** 0.5
    assert not written.equals(run_other_seed(loaded))


def run_other_seed(loaded: distvae.Model) -> object:
    return loaded.sample(ROWS, seed=6)


@pytest.mark.parametrize("fragment_rows", [777, 100_000])
def test_rows_do_not_depend_on_how_the_table_is_cut(
    in_process: None, tmp_path: Path, model: Path, whole: Path, fragment_rows: int
) -> None:
    options = {"fragment_rows": fragment_rows, "with_latents": True, "seed": 5}
    run("generate", model=model, rows=ROWS, out=tmp_path / "o", **options)
    assert rows_of(tmp_path / "o").equals(rows_of(whole))


@pytest.mark.parametrize(("offset", "rows"), [(0, 1), (8191, 2), (12_345, 5000)])
def test_any_slice_of_the_endless_table(
    in_process: None, tmp_path: Path, model: Path, whole: Path, offset: int, rows: int
) -> None:
    options = {"fragment_rows": 1000, "with_latents": True, "seed": 5}
    run("generate", model=model, rows=rows, offset=offset, out=tmp_path / "o", **options)
    assert rows_of(tmp_path / "o").equals(rows_of(whole).slice(offset, rows))


def test_a_slice_far_away(in_process: None, tmp_path: Path, model: Path) -> None:
    run("generate", model=model, rows=300, offset=2**61, out=tmp_path / "o")
    written = rows_of(tmp_path / "o")
    assert written.equals(distvae.load(str(model)).sample(300, seed=0, offset=2**61))
