from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy import stats
from torch import Tensor

from distvae.model.latent import Terms
from distvae.model.objectives import Bound, Objective, elbo, kl_weight_at, lower_bound
from distvae.model.vae import VAE
from tests.model.cell_cases import cell_table, draw_y
from tests.model.helpers import exact_log_likelihood, linear_gaussian, set_exact_posterior

SIGMA = 0.8


def setting(rows: int = 6, k: int = 2) -> tuple[VAE, Tensor]:
    """A linear model with a deliberately wrong q, and rows of it."""
    model, weight, bias = linear_gaussian(4, k, SIGMA)
    set_exact_posterior(model, weight, bias, SIGMA)
    with torch.no_grad():
        model.encoder.last.bias[:k] += 0.4
        model.encoder.last.bias[k:] += 0.5
    generator = np.random.default_rng(5)
    z = generator.normal(size=(rows, k))
    x = z @ weight.T + bias + SIGMA * generator.normal(size=(rows, 4))
    return model, torch.from_numpy(x)


def noise(samples: int, rows: int, k: int = 2, seed: int = 0) -> Tensor:
    return torch.from_numpy(np.random.default_rng(seed).normal(size=(samples, rows, k)))


def bound(model: VAE, y: Tensor, eps: Tensor, objective: Objective, weight: float = 1.0) -> Bound:
    return lower_bound(model, model.encode(y), y, None, eps, objective, weight)


def gradient(model: VAE, value: Tensor) -> Tensor:
    parts = torch.autograd.grad(value, list(model.parameters()), allow_unused=True)
    return torch.cat([p.reshape(-1) for p in parts if p is not None])


def test_elbo_weighs_and_floors_the_kl() -> None:
    terms = Terms(torch.tensor([-3.0]), torch.tensor([[0.1, 2.0]]))
    assert elbo(terms).item() == pytest.approx(-5.1)
    assert elbo(terms, 0.5).item() == pytest.approx(-4.05)
    assert elbo(terms, 1.0, free_bits=0.5).item() == pytest.approx(-5.5)
    assert elbo(terms, 2.0, free_bits=3.0).item() == pytest.approx(-15.0)


def test_weights_of_columns_count_in_the_value_alone() -> None:
    model = VAE.from_architecture(cell_table()).double()
    y = torch.from_numpy(draw_y(model.architecture, 5)).double()
    weights = torch.tensor([0.5, 1.0, 0.0, 2.0, 1.0, 0.25], dtype=torch.float64)
    eps = noise(3, len(y), 3)
    elements = model.elementwise(y, None, model.decode(model.encode(y).sample(eps))).mean(0)
    for kl in ("analytic", "sampled"):
        plain = bound(model, y, eps, Objective(mc_samples=3, kl=kl))
        found = bound(model, y, eps, Objective(mc_samples=3, kl=kl, weights=weights), 0.7)
        torch.testing.assert_close(found.reconstruction, plain.reconstruction)
        wanted = (elements * weights).sum(1) - 0.7 * plain.kl
        torch.testing.assert_close(found.value, wanted)


def test_free_bits_stop_the_gradient_below_them() -> None:
    kl = torch.tensor([[0.1, 2.0]], requires_grad=True)
    elbo(Terms(torch.zeros(1), kl), 1.0, free_bits=0.5).sum().backward()
    assert kl.grad is not None
    assert kl.grad.tolist() == [[0.0, -1.0]]


def test_analytic_and_sampled_kl_agree_in_the_mean_value_and_gradient() -> None:
    model, y = setting(3)
    eps = noise(100_000, 3)
    exact = bound(model, y, eps, Objective(mc_samples=len(eps)))
    sampled = bound(model, y, eps, Objective(mc_samples=len(eps), kl="sampled"))
    torch.testing.assert_close(sampled.kl, exact.kl, rtol=0, atol=0.02)
    torch.testing.assert_close(sampled.reconstruction, exact.reconstruction)
    a, b = gradient(model, exact.value.sum()), gradient(model, sampled.value.sum())
    assert (a - b).abs().max() < 0.02 * a.abs().max()


