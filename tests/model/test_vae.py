from __future__ import annotations

import dataclasses
import json

import numpy as np
import pytest
import torch
from torch import Tensor

from distvae.errors import DataError, UsageError
from distvae.model.architecture import Architecture
from distvae.model.likelihoods import elements_of, make_head
from distvae.model.objectives import elbo, kl_weight_at
from distvae.model.vae import VAE
from tests.model.helpers import block, spec


def mixed() -> Architecture:
    """Scalars around two vectors, four heads, missing values, raw and standardised blocks."""
    return Architecture(
        latent_dim=3,
        hidden_dims=(8, 6),
        activation="tanh",
        features=(
            spec("a", 0, 1, 0, scale=3.0, shift=[7.0], has_missing=True),
            spec(
                "img", 1, 5, 1, scale=255.0, raw=True, discrete=True, dtype="uint8", resolution=1.0
            ),
            spec("b", 5, 6, 0, scale=0.5),
            spec("emb", 6, 9, 2, scale=2.0, shift=[1.0, 2.0, 3.0], raw=True, has_missing=True),
            spec("c", 9, 10, 0, scale=[4.0]),
            spec(
                "byte",
                10,
                12,
                3,
                scale=50.0,
                shift=[9.0, 8.0],
                raw=True,
                discrete=True,
                resolution=1.0,
            ),
        ),
        blocks=(block(3), block(4, raw=True), block(3, raw=True), block(2, raw=True)),
        likelihoods={"img": "bernoulli", "b": "gaussian-row", "c": "gaussian-fixed:0.5"},
    )


def mixed_rows(n: int, seed: int = 0) -> tuple[list[Tensor], list[Tensor | None]]:
    generator = np.random.default_rng(seed)
    blocks = [
        torch.from_numpy(generator.normal(size=(n, 3))).float(),
        torch.from_numpy(generator.integers(0, 256, (n, 4)).astype(np.uint8)),
        torch.from_numpy(generator.normal(size=(n, 3)).astype(np.float32) + 2),
        torch.from_numpy(generator.integers(0, 256, (n, 2)).astype(np.uint8)),
    ]
    masks = [torch.from_numpy(generator.uniform(size=(n, w)) < 0.7) for w in (3, 3)]
    masks[0][:, 1:] = True
    return blocks, [masks[0], None, masks[1], None]


def test_prepare_puts_every_element_in_its_place() -> None:
    model = VAE.from_architecture(mixed())
    blocks, masks = mixed_rows(5)
    blocks[2][~masks[2]] = torch.nan
    y, observed = model.prepare(blocks, masks)
    a, img, emb, byte = (block_.double().numpy() for block_ in blocks)
    expected = np.concatenate(
        [a[:, :1], img / 255, a[:, 1:2], (emb - [1, 2, 3]) / 2, a[:, 2:], (byte - [9, 8]) / 50], 1
    )
    ones = np.ones((5, 4), bool)
    seen = np.concatenate(
        [masks[0][:, :1], ones, ones[:, :1], masks[2], ones[:, :1], ones[:, :2]], axis=1
    )
    np.testing.assert_allclose(y.numpy(), np.where(seen, expected, 0), rtol=1e-6, atol=1e-7)
    assert np.array_equal(observed.numpy(), seen)
    assert y.dtype == torch.float32
    assert model.prepare(blocks[:2] + mixed_rows(5)[0][2:], [None] * 4)[1] is None


def test_prepare_hands_on_a_standardised_block_without_a_copy() -> None:
    model = VAE.from_architecture(
        Architecture(2, (spec("v", 0, 4),), (block(4),), hidden_dims=(4,))
    )
    values = torch.randn(3, 4)
    assert model.prepare([values], [None])[0].data_ptr() == values.data_ptr()


def test_blocks_of_the_wrong_width_are_refused() -> None:
    blocks, masks = mixed_rows(2)
    with pytest.raises(DataError, match=r"input arrays: have the widths \[3, 4, 3\]; this model"):
        VAE.from_architecture(mixed()).prepare(blocks[:3], masks[:3])


def test_heads_in_groups_equal_heads_feature_by_feature() -> None:
    architecture = mixed()
    model = VAE.from_architecture(architecture)
    y, observed = model.prepare(*mixed_rows(6))
    params = model.decode(torch.randn(2, 6, 3, generator=torch.Generator().manual_seed(0)))
    elementwise = model.observation.log_prob(y, params)
    means, at = model.reconstruction_mean(params), 0
    draws = model.sample_data(params, torch.ones(2, 6, 12))
    by_group = {"a": 0, "emb": 0, "img": 1, "b": 2, "c": 3, "byte": 4}
    for name in sorted(by_group, key=lambda n: by_group[n]):
        feature = next(s for s in architecture.features if s["name"] == name)
        head = make_head(architecture.likelihood(name), elements_of((feature,)))
        columns = slice(feature["start"], feature["stop"])
        own = params[..., at : at + head.parameters_per_element * head.width]
        at += own.shape[-1]
        torch.testing.assert_close(elementwise[..., columns], head.log_prob(y[:, columns], own))
        torch.testing.assert_close(means[..., columns], head.mean(own))
        ones = torch.ones(2, 6, head.width)
        torch.testing.assert_close(draws[..., columns], head.sample(own, ones))
    assert at == params.shape[-1]
    total = torch.where(observed, elementwise, 0).sum(-1)
    torch.testing.assert_close(model.log_likelihood(y, observed, params), total)


