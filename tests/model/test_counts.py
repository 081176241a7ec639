from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, nbinom, poisson

from distvae.errors import UsageError
from distvae.model import noise
from distvae.model.counts import (
    NegativeBinomial,
    ZeroInflatedNegativeBinomial,
    negative_binomial_cdf,
    negative_binomial_log_prob,
    negative_binomial_quantile,
)
from distvae.model.heads import elements_of
from distvae.model.likelihoods import make_head
from tests.model.helpers import spec


def count(name: str = "n", start: int = 0) -> dict[str, object]:
    return spec(name, start, start + 1, coding="count", resolution=1.0)


def cases(n: int, seed: int = 0) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    """log m, log r, u over many orders of magnitude."""
    random = np.random.default_rng(seed)
    log_mean, log_r = random.uniform(-6, 9, n), random.uniform(-4, 9, n)
    return torch.from_numpy(log_mean), torch.from_numpy(log_r), torch.from_numpy(random.random(n))


def test_log_prob_cdf_and_quantile_are_scipys() -> None:
    log_mean, log_r, u = cases(400)
    r = log_r.exp().numpy()
    p = r / (r + log_mean.exp().numpy())
    found = negative_binomial_quantile(u, log_mean, log_r)
    expected = nbinom.ppf(u.numpy(), r, p)
    np.testing.assert_allclose(found.numpy(), expected, rtol=1e-6)
    y = torch.from_numpy(expected)
    log_prob = negative_binomial_log_prob(y, log_mean, log_r).numpy()
    np.testing.assert_allclose(log_prob, nbinom.logpmf(expected, r, p), rtol=1e-7, atol=1e-7)
    cdf = negative_binomial_cdf(y, log_mean, log_r).numpy()
    np.testing.assert_allclose(cdf, nbinom.cdf(expected, r, p), atol=1e-8)
    assert (negative_binomial_cdf(y * 0 - 1, log_mean, log_r) == 0).all()


def test_log_prob_agrees_with_torch_and_sums_to_one() -> None:
    y = torch.arange(4000.0, dtype=torch.float64)
    log_mean, log_r = torch.tensor(2.5).double(), torch.tensor(-0.5).double()
    found = negative_binomial_log_prob(y, log_mean, log_r)
    other = torch.distributions.NegativeBinomial(log_r.exp(), logits=log_mean - log_r)
    torch.testing.assert_close(found, other.log_prob(y), rtol=1e-9, atol=1e-9)
    assert float(found.exp().sum()) == pytest.approx(1, abs=1e-12)
    wide = negative_binomial_log_prob(y[:60], log_mean, torch.tensor(25.0).double())
    np.testing.assert_allclose(wide.numpy(), poisson.logpmf(y[:60], math.exp(2.5)), atol=1e-3)


def test_quantiles_at_the_ends() -> None:
    u = torch.tensor([0.0, 1.0, 0.5, 0.5]).double()
    log_mean = torch.tensor([3.0, 3.0, -60.0, 20.0]).double()
    found = negative_binomial_quantile(u, log_mean, torch.zeros(4).double())
    assert found[[0, 2]].tolist() == [0, 0]
    assert math.isfinite(found[1])
    assert found[3] == pytest.approx(math.exp(20) * math.log(2), rel=1e-6)


@pytest.mark.parametrize("inflated", [False, True])
def test_draws_have_the_probabilities(inflated: bool) -> None:
    name = "zero-inflated-negative-binomial" if inflated else "negative-binomial"
    head, n = make_head(name, elements_of((count(),))), 40_000
    params = torch.tensor([1.2, 0.3][: head.outputs])
    eps = torch.from_numpy(noise.normal(1, "t", 0, n, 1))
    drawn = head.sample(params.expand(n, -1), eps).detach()
    y = torch.arange(400.0)[:, None]
    p = head.log_prob(y, params.expand(400, -1)).exp().detach().numpy()[:, 0]
    assert p.sum() == pytest.approx(1, abs=1e-5)
    counts = np.bincount(drawn[:, 0].long().numpy(), minlength=400)[:400]
    often = n * p > 5
    statistic = (np.square(counts - n * p)[often] / (n * p[often])).sum()
    assert chi2.sf(statistic, often.sum() - 1) > 1e-3
    mean = float(head.mean(params))
    assert mean == pytest.approx(float((y[:, 0] * torch.from_numpy(p)).sum()), rel=1e-4)
    assert mean == pytest.approx(float(drawn.mean()), abs=5 * float(drawn.std()) / math.sqrt(n))


def test_more_zeros_by_hand() -> None:
    head = make_head("zero-inflated-negative-binomial", elements_of((count(),)))
    raw = math.log(2.0) / math.sqrt(1 - (math.log(2.0) / 30) ** 2)
    params = torch.tensor([[raw, math.log(1 / 3)]])
    # r = 1 is geometric: P(0) = 1 / 3, P(2) = 1 / 3 (2 / 3)^2; pi = 1 / 4.
    found = head.log_prob(torch.tensor([[0.0], [2.0]]), params).exp().flatten().tolist()
    assert found == pytest.approx([1 / 4 + 3 / 4 / 3, 3 / 4 * 4 / 27], rel=1e-5)


@pytest.mark.parametrize("name", ["negative-binomial", "zero-inflated-negative-binomial"])
@pytest.mark.parametrize("size", [0.0, 20.0, 1e4])
def test_extremes_are_finite(name: str, size: float) -> None:
    head = make_head(name, elements_of((count(),)))
    for sign in (-1.0, 1.0):
        params = torch.full((3, head.outputs), sign * size, requires_grad=True)
        value = head.log_prob(torch.tensor([[0.0], [7.0], [1e9]]), params)
        (gradient,) = torch.autograd.grad(value.sum(), params)
        assert torch.isfinite(value).all()
        assert torch.isfinite(gradient).all()
        eps = torch.tensor([[-6.0], [0.0], [6.0]])
        assert torch.isfinite(head.sample(params.detach(), eps)).all()


@pytest.mark.parametrize("name", ["negative-binomial", "zero-inflated-negative-binomial"])
def test_it_starts_at_the_mean_and_takes_counts_only(name: str) -> None:
    head = make_head(name, elements_of((count("a"), count("b", 1))))
    assert isinstance(head, NegativeBinomial)
    assert isinstance(head, ZeroInflatedNegativeBinomial) == name.startswith("zero")
    mean = torch.tensor([0.5, 300.0])
    torch.testing.assert_close(head.mean(head.output_bias(mean)), mean, rtol=1e-4, atol=0)
    params = head.output_bias(mean)[None]
    error = head.raw_error(params, torch.tensor([[2.0, 3.0]]))
    assert error[0].tolist() == pytest.approx([-1.5, 297], rel=1e-3)
    with pytest.raises(UsageError, match=f"likelihood: '{name}' for x; takes columns coded as"):
        make_head(name, elements_of((spec("x", 0, 1),)))
    with pytest.raises(UsageError, match="takes columns coded as standard or unit, not as count"):
        make_head("gaussian", elements_of((count(),)))