def test_importance_bound_with_one_sample_is_the_sampled_elbo() -> None:
    model, y = setting()
    eps = noise(4, 6)
    one = bound(model, y, eps, Objective("iwae", mc_samples=4, importance_samples=1), 0.7)
    plain = bound(model, y, eps, Objective("elbo", mc_samples=4, kl="sampled"), 0.7)
    torch.testing.assert_close(one.value, plain.value)
    torch.testing.assert_close(gradient(model, one.value.sum()), gradient(model, plain.value.sum()))


def test_importance_bound_against_numpy() -> None:
    """A second implementation, in plain densities of scipy."""
    model, y = setting(2)
    eps = noise(6, 2)
    found = bound(model, y, eps, Objective("iwae", mc_samples=2, importance_samples=3))
    posterior = model.encode(y)
    mu, sigma = (t.detach().numpy() for t in (posterior.mu, posterior.sigma))
    w, b = (t.detach().numpy() for t in (model.decoder.last.weight, model.decoder.last.bias))
    weights = np.empty((6, 2))
    for s, row in np.ndindex(6, 2):
        z = mu[row] + sigma[row] * eps[s, row].numpy()
        x = stats.norm(w @ z + b, SIGMA).pdf(y[row].numpy()).prod()
        proposal = stats.norm(mu[row], sigma[row]).pdf(z).prod()
        weights[s, row] = x * stats.norm.pdf(z).prod() / proposal
    expected = np.log(weights.reshape(2, 3, 2).mean(1)).mean(0)
    np.testing.assert_allclose(found.value.detach().numpy(), expected, rtol=1e-9)


def test_doubly_reparameterised_value_is_the_bound_itself() -> None:
    model, y = setting()
    eps = noise(10, 6)
    plain = bound(model, y, eps, Objective("iwae", 2, 5))
    doubly = bound(model, y, eps, Objective("iwae", 2, 5, doubly=True))
    torch.testing.assert_close(doubly.value, plain.value)


def test_doubly_reparameterised_gradient_is_the_same_in_the_mean_with_less_noise() -> None:
    model, y = setting(1)
    found = {}
    for doubly in (False, True):
        draws = []
        for seed in range(3000):
            objective = Objective("iwae", 1, 8, doubly=doubly)
            value = bound(model, y, noise(8, 1, seed=seed), objective).value.sum()
            encoder = list(model.encoder.parameters())
            parts = torch.autograd.grad(value, encoder)
            draws.append(torch.cat([p.reshape(-1) for p in parts]).numpy())
        found[doubly] = np.stack(draws)
    paired = found[True] - found[False]
    error = paired.std(0) / math.sqrt(len(paired))
    assert (np.abs(paired.mean(0)) < 5 * error + 1e-12).all()
    assert found[True].var(0).sum() < 0.5 * found[False].var(0).sum()


def test_doubly_reparameterised_gradient_of_the_decoder_is_the_plain_one() -> None:
    model, y = setting()
    eps = noise(10, 6)
    decoder = list(model.decoder.parameters())
    values = [bound(model, y, eps, Objective("iwae", 2, 5, doubly=d)).value for d in (False, True)]
    plain, doubly = (torch.autograd.grad(value.sum(), decoder) for value in values)
    for a, b in zip(plain, doubly, strict=True):
        torch.testing.assert_close(a, b)


def test_doubly_reparameterised_gradient_is_nothing_at_the_exact_posterior() -> None:
    """All weights are p(x) there, and z moves none of them."""
    model, weight, bias = linear_gaussian(4, 1, SIGMA)  # one dimension: diagonal is exact
    set_exact_posterior(model, weight, bias, SIGMA)
    y = torch.from_numpy(np.random.default_rng(0).normal(size=(5, 4)))
    value = bound(model, y, noise(7, 5, 1), Objective("iwae", 1, 7, doubly=True)).value
    parts = torch.autograd.grad(value.sum(), list(model.encoder.parameters()))
    assert max(part.abs().max().item() for part in parts) < 1e-9


