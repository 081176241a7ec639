"""Fidelity and privacy figures: against SDMetrics, by hand, and on tables of every kind."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from distvae.data.selection import Split, split_rows
from distvae.errors import DataError, UsageError
from distvae.fidelity import evaluate_synthetic, fidelity, sample_table
from distvae.fidelity.frames import flat_table, kind_of, to_frame
from distvae.fidelity.privacy import closest, copies, row_keys
from distvae.fidelity.quality import quality
from distvae.fidelity.utility import learn, task_of
from tests.tables import mixed_table

pytestmark = pytest.mark.filterwarnings("error")


@pytest.fixture(scope="module")
def figures() -> dict[str, Any]:
    parts = (mixed_table(400, 1), mixed_table(300, 2), mixed_table(500, 3))
    return fidelity(*parts, target="member", seed=5)


def simple(rows: int, seed: int, slope: float = 1.0) -> pa.Table:
    """A number, words that follow it, and another number."""
    random = np.random.default_rng(seed)
    x = random.normal(size=rows)
    noise = 0.3 * random.normal(size=rows)
    words = np.where(slope * x + noise > 0.0, "yes", "no")
    return pa.table({"x": x, "y": words, "z": slope * x + 0.3 * random.normal(size=rows)})


def test_every_kind_of_column_is_compared(figures: dict[str, Any]) -> None:
    kinds = {name: column["kind"] for name, column in figures["columns"].items()}
    assert kinds["address.city"] == "categorical" and kinds["address.zip"] == "numeric"
    assert kinds["grade"] == "categorical" and kinds["member"] == "boolean"
    assert {kinds[n] for n in ("born", "seen", "wakes", "sleeps")} == {"datetime"}
    assert kinds["price"] == kinds["one"] == "numeric"
    assert list(figures["left_out"]) == ["pixels"]
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures
    scores = {name: column["score"] for name, column in figures["columns"].items()}
    assert scores.pop("empty") is None and scores.pop("none") is None
    assert all(0.85 < score <= 1.0 for score in scores.values())
    assert figures["quality"] == pytest.approx(
        (figures["column_shapes"] + figures["column_pairs"]) / 2
    )


def test_missing_shares_are_told(figures: dict[str, Any]) -> None:
    salary = figures["columns"]["salary"]
    assert salary["missing_real"] == pytest.approx(0.145, abs=0.06)
    assert salary["missing_difference"] >= abs(salary["missing_real"] - salary["missing_synthetic"])
    assert figures["columns"]["empty"]["missing_difference"] == 0.0


def test_nan_in_place_of_null_is_a_difference() -> None:
    real = pa.table({"x": pa.array([1.0, None] * 20), "y": np.arange(40)})
    made = pa.table({"x": pa.array([1.0, float("nan")] * 20), "y": np.arange(40)})
    column = fidelity(None, real, made)["columns"]["x"]
    assert column["missing_real"] == column["missing_synthetic"] == 0.5
    assert column["missing_difference"] == 0.5


def test_the_same_tables_and_seed_give_the_same_figures(figures: dict[str, Any]) -> None:
    parts = (mixed_table(400, 1), mixed_table(300, 2), mixed_table(500, 3))
    assert fidelity(*parts, target="member", seed=5) == figures


def test_sampling_bounds_what_is_compared() -> None:
    found = fidelity(simple(200, 1), simple(150, 2), simple(90, 3), most_rows=100)
    assert found["rows"] == {"training": 100, "holdout": 100, "synthetic": 90}


def test_without_training_rows_there_is_no_privacy() -> None:
    found = fidelity(None, simple(200, 1), simple(200, 2), target="y")
    assert found["privacy"] is found["real"] is found["train_on_real"] is None
    assert found["compared_with"] == "holdout"
    assert found["train_on_synthetic"]["f1"] > 0.65


def test_shapes_and_pairs_are_those_of_sdmetrics() -> None:
    from sdmetrics.reports.single_table import QualityReport

    kinds = {"x": "numeric", "y": "categorical", "z": "numeric"}
    one, two = (
        to_frame(table, kinds, table.schema) for table in (simple(300, 1), simple(300, 2, -0.5))
    )
    found = quality(one, two, kinds)
    sdtypes = {n: "numerical" if k == "numeric" else "categorical" for n, k in kinds.items()}
    report = QualityReport()
    metadata = {"columns": {name: {"sdtype": kind} for name, kind in sdtypes.items()}}
    report.generate(one, two, metadata, verbose=False)
    assert found.score == pytest.approx(report.get_score(), abs=1e-12)
    x, y = np.sort(one["x"]), np.sort(two["x"])
    at = np.concatenate([x, y])
    gap = np.searchsorted(x, at, "right") / len(x) - np.searchsorted(y, at, "right") / len(y)
    assert found.by_column["x"] == pytest.approx(1.0 - np.abs(gap).max())
    share = (one["y"] == "yes").mean() - (two["y"] == "yes").mean()
    assert found.by_column["y"] == pytest.approx(1.0 - abs(share), abs=1e-5)
    correlations = [np.corrcoef(side["x"], side["z"])[0, 1] for side in (one, two)]
    assert found.matrix[0][2] == pytest.approx(1.0 - abs(np.subtract(*correlations)) / 2)


def test_columns_of_many_words_are_compared_alone() -> None:
    words = [f"word {i}" for i in range(3000)]
    real = pa.table({"w": words, "x": np.arange(3000.0)})
    made = pa.table({"w": words[::-1], "x": np.arange(3000.0)})
    found = fidelity(None, real, made)
    assert found["columns"]["w"]["score"] == pytest.approx(1.0)
    assert found["pair_matrix"]["columns"] == ["x"] and found["column_pairs"] is None
    assert found["quality"] == pytest.approx(1.0)


@pytest.mark.parametrize(
    ("target", "positive", "measure", "least"),
    [
        ("y", None, "roc_auc", 0.9),
        ("y", "no", "f1", 0.8),
        ("z", None, "r2", 0.8),
    ],
)
def test_learning_from_synthetic_rows(
    target: str, positive: str | None, measure: str, least: float
) -> None:
    parts = (simple(500, 1), simple(400, 2), simple(500, 3))
    found = fidelity(*parts, target=target, positive=positive)
    assert found["train_on_synthetic"][measure] > least
    assert found["train_on_real"][measure] > least
    assert found["target"]["column"] == target
    wrong = fidelity(parts[0], parts[1], simple(500, 4, -1.0), target=target, positive=positive)
    assert wrong["train_on_synthetic"][measure] < found["train_on_synthetic"][measure]


def test_many_classes_are_scored_as_a_mean_over_them() -> None:
    random = np.random.default_rng(0)

    def table(rows: int) -> pa.Table:
        x = random.uniform(0.0, 30.0, rows)
        return pa.table({"x": x, "y": [f"c{int(v):02d}" for v in x]})

    found = fidelity(None, table(400), table(600), target="y")
    assert len(found["target"]["classes"]) == 20
    assert found["target"]["classes"][-1] == "∅ other"
    assert 0.1 < found["train_on_synthetic"]["f1"] <= 1.0
    assert found["train_on_synthetic"]["roc_auc"] > 0.9


def test_a_numbers_class_and_a_training_table_of_one_class() -> None:
    def table(rows: int, low: int) -> pa.Table:
        random = np.random.default_rng(rows)
        return pa.table({"x": random.normal(size=rows), "n": random.integers(low, 3, rows)})

    found = fidelity(None, table(200, 0), table(90, 2), target="n", positive="1")
    assert found["train_on_synthetic"] == {"f1": 0.0, "roc_auc": 0.5}
    assert found["target"]["classes"][-1] == "1"


def test_copies_are_found_and_chance_is_told() -> None:
    training, holdout = simple(300, 1), simple(300, 2)
    fresh = fidelity(training, holdout, simple(300, 3))["privacy"]
    assert fresh["exact_copies"] == fresh["exact_copies_of_holdout"] == 0.0
    assert 0.7 < fresh["closest_record_ratio"] < 1.4
    assert fresh["closer_share"] < 0.15
    copied = pa.concat_tables([training.slice(0, 200), simple(100, 3)])
    leaky = fidelity(training, holdout, copied)["privacy"]
    assert leaky["exact_copies"] == pytest.approx(2 / 3)
    assert leaky["closest_record_ratio"] < 0.1
    assert leaky["closer_share"] > 0.6


def test_a_vector_makes_rows_differ() -> None:
    flags = pa.array(["a", "b"] * 20)
    first = np.arange(120.0).reshape(40, 3)

    def table(values: Any, kind: pa.DataType) -> pa.Table:
        return pa.table({"flag": flags, "v": pa.array(list(values), kind)})

    lists = pa.list_(pa.float64())
    parts = (table(first, lists), table(first + 0.5, lists), table(first, lists))
    privacy = fidelity(*parts)["privacy"]
    assert (privacy["exact_copies"], privacy["exact_copies_of_holdout"]) == (1.0, 0.0)
    swapped = table(first[:, ::-1], pa.list_(pa.float64(), 3))
    assert fidelity(parts[0], parts[1], swapped)["privacy"]["exact_copies"] == 0.0
    one, two = ({"v": pa.chunked_array([[[1.0], None, [1.0, 0.0], [], v]])} for v in ([2.0], [3.0]))
    import pandas as pd

    keys = [row_keys(pd.DataFrame({"a": [0.0] * 5}), side) for side in (one, two)]
    assert len(np.unique(keys[0])) == 5
    assert (keys[0] == keys[1]).tolist() == [True] * 4 + [False]


def test_equal_distances_and_no_distances() -> None:
    zero, some = np.zeros(20), np.ones(20)
    assert closest(zero, zero)["closest_record_ratio"] == 1.0
    assert closest(some, zero)["closest_record_ratio"] is None
    assert closest(2.0 * some, some)["closest_record_ratio"] == 2.0
    assert copies(np.zeros(0, np.uint64), np.zeros(3, np.uint64)) == 0.0


WRONG: list[tuple[Callable[[], Any], type[Exception], str]] = [
    (
        lambda: fidelity(None, simple(50, 1), simple(50, 2), target="w"),
        UsageError,
        "target: no column 'w'",
    ),
    (
        lambda: fidelity(None, simple(50, 1), simple(50, 2), target="y", positive="maybe"),
        UsageError,
        "positive: 'y' has no value 'maybe'",
    ),
    (
        lambda: fidelity(
            None, pa.table({"n": np.arange(50) % 3}), pa.table({"n": np.arange(50)}), "n", "one"
        ),
        DataError,
        "target 'n': is the only column",
    ),
    (
        lambda: fidelity(None, mixed_table(50, 1), mixed_table(50, 2), target="one"),
        DataError,
        "target 'one': takes one value",
    ),
    (
        lambda: fidelity(None, mixed_table(50, 1), mixed_table(50, 2), "age", "old"),
        UsageError,
        "positive: 'age' has no value 'old'",
    ),
    (
        lambda: fidelity(None, simple(9, 1), simple(50, 2)),
        DataError,
        "holdout rows: are 9; at least 10",
    ),
    (
        lambda: fidelity(simple(50, 1).drop(["y"]), simple(50, 1), simple(50, 2)),
        DataError,
        "training rows: have no column 'y'",
    ),
    (
        lambda: fidelity(
            None, simple(50, 1), simple(50, 1).set_column(0, "x", pa.array(["a"] * 50))
        ),
        DataError,
        "holdout rows: column 'x' has type double; the synthetic rows have string",
    ),
    (
        lambda: fidelity(
            None, mixed_table(50, 1).select(["pixels"]), mixed_table(50, 1).select(["pixels"])
        ),
        DataError,
        "synthetic rows: have no column that can be compared",
    ),
]


@pytest.mark.parametrize(("call", "error", "message"), WRONG)
def test_mistakes_are_told_in_one_line(
    call: Callable[[], Any], error: type[Exception], message: str
) -> None:
    with pytest.raises(error, match="^" + message.replace("(", r"\(")) as told:
        call()
    assert "\n" not in str(told.value)


def test_without_sdmetrics_the_way_to_it_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    import importlib.util

    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == "sdmetrics" else found(name)
    )
    with pytest.raises(UsageError, match=r"sdmetrics is not installed; pip install 'distvae\[fid"):
        fidelity(None, simple(50, 1), simple(50, 2))


def test_nothing_is_imported_before_it_is_needed() -> None:
    code = (
        "import sys, distvae.fidelity; loaded = {'pandas', 'sklearn', 'sdmetrics', 'ray', 'torch'}"
        " & set(sys.modules); sys.exit(str(loaded) if loaded else 0)"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


def test_kinds_of_types() -> None:
    assert kind_of(pa.dictionary(pa.int8(), pa.int64())) == "categorical"
    assert kind_of(pa.large_string()) == kind_of(pa.string_view()) == "categorical"
    assert kind_of(pa.decimal256(40, 2)) == "numeric"
    assert kind_of(pa.binary()) is kind_of(pa.list_(pa.int8())) is kind_of(pa.null()) is None


def test_two_number_classes_have_a_positive_one() -> None:
    table = pa.table({"n": [0] * 15 + [1] * 5, "x": np.arange(20.0)})
    kinds = {"n": "numeric", "x": "numeric"}
    frame = to_frame(table, kinds, table.schema)
    task = task_of(frame, kinds, "n", None)
    assert task.classes == (0.0, 1.0)
    assert learn(frame, frame, task)["roc_auc"] is not None


def parts_of(folder: Path, table: pa.Table, parts: int) -> str:
    """A dataset as generate writes it: DIR/data/part-*.parquet and files that are no data."""
    data = folder / "data"
    data.mkdir(parents=True)
    step = -(-table.num_rows // parts)
    for i in range(parts):
        path = data / f"part-{i:09d}-00000000.parquet"
        pq.write_table(table.slice(i * step, step), path, row_group_size=37)
    (folder / "_SUCCESS").touch()
    return str(folder)


def test_a_sample_is_drawn_without_replacement(tmp_path: Path) -> None:
    table = pa.table({"n": np.arange(1000), "w": [str(i % 7) for i in range(1000)]})
    whole = parts_of(tmp_path / "whole", table, 4)
    found = sample_table(whole, 100, 3)
    numbers = found.column("n").to_numpy()
    assert len(np.unique(numbers)) == 100 and np.all(np.diff(numbers) > 0)
    assert abs(numbers.mean() - 500) < 4 * 290 / 10
    assert sample_table([whole], 100, 3).equals(found)
    other = parts_of(tmp_path / "other", table, 1)
    assert sample_table(other, 100, 3).equals(found), "however the rows are cut into files"
    assert not sample_table(whole, 100, 4).equals(found)
    assert sample_table(whole, 5000, 0).equals(table)
    filtered = sample_table(whole, 50, 3, ["n"], where="n < 200")
    assert filtered.num_rows == 50 and pc.max(filtered.column("n")).as_py() < 200


def test_a_huge_input_is_read_in_part(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole = parts_of(tmp_path / "whole", pa.table({"n": np.arange(1000)}), 4)
    monkeypatch.setattr("distvae.fidelity.samples._MOST_READ_ROWS", 100)
    found = sample_table(whole, 80, 3).column("n").to_numpy()
    assert len(np.unique(found)) == 80
    assert len(np.unique(found // 37)) <= 8, "few row groups"


def test_a_sample_of_dictionaries(tmp_path: Path) -> None:
    words = pa.chunked_array(
        [
            pa.array(["a", "b"] * 30).dictionary_encode(),
            pa.array(["c", "a"] * 30).dictionary_encode(),
        ]
    )
    path = tmp_path / "words.parquet"
    pq.write_table(pa.table({"w": words}), path, row_group_size=60)
    found = sample_table(str(path), 120, 0).column("w").to_pylist()
    assert found == words.to_pylist()


def test_datasets_are_compared(tmp_path: Path) -> None:
    z = pa.array([[0.0, 1.0]] * 150, pa.list_(pa.float32(), 2))
    made = parts_of(tmp_path / "made", mixed_table(150, 3).append_column("z", z), 2)
    pq.write_table(mixed_table(200, 1), tmp_path / "train.parquet")
    real = mixed_table(120, 2).append_column("id", pa.array(np.arange(120)))
    pq.write_table(real, tmp_path / "test.parquet")
    train, test = (str(tmp_path / f"{name}.parquet") for name in ("train", "test"))
    found = evaluate_synthetic([test], made, [train], "member=true", 1)
    assert found["rows"] == {"holdout": 120, "training": 200, "synthetic": 150}
    assert found["privacy"]["exact_copies"] == 0.0
    assert found["target"]["classes"][-1] == "true"
    assert evaluate_synthetic([test], made, (), None, 1)["privacy"] is None


def test_the_training_table_is_divided_as_it_was(tmp_path: Path) -> None:
    table = simple(600, 1)
    pq.write_table(table, tmp_path / "all.parquet", row_group_size=100)
    split = Split(seed=4, validation=0.3)
    training, held_out = split_rows(np.arange(600), split)
    made = parts_of(tmp_path / "made", table.filter(pa.array(training)), 1)
    data = [str(tmp_path / "all.parquet")]
    found = evaluate_synthetic(data, made, (), "y", 0, split)
    assert found["rows"]["training"] == training.sum()
    assert found["rows"]["holdout"] == held_out.sum()
    assert found["privacy"]["exact_copies"] == 1.0
    assert found["privacy"]["exact_copies_of_holdout"] == 0.0
    with pytest.raises(UsageError, match="trained on all rows of DATA"):
        evaluate_synthetic(data, made, (), None, 0, Split(seed=4))
    with pytest.raises(DataError, match="holds no held-out row"):
        evaluate_synthetic(data, made, (), None, 0, Split(seed=4, sample=0.0, validation=0.3))


def test_a_column_that_the_data_lacks_is_named(tmp_path: Path) -> None:
    made = parts_of(tmp_path / "made", simple(60, 1), 1)
    pq.write_table(simple(60, 2).drop(["z"]), tmp_path / "less.parquet")
    with pytest.raises(DataError, match=r"less.parquet: has no column 'z'; the synthetic rows"):
        evaluate_synthetic([str(tmp_path / "less.parquet")], made)
    pq.write_table(simple(0, 2), tmp_path / "empty.parquet")
    with pytest.raises(DataError, match=r"empty.parquet: holds no rows"):
        evaluate_synthetic([str(tmp_path / "empty.parquet")], made)


def test_structs_are_compared_by_their_fields() -> None:
    inner = pa.table({"a": [{"b": {"c": 1, "d": None}}, None]})
    flat = flat_table(inner)
    assert flat.column_names == ["a.b.c", "a.b.d"]
    assert flat.column("a.b.c").to_pylist() == [1, None]
