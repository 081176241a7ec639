"""Conditions that are given as texts: the empty text, numbers, what is missing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from distvae.config import GenerateConfig, build
from distvae.errors import UsageError
from distvae.given import make_pool
from distvae.saved import Model, load
from tests.conftest import write_tiny_model

NAMES = ["", "a", "", None, "a", ""]


@pytest.fixture
def model(tmp_path: Path) -> Model:
    names = pa.array(NAMES, pa.dictionary(pa.int8(), pa.string()))
    table = pa.table({"id": range(6), "name": names, "age": range(1, 7), "x": np.arange(6.0)})
    pq.write_table(table.select(["age", "name"]), tmp_path / "c.parquet")
    conditions = (tmp_path / "c.parquet").read_bytes()
    write_tiny_model(tmp_path / "m", {"conditions": ["name", "age"]}, table, conditions=conditions)
    return load(str(tmp_path / "m"))


def _names(model: Model, given: dict[str, str]) -> list[float]:
    pool = make_pool(model, given)
    assert pool is not None
    column = next(c for c in model.codec.columns if c.feature.name == "name")
    return [float(v) for v in pool.rows[:, column.start]]


@pytest.mark.parametrize("told", [["name="], {"name": ""}])
def test_nothing_after_the_sign_is_the_empty_text(model: Model, told: object) -> None:
    config = build(GenerateConfig, {"model": "m", "out": "o", "rows": 1, "given": told})
    assert config.given == {"name": ""}
    empty, missing = _names(model, config.given), _names(model, {"name": "null"})
    assert empty == [0.5] * 3  # the most frequent category
    assert len(missing) == 1 and np.isnan(missing[0])
    assert _names(model, {"name": "a"}) == [1.5] * 2


def test_the_empty_text_is_no_number(model: Model) -> None:
    with pytest.raises(UsageError, match="given.age: got ''; must be a value of type int64"):
        make_pool(model, {"age": ""})


def test_what_training_saw_is_shown_with_the_empty_text(model: Model) -> None:
    with pytest.raises(UsageError, match="training saw 2 values, most often '', a;"):
        make_pool(model, {"name": "b"})
