"""Tables of every kind of column, with holes: trained, embedded, generated, evaluated on Ray."""

from __future__ import annotations

import datetime as dt
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

import distvae
from distvae.data.storage import locate
from distvae.data.verify import verify
from distvae.errors import DataError, UsageError
from tests.cluster.helpers import rows_of, run, vectors, write_data
from tests.cluster.tables import SCHEMA, mixed_table

pytestmark = pytest.mark.ray

ROWS = 4000
FEATURES = [name for name in SCHEMA.names if name not in ("id", "note")]


@pytest.fixture(scope="module")
def table() -> pa.Table:
    return mixed_table(ROWS)


@pytest.fixture(scope="module")
def data(table: pa.Table, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_data(tmp_path_factory.mktemp("tables") / "data", table, 500)


def _train(data: Path, model: Path, **options: Any) -> dict[str, Any]:
    small = {"latent_dim": 6, "hidden_dims": "64", "epochs": 30, "workers": 1}
    return run("train", data=[str(data)], model=model, **(small | options))


@pytest.fixture(scope="module")
def model(ray_nodes: object, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "m"
    _train(data, path)
    return path


@pytest.fixture(scope="module")
def conditional(ray_nodes: object, data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("tables") / "c"
    _train(data, path, condition_on=["group", "member"])
    return path


def test_identifiers_and_free_text_are_left_out_and_said_so(model: Path) -> None:
    loaded = distvae.load(str(model))
    assert set(loaded.files.training["left_out"]) == {"id", "note"}
    assert "`note`" in (model / "README.md").read_text()
    assert loaded.schema.names == FEATURES


def test_synthetic_rows_have_the_training_tables_schema_and_values(
    tmp_path: Path, model: Path, table: pa.Table
) -> None:
    out = tmp_path / "o"
    run("generate", model=model, rows=3000, out=out, workers=1)
    verify(locate(str(out)))
    made = rows_of(out)
    assert made.schema.equals(pa.schema([SCHEMA.field(name) for name in FEATURES]))
    for name in ("group", "town", "member"):
        seen = set(table.column(name).to_pylist())
        assert set(made.column(name).to_pylist()) <= seen
    assert {c["city"] for c in made.column("address").to_pylist() if c} <= {
        c["city"] for c in table.column("address").to_pylist() if c
    }
    for name in ("age", "gain", "visits", "joined", "born", "price"):
        low, high = (pc.min_max(table.column(name))[key] for key in ("min", "max"))
        found = pc.min_max(made.column(name))
        assert low.as_py() <= found["min"].as_py()
        assert found["max"].as_py() <= high.as_py()
    # As many values are missing as in training, null and NaN told apart.
    for name in ("town", "income", "member", "joined", "address"):
        share, real = (t.column(name).null_count / len(t) for t in (made, table))
        assert share == pytest.approx(real, abs=0.03)
    nans = [float(pc.sum(pc.is_nan(t.column("income"))).as_py()) / len(t) for t in (made, table)]
    assert nans[0] == pytest.approx(nans[1], abs=0.03)
    assert pc.mean(pc.equal(made.column("gain"), 0.0)).as_py() == pytest.approx(0.9, abs=0.03)


def test_embed_takes_rows_with_holes_and_counts_odd_values(
    tmp_path: Path, model: Path, table: pa.Table
) -> None:
    odd = table.slice(0, 100)
    towns = ["Atlantis", *odd.column("town").to_pylist()[1:]]
    ages = [200, *odd.column("age").to_pylist()[1:]]
    incomes = [*odd.column("income").to_pylist()[:99], float("inf")]
    joined = odd.column("joined").to_pylist()
    late = next(row for row in range(5, 90) if joined[row] is not None)
    joined[late] += dt.timedelta(seconds=1)  # training saw whole hours
    changed = {"town": towns, "age": ages, "income": incomes, "joined": joined}
    for name, values in changed.items():
        place = odd.schema.get_field_index(name)
        odd = odd.set_column(
            place, odd.schema.field(name), pa.array(values, odd.schema.field(name).type)
        )
    pq.write_table(odd, tmp_path / "odd.parquet")
    options = {"data": [str(tmp_path / "odd.parquet")], "model": model, "key": ["id"], "workers": 1}
    result = run("embed", out=tmp_path / "e", max_rejected=1.0, **options)
    assert (result["rows_out"], result["rows_rejected"]) == (99, 1)
    counts = {name: n for name, n in result.items() if name.startswith("values_")}
    assert counts == {"values_unseen": 1, "values_out_of_range": 2, "values_infinite": 1}
    manifest = pq.read_table(tmp_path / "e" / "_manifest.parquet")
    assert manifest.column("summary_values_unseen").to_pylist() == [1.0]
    assert manifest.column("summary_values_out_of_range").to_pylist() == [2.0]
    result = run("embed", out=tmp_path / "clip", on_infinite="clip", **options)
    assert result["rows_out"] == 100
    options["max_rejected"] = 1.0
    result = run(
        "embed", out=tmp_path / "r", on_unseen="reject", on_out_of_range="reject", **options
    )
    assert result["rows_out"] == 97
    for option, named in (
        ("on_unseen", "Atlantis"),
        ("on_out_of_range", "age"),
        ("on_infinite", "income"),
    ):
        with pytest.raises(DataError, match=named):
            run("embed", out=tmp_path / option, **{option: "error"}, **options)


def test_a_file_with_another_type_is_an_error_or_its_rows_are_rejected(
    tmp_path: Path, model: Path, table: pa.Table
) -> None:
    part = table.slice(0, 50)
    pq.write_table(part, tmp_path / "a.parquet")
    place = part.schema.get_field_index("age")
    texts = pa.array([f"{age} years" for age in part.column("age").to_pylist()])
    pq.write_table(part.set_column(place, "age", texts), tmp_path / "b.parquet")
    options = {"data": [str(tmp_path)], "model": model, "workers": 1}
    with pytest.raises(DataError, match="age"):
        run("embed", out=tmp_path / "e1", **options)
    out = tmp_path / "e2"
    result = run("embed", out=out, on_wrong_type="reject", max_rejected=0.5, **options)
    assert (result["rows_out"], result["rows_rejected"]) == (50, 50)
    assert result["values_wrong_type"] == 50
    rejected = pq.read_table(next((out / "_rejected").iterdir()))
    assert rejected.column("_file").unique().to_pylist() == ["b.parquet"]
    assert "'age'" in rejected.column("reason")[0].as_py()


def test_evaluate_gives_finite_figures_and_the_missingness_part(model: Path, data: Path) -> None:
    figures = run("evaluate", data=[str(data)], model=model, importance_samples=20, workers=1)
    for name in ("elbo", "kl", "reconstruction", "log_likelihood", "missingness"):
        assert np.isfinite(figures[name])
    assert figures["elbo"] <= figures["log_likelihood"] + 3 * figures["log_likelihood_se"]
    assert figures["missingness"] < 0
    assert figures["elbo"] == pytest.approx(figures["reconstruction"] - figures["kl"], abs=1e-6)


def test_impute_fills_what_is_missing_and_nothing_else(model: Path, table: pa.Table) -> None:
    loaded = distvae.load(str(model))
    holes = table
    for filled in (loaded.impute(holes), loaded.impute(holes, seed=1)):
        assert filled.schema.names == holes.schema.names
        for name in [n for n in FEATURES if n != "address"]:
            before, after = holes.column(name), filled.column(name)
            assert after.null_count == 0
            known = pc.is_valid(before)
            if name == "income":
                assert pc.sum(pc.is_nan(after)).as_py() == 0
                known = pc.and_kleene(known, pc.invert(pc.is_nan(before)))
            assert after.filter(known).equals(before.filter(known))
        places = filled.column("address").to_pylist()
        assert all(place["city"] and place["zip"] for place in places if place)
    # What the other columns tell is used: members are older than 40.
    missing = pc.is_null(holes.column("member"))
    right = pc.equal(loaded.impute(holes).column("member"), pc.greater(holes.column("age"), 40))
    assert pc.mean(right.filter(missing)).as_py() > 0.75


def test_given_columns_are_kept_and_the_others_follow(tmp_path: Path, conditional: Path) -> None:
    options = {"model": conditional, "workers": 1, "rows": 2000}
    run("generate", out=tmp_path / "a", given={"group": "west", "member": "true"}, **options)
    west = rows_of(tmp_path / "a")
    assert west.column("group").unique().to_pylist() == ["west"]
    assert west.column("member").unique().to_pylist() == [True]
    run("generate", out=tmp_path / "b", given={"group": "north"}, **options)
    north = rows_of(tmp_path / "b")
    assert pc.mean(west.column("score")).as_py() > pc.mean(north.column("score")).as_py() + 2
    # Without conditions they come from their training distribution.
    run("generate", out=tmp_path / "c", **options)
    shares = dict(
        zip(
            *(
                c.to_pylist()
                for c in rows_of(tmp_path / "c").column("group").value_counts().flatten()
            ),
            strict=True,
        )
    )
    assert shares["north"] / 2000 == pytest.approx(0.5, abs=0.04)


def test_one_synthetic_row_per_given_row(
    tmp_path: Path, conditional: Path, table: pa.Table
) -> None:
    asked = table.select(["member", "group"]).slice(100, 1500)
    pq.write_table(asked, tmp_path / "asked.parquet", row_group_size=400)
    options = {"model": conditional, "given_from": str(tmp_path / "asked.parquet")}
    run("generate", out=tmp_path / "o", workers=2, fragment_rows=700, **options)
    made = rows_of(tmp_path / "o")
    for name in ("group", "member"):
        assert made.column(name).to_pylist() == asked.column(name).to_pylist()
    run("generate", out=tmp_path / "p", workers=1, **options)
    again = rows_of(tmp_path / "p")
    assert again.schema.equals(made.schema)
    assert repr(again.to_pylist()) == repr(made.to_pylist())  # NaN is not equal to itself


def test_conditions_that_do_not_fit_are_refused(
    tmp_path: Path, model: Path, conditional: Path
) -> None:
    rest = {"rows": 10, "out": tmp_path / "o"}
    with pytest.raises(UsageError, match="not conditioned on any column"):
        run("generate", model=model, given={"group": "west"}, **rest)
    with pytest.raises(UsageError, match="conditioned on group, member"):
        run("generate", model=conditional, given={"age": "3"}, **rest)
    with pytest.raises((UsageError, DataError), match="Atlantis"):
        run("generate", model=conditional, given={"group": "Atlantis"}, **rest)
    with pytest.raises(UsageError, match="value of type bool"):
        run("generate", model=conditional, given={"member": "perhaps"}, **rest)
    pq.write_table(pa.table({"group": ["west"]}), tmp_path / "short.parquet")
    with pytest.raises(DataError, match="member"):
        run(
            "generate",
            model=conditional,
            given_from=str(tmp_path / "short.parquet"),
            out=tmp_path / "q",
        )


def test_conditional_models_embed_and_evaluate(
    conditional: Path, data: Path, tmp_path: Path
) -> None:
    figures = run("evaluate", data=[str(data)], model=conditional, importance_samples=10, workers=1)
    assert np.isfinite(figures["log_likelihood"])
    run("embed", data=[str(data)], model=conditional, out=tmp_path / "e", workers=1)
    assert np.isfinite(vectors(rows_of(tmp_path / "e"), "mu")).all()


def test_planted_outliers_have_the_lowest_elbo(
    tmp_path: Path, model: Path, table: pa.Table
) -> None:
    """Rows whose columns were shuffled apart, and rows with impossible numbers."""
    random = np.random.default_rng(3)
    normal = mixed_table(1000, seed=9)
    odd = mixed_table(40, seed=10)
    columns = {name: odd.column(name).take(random.permutation(40)) for name in odd.column_names}
    columns["age"] = pa.chunked_array([random.integers(91, 150, 40)])
    columns["score"] = pa.chunked_array([(9 * random.choice([-1, 1], 40)).astype(np.float32)])
    both = pa.concat_tables([normal, pa.table(columns).cast(SCHEMA)])
    pq.write_table(both, tmp_path / "both.parquet")
    run(
        "embed",
        data=[str(tmp_path / "both.parquet")],
        model=model,
        out=tmp_path / "e",
        with_elbo=True,
        workers=1,
    )
    elbo = rows_of(tmp_path / "e").column("elbo").to_numpy()
    lowest = np.argsort(elbo)[:40]
    assert (lowest >= 1000).mean() > 0.9


@pytest.mark.parametrize("prior", ["normal", "gaussian", "flow"])
def test_other_priors_generate_and_score(
    tmp_path: Path, ray_nodes: object, data: Path, prior: str
) -> None:
    _train(data, tmp_path / "m", prior=prior, epochs=4, include=["age", "group", "gain"])
    loaded = distvae.load(str(tmp_path / "m"))
    whole = loaded.sample(3000, seed=1)
    assert loaded.sample(100, seed=1, offset=1500).equals(whole.slice(1500, 100))
    figures = run(
        "evaluate", data=[str(data)], model=tmp_path / "m", importance_samples=50, workers=1
    )
    assert figures["elbo"] <= figures["log_likelihood"] + 3 * figures["log_likelihood_se"]


def test_counts_have_negative_binomial_heads(tmp_path: Path, ray_nodes: object, data: Path) -> None:
    options = {"role": {"visits": "count"}, "include": ["visits", "age", "group"], "epochs": 30}
    _train(data, tmp_path / "m", **options)
    loaded = distvae.load(str(tmp_path / "m"))
    assert loaded.files.architecture.likelihoods["visits"] == "zero-inflated-negative-binomial"
    made = loaded.sample(4000, seed=0).column("visits")
    real = pq.read_table(data).column("visits")
    assert made.type == pa.int32()
    assert pc.mean(made).as_py() == pytest.approx(pc.mean(real).as_py(), rel=0.15)
    zeros = [pc.mean(pc.equal(c, 0)).as_py() for c in (made, real)]
    assert zeros[0] == pytest.approx(zeros[1], abs=0.05)


def test_infinite_values_are_an_error_in_training_or_clipped(
    tmp_path: Path, ray_nodes: object, table: pa.Table
) -> None:
    gains = [float("inf"), *table.column("gain").to_pylist()[1:]]
    place = table.schema.get_field_index("gain")
    odd = table.set_column(place, SCHEMA.field("gain"), pa.array(gains, pa.float64()))
    pq.write_table(odd, tmp_path / "odd.parquet")
    options = {"include": ["gain", "age"], "epochs": 2}
    with pytest.raises(DataError, match="gain"):
        _train(tmp_path / "odd.parquet", tmp_path / "e", **options)
    _train(tmp_path / "odd.parquet", tmp_path / "m", on_infinite="clip", **options)
    made = distvae.load(str(tmp_path / "m")).sample(500, seed=0)
    assert np.isfinite(made.column("gain").drop_null().to_numpy()).all()


def test_a_null_or_outlying_condition_that_training_had_not_is_refused(conditional: Path) -> None:
    loaded = distvae.load(str(conditional))
    with pytest.raises(DataError, match="null"):
        loaded.sample(1, given=pa.table({"group": pa.array([None], pa.string()), "member": [True]}))
    # A null where training had some is a condition like any other.
    rows = loaded.sample(
        3, given=pa.table({"group": ["west"] * 3, "member": pa.nulls(3, pa.bool_())})
    )
    assert rows.column("member").null_count == 3


def test_evaluate_and_report_compare_synthetic_with_real_rows(
    tmp_path: Path, model: Path, data: Path
) -> None:
    pytest.importorskip("sdmetrics")
    run("generate", model=model, rows=3000, out=tmp_path / "g", workers=1)
    options = {"data": [str(data)], "model": model, "synthetic": str(tmp_path / "g")}
    figures = run("evaluate", target="member", importance_samples=2, workers=1, **options)
    found = figures["synthetic"]
    assert found["quality"] > 0.8
    assert 0.5 < found["privacy"]["closest_record_ratio"] < 3
    assert found["train_on_real"]["roc_auc"] > 0.9
    assert found["train_on_synthetic"]["roc_auc"] > 0.7