def test_terms_are_per_row_and_split_by_feature() -> None:
    model = VAE.from_architecture(mixed())
    y, observed = model.prepare(*mixed_rows(6))
    eps = torch.randn(3, 6, 3, generator=torch.Generator().manual_seed(0))
    terms = model.terms(y, observed, eps, per_feature=True)
    assert terms.reconstruction.shape == (6,)
    assert terms.kl.shape == (6, 3)
    assert terms.per_feature.shape == (6, 6)
    torch.testing.assert_close(terms.per_feature.sum(1), terms.reconstruction)
    alone = [model.terms(y, observed, e[None]).reconstruction for e in eps]
    torch.testing.assert_close(torch.stack(alone).mean(0), terms.reconstruction)
    assert model(y, observed, eps).per_feature is None


def test_unobserved_values_change_nothing_but_the_flags() -> None:
    model = VAE.from_architecture(mixed())
    blocks, masks = mixed_rows(6)
    eps = torch.zeros(1, 6, 3)
    first = elbo(model.terms(*model.prepare(blocks, masks), eps))
    blocks[2][~masks[2]] = 1e30
    blocks[0][~masks[0]] = torch.nan
    assert torch.equal(elbo(model.terms(*model.prepare(blocks, masks), eps)), first)
    flagged = model.encode(model.prepare(blocks, masks)[0], None).mu
    assert not torch.equal(flagged, model.encode(*model.prepare(blocks, masks)).mu)
    everything = torch.ones(6, 12, dtype=torch.bool)
    y = model.prepare(*mixed_rows(6))[0]
    found = (vars(model.encode(y, seen)).values() for seen in (None, everything))
    for a, b in zip(*found, strict=True):
        assert torch.equal(a, b)


def test_no_row_feels_another() -> None:
    model = VAE.from_architecture(mixed())
    y, observed = model.prepare(*mixed_rows(6))
    y.requires_grad_()
    terms = model.terms(y, observed, torch.ones(2, 6, 3))
    for row in range(6):
        value = terms.reconstruction[row] + terms.kl[row].sum()
        (gradient,) = torch.autograd.grad(value, y, retain_graph=True)
        assert gradient[row].abs().sum() > 0
        assert gradient[torch.arange(6) != row].abs().sum() == 0


def test_shards_of_five_and_three_rows_give_the_gradient_of_eight() -> None:
    model = VAE.from_architecture(mixed()).double()
    y, observed = (
        v.double() if v.is_floating_point() else v for v in model.prepare(*mixed_rows(8))
    )
    eps = torch.randn(1, 8, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(2))

    def gradient(rows: slice) -> list[Tensor]:
        loss = -elbo(model.terms(y[rows], observed[rows], eps[:, rows]), 0.7).sum() / 8
        return list(torch.autograd.grad(loss, list(model.parameters())))

    for whole, first, second in zip(
        gradient(slice(0, 8)), gradient(slice(0, 5)), gradient(slice(5, 8)), strict=True
    ):
        torch.testing.assert_close(whole, first + second)


def test_the_gradient_of_the_elbo_by_finite_differences() -> None:
    model = VAE.from_architecture(mixed()).double()
    y, observed = (
        v.double() if v.is_floating_point() else v for v in model.prepare(*mixed_rows(3))
    )
    eps = torch.randn(2, 3, 3, dtype=torch.float64, generator=torch.Generator().manual_seed(3))
    names = [name for name, _ in model.named_parameters()]

    def loss(*values: Tensor) -> Tensor:
        arguments = (y, observed, eps)
        state = dict(zip(names, values, strict=True))
        return elbo(torch.func.functional_call(model, state, arguments)).sum()

    assert torch.autograd.gradcheck(loss, list(model.parameters()), fast_mode=True)


@pytest.mark.parametrize("size", [1e-8, 1.0, 1e4])
def test_loss_and_gradients_are_finite_for_wild_inputs(size: float) -> None:
    model = VAE.from_architecture(mixed())
    y, observed = model.prepare(*mixed_rows(4))
    continuous = [0, 5, 6, 7, 8, 9]
    y[:, continuous] = y[:, continuous].sign() * size
    loss = -elbo(model.terms(y, observed, torch.full((1, 4, 3), 3.0))).mean()
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    assert torch.isfinite(loss)
    assert all(torch.isfinite(g).all() for g in gradients)


