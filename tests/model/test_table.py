from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor
from torch.nn.functional import one_hot

from distvae.errors import UsageError
from distvae.model.architecture import Architecture
from distvae.model.estimators import log_likelihood, row_noise, squared_error
from distvae.model.files import ModelFiles, build, pack, unpack
from distvae.model.inference import decode_rows, encode_rows
from distvae.model.objectives import Objective, elbo, lower_bound
from distvae.model.refinement import falling, refine
from distvae.model.table_input import EMBEDDING_WIDTH, TableEncoder, TableInput
from distvae.model.vae import VAE
from tests.model.cell_cases import category, cell_table, draw_y, histogram
from tests.model.helpers import block, spec


def wide_table(**changes: object) -> Architecture:
    """All codings: cells of few and of many classes, a count, numbers with and without flags."""
    features = (
        category("zip", 0, 300),
        spec("visits", 1, 2, coding="count", resolution=1.0),
        histogram("age", 2, np.arange(7.0)),
        spec("height", 3, 4, has_missing=True),
        spec("weight", 4, 5, has_missing=True),
        category("weight is missing", 5, 2, companion_of="weight"),
        spec("vector", 6, 8, 1),
    )
    plain = {"latent_dim": 2, "hidden_dims": (8,), "decoder_dims": (5, 7)}
    return Architecture(features=features, blocks=(block(6), block(2)), **(plain | changes))


def rows(architecture: Architecture, n: int, seed: int = 0) -> tuple[Tensor, Tensor]:
    """y, and what is observed of the features that can be missing."""
    y = torch.from_numpy(draw_y(architecture, n, seed))
    observed = torch.ones(y.shape, dtype=torch.bool)
    for feature in architecture.features:
        if feature["has_missing"]:
            drawn = torch.from_numpy(np.random.default_rng(seed).random(n) < 0.6)
            observed[:, feature["start"]] = drawn
    return torch.where(observed, y, 0), observed


def test_the_first_layer_is_a_matrix_product_with_one_hot_codes() -> None:
    architecture = wide_table()
    layer = TableInput(architecture, architecture.features, 6)
    y, observed = rows(architecture, 20)
    age = torch.tensor(architecture.features[2]["cells"]["cell_class"])[y[:, 2].long()]
    gone = y[:, 5].long().clamp(max=1)
    hot = torch.cat([one_hot(age, 6), one_hot(gone, 2)], 1).float()
    flags = observed[:, 3:4].float()
    place = y[:, 0].long().clamp(max=299)
    numbers = [y[:, [3, 4, 6, 7]], torch.log1p(y[:, 1:2]), flags, layer.embedding[place]]
    expected = torch.cat(numbers, 1) @ layer.weight.T + layer.bias + hot @ layer.rows[:8]
    torch.testing.assert_close(layer(y, observed), expected)
    assert layer.weight.shape == (6, 6 + EMBEDDING_WIDTH)


def test_missing_cells_add_nothing_and_train_nothing() -> None:
    architecture = cell_table()
    layer = TableInput(architecture, architecture.features, 6)
    y, observed = rows(architecture, 5)
    observed[:, 2] = False
    changed = y.clone()
    changed[:, 2] = 3.5
    assert torch.equal(layer(y, observed), layer(changed, observed))
    assert not torch.equal(layer(y, None), layer(changed, None))
    nothing = torch.zeros(5, 6, dtype=torch.bool)
    torch.testing.assert_close(layer(torch.zeros_like(y), nothing), layer.bias.expand(5, -1))
    layer(y, nothing).sum().backward()
    assert (layer.rows.grad == 0).all()
    assert (layer.rows[-1] == 0).all()


def test_outputs_start_at_variance_one_and_weights_depend_on_seed_and_name() -> None:
    architecture = cell_table()
    y, _ = rows(architecture, 400)
    y[:, 3] = torch.from_numpy(np.random.default_rng(1).normal(size=400)).float()
    layer = TableInput(architecture, architecture.features, 400, gain=2.0)
    assert float(layer(y, None).detach().square().mean()) == pytest.approx(2, rel=0.2)
    same, other = (
        TableInput(architecture, architecture.features, 400, 2.0, seed=s) for s in (0, 1)
    )
    assert torch.equal(layer.rows, same.rows)
    assert not torch.equal(layer.rows, other.rows)
    unset = TableInput(architecture, architecture.features, 400, seed=None)
    assert unset.rows.shape == layer.rows.shape


