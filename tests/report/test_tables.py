"""Tables of mixed columns on the page: words, truth values, dates, decimals, structs, gaps."""

from __future__ import annotations

import math
import warnings
from dataclasses import replace

import numpy as np
import pyarrow as pa
import pytest

from distvae.fidelity import available, fidelity
from distvae.report import ReportInputs, render
from distvae.report.associations import association, associations_part, matrix
from distvae.report.categories import shares, total_variation
from distvae.report.fidelity import fidelity_part
from distvae.report.header import features_of
from distvae.report.marginals import marginals_section
from distvae.report.values import cell, instant, is_words, numbers, share_missing, words
from distvae.report.words import NONE
from distvae.reporting import _columns
from tests.tables import mixed_table


def test_arrow_columns_become_numbers_words_and_times() -> None:
    columns = _columns(mixed_table(50, 1))
    kinds = {name: values.dtype.kind for name, values in columns.items()}
    assert kinds["member"] == kinds["grade"] == kinds["address.city"] == "O"
    assert kinds["born"] == kinds["seen"] == "M" and kinds["wakes"] == kinds["sleeps"] == "m"
    assert kinds["age"] == kinds["price"] == kinds["address.zip"] == "f"
    assert columns["pixels"].shape == (50, 4)
    assert set(columns["member"].tolist()) == {"true", "false", None}
    table = mixed_table(50, 1)
    prices = [float(value) for value in table.column("price").to_pylist()]
    assert columns["price"].tolist() == pytest.approx(prices)
    seconds = [value.timestamp() for value in table.column("seen").to_pylist()]
    assert numbers(columns["seen"]).tolist() == pytest.approx(seconds)
    spans = [value.total_seconds() for value in table.column("sleeps").to_pylist()]
    assert numbers(columns["sleeps"]).tolist() == pytest.approx(spans)


def test_a_table_of_every_kind_makes_a_page(mixed: ReportInputs) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        page = render(mixed)
    text = " ".join(page.split())
    assert "Synthetic beside real" in page and "Columns together" in page
    for name in ("salary", "member", "grade", "born", "address.city", "address.zip"):
        assert f">{name}<" in text
    assert "total variation" in text and "hold no value here" in text
    assert page.count("a matrix of 13 columns") == 0 or "<svg" in page
    assert render(mixed) == page
    assert len(page.encode()) < 1_000_000


def test_cells_show_words_dates_and_gaps(mixed: ReportInputs) -> None:
    page = render(mixed)
    assert "Oslo" in page and "true" in page
    born = mixed.originals["born"][0]
    assert str(born.astype("datetime64[s]")).replace("T", " ") in page
    assert cell(np.datetime64("NaT")) == cell(np.timedelta64("NaT")) == cell(None) == NONE
    assert cell(np.timedelta64(90, "s")) == "90 s"
    assert cell(True) == "true" and cell(np.bool_(False)) == "false"
    assert cell("x" * 100).endswith("…") and cell(2.5) == "2.5"


def test_hostile_words_are_only_text() -> None:
    evil = "<script>alert('$x_1$')</script>"
    column = np.array([evil, "b", None] * 20, dtype=object)
    columns = {"w": column, "v": column[::-1].copy(), "n": np.arange(60.0)}
    page = render(
        ReportInputs("m", "i", real=columns, synthetic=columns, originals=columns, samples=columns)
    )
    assert "<script" not in page and "&lt;script&gt;" in page


def test_shares_of_words_sum_to_one_with_others_and_gaps() -> None:
    real = np.array([f"v{i}" for i in range(20) for _ in range(i + 1)] + [None] * 10, dtype=object)
    found = shares(real, real[:100])
    assert [name for name, *_ in found][-2:] == ["13 other values", "missing"]
    assert sum(one for _, one, _ in found) == pytest.approx(1.0)
    assert sum(two for *_, two in found) == pytest.approx(1.0)
    assert found[0][0] == "v12", "the most on both sides together"


def test_total_variation_by_hand() -> None:
    one = np.array(["a", "a", "b", None], dtype=object)
    two = np.array(["a", "c"], dtype=object)
    assert total_variation(one, two) == pytest.approx(0.5 * (1 / 6 + 1 / 3 + 1 / 2))
    assert total_variation(one, one) == 0.0
    assert total_variation(one, np.array([None], dtype=object)) is None