def test_training_reduces_the_loss_and_learns_sigma() -> None:
    generator = np.random.default_rng(0)
    x = generator.normal(size=(64, 4)) * 0.1
    model = VAE.from_architecture(
        Architecture(1, (spec("v", 0, 4),), (block(4),), hidden_dims=(16,))
    )
    y = torch.from_numpy(x).float()
    optimizer = torch.optim.Adam(model.parameters(), 1e-2)
    losses = []
    for _ in range(150):
        eps = torch.from_numpy(generator.normal(size=(1, 64, 1))).float()
        loss = -elbo(model.terms(y, None, eps)).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    assert losses[-1] < losses[0] - 4
    params = torch.zeros(1, 4)
    sigma = model.sample_data(params, torch.ones(1, 4)).detach().numpy()
    np.testing.assert_allclose(sigma, 0.1, rtol=0.35)


def test_set_output_bias_starts_every_head_at_the_mean() -> None:
    model = VAE.from_architecture(mixed())
    mean = torch.linspace(0.1, 0.9, 12)
    model.set_output_bias(mean)
    with torch.no_grad():
        model.decoder.last.weight.zero_()
    found = model.reconstruction_mean(model.decode(torch.zeros(1, 3)))
    torch.testing.assert_close(found[0, :10], mean[:10])
    # Bytes lose the tails beyond 0 and 255, which are wide at the start.
    torch.testing.assert_close(found[0, 10:], mean[10:], rtol=0, atol=0.1)


def test_binarize_draws_bernoulli_features_only() -> None:
    model = VAE.from_architecture(mixed())
    y, _ = model.prepare(*mixed_rows(4))
    drawn = model.binarize(y, torch.full((4, 12), 0.5))
    assert torch.equal(drawn[:, 1:5], (y[:, 1:5] > 0.5).float())
    others = [0, *range(5, 12)]
    assert torch.equal(drawn[:, others], y[:, others])


def test_weights_are_a_function_of_the_seed() -> None:
    first, same, other = (VAE.from_architecture(mixed(), s).state_dict() for s in (1, 1, 2))
    assert all(torch.equal(first[name], same[name]) for name in first)
    assert not torch.equal(first["encoder.layers.0.weight"], other["encoder.layers.0.weight"])


def test_architecture_survives_json() -> None:
    architecture = mixed()
    again = Architecture.from_json(json.loads(json.dumps(architecture.to_json())))
    assert again.to_json() == architecture.to_json()
    assert (again.width, again.likelihood("a"), again.hidden_dims) == (12, "gaussian", (8, 6))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"kind": "gan"}, "kind: 'gan'; must be one of vae"),
        ({"activation": "swish"}, "activation: 'swish'; must be one of relu, leaky_relu, "),
        ({"posterior": "flow"}, "posterior: 'flow'; must be one of isotropic, diagonal, full"),
        ({"posterior": "point"}, "posterior: 'point'; point is the posterior of an autoencoder"),
        ({"kind": "autoencoder"}, "posterior: 'diagonal'; point is the posterior of an auto"),
        ({"inference": "mcmc"}, "inference: 'mcmc'; must be one of amortised, per-row"),
        ({"images": {"z": (2, 2, 1)}}, "image: z; must name a feature: a, img, "),
        ({"prior": "vamp"}, "prior: 'vamp'; must be one of normal"),
        ({"binarize": "static"}, "binarize: 'static'; must be one of none, dynamic"),
        ({"latent_dim": 0}, "latent_dim: 0; must be at least 1"),
        ({"hidden_dims": (4, 0)}, r"hidden_dims: \(4, 0\); must be at least 1"),
        ({"likelihoods": {"z": "gaussian"}}, "likelihood: z; must name a feature: a, img, "),
    ],
)
def test_choices_outside_the_rules_are_refused(changes: dict[str, object], message: str) -> None:
    with pytest.raises(UsageError, match=message):
        dataclasses.replace(mixed(), **changes)


def test_features_that_do_not_fit_together_are_refused() -> None:
    with pytest.raises(DataError, match=r"image 'a': has the shape \(5, 5, 1\); must be \(height"):
        Architecture(1, (spec("a", 0, 16),), (block(16),), images={"a": (5, 5, 1)})
    with pytest.raises(DataError, match="features: there are none; a model needs at least one"):
        Architecture(1, (), (block(1),))
    with pytest.raises(DataError, match=r"feature 'b': covers elements \[2, 3\); must start at 1"):
        Architecture(1, (spec("a", 0, 1), spec("b", 2, 3)), (block(2),))
    with pytest.raises(DataError, match="feature 'a': block 1; there are 1"):
        Architecture(1, (spec("a", 0, 1, 1),), (block(1),))
    with pytest.raises(DataError, match="architecture: has the field 'colour'; it is unknown here"):
        Architecture.from_json({"colour": 1})
    with pytest.raises(DataError, match="architecture: is incomplete"):
        Architecture.from_json({"latent_dim": 1})


def test_elbo_and_kl_weight_by_hand() -> None:
    model = VAE.from_architecture(mixed())
    terms = model.terms(*model.prepare(*mixed_rows(2)), torch.zeros(1, 2, 3))
    torch.testing.assert_close(elbo(terms, 0.25), terms.reconstruction - 0.25 * terms.kl.sum(1))
    assert [kl_weight_at(step, 4, 2.0) for step in (0, 1, 4, 9)] == [0.0, 0.5, 2.0, 2.0]
    assert kl_weight_at(0, 0) == 1.0
