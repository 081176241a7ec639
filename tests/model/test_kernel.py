from __future__ import annotations

import math
from functools import cache

import numpy as np
import pytest
import torch
from sklearn.decomposition import PCA, KernelPCA

from distvae.model.architecture import Architecture
from distvae.model.files import ModelFiles, build, pack, unpack
from distvae.model.kernel import KernelPcaModel, kernel_gamma
from distvae.model.kernel_fit import (
    FeatureSums,
    Landmarks,
    fit_kernel_pca,
    fit_pre_image,
    merge_sums,
    rbf,
)
from tests.model.linear_cases import (
    Floats,
    architecture_of,
    digits,
    odd_table,
    rows_of,
    scalar_table,
    vector_table,
)

K = 16


def fitted(
    architecture: Architecture, y: torch.Tensor, landmarks: int, seed: int = 0
) -> KernelPcaModel:
    """As training fits it, from rows in two parts."""
    rows = y.double().numpy()
    chosen = np.random.default_rng(seed).permutation(len(rows))[:landmarks]
    basis = Landmarks.of_rows(rows[np.sort(chosen)], kernel_gamma(architecture))
    sums = merge_sums(basis.sums(rows[:100]), basis.sums(rows[100:]))
    return KernelPcaModel.from_fit(
        architecture, basis, fit_kernel_pca(basis, sums, architecture.latent_dim)
    )


@cache
def digits_model(landmarks: int, k: int = K) -> tuple[KernelPcaModel, torch.Tensor]:
    table = vector_table(digits())
    architecture, codec = architecture_of(table, k, kind="kernel-pca", landmarks=landmarks)
    y, _ = rows_of(KernelPcaModel(architecture), codec, table)
    return fitted(architecture, y, landmarks), y


@cache
def scikit_learns() -> tuple[KernelPCA, float]:
    """(fitted, trace of the centred kernel) on the standardised digits."""
    _, y = digits_model(512)
    rows = y.double().numpy()
    theirs = KernelPCA(K, kernel="rbf", eigen_solver="dense").fit(rows)
    kernel = rbf(rows, rows, 1 / 64)
    return theirs, float(np.trace(kernel) - kernel.sum() / len(kernel))


def test_variance_captured_is_scikit_learns_within_three_percent() -> None:
    model, _ = digits_model(512)
    theirs, trace = scikit_learns()
    captured = float(theirs.eigenvalues_.sum()) / trace
    assert model.captured_variance == pytest.approx(captured, rel=0.03)
    assert model.captured_variance < captured  # the span of the landmarks is a part of the whole
    np.testing.assert_allclose(model.variances[:4], theirs.eigenvalues_[:4] / 1797, rtol=0.02)


def test_with_all_rows_as_landmarks_it_is_exact() -> None:
    table = vector_table(digits()[:500])
    architecture, codec = architecture_of(table, K, kind="kernel-pca", landmarks=500)
    y, _ = rows_of(KernelPcaModel(architecture), codec, table)
    model, rows = fitted(architecture, y, 500), y.double().numpy()
    theirs = KernelPCA(K, kernel="rbf", gamma=1 / 64, eigen_solver="dense").fit(rows)
    kernel = rbf(rows, rows, 1 / 64)
    captured = theirs.eigenvalues_.sum() / (np.trace(kernel) - kernel.sum() / 500)
    assert model.captured_variance == pytest.approx(captured, rel=1e-5)
    mu, scores = model.encode(y).mu.numpy(), theirs.transform(rows)
    signs = np.sign((mu * scores).sum(0))
    np.testing.assert_allclose(mu * signs, scores, atol=2e-5)


