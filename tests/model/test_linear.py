from __future__ import annotations

import numpy as np
import pytest

from distvae.errors import DataError
from distvae.model.linear import (
    explained_variance_ratio,
    fit_pca,
    pca_of_factor,
    project,
    reconstruct,
)


def test_two_columns_by_hand() -> None:
    # Covariance [[2, 1], [1, 2]] has eigenvalues 3 and 1 along (1, 1) and (1, -1).
    pca = fit_pca([10.0, 20.0], [[2.0, 1.0], [1.0, 2.0]], 1)
    np.testing.assert_allclose(pca.components, [[0.5**0.5, 0.5**0.5]])
    np.testing.assert_allclose(pca.variances, [3.0])
    np.testing.assert_allclose(explained_variance_ratio(pca), [0.75])
    np.testing.assert_allclose(reconstruct(pca, [[11.0, 20.0]]), [[10.5, 20.5]])
    np.testing.assert_allclose(project(pca, [[11.0, 21.0]]), [[2**0.5]])


def test_against_the_singular_value_decomposition() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 6)) @ generator.normal(size=(6, 6)) + 1e3
    pca = fit_pca(x.mean(0), np.cov(x.T, bias=True), 3)
    u, s, vt = np.linalg.svd(x - x.mean(0), full_matrices=False)
    expected = (u[:, :3] * s[:3]) @ vt[:3] + x.mean(0)
    np.testing.assert_allclose(reconstruct(pca, x), expected, atol=1e-8)
    np.testing.assert_allclose(pca.variances, s[:3] ** 2 / len(x))
    assert (pca.components[np.arange(3), np.abs(pca.components).argmax(1)] > 0).all()


def test_more_components_than_columns_keep_all() -> None:
    pca = fit_pca(np.zeros(2), np.diag([1.0, 4.0]), 5)
    np.testing.assert_allclose(pca.components, [[0, 1], [1, 0]])
    np.testing.assert_allclose(explained_variance_ratio(pca).sum(), 1)


def test_constant_data_explains_nothing_and_is_reconstructed() -> None:
    pca = fit_pca([3.0, 4.0], np.zeros((2, 2)), 1)
    assert explained_variance_ratio(pca).tolist() == [0]
    np.testing.assert_allclose(reconstruct(pca, [[3.0, 4.0]]), [[3.0, 4.0]])


def test_moments_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="covariance: is not finite; PCA needs finite moments"):
        fit_pca([0.0], [[np.nan]], 1)


def test_a_factor_gives_the_pca_of_its_covariance() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(300, 6)) @ generator.normal(size=(6, 6))
    centred = x - x.mean(0)
    expected = fit_pca(x.mean(0), np.cov(x.T, bias=True), 4)
    _, factor = np.linalg.qr(centred)  # F^T F is the same as of all rows
    found = pca_of_factor(x.mean(0), factor, 300, expected.total_variance, 4)
    np.testing.assert_allclose(found.components, expected.components, atol=1e-10)
    np.testing.assert_allclose(found.variances, expected.variances)
    assert found.total_variance == expected.total_variance


def test_a_factor_that_is_not_finite_is_refused() -> None:
    with pytest.raises(DataError, match="covariance: is not finite; PCA needs finite moments"):
        pca_of_factor([0.0], [[np.inf]], 1, 1.0, 1)