def test_a_table_from_rows_to_rows() -> None:
    architecture = wide_table()
    model = VAE.from_architecture(architecture)
    assert isinstance(model.encoder, TableEncoder)
    y, observed = rows(architecture, 30)
    blocks, masks = [y[:, :6].numpy(), y[:, 6:].numpy()], [observed[:, :6].numpy(), None]
    prepared, seen = model.prepare([torch.from_numpy(b) for b in blocks], [observed[:, :6], None])
    assert torch.equal(prepared, y)
    mu, sigma = encode_rows(model, blocks, masks)
    assert mu.shape == sigma.shape == (30, 2)
    alone = encode_rows(model, [b[7:9] for b in blocks], [masks[0][7:9], None])[0]
    np.testing.assert_allclose(alone, mu[7:9], atol=1e-6)
    again = encode_rows(model, [b[:7] for b in blocks], [masks[0][:7], None])[0]
    assert np.array_equal(again, mu[:7])
    noise = np.random.default_rng(0).normal(size=(30, 8)).astype(np.float32)
    drawn = decode_rows(model, mu, noise)
    assert drawn.shape == (30, 8)
    assert np.array_equal(decode_rows(model, mu[:11], noise[:11]), drawn[:11])
    assert (np.floor(drawn[:, 0]) < 300).all()
    assert (drawn[:, 1] == np.round(drawn[:, 1])).all()
    assert decode_rows(model, mu).shape == (30, 8)
    assert seen is not None