def test_the_pre_image_beats_pca_of_the_same_size_on_rows_it_has_not_seen() -> None:
    table = vector_table(digits())
    architecture, codec = architecture_of(table, K, kind="kernel-pca", landmarks=512)
    y, _ = rows_of(KernelPcaModel(architecture), codec, table)
    order = torch.from_numpy(np.random.default_rng(1).permutation(len(y)))
    train, test = y[order[:1500]], y[order[1500:]]
    model = fitted(architecture, train, 512)
    error = float((model.decode(model.encode(test).mu) - test).square().mean())
    pca = PCA(K).fit(train.numpy())
    straight = np.square(pca.inverse_transform(pca.transform(test.numpy())) - test.numpy()).mean()
    assert error < 0.85 * straight
    # What landmarks miss by when left out is what new rows miss by.
    assert float(model.residual.square().mean()) == pytest.approx(error, rel=0.1)


def test_ridge_and_width_are_those_of_least_leave_one_out_error() -> None:
    rng = np.random.default_rng(0)
    codes = rng.uniform(-2, 2, (60, 1))
    rows = np.hstack([np.sin(3 * codes), codes**2]) + 0.01 * rng.normal(size=(60, 2))
    found = fit_pre_image(codes, rows)
    missed = []
    for left_out in range(60):
        kept = np.arange(60) != left_out
        gram = rbf(codes[kept], codes[kept], found.gamma)
        ridge = _ridge(found.dual, codes, rows - found.mean, found.gamma)
        dual = np.linalg.solve(gram + ridge * np.eye(59), (rows - found.mean)[kept])
        own = rbf(codes[[left_out]], codes[kept], found.gamma) @ dual
        missed.append((rows - found.mean)[left_out] - own[0])
    np.testing.assert_allclose(found.residual, np.sqrt(np.square(missed).mean(0)), rtol=1e-3)
    back = found.mean + rbf(codes, codes, found.gamma) @ found.dual
    assert np.abs(back - rows).max() < 0.1


def _ridge(dual: Floats, codes: Floats, targets: Floats, gamma: float) -> float:
    """The ridge that a solution was found with: (y - K dual) / dual."""
    left = targets - rbf(codes, codes, gamma) @ dual
    return float((left * dual).sum() / np.square(dual).sum())


def test_scores_have_the_stated_mean_and_variances() -> None:
    model, y = digits_model(256)
    mu = model.encode(y).mu.double()
    assert mu.mean(0).abs().max() < 1e-5
    torch.testing.assert_close(mu.var(0, correction=0), model.variances.double(), rtol=1e-4, atol=0)
    centred = mu - mu.mean(0)
    covariance = centred.T @ centred / len(mu)
    assert (covariance - covariance.diagonal().diag()).abs().max() < 1e-5
    assert (model.variances.diff() <= 0).all()


def test_sums_merge_to_those_of_all_rows() -> None:
    rows = np.random.default_rng(0).normal(size=(50, 3))
    basis = Landmarks.of_rows(rows[:10], 0.3)
    whole = basis.sums(rows)
    parts = [basis.sums(rows[a:b]) for a, b in ((0, 1), (1, 30), (30, 50))]
    for merged in (
        merge_sums(merge_sums(parts[0], parts[1]), parts[2]),
        merge_sums(parts[0], merge_sums(parts[1], parts[2])),
    ):
        assert merged.rows == 50
        np.testing.assert_allclose(merged.mean, whole.mean, atol=1e-14)
        np.testing.assert_allclose(merged.products, whole.products, atol=1e-13)


def test_duplicate_landmarks_and_constant_data_are_no_obstacle() -> None:
    rows = np.random.default_rng(0).normal(size=(20, 3))
    twice = Landmarks.of_rows(np.vstack([rows, rows]), 0.3)
    assert len(twice.whitening) == 20
    once = Landmarks.of_rows(rows, 0.3)
    fits = [fit_kernel_pca(basis, basis.sums(rows), 5) for basis in (once, twice)]
    np.testing.assert_allclose(fits[0].variances, fits[1].variances, atol=1e-10)

    table = scalar_table(np.full((30, 2), 4.0))
    architecture, codec = architecture_of(table, 2, kind="kernel-pca", landmarks=5)
    y, _ = rows_of(KernelPcaModel(architecture), codec, table)
    basis = Landmarks.of_rows(y[:5].double().numpy(), 0.5)
    fit = fit_kernel_pca(basis, basis.sums(y.double().numpy()), 2)
    model = KernelPcaModel.from_fit(architecture, basis, fit)
    assert model.captured_variance == 0
    assert torch.isfinite(model.encode(y).mu).all()
    assert (model.decode(model.encode(y).mu) == y).all()
    assert math.isfinite(float(model.log_likelihood(y, None, y).sum()))


