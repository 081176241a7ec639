from __future__ import annotations

import numpy as np
import pytest
import torch
from scipy.stats import multivariate_normal

from distvae.errors import DataError
from distvae.model.mixture import Mixture, fit_mixture

WEIGHTS = np.array([0.5, 0.3, 0.2])
MEANS = np.array([[0.0, 0.0], [8.0, 0.0], [0.0, 30.0]])
COVARIANCES = np.array([[[1, 0.8], [0.8, 1]], [[4, -1], [-1, 1]], [[0.25, 0], [0, 9]]])


def codes(n: int, seed: int = 0) -> np.ndarray:
    random = np.random.default_rng(seed)
    chosen = random.choice(3, n, p=WEIGHTS)
    factors = np.linalg.cholesky(COVARIANCES)
    return MEANS[chosen] + np.einsum("nij,nj->ni", factors[chosen], random.normal(size=(n, 2)))


def test_it_recovers_a_known_mixture() -> None:
    prior = fit_mixture(codes(6000).astype(np.float32), 3, seed=1)
    order = np.argsort(-prior.weights)
    assert np.allclose(prior.weights[order], WEIGHTS, atol=0.03)
    assert np.allclose(prior.means[order], MEANS, atol=0.3)
    covariances = prior.scale_trils @ prior.scale_trils.transpose(0, 2, 1)
    assert np.allclose(covariances[order], COVARIANCES, rtol=0.15, atol=0.1)


def test_no_step_lowers_the_penalised_likelihood() -> None:
    random = np.random.default_rng(0)
    rows = random.normal(size=(1500, 4)) ** 3
    for seed in range(3):
        history: list[float] = []
        fit_mixture(rows, 12, seed, history)
        assert len(history) > 5
        assert (np.diff(history) > -1e-9).all()


def test_more_rows_than_it_climbs_on_go_through_the_last_steps() -> None:
    rows, history = codes(14_000), []
    prior = fit_mixture(rows, 3, 0, history)
    assert (np.diff(history) > -1e-9).all()
    assert prior.log_prob(rows).mean() == pytest.approx(_true(rows).mean(), abs=2e-3)


def _true(rows: np.ndarray) -> np.ndarray:
    parts = zip(WEIGHTS, MEANS, COVARIANCES, strict=True)
    total: np.ndarray = sum(w * multivariate_normal(m, c).pdf(rows) for w, m, c in parts)
    return np.log(total)


def test_densities_and_moments_are_those_of_scipy_and_of_a_loop() -> None:
    mixture = Mixture(*(torch.from_numpy(a) for a in (WEIGHTS, MEANS, COVARIANCES.astype(float))))
    rows = codes(50)
    i, j = np.tril_indices(2)
    features = np.concatenate([np.ones((50, 1)), rows, rows[:, i] * rows[:, j]], 1)
    joint = torch.from_numpy(features) @ mixture.coefficients()
    np.testing.assert_allclose(joint.logsumexp(1).numpy(), _true(rows), rtol=1e-9)
    shares = torch.softmax(joint, 1).numpy()
    found = Mixture.from_moments(torch.from_numpy(features.T @ shares), 0.5)
    for m in range(3):
        weight = shares[:, m]
        mean = weight @ rows / weight.sum()
        spread = (rows - mean).T * weight @ (rows - mean) / weight.sum()
        assert float(found.weights[m]) == pytest.approx(weight.sum() / 50)
        np.testing.assert_allclose(found.means[m].numpy(), mean, rtol=1e-9)
        expected = spread + 0.5 / weight.sum() * np.eye(2)
        np.testing.assert_allclose(found.covariances[m].numpy(), expected, rtol=1e-8, atol=1e-10)
    traces = np.trace(np.linalg.inv(found.covariances.numpy()), axis1=1, axis2=2)
    assert found.penalty(0.5) == pytest.approx(0.25 * traces.sum())


def test_the_same_codes_and_seed_give_the_same_bits_whatever_the_threads() -> None:
    rows = codes(800)
    first = fit_mixture(rows, 5, 7)
    torch.set_num_threads(2)
    again = fit_mixture(rows, 5, 7)
    torch.set_num_threads(1)
    other = fit_mixture(rows, 5, 8)
    assert all(
        np.array_equal(getattr(first, name), getattr(again, name))
        for name in ("weights", "means", "scale_trils")
    )
    assert not np.array_equal(first.means, other.means)


@pytest.mark.parametrize(
    "rows",
    [
        np.zeros((20, 3)),
        np.repeat(np.eye(3), 10, 0),
        np.arange(12.0).reshape(4, 3),
        1e20 * codes(50),
        np.concatenate([codes(60), np.zeros((60, 1))], 1),
        np.ones((1, 2)),
    ],
)
def test_repeated_constant_and_few_codes_are_no_obstacle(rows: np.ndarray) -> None:
    prior = fit_mixture(rows, 8, 0)
    assert 1 <= prior.components <= 8
    assert np.isfinite(prior.log_prob(rows)).all()
    eps = np.random.default_rng(0).normal(size=(5, rows.shape[1])).astype(np.float32)
    assert np.isfinite(prior.sample(eps, np.linspace(0, 0.99, 5))).all()


def test_codes_that_are_no_numbers_are_refused() -> None:
    with pytest.raises(DataError, match="codes: some are not finite"):
        fit_mixture(np.array([[1.0], [np.nan], [2.0]]), 2, 0)
    with pytest.raises(DataError, match="codes: there are none"):
        fit_mixture(np.zeros((0, 2)), 2, 0)
