"""The arithmetic behind the figures."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np
import numpy.typing as npt
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from distvae.report import ReportInputs
from distvae.report.curves import training_section
from distvae.report.latent import colouring, project
from distvae.report.marginals import distance, histogram
from distvae.report.markup import Html, tag
from distvae.report.theme import CATEGORY_COLOURS
from distvae.report.units import active_dimensions
from distvae.report.words import NONE, number, percent

Floats = npt.NDArray[np.float64]
samples = hnp.arrays(np.float64, st.integers(1, 40), elements=st.floats(-1e6, 1e6))


@given(samples, samples)
def test_distance_is_the_largest_gap_of_the_two_curves(one: Floats, two: Floats) -> None:
    gaps = [abs(float(np.mean(one <= x)) - float(np.mean(two <= x))) for x in [*one, *two]]
    found = distance(one, two)
    assert found == pytest.approx(max(gaps), abs=1e-12)
    assert found is not None and 0.0 <= found <= 1.0
    assert distance(one, one) == 0.0


@given(samples, samples)
def test_every_row_falls_into_a_bin(one: Floats, two: Floats) -> None:
    edges, real, synthetic = histogram(one, two)
    assert len(edges) == len(real) + 1 == len(synthetic) + 1
    assert np.all(np.diff(edges) >= 0.0)
    assert real.sum() == pytest.approx(1.0) and synthetic.sum() == pytest.approx(1.0)


def test_few_whole_numbers_have_a_bin_each() -> None:
    edges, real, _ = histogram(np.array([0.0, 1, 1, 3]), np.array([0.0, 3]))
    assert edges.tolist() == [-0.5, 0.5, 1.5, 2.5, 3.5]
    assert real.tolist() == [0.25, 0.5, 0.0, 0.25]


def test_projection_keeps_the_most_variance_and_two_dimensions_as_they_are() -> None:
    random = np.random.default_rng(0)
    mu = random.normal(size=(300, 5)) * np.array([0.1, 3.0, 0.2, 2.0, 0.1])
    points, names, how = project(mu)
    exact = np.linalg.svd(mu - mu.mean(axis=0), compute_uv=False)[:2]
    np.testing.assert_allclose(np.linalg.norm(points, axis=0), exact, rtol=1e-9)
    share = percent(float((exact[0] ** 2) / np.sum((mu - mu.mean(axis=0)) ** 2)))
    assert share in names[0] and "5 numbers" in how
    assert project(mu[:, :2])[0] is not None
    np.testing.assert_array_equal(project(mu[:, :2])[0], mu[:, :2])
    assert project(mu[:, :1])[0].shape == (300, 2)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        (np.array([3, 10, 3, 2]), ["2", "3", "10"]),
        (np.array([1.0, np.nan, 2.0]), ["1", "2"]),
        (np.array(["b", "a", None], dtype=object), ["a", "b"]),
        (np.array([1, None, 2], dtype=object), ["1", "2"]),
        (np.array([True, False]), ["False", "True"]),
    ],
)
def test_few_values_are_categories(values: npt.NDArray[Any], names: list[str]) -> None:
    paint = colouring(values)
    assert [name for name, *_ in paint.categories] == names
    known = sum(size for *_, size in paint.categories)
    assert known + paint.missing == len(values) == len(paint.colours)


def test_many_categories_keep_the_frequent_ones_and_count_the_rest() -> None:
    paint = colouring(np.array([f"v{i:02d}" for i in range(25) for _ in range(i + 1)]))
    assert len(paint.categories) == len(CATEGORY_COLOURS) + 1
    assert paint.categories[-1][0] == "15 other values"
    assert sum(size for *_, size in paint.categories) == 325


@pytest.mark.parametrize(
    ("values", "first"),
    [
        (np.linspace(0.0, 100.0, 101), "2"),
        (np.arange(101), "2"),
        (np.datetime64("2020-01-01") + np.arange(101), "2020-01-03"),
    ],
)
def test_many_numbers_are_a_scale(values: npt.NDArray[Any], first: str) -> None:
    paint = colouring(values)
    assert paint.scale is not None and paint.scale[0].startswith(first)
    assert np.all((paint.colours >= 0.0) & (paint.colours <= 1.0))


def test_as_many_active_dimensions_as_the_metrics_count() -> None:
    kl = np.array([0.1, 3.0, 0.0, 2.0])
    inputs = ReportInputs("m", "i", metrics={"active_units": 2})
    assert active_dimensions(inputs, kl).tolist() == [False, True, False, True]
    moved = replace(inputs, mu=np.random.default_rng(0).normal(size=(50, 4)) * [2, 0, 0, 1])
    assert active_dimensions(moved, kl).tolist() == [True, False, False, True]
    assert active_dimensions(ReportInputs("m", "i"), kl).tolist() == [True, True, False, True]


def test_training_shows_the_terms_and_says_where_validation_was_best(
    history: Callable[[int], Any],
) -> None:
    run = history(30)
    run["validation_reconstruction"] = run["validation_reconstruction"].copy()
    run["validation_reconstruction"][20:] -= 5.0
    text = training_section(ReportInputs("m", "i", history=run))
    for title in ("ELBO", "Reconstruction", "KL", "Loss", "KL weight", "Speed"):
        assert f"<h3>{title}</h3>" in text
    elbo = run["validation_reconstruction"] - run["validation_kl"]
    assert f"Validation is best at epoch {np.argmax(elbo) + 1} " in text
    assert "run off the chart" in text


def test_a_loss_that_is_minus_elbo_is_not_shown_twice(history: Callable[[int], Any]) -> None:
    run = history(10) | {"kl_weight": np.ones(10)}
    text = training_section(ReportInputs("m", "i", history=run))
    assert "<h3>ELBO</h3>" in text and "<h3>Loss</h3>" not in text
    assert "<h3>KL weight</h3>" not in text


@pytest.mark.parametrize(
    ("value", "written"),
    [
        (0.0, "0"),
        (-112.34, "\u2212112.3"),
        (1234567, "1\u202f234\u202f567"),
        (0.00012345, "0.0001234"),
        (1e-9, "1.000 × 10^\u22129"),
        (float("nan"), NONE),
        (None, NONE),
        (True, NONE),
        (np.float32(2.5), "2.5"),
    ],
)
def test_number(value: Any, written: str) -> None:
    assert number(value) == written


def test_strings_are_escaped_and_markup_is_not() -> None:
    made = tag("p", "<b>", tag("b", "&"), title='"')
    assert made == '<p title="&quot;">&lt;b&gt;<b>&amp;</b></p>'
    assert isinstance(made, Html)
