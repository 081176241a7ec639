from __future__ import annotations

from functools import reduce

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pytest
from sklearn.decomposition import PCA

from distvae.data.roles import Feature, infer_features, peek_widths
from distvae.data.sketch import (
    Sketch,
    directions,
    improved,
    merge_sketches,
    products_table,
    sketch_from_bytes,
    sketch_size,
    sketch_table,
    sketch_to_bytes,
)
from distvae.errors import DataError
from distvae.model.linear import pca_of_factor

Floats = npt.NDArray[np.float64]


def of_array(x: Floats) -> pa.Table:
    flat = pa.array(x.reshape(-1))
    return pa.table({"v": pa.FixedSizeListArray.from_arrays(flat, x.shape[1])})


def features_of(table: pa.Table) -> tuple[Feature, ...]:
    return infer_features(table.schema, widths=peek_widths(table, table.schema))


def sketched(parts: list[Floats], size: int) -> Sketch:
    tables = [of_array(part) for part in parts]
    found = [sketch_table(table, features_of(tables[0]), size) for table in tables]
    return reduce(merge_sketches, found)


def decaying(rows: int, width: int, power: float) -> Floats:
    """Rows whose covariance has the eigenvalues 1 / j^power, turned, about a distant mean."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(rows, width)) * np.arange(1, width + 1) ** (-power / 2)
    for _ in range(3):  # reflections: an orthogonal turn of any width, at the cost of a product
        v = rng.normal(size=width)
        x -= np.outer(x @ v, 2 * v / (v @ v))
    return x + 10 * rng.normal(size=width)


def matrix(sketch: Sketch) -> Floats:
    product: Floats = sketch.factor.T @ sketch.factor
    return product


@pytest.mark.parametrize(("power", "tolerance"), [(2.0, 1e-6), (1.0, 3e-4)])
def test_five_thousand_elements_against_the_full_decomposition(
    power: float, tolerance: float
) -> None:
    x = decaying(1200, 5000, power)
    k = 8
    size = sketch_size(k, 5000)
    assert size == 72
    sketch = sketched(np.split(x, [100, 600, 601]), size)
    total = float(((x - x.mean(0)) ** 2).sum() / len(x))
    ours = pca_of_factor(sketch.mean, sketch.factor, sketch.rows, total, k)
    theirs = PCA(k, svd_solver="full").fit(x)
    np.testing.assert_allclose(ours.mean, theirs.mean_, rtol=1e-10)
    share = ours.variances / ours.total_variance
    assert np.abs(share - theirs.explained_variance_ratio_).max() < tolerance
    # The variance that the subspace in truth captures falls short by less than that.
    captured = np.square((x - x.mean(0)) @ ours.components.T).sum() / len(x) / total
    assert 0 <= theirs.explained_variance_ratio_.sum() - captured < tolerance
    np.testing.assert_allclose(ours.components @ ours.components.T, np.eye(k), atol=1e-12)


def test_nothing_is_lost_while_the_rows_span_few_dimensions() -> None:
    rng = np.random.default_rng(1)
    x = rng.normal(size=(400, 5)) @ rng.normal(size=(5, 30)) + 1e3
    centred = x - x.mean(0)
    for parts in ([x], np.split(x, [3, 200]), np.split(x, 50)):
        sketch = sketched(list(parts), 8)
        assert sketch.rows == 400
        assert len(sketch.factor) == 8
        np.testing.assert_allclose(matrix(sketch), centred.T @ centred, atol=1e-8)


def test_merging_is_associative_up_to_what_is_discarded() -> None:
    x = decaying(300, 40, 2.0)
    tables = [of_array(part) for part in np.split(x, 3)]
    a, b, c = (sketch_table(table, features_of(tables[0]), 20) for table in tables)
    left = merge_sketches(merge_sketches(a, b), c)
    right = merge_sketches(a, merge_sketches(b, c))
    np.testing.assert_allclose(left.mean, right.mean, rtol=1e-12)
    lost = np.trace((x - x.mean(0)).T @ (x - x.mean(0))) - np.trace(matrix(left))
    assert lost > 0
    assert np.abs(matrix(left) - matrix(right)).max() < lost


def test_the_same_rows_give_the_same_bytes_and_no_rows_are_neutral() -> None:
    x = decaying(200, 30, 1.0)
    parts = [x[:90], x[90:]]
    once, again = sketched(parts, 6), sketched(parts, 6)
    assert sketch_to_bytes(once) == sketch_to_bytes(again)
    empty = sketch_table(of_array(x[:0]), features_of(of_array(x)), 6)
    assert empty.rows == 0
    for both in (merge_sketches(empty, once), merge_sketches(once, empty)):
        assert both.rows == 200
        np.testing.assert_allclose(both.mean, once.mean, rtol=1e-14)
        np.testing.assert_allclose(matrix(both), matrix(once), atol=1e-10)


def test_constants_far_from_zero_have_no_variance() -> None:
    x = np.full((70, 12), 1e8 + 0.1)
    assert np.abs(sketched([x[:30], x[30:]], 4).factor).max() == 0


@pytest.mark.parametrize(("passes", "tolerance"), [(1, 1e-6), (2, 1e-8)])
def test_further_passes_bring_slow_spectra_to_the_full_decomposition(
    passes: int, tolerance: float
) -> None:
    x, k = decaying(700, 4200, 1.0), 8
    parts = np.split(x, [100, 400, 401])
    tables = [of_array(part) for part in parts]
    features = features_of(tables[0])
    sketch = sketched(parts, sketch_size(k, 4200))
    for _ in range(passes):
        held = directions(sketch)
        np.testing.assert_allclose(held @ held.T, np.eye(len(held)), atol=1e-12)
        products = [products_table(t, features, sketch.mean, held) for t in tables]
        sketch = improved(sketch, held, reduce(np.add, products))
    total = float(((x - x.mean(0)) ** 2).sum() / len(x))
    ours = pca_of_factor(sketch.mean, sketch.factor, sketch.rows, total, k)
    theirs = PCA(k, svd_solver="full").fit(x)
    share = ours.variances / ours.total_variance
    assert np.abs(share - theirs.explained_variance_ratio_).max() < tolerance
    # A share of 1 / j's first within 1e-6 leaves the last of the eight within 1e-4 of itself.
    expected = theirs.explained_variance_ * (699 / 700)
    np.testing.assert_allclose(ours.variances, expected, rtol=100 * tolerance)


def test_a_further_pass_over_few_directions_changes_nothing() -> None:
    """Rows of rank 5: the sketch has them whole, and what it has beyond them is rounding."""
    x = decaying(90, 5, 1.0) @ np.random.default_rng(1).normal(size=(5, 40))
    table = of_array(x)
    sketch = sketched([x], 20)
    held = directions(sketch)
    assert len(held) == 5
    products = products_table(table, features_of(table), sketch.mean, held)
    np.testing.assert_allclose(matrix(improved(sketch, held, products)), matrix(sketch), atol=1e-9)


def test_size_grows_with_the_components_and_ends_at_the_width() -> None:
    assert [sketch_size(k, 10_000) for k in (1, 16, 100, 9000)] == [65, 80, 400, 10_000]


def test_missing_values_are_refused_by_name() -> None:
    x = np.ones((10, 5))
    x[3, 2] = np.nan
    message = (
        "vector 'v': has missing values; pca of 5 elements, too many for their covariance, needs "
        "every value; fill them, or leave the column out with --exclude v"
    )
    with pytest.raises(DataError, match=message):
        sketched([x], 3)


def test_bytes_carry_everything_and_damage_is_refused() -> None:
    sketch = sketched([decaying(50, 10, 1.0)], 4)
    data = sketch_to_bytes(sketch)
    read = sketch_from_bytes(data)
    assert (read.rows, read.size) == (50, 4)
    assert np.array_equal(read.mean, sketch.mean) and np.array_equal(read.factor, sketch.factor)
    for broken in (b"", data[: len(data) // 2]):
        with pytest.raises(DataError, match="sketch: cannot be read"):
            sketch_from_bytes(broken)
