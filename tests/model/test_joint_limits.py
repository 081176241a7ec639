"""Joint heads at their edges: wild numbers, the floor, the start of training, what they refuse."""

from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch

from distvae.errors import UsageError
from distvae.model.likelihoods import Elements, elements_of, make_head
from tests.model.helpers import spec
from tests.model.test_joint import JOINT, double, draw, elements

EXTREMES = [-1e4, -1.0, 0.0, 1e-8, 1e4]


@pytest.mark.parametrize("width", [1, 3, 64])
@pytest.mark.parametrize("likelihood", ["gaussian-full", "gaussian-low-rank:64", *JOINT[1:]])
def test_joint_heads_are_finite_far_out(likelihood: str, width: int) -> None:
    """Raw outputs at +-1e4, sigma at its floor, residuals of 1e4, with and without holes."""
    head = make_head(likelihood, elements(width, floor=1e-7))
    generator = np.random.default_rng(14)
    rows = [np.full(head.outputs, a) for a in EXTREMES]
    for log_sigma, rest in itertools.product(EXTREMES, EXTREMES):
        row = np.full(head.outputs, rest)
        row[:width], row[width : 2 * width] = 1.0, log_sigma
        rows.append(row)
    rows.extend(generator.choice(EXTREMES, head.outputs) for _ in range(40))
    params = torch.from_numpy(np.stack(rows)).float()
    y = torch.from_numpy(generator.choice(EXTREMES, (len(rows), width))).float()
    holes = torch.from_numpy(generator.uniform(size=y.shape) < 0.6)
    for observed in (None, holes):
        leaf, target = params.clone().requires_grad_(), y.clone().requires_grad_()
        value = head.log_prob(target, leaf, observed)
        gradients = torch.autograd.grad(value.sum(), [leaf, target])
        assert all(torch.isfinite(part).all() for part in (value, *gradients))
        assert torch.isfinite(gradients[0].square().sum())
    noise = torch.from_numpy(generator.normal(size=y.shape)).float()
    assert torch.isfinite(head.sample(params, noise)).all()
    assert torch.isfinite(head.log_prob(y, params)).all()


@pytest.mark.parametrize("likelihood", JOINT)
def test_a_constant_column_meets_the_floor(likelihood: str) -> None:
    known = elements(2, floor=0.01)
    head = double(likelihood, known)
    params = torch.zeros(1, head.outputs, dtype=torch.float64)
    params[0, 2:4] = -1e6
    torch.nn.init.constant_(head.scaled_log_sigma, -1e6)
    found = head.log_prob(torch.zeros(1, 2, dtype=torch.float64), params)
    sigma = 0.01 * known.scale
    expected = -torch.log(sigma) - 0.5 * math.log(2 * math.pi)
    torch.testing.assert_close(found[0], expected, rtol=1e-4, atol=0)


def test_a_nan_goes_through_to_the_loss() -> None:
    for likelihood in JOINT:
        head = make_head(likelihood, elements(3))
        params = torch.full((1, head.outputs), torch.nan)
        assert torch.isnan(head.log_prob(torch.zeros(1, 3), params)).all()


@pytest.mark.parametrize("likelihood", JOINT)
def test_bf16_autocast_leaves_the_covariance_alone(likelihood: str) -> None:
    head = make_head(likelihood, elements(4))
    y, params = draw((6, 4), 17).float(), draw((6, head.outputs), 18).float()
    observed = y > -0.5
    with torch.autocast("cpu", torch.bfloat16):
        found = head.log_prob(y, params, observed), head.sample(params, y)
    assert torch.equal(found[0], head.log_prob(y, params, observed))
    assert torch.equal(found[1], head.sample(params, y))


@pytest.mark.parametrize("likelihood", ["gaussian-full", "gaussian-low-rank:2"])
def test_one_row_of_outputs_learns_the_datas_covariance(likelihood: str) -> None:
    """From the output bias, to the maximum of the likelihood, -log |2 pi e S| / 2 per row."""
    one = torch.ones(3)
    head = make_head(likelihood, Elements(one, 0 * one, 1e-4 * one, discrete=False))
    x = draw((500, 3), 15) @ torch.tensor([[1.0, 0.6, 0.3], [0, 0.3, -0.2], [0, 0, 0.2]]).double()
    params = head.output_bias(torch.zeros(3)).requires_grad_()
    optimizer = torch.optim.Adam([params], 0.03)
    for _ in range(400):
        loss = -head.log_prob(x.float(), params).sum(-1).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
    covariance = np.cov(x.numpy().T, bias=True)
    expected = 0.5 * np.linalg.slogdet(2 * math.pi * math.e * covariance)[1]
    assert loss.item() == pytest.approx(expected, abs=5e-3)


@pytest.mark.parametrize("likelihood", JOINT)
def test_the_output_bias_starts_at_the_mean_and_can_leave(likelihood: str) -> None:
    head = make_head(likelihood, elements(5))
    bias = head.output_bias(torch.linspace(-1, 1, 5)).requires_grad_()
    assert bias.shape == (head.outputs,)
    assert torch.equal(head.mean(bias), torch.linspace(-1, 1, 5))
    value = head.log_prob(draw((50, 5), 16).float(), bias).sum()
    (gradient,) = torch.autograd.grad(value, bias)
    assert (gradient.abs() > 1e-3).all()


def test_the_rank_is_eight_or_as_told_and_at_most_the_width() -> None:
    assert make_head("gaussian-low-rank", elements(20)).outputs == 20 * (2 + 8)
    assert make_head("gaussian-low-rank:3", elements(20)).outputs == 20 * (2 + 3)
    assert make_head("gaussian-low-rank:99", elements(4)).outputs == 4 * (2 + 4)
    assert make_head("gaussian-full", elements(20)).outputs == 20 * 2 + 190


def test_what_joint_heads_do_not_take() -> None:
    for argument in ("x", "0", "-1", "1.5", "²"):
        with pytest.raises(UsageError, match=f"'gaussian-low-rank:{argument}'; the rank must be"):
            make_head(f"gaussian-low-rank:{argument}", elements(2))
    with pytest.raises(UsageError, match="likelihood: ':2'; this head takes no argument"):
        make_head("gaussian-full:2", elements(2))
    rule = "a joint covariance takes at most 64 elements; give some of these columns another head"
    with pytest.raises(UsageError, match=f"'gaussian-full' over 65 elements; {rule}"):
        make_head("gaussian-full", elements(65))
    make_head("gaussian-full", elements(64))
    columns = tuple(spec(f"c{i}", i, i + 1) for i in range(66))
    named = r"'gaussian-low-rank' over 66 elements \(c0, c1, c2, c3, c4, \.\.\.\); a joint"
    with pytest.raises(UsageError, match=named):
        make_head("gaussian-low-rank:2", elements_of(columns))
    rule = "a uint8 vector has a probability for each byte, not a joint density; cast the column to"
    with pytest.raises(UsageError, match=f"'gaussian-full' for pixels; {rule} float, or use gaus"):
        make_head("gaussian-full", elements_of((spec("pixels", 0, 9, discrete=True),)))
    with pytest.raises(UsageError, match=f"'gaussian-low-rank' for bytes; {rule}"):
        make_head("gaussian-low-rank:2", elements(4, discrete=True))