def test_no_row_feels_another_and_every_parameter_learns() -> None:
    model = VAE.from_architecture(wide_table()).double()
    y, observed = rows(model.architecture, 12)
    y = y.double()
    eps = torch.randn(2, 12, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    whole = elbo(model.terms(y, observed, eps))
    for part in (slice(0, 5), slice(5, 12)):
        alone = elbo(model.terms(y[part], observed[part], eps[:, part]))
        torch.testing.assert_close(alone, whole[part], rtol=1e-9, atol=1e-9)
    whole.sum().backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None, name
        assert torch.isfinite(parameter.grad).all(), name
        # The members of a tree start alike, so that what tells them apart learns a step later.
        assert (parameter.grad != 0).any(), name


def test_training_raises_the_likelihood_towards_the_entropy() -> None:
    architecture = Architecture(
        1, (category("a", 0, 3), category("b", 1, 3)), (block(2),), hidden_dims=(16,)
    )
    model = VAE.from_architecture(architecture)
    a = np.random.default_rng(0).choice(3, 256, p=[0.5, 0.3, 0.2])
    y = torch.from_numpy(np.stack([a, a], 1) + 0.5).float()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    random = torch.Generator().manual_seed(0)
    for _ in range(250):
        optimizer.zero_grad()
        loss = -elbo(model.terms(y, None, torch.randn(1, 256, 1, generator=random))).mean()
        loss.backward()
        optimizer.step()
    shares = np.bincount(a) / 256
    entropy = -(shares * np.log(shares)).sum()
    found = log_likelihood(model, y, None, row_noise(0, "t", 0, 256, 1), 200)
    # One column says all of the other: ln p(x) is minus the entropy of one, not of two.
    assert -1.25 * entropy < float(found.detach().mean()) <= -entropy + 1e-6


def test_squared_error_counts_what_is_measured_and_observed() -> None:
    architecture = wide_table()
    model = VAE.from_architecture(architecture)
    y, observed = rows(architecture, 10)
    params = model.decode(torch.zeros(10, 2))
    total, count = squared_error(model, y, observed, params)
    error = model.raw_error(params, y)
    assert error.dtype == torch.float64
    kept = observed & torch.tensor([False, True, True, True, True, False, True, True])
    torch.testing.assert_close(total, torch.where(kept, error.square(), 0).sum(1))
    assert torch.equal(count, kept.sum(1))
    assert squared_error(model, y, None, params)[1].tolist() == [6] * 10


def test_a_table_survives_files_and_json() -> None:
    for architecture in (wide_table(), cell_table(), cell_table(conditions=("sex", "height"))):
        model = VAE.from_architecture(architecture, seed=3)
        packed = pack(ModelFiles(architecture, model.state_dict(), codec="{}"))
        again = build(unpack(packed, "M"))
        told = json.loads(json.dumps(architecture.to_json()))
        assert again.architecture.to_json() == told
        y, observed = rows(architecture, 5)
        assert torch.equal(again.encode(y, observed).mu, model.encode(y, observed).mu)
    assert wide_table().decoder_widths == (5, 7)
    assert dataclasses.replace(wide_table(), decoder_dims=None).decoder_widths == (8,)


def test_conditions_have_no_likelihood_and_the_decoder_is_told_them() -> None:
    model = VAE.from_architecture(cell_table(conditions=("sex", "height", "city")))
    y, observed = rows(model.architecture, 9)
    context = model.context(y, observed)
    assert context is not None
    assert context.shape == (9, 2 + 1 + 5)
    z = torch.randn(3, 9, 3, generator=torch.Generator().manual_seed(0))
    params = model.decode(z, context)
    elementwise = model.elementwise(y, observed, params)
    assert (elementwise[..., [1, 2, 3]] == 0).all()
    assert (elementwise[..., [0, 4, 5]] != 0).all()
    assert (model.sample_data(params, torch.ones(3, 9, 6))[..., [1, 2, 3]] == 0).all()
    assert (model.reconstruction_mean(params)[..., [1, 2, 3]] == 0).all()
    assert model.observation.measured.tolist() == [True] + [False] * 5
    # Only the conditions' elements are read.
    changed = y.clone()
    changed[:, [0, 4, 5]] = 0.5
    assert torch.equal(model.context(changed, observed), context)
    for element in (1, 3):
        changed = y.clone()
        changed[:, element] = 1 - changed[:, element]
        assert not torch.equal(model.context(changed, observed), context)
    with pytest.raises(ValueError, match="decode: a model with conditions needs their context"):
        model.decode(z)
    torch.testing.assert_close(model.decode(z[1], context), params[1])


def test_every_objective_and_refinement_pass_the_context_on() -> None:
    model = VAE.from_architecture(cell_table(conditions=("sex",))).double()
    y, observed = rows(model.architecture, 6)
    y, eps = y.double(), torch.randn(4, 6, 3, dtype=torch.float64)
    posterior = model.encode(y, observed)
    for name, kl, doubly in (
        ("elbo", "analytic", False),
        ("elbo", "sampled", False),
        ("iwae", "analytic", False),
        ("iwae", "analytic", True),
    ):
        objective = Objective(name, 2, 2 if name == "iwae" else 1, kl, doubly=doubly)
        bound = lower_bound(model, posterior, y, observed, eps[: objective.samples], objective)
        gradient = torch.autograd.grad(
            bound.value.sum(), model.conditioner.rows, retain_graph=True
        )[0]
        assert (gradient != 0).any()
    assert log_likelihood(model, y, observed, row_noise(0, "t", 0, 6, 3), 4).shape == (6,)
    raw = model.encode_raw(y, observed).detach()
    moved = refine(model, y, observed, raw, lambda _: eps[:1], falling(0.1, 3), eps)
    assert moved.shape == raw.shape


def test_given_rows_come_back_as_they_are() -> None:
    model = VAE.from_architecture(cell_table(conditions=("sex", "height")))
    random = np.random.default_rng(0)
    z = random.normal(size=(40, 3)).astype(np.float32)
    noise = random.normal(size=(40, 6)).astype(np.float32)
    given = np.full((40, 6), np.nan, np.float32)
    given[:, 1] = random.integers(0, 2, 40) + 0.5
    given[:20, 3] = random.normal(size=20)
    drawn = decode_rows(model, z, noise, given)
    assert np.array_equal(drawn[:, 1], given[:, 1])
    assert np.array_equal(drawn[:, 3], np.nan_to_num(given[:, 3]))
    other = given.copy()
    other[:, 1] = 2 - other[:, 1]
    moved = decode_rows(model, z, noise, other)
    assert not np.array_equal(moved[:, 0], drawn[:, 0])
    assert np.array_equal(decode_rows(model, z[:9], noise[:9], given[:9]), drawn[:9])
    assert decode_rows(model, z, given=given).shape == (40, 6)
    with pytest.raises(ValueError, match="this model needs its conditions given: sex, height"):
        decode_rows(model, z, noise)


def test_a_conditional_model_learns_p_of_x_given_c() -> None:
    architecture = Architecture(
        1,
        (category("c", 0, 2), category("x", 1, 2)),
        (block(2),),
        hidden_dims=(8,),
        conditions=("c",),
    )
    model = VAE.from_architecture(architecture)
    random = np.random.default_rng(0)
    c = random.integers(0, 2, 512)
    x = np.where(random.random(512) < 0.9, c, 1 - c)
    y = torch.from_numpy(np.stack([c, x], 1) + 0.5).float()
    optimizer = torch.optim.Adam(model.parameters(), 2e-2)
    eps = torch.Generator().manual_seed(0)
    for _ in range(150):
        optimizer.zero_grad()
        (-elbo(model.terms(y, None, torch.randn(1, 512, 1, generator=eps))).mean()).backward()
        optimizer.step()
    given = np.full((4000, 2), np.nan, np.float32)
    given[:, 0] = np.arange(4000) % 2 + 0.5
    z = random.normal(size=(4000, 1)).astype(np.float32)
    drawn = decode_rows(model, z, random.normal(size=(4000, 2)).astype(np.float32), given)
    agree = (np.floor(drawn[:, 1]) == np.floor(given[:, 0])).mean()
    assert agree == pytest.approx((x == c).mean(), abs=0.04)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"conditions": ("age",)}, "condition: age; must name a feature: income, sex"),
        (
            {"conditions": ("income", "sex", "city", "height", "colour", "city is missing")},
            "condition: income, sex, .*; at least one feature must be left to model",
        ),
        ({"decoder_dims": (0,)}, r"decoder_dims: \(0,\); must be at least 1"),
    ],
)
def test_conditions_and_sizes_outside_the_rules_are_refused(
    changes: dict[str, object], message: str
) -> None:
    with pytest.raises(UsageError, match=message):
        cell_table(**changes)