def test_missing_elements_are_imputed_by_their_mean() -> None:
    x = odd_table(300, missing=0.2)
    table = scalar_table(x)
    architecture, codec = architecture_of(table, 2, kind="kernel-pca", landmarks=50)
    y, observed = rows_of(KernelPcaModel(architecture), codec, table)
    assert observed is not None
    model = fitted(architecture, y, 50)
    filled = torch.where(observed, y, 0)
    assert torch.equal(model.encode(y, observed).mu, model.encode(filled).mu)
    assert (model.elementwise(y, observed, model.decode(model.encode(y).mu))[~observed] == 0).all()


def test_it_has_neither_sigma_nor_likelihood_but_a_prior_of_its_scores() -> None:
    model, y = digits_model(256)
    assert not model.has_sigma and not model.has_likelihood
    posterior = model.encode(y[:5])
    assert (posterior.sigma == 0).all()
    assert model.exact_log_likelihood(y, None) is None
    eps = np.random.default_rng(0).normal(size=(100_000, K)).astype(np.float32)
    z = model.prior.sample(eps)
    np.testing.assert_allclose(z.var(0), model.variances, rtol=5 * (2 / 100_000) ** 0.5)
    terms = model.terms(y[:5], None, torch.zeros(1, 5, K))
    assert terms.kl.abs().max() == 0
    params = model.decode(posterior.mu)
    sigma = torch.hypot(model.residual, model.floor).double()
    normal = torch.distributions.Normal(params.double(), sigma)
    expected = (normal.log_prob(y[:5].double()) - model.element_scale.log()).sum(1)
    torch.testing.assert_close(terms.reconstruction.double(), expected, rtol=1e-5, atol=1e-3)
    noise = torch.ones_like(params)
    torch.testing.assert_close(model.sample_data(params, noise), params + model.residual)
    assert model.reconstruction_mean(params) is params
    assert model.binarize(y, y) is y


def test_the_files_carry_it() -> None:
    model, y = digits_model(256)
    loaded = build(unpack(pack(ModelFiles(model.architecture, model.state_dict(), "codec")), "m"))
    assert isinstance(loaded, KernelPcaModel)
    assert torch.equal(loaded.encode(y).mu, model.encode(y).mu)
    assert torch.equal(loaded.decode(loaded.encode(y).mu), model.decode(model.encode(y).mu))
    assert np.array_equal(loaded.prior.scale_trils, model.prior.scale_trils)
    assert loaded.captured_variance == model.captured_variance
    numbers = (256 * 64) * 2 + 2 * K * 256 + 2 * K + 2 * 64 + 2
    assert model.parameter_count == numbers


def test_half_precision_is_kept_away_and_far_rows_are_finite() -> None:
    model, y = digits_model(256)
    with torch.autocast("cpu", torch.bfloat16):
        assert torch.equal(model.encode(y).mu, model.encode(y).mu)
        half = model.decode(model.encode(y).mu)
    assert torch.equal(half, model.decode(model.encode(y).mu))
    far = model.encode(torch.full_like(y[:1], 1e15)).mu
    assert torch.equal(far[0], -model.offset)  # no kernel reaches so far
    assert torch.isfinite(model.decode(far)).all()


def test_sums_of_no_spread() -> None:
    basis = Landmarks.of_rows(np.zeros((3, 2)), 1.0)
    assert len(basis.whitening) == 1
    found = basis.sums(np.zeros((4, 2)))
    assert isinstance(found, FeatureSums)
    assert found.products.max() == 0
