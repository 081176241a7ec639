from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import pytest
import safetensors.torch
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.distributions import Categorical, MixtureSameFamily, MultivariateNormal

from distvae.errors import DataError
from distvae.model.priors import VARIANCE_FLOOR, Prior, fit_gaussian
from distvae.model.sources import SOURCES, source_points


def _mixture(components: int, k: int, seed: int = 0) -> Prior:
    random = np.random.default_rng(seed)
    weights = random.dirichlet(np.full(components, 3.0)).astype(np.float32)
    means = (3 * random.normal(size=(components, k))).astype(np.float32)
    lower = np.tril(0.5 * random.normal(size=(components, k, k)), -1)
    diagonal = np.exp(0.5 * random.normal(size=(components, k)))
    factors = lower + diagonal[:, :, None] * np.eye(k)
    return Prior(weights, means, factors.astype(np.float32))


def _moments(prior: Prior) -> tuple[np.ndarray, np.ndarray]:
    """Mean (k,) and covariance (k, k) of a mixture: within plus between components."""
    weights, means, factors = (
        np.asarray(array, np.float64) for array in (prior.weights, prior.means, prior.scale_trils)
    )
    weights = weights / weights.sum()
    mean = weights @ means
    within = np.einsum("m,mij,mlj->il", weights, factors, factors)
    between = (means - mean).T * weights @ (means - mean)
    return mean, within + between


def test_no_arguments_are_the_standard_normal() -> None:
    prior = Prior()
    eps = np.random.default_rng(1).normal(size=(5, 3)).astype(np.float32)
    assert prior.sample(eps) is eps
    assert not prior.chooses and prior.components == 1
    assert prior.to_tensors() == {}
    expected = -0.5 * np.square(eps.astype(np.float64)).sum(1) - 1.5 * math.log(2 * math.pi)
    np.testing.assert_allclose(prior.log_prob(eps), expected, rtol=1e-13)


def test_one_row_by_hand() -> None:
    factor = np.array([[[2, 0], [1, 3]], [[1, 0], [0, 1]]], np.float32)
    means = np.array([[10, 20], [-1, -2]], np.float32)
    prior = Prior(np.array([0.25, 0.75], np.float32), means, factor)
    eps = np.ones((4, 2), np.float32)
    z = prior.sample(eps, np.array([0.0, np.nextafter(0.25, 0), 0.25, 0.999]))
    assert z.tolist() == [[12, 24], [12, 24], [0, -1], [0, -1]]


def test_a_component_without_weight_is_never_drawn() -> None:
    prior = Prior(
        np.array([0, 0.5, 0, 0.5], np.float32),
        np.arange(4, dtype=np.float32)[:, None],
        np.full((4, 1, 1), 1e-6, np.float32),
    )
    u = np.concatenate([np.linspace(0, 1, 1000, endpoint=False), [0.5, np.nextafter(1, 0)]])
    z = prior.sample(np.zeros((len(u), 1), np.float32), u)
    assert sorted(set(z[:, 0].tolist())) == [1, 3]
    assert prior.log_prob(np.array([[1.0]])) == pytest.approx(
        math.log(0.5) - math.log(1e-6) - 0.5 * math.log(2 * math.pi), rel=1e-6
    )


@pytest.mark.parametrize(("components", "k"), [(1, 3), (4, 1), (5, 6)])
def test_log_prob_agrees_with_torch(components: int, k: int) -> None:
    prior = _mixture(components, k)
    z = 4 * np.random.default_rng(2).normal(size=(50, k))
    weights, means, factors = (tensor.double() for tensor in prior.to_tensors().values())
    mixture = MixtureSameFamily(
        Categorical(probs=weights), MultivariateNormal(means, scale_tril=factors)
    )
    expected = mixture.log_prob(torch.from_numpy(z)).numpy()
    np.testing.assert_allclose(prior.log_prob(z), expected, rtol=1e-10, atol=1e-10)


def test_log_prob_is_a_density() -> None:
    prior = _mixture(3, 1)
    grid = np.linspace(-40, 40, 200_001)
    assert np.exp(prior.log_prob(grid[:, None])).sum() * (grid[1] - grid[0]) == pytest.approx(1)


@pytest.mark.parametrize("source", SOURCES)
def test_samples_have_the_mixture_s_moments(source: str) -> None:
    prior, n = _mixture(4, 3), 200_000
    eps, u = source_points(source, 5, 0, n, 3, choose=True)
    z = prior.sample(eps, u).astype(np.float64)
    mean, covariance = _moments(prior)
    assert (np.abs(z.mean(0) - mean) < 5 * z.std(0) / math.sqrt(n)).all()
    centred = z - mean
    products = centred[:, :, None] * centred[:, None, :]
    error = 5 * products.std(0) / math.sqrt(n)
    assert (np.abs(products.mean(0) - covariance) < error).all()
    # E[ln p(z)] over samples equals minus the entropy: agrees with draws from torch's mixture.
    assert u is not None
    shares = np.bincount(prior._choose(u), minlength=4) / n
    assert np.abs(shares - prior._shares()).max() < 5 * 0.5 / math.sqrt(n)


@given(st.integers(1, 5), st.integers(1, 9), st.integers(1, 60), st.integers(0, 1000))
@settings(max_examples=40, deadline=None)
def test_a_row_s_bits_do_not_depend_on_its_company(
    components: int, k: int, n: int, seed: int
) -> None:
    prior = _mixture(components, k, seed)
    eps, u = source_points("normal", seed, 0, n, k, choose=True)
    assert u is not None
    whole = prior.sample(eps, u)
    alone = [prior.sample(eps[i : i + 1], u[i : i + 1]) for i in range(n)]
    assert np.array_equal(whole, np.concatenate(alone))
    order = np.random.default_rng(seed).permutation(n)
    assert np.array_equal(whole[order], prior.sample(eps[order], u[order]))