def test_associations_against_scipy() -> None:
    from scipy.stats.contingency import association as cramer

    random = np.random.default_rng(0)
    group = random.integers(0, 4, 500)
    words_ = np.array(list("abcd"), dtype=object)[group]
    other = np.where(random.random(500) < 0.7, group, random.integers(0, 4, 500)) % 3
    x = group + random.normal(size=500)
    y = 2.0 * x + random.normal(size=500)
    y[:50] = np.nan
    columns = {"w": words_, "o": np.array(list("xyz"), dtype=object)[other], "x": x, "y": y}
    found = matrix(columns, list(columns))
    table = np.histogram2d(group, other, bins=(4, 3))[0].astype(int)
    assert found[0, 1] == pytest.approx(cramer(table, method="cramer"))
    assert found[2, 3] == pytest.approx(np.corrcoef(x[50:], y[50:])[0, 1])
    means = np.array([x[group == g].mean() for g in range(4)])
    ratio = math.sqrt(np.var(means[group]) / np.var(x))
    assert found[0, 2] == found[2, 0] == pytest.approx(ratio)
    assert found.diagonal().tolist() == [1.0] * 4


@pytest.mark.parametrize(
    ("one", "two"),
    [
        (np.ones(5), np.arange(5.0)),
        (np.full(5, np.nan), np.arange(5.0)),
        (np.zeros(5, np.int64), np.arange(5.0)),
        (np.zeros(5, np.int64), np.arange(5)),
        (np.full(5, -1), np.arange(5)),
    ],
)
def test_a_column_that_does_not_vary_has_no_association(
    one: np.ndarray[tuple[int], np.dtype[np.float64]],
    two: np.ndarray[tuple[int], np.dtype[np.float64]],
) -> None:
    assert math.isnan(association(one, two))


def test_huge_numbers_have_an_association() -> None:
    x = np.array([1e300, -1e300, 5e299, 0.0])
    assert association(x, x) == pytest.approx(1.0)


def test_many_columns_show_the_first_matrix_and_say_so() -> None:
    random = np.random.default_rng(0)
    columns = {f"c{i}": random.normal(size=30) for i in range(30)}
    text = associations_part(columns, columns, list(columns))
    assert text is not None and "6 more columns not shown" in text
    assert associations_part(columns, columns, ["c0"]) is None
    flat = {"a": np.ones(5), "b": np.ones(5)}
    assert "No pair of columns varies" in str(associations_part(flat, flat, ["a", "b"]))


def test_a_date_beside_gaps() -> None:
    days = np.datetime64("2020-01-01") + np.arange(100)
    days[3] = np.datetime64("NaT")
    text = marginals_section(ReportInputs("m", "i", real={"d": days}, synthetic={"d": days[50:]}))
    assert "From 2020-01-01 00:00 to" not in text, "years need no time of day"
    assert "From 2020-01-01 to 2020-04-09 real, 2020-02-20 to 2020-04-09 synthetic." in text
    assert "Missing: 1.0" in text
    assert instant(0.0, 3600.0) == "1970-01-01 00:00"


def test_values_of_every_kind() -> None:
    flags = np.array([True, False])
    assert is_words(flags) and words(flags).tolist() == ["true", "false"]
    mixed = np.array(["a", None, float("nan")], dtype=object)
    assert words(mixed).tolist() == ["a", None, None]
    assert share_missing(mixed) == pytest.approx(2 / 3)
    assert share_missing(np.array([1.0, np.nan])) == 0.5
    assert share_missing(np.zeros(0)) == 0.0


def test_companions_are_no_columns() -> None:
    specs = [{"name": "age", "width": 1}, {"name": "age is missing", "companion_of": "age"}]
    assert features_of({"features": specs}) == [("age", "column", 1)]


@pytest.mark.skipif(not available(), reason="SDMetrics is not installed")
def test_fidelity_figures_are_shown(mixed: ReportInputs) -> None:
    parts = (mixed_table(150, 1), mixed_table(120, 2), mixed_table(150, 1))
    figures = fidelity(*parts, target="member")
    page = render(replace(mixed, fidelity=figures))
    for said in ("Column pairs", "F1 of member", "ROC AUC of member", "Exact copies"):
        assert said in page
    assert "a sign of copying" in page, "the synthetic rows are the training rows"
    assert "Compared with training rows" in page


def test_figures_that_are_not_there_are_left_out() -> None:
    assert fidelity_part({}) is None
    text = fidelity_part({"quality": 0.9, "column_pairs": None, "privacy": None})
    assert text is not None and "Quality" in text and "Column pairs" not in text
    number = fidelity_part({"train_on_synthetic": {"r2": 0.5}, "target": {"column": "x"}})
    assert number is not None and "R² of x" in number
    table = pa.table({"b": [b"x"], "n": [1]})
    assert list(_columns(table)) == ["n"]
