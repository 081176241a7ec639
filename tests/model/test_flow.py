from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch

from distvae.errors import DataError
from distvae.model.files import ModelFiles, build, pack, unpack
from distvae.model.flow import FlowPrior, fit_flow
from distvae.model.priors import fit_gaussian
from distvae.model.vae import VAE
from tests.model.cell_cases import cell_table


def ring(n: int, k: int = 2, seed: int = 0) -> np.ndarray:
    """A ring of radius 3 in the first two dimensions, if there are two; bent after that."""
    random = np.random.default_rng(seed)
    rows = random.normal(size=(n, k))
    if k == 1:
        return np.exp(rows)
    angle = random.uniform(0, 2 * np.pi, n)
    rows[:, :2] = 3 * np.stack([np.cos(angle), np.sin(angle)], 1) + 0.2 * rows[:, :2]
    rows[:, 2:] += 0.5 * np.square(rows[:, :1])
    return rows


@pytest.fixture(scope="module")
def flow() -> FlowPrior:
    return fit_flow(ring(2000), 0, steps=250)


def test_it_follows_what_no_gaussian_can(flow: FlowPrior) -> None:
    rows = ring(2000, seed=1)
    gain = flow.log_prob(rows).mean() - fit_gaussian(rows).log_prob(rows).mean()
    assert gain > 0.5
    drawn = flow.sample(np.random.default_rng(0).normal(size=(2000, 2)).astype(np.float32))
    radius = np.hypot(*drawn.T)
    assert np.median(radius) == pytest.approx(3, abs=0.3)
    assert (radius < 1.5).mean() < 0.1


def test_the_density_integrates_to_one_in_one_and_two_dimensions(flow: FlowPrior) -> None:
    x, step = np.linspace(-12, 12, 601, retstep=True)
    grid = np.stack(np.meshgrid(x, x), -1).reshape(-1, 2)
    assert np.exp(flow.log_prob(grid)).sum() * step**2 == pytest.approx(1, abs=1e-3)
    line = fit_flow(ring(300, 1), 0, steps=20)
    x, step = np.linspace(-60, 60, 200_001, retstep=True)
    assert np.exp(line.log_prob(x[:, None])).sum() * step == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("k", [1, 2, 3, 5])
def test_the_inverse_is_exact_and_the_jacobian_is_that_of_autograd(k: int) -> None:
    flow = fit_flow(ring(400, k), 1, steps=30)
    eps = torch.randn(20, k, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    z = flow.codes(eps)
    back, log_det = flow.noise(z)
    torch.testing.assert_close(back, eps, rtol=1e-9, atol=1e-9)
    for row in range(3):
        jacobian = torch.autograd.functional.jacobian(flow.codes, eps[row])
        expected = -torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(log_det[row], expected, rtol=1e-8, atol=1e-8)


def test_draws_have_the_density(flow: FlowPrior) -> None:
    eps = np.random.default_rng(2).normal(size=(20_000, 2)).astype(np.float32)
    drawn = flow.sample(eps)
    inside = (np.abs(drawn - [3, 0]) < 0.5).all(1)
    x = (np.arange(80) + 0.5) / 80 - 0.5
    grid = np.stack(np.meshgrid(x + 3, x), -1).reshape(-1, 2)
    mass = np.exp(flow.log_prob(grid)).mean()
    assert inside.mean() == pytest.approx(mass, abs=5 * np.sqrt(mass / 20_000))


def test_the_same_codes_and_seed_give_the_same_bits_and_rows_stand_alone(flow: FlowPrior) -> None:
    again = fit_flow(ring(2000), 0, steps=250)
    assert all(
        torch.equal(tensor, again.to_tensors()[name]) for name, tensor in flow.to_tensors().items()
    )
    eps = np.random.default_rng(2).normal(size=(3000, 2)).astype(np.float32)
    whole = flow.sample(eps)
    assert np.array_equal(flow.sample(eps[:700]), whole[:700])
    assert np.array_equal(flow.sample(eps[1024:1100]), whole[1024:1100])
    assert (flow.components, flow.chooses, flow.is_standard) == (1, False, False)


def test_a_vae_with_a_flow_survives_its_files(flow: FlowPrior) -> None:
    architecture = cell_table(latent_dim=2, prior="flow")
    model = VAE.from_architecture(architecture)
    packed = pack(ModelFiles(architecture, model.state_dict(), codec="{}", prior=flow))
    again = build(unpack(packed, "M"))
    assert isinstance(again.prior, FlowPrior)
    z = torch.randn(3, 4, 2)
    model.prior = flow
    assert torch.equal(again.prior_gap(z), model.prior_gap(z))
    assert again.has_prior_gap
    assert again.prior_gap(z).shape == (3, 4)


@pytest.mark.parametrize("rows", [np.zeros((5, 2)), np.repeat(np.eye(2), 9, 0), np.ones((1, 3))])
def test_repeated_codes_are_no_obstacle(rows: np.ndarray) -> None:
    flow = fit_flow(rows, 0, steps=20)
    assert np.isfinite(flow.log_prob(rows)).all()
    assert np.isfinite(flow.sample(np.zeros((3, rows.shape[1]), np.float32))).all()


def test_numbers_that_are_no_flow_are_refused(flow: FlowPrior) -> None:
    tensors = flow.to_tensors()
    with pytest.raises(DataError, match=r"prior: lacks prior.flow.mean; a flow has it"):
        FlowPrior.from_tensors({n: t for n, t in tensors.items() if n != "prior.flow.mean"})
    with pytest.raises(DataError, match=r"prior: has shapes .*; a flow of 3 dimensions has"):
        FlowPrior.from_tensors(tensors | {"prior.flow.mean": torch.zeros(3)})
    with pytest.raises(DataError, match="prior: holds values that are not finite; train again"):
        FlowPrior.from_tensors(tensors | {"prior.flow.mean": torch.full((2,), torch.nan)})
    with pytest.raises(DataError, match="prior: has a scale_tril that is no Cholesky factor"):
        dataclasses.replace(flow, scale_tril=torch.ones(2, 2))
    with pytest.raises(DataError, match="codes: there are none"):
        fit_flow(np.zeros((0, 2)), 0)