def test_many_rows_of_one_component_are_the_same_as_few() -> None:
    prior = _mixture(1, 7)
    eps, _ = source_points("normal", 1, 0, 10_000, 7)
    parts = [prior.sample(eps[:5]), prior.sample(eps[5:4099]), prior.sample(eps[4099:])]
    assert np.array_equal(prior.sample(eps), np.concatenate(parts))


def test_round_trip_through_safetensors() -> None:
    prior = _mixture(3, 4)
    others = {"encoder.weight": torch.zeros(2)}
    data = safetensors.torch.save({**others, **prior.to_tensors()})
    found = Prior.from_tensors(safetensors.torch.load(data))
    for name in ("weights", "means", "scale_trils"):
        assert np.array_equal(getattr(found, name), getattr(prior, name))
    eps, u = source_points("normal", 1, 0, 100, 4, choose=True)
    assert np.array_equal(found.sample(eps, u), prior.sample(eps, u))
    assert Prior.from_tensors(others).weights is None


_ONE = np.ones(1, np.float32)
_WHOLE = {
    "prior.weights": _ONE,
    "prior.means": np.zeros((1, 2), np.float32),
    "prior.scale_trils": np.eye(2, dtype=np.float32)[None],
}


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prior.means": None}, "lacks prior.means"),
        ({"prior.means": np.zeros((1, 3))}, "has shapes"),
        ({"prior.means": np.zeros(())}, "has shapes"),
        ({"prior.means": np.full((1, 2), np.nan)}, "not finite"),
        ({"prior.weights": np.full(1, 0.9)}, "no shares"),
        ({"prior.weights": np.zeros(0)}, "has shapes"),
        ({"prior.scale_trils": np.ones((1, 2, 2))}, "no Cholesky factors"),
        ({"prior.scale_trils": -np.eye(2)[None]}, "no Cholesky factors"),
    ],
)
def test_damaged_tensors_are_refused(changes: Mapping[str, Any], message: str) -> None:
    arrays = {name: value for name, value in {**_WHOLE, **changes}.items() if value is not None}
    with pytest.raises(DataError, match=message):
        Prior.from_tensors({name: torch.tensor(value) for name, value in arrays.items()})


def test_misuse_is_told() -> None:
    with pytest.raises(DataError, match="is incomplete"):
        Prior(_ONE)
    with pytest.raises(ValueError, match="needs a uniform number"):
        _mixture(2, 2).sample(np.zeros((1, 2), np.float32))


# -- fitting --------------------------------------------------------------------------------------


def test_the_fitted_gaussian_has_the_codes_moments() -> None:
    random = np.random.default_rng(3)
    factor = np.array([[2, 0, 0], [1, 0.5, 0], [-1, 3, 1.0]])
    codes = random.normal(size=(4000, 3)) @ factor.T + [5, -100, 0]
    prior = fit_gaussian(codes)
    assert prior.means is not None and prior.scale_trils is not None
    np.testing.assert_allclose(prior.means[0], codes.mean(0), rtol=1e-6)
    covariance = prior.scale_trils[0].astype(np.float64)
    covariance = covariance @ covariance.T
    expected = np.cov(codes.T, bias=True)
    deviation = np.sqrt(np.diag(expected))
    difference = (covariance - expected) / deviation[:, None] / deviation
    assert np.abs(difference).max() < 2 * VARIANCE_FLOOR
    # No other Gaussian makes the codes likelier, to the share of the floor.
    best = prior.log_prob(codes).mean()
    for factors in (1.01 * prior.scale_trils, 0.99 * prior.scale_trils):
        assert Prior(_ONE, prior.means, factors).log_prob(codes).mean() < best


@pytest.mark.parametrize(
    "codes",
    [
        np.zeros((10, 3)),
        np.full((10, 3), 1e30),
        np.full((1, 3), -7.0),
        np.outer(np.arange(10.0), [1, 2, 3]),
        np.column_stack([np.arange(10.0), np.zeros(10), np.full(10, 1e4)]),
        1e-12 * np.arange(30.0).reshape(10, 3),
        np.column_stack([1e8 + np.arange(10.0), 1e-8 * np.arange(10.0)]),
    ],
    ids=["zeros", "constant", "one row", "rank one", "one varies", "tiny", "far apart"],
)
def test_degenerate_codes_give_a_gaussian_all_the_same(codes: np.ndarray) -> None:
    prior = fit_gaussian(codes)
    eps, _ = source_points("normal", 1, 0, 1000, codes.shape[1])
    z = prior.sample(eps).astype(np.float64)
    assert np.isfinite(z).all() and np.isfinite(prior.log_prob(codes)).all()
    spread = 1e-7 * np.abs(codes).max(0) + 1e-30  # float32 holds no less
    assert (np.abs(z.mean(0) - codes.mean(0)) < codes.std(0) + spread).all()
    assert (z.std(0) < 1.2 * codes.std(0) + spread).all()


def test_codes_that_no_prior_fits_are_refused() -> None:
    with pytest.raises(DataError, match="codes: there are none"):
        fit_gaussian(np.zeros((0, 3)))
    with pytest.raises(DataError, match="codes: some are not finite"):
        fit_gaussian(np.array([[0.0, np.inf]]))