@pytest.mark.parametrize(
    "objective",
    [
        Objective("elbo", 2),
        Objective("elbo", 2, kl="sampled"),
        Objective("elbo", 2, free_bits=0.3),
        Objective("iwae", 1, 2),
    ],
)
@pytest.mark.parametrize("posterior", ["isotropic", "diagonal", "full"])
def test_gradients_against_finite_differences(objective: Objective, posterior: str) -> None:
    import dataclasses

    start, _, _ = linear_gaussian(3, 2, SIGMA)
    model = VAE(dataclasses.replace(start.architecture, posterior=posterior), 1).double()
    y = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 3)))
    eps = noise(objective.samples, 2)
    weights = [p.detach().clone().requires_grad_(True) for p in model.parameters()]
    names = [name for name, _ in model.named_parameters()]

    def value(*values: Tensor) -> Tensor:
        for name, tensor in zip(names, values, strict=True):
            module, _, leaf = name.rpartition(".")
            owner = model.get_submodule(module)
            owner._parameters.pop(leaf, None)
            setattr(owner, leaf, tensor)
        return bound(model, y, eps, objective, 0.6).value

    assert torch.autograd.gradcheck(value, weights)


@pytest.mark.parametrize("name", ["elbo", "iwae"])
@pytest.mark.parametrize("mu", [-1e4, 1e4])
@pytest.mark.parametrize("raw_sigma", [-1e4, 1e4])
@pytest.mark.parametrize("doubly", [False, True])
def test_finite_far_out(name: str, mu: float, raw_sigma: float, doubly: bool) -> None:
    model, _, _ = linear_gaussian(3, 2, 1.0)
    model = model.float()
    with torch.no_grad():
        model.encoder.last.weight.zero_()
        model.encoder.last.bias[:2] = mu
        model.encoder.last.bias[2:] = raw_sigma
    y = torch.zeros(2, 3)
    objective = Objective(name, 1, 1 if name == "elbo" else 3, doubly=doubly and name == "iwae")
    value = bound(model, y, noise(objective.samples, 2).float(), objective).value
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient(model, value.sum())).all()


def test_importance_bound_rises_with_k_towards_the_likelihood() -> None:
    """Burda et al. 2016, theorem 1, on the same noise, within its paired standard error."""
    model, y = setting(1)
    w, b = (t.detach().numpy() for t in (model.decoder.last.weight, model.decoder.last.bias))
    truth = exact_log_likelihood(y.numpy(), w, b, SIGMA).item()
    many = y.expand(4000, -1)
    eps = noise(64, 4000)
    means, before = [], None
    for k in (1, 2, 8, 64):
        objective = Objective("iwae", 64 // k, k)
        values = bound(model, many, eps, objective).value.detach().numpy()
        if before is not None:
            paired = values - before
            assert paired.mean() > -2 * paired.std() / math.sqrt(len(paired))
        before = values
        means.append(values.mean())
    assert means == sorted(means)
    error = before.std() / math.sqrt(len(before))
    assert means[-1] < truth + 3 * error
    assert truth - means[-1] < 0.2 * (truth - means[0])


def test_kl_weight_schedules() -> None:
    assert [kl_weight_at(s, 4, 2.0) for s in (0, 1, 4, 9)] == [0.0, 0.5, 2.0, 2.0]
    assert kl_weight_at(0, 0, 0.3) == 0.3
    cyclic = [kl_weight_at(s, 2, 1.0, cycle_steps=5) for s in range(11)]
    assert cyclic == [0.0, 0.5, 1.0, 1.0, 1.0, 0.0, 0.5, 1.0, 1.0, 1.0, 0.0]