def picture_table(**changes: object) -> Architecture:
    features = (
        category("label", 0, 3),
        spec("size", 1, 2, has_missing=True),
        category("size is missing", 2, 2, companion_of="size"),
        spec("picture", 3, 19, 1),
    )
    plain = {"latent_dim": 2, "hidden_dims": (8,), "channels": (2,)}
    images = {"picture": (4, 4, 1)}
    return Architecture(
        features=features, blocks=(block(3), block(16)), images=images, **(plain | changes)
    )


@pytest.mark.parametrize("conditions", [(), ("label",), ("label", "size", "size is missing")])
def test_pictures_beside_cells(conditions: tuple[str, ...]) -> None:
    architecture = picture_table(conditions=conditions)
    model = VAE.from_architecture(architecture)
    y, observed = rows(architecture, 7)
    eps = torch.randn(1, 7, 2)
    whole = elbo(model.terms(y, observed, eps))
    whole.sum().backward()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in model.parameters())
    alone = elbo(model.terms(y[2:5], observed[2:5], eps[:, 2:5]))
    torch.testing.assert_close(alone, whole[2:5], rtol=1e-5, atol=1e-4)
    changed = y.clone()
    changed[:, 0] = 2.5 - changed[:, 0].clamp(max=2.5) + 0.5
    assert not torch.equal(model.encode(y, observed).mu, model.encode(changed, observed).mu)
    packed = pack(ModelFiles(architecture, model.state_dict(), codec="{}"))
    again = build(unpack(packed, "M"))
    assert torch.equal(again.encode(y, observed).mu, model.encode(y, observed).mu)


def test_a_picture_is_no_condition() -> None:
    with pytest.raises(UsageError, match="condition: picture; must not be a picture"):
        picture_table(conditions=("picture",))
