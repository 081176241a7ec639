"""Posteriors and per-row figures of a saved model, without Ray."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

import distvae
from distvae.errors import UsageError
from distvae.inferring import codes, infer_raw, log_likelihood_rows, refining_steps, row_terms
from distvae.saved import Model
from tests.conftest import tiny_table, write_tiny_model

ROWS = 64
STEPS = 12


@pytest.fixture(scope="module", params=["isotropic", "diagonal", "full"])
def model(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Model:
    folder = tmp_path_factory.mktemp("models") / "model"
    write_tiny_model(folder, {"posterior": request.param, "likelihoods": {"pixels": "bernoulli"}})
    return distvae.load(str(folder))


def made(tmp_path: Path, **made_of: Any) -> Model:
    write_tiny_model(tmp_path / "model", made_of)
    return distvae.load(str(tmp_path / "model"))


def test_codes_are_the_posterior(model: Model) -> None:
    encoded = model.encode_table(tiny_table())
    found = codes(model, encoded)
    mu, sigma = model.encode(tiny_table())
    assert np.array_equal(found.mu, mu)
    assert np.array_equal(found.sigma, sigma)
    assert (sigma > 0).all()
    if model.files.architecture.posterior != "full":
        assert found.scale_tril is None
        return
    assert found.scale_tril is not None
    a, b, c = found.scale_tril.T
    np.testing.assert_allclose(sigma, np.stack([np.abs(a), np.hypot(b, c)], 1), rtol=1e-5)


@pytest.mark.parametrize("binarized", [False, True])
def test_refining_never_lowers_an_elbo_and_raises_most(model: Model, binarized: bool) -> None:
    encoded, rows = model.encode_table(tiny_table()), np.arange(ROWS) + 5000
    raw = infer_raw(model, encoded, rows, 3, STEPS, binarized=binarized)
    before = row_terms(model, encoded, rows, 3, binarized=binarized)
    after = row_terms(model, encoded, rows, 3, raw, binarized=binarized)
    assert (after.elbo >= before.elbo).all()
    assert (after.elbo > before.elbo).mean() > 0.5
    assert not np.array_equal(after.mu, before.mu)


def test_a_refined_row_depends_on_its_number_and_the_seed_alone(model: Model) -> None:
    table, rows = tiny_table(), np.arange(ROWS)
    whole = infer_raw(model, model.encode_table(table), rows, 0, STEPS)
    some = slice(20, 50)
    part = infer_raw(model, model.encode_table(table.slice(20, 30)), rows[some], 0, STEPS)
    assert whole is not None
    assert part is not None
    np.testing.assert_allclose(whole[some], part, rtol=0, atol=1e-5)
    again = infer_raw(model, model.encode_table(table), rows, 0, STEPS)
    assert np.array_equal(whole, again)
    other = infer_raw(model, model.encode_table(table), rows, 1, STEPS)
    assert not np.array_equal(whole, other)


def test_the_elbo_is_that_of_the_posterior_that_embeddings_hold(model: Model) -> None:
    """Recomputed from mu and L alone, with the same noise, on the rows as they are."""
    import torch

    from distvae.stratified import pair_of_draws

    encoded, rows = model.encode_table(tiny_table()), np.arange(ROWS)
    raw = infer_raw(model, encoded, rows, 0, STEPS)
    found, terms = codes(model, encoded, raw), row_terms(model, encoded, rows, 0, raw)
    factor = np.zeros((ROWS, 2, 2), np.float32)
    if found.scale_tril is None:
        factor[:, [0, 1], [0, 1]] = found.sigma
    else:
        factor[:, *np.tril_indices(2)] = found.scale_tril
    drawn = pair_of_draws(0, "score-elbo", rows, 2).reshape(ROWS, 2, 2)
    values = []
    blocks = [torch.from_numpy(np.array(block)) for block in encoded.blocks]
    y, observed = model.network.prepare(blocks, encoded.masks)
    for eps in (drawn[:, 0], drawn[:, 1], -drawn[:, 0], -drawn[:, 1]):
        z = torch.from_numpy(found.mu + (factor @ eps[..., None])[..., 0])
        with torch.no_grad():
            values.append(model.network.log_likelihood(y, observed, model.network.decode(z)))
    covariance = factor @ factor.transpose(0, 2, 1)
    trace = np.trace(covariance, axis1=1, axis2=2)
    log_det = np.linalg.slogdet(covariance.astype(float))[1]
    kl = 0.5 * (np.square(found.mu).sum(1) + trace - 2 - log_det)
    expected = torch.stack(values).mean(0).numpy() - kl
    np.testing.assert_allclose(terms.elbo, expected, rtol=1e-4, atol=1e-3)


def test_likelihood_is_the_same_under_a_refined_proposal(model: Model) -> None:
    """An importance-weighted estimate is of ln p(x) whatever it samples from."""
    encoded, rows = model.encode_table(tiny_table()), np.arange(ROWS)
    plain = log_likelihood_rows(model, encoded, rows, 2000, 0)
    raw = infer_raw(model, encoded, rows, 0, STEPS, binarized=True)
    refined = log_likelihood_rows(model, encoded, rows, 2000, 0, raw)
    # The untrained encoder's proposals miss a few rows, the refined ones do not: median and mean.
    assert np.median(np.abs(plain - refined)) < 0.1
    assert refined.mean() > plain.mean() - 0.05


def test_encode_refines_when_asked(model: Model) -> None:
    mu, sigma = model.encode(tiny_table(), refine=STEPS)
    raw = infer_raw(model, model.encode_table(tiny_table()), np.arange(ROWS), 0, STEPS)
    found = codes(model, model.encode_table(tiny_table()), raw)
    assert np.array_equal(mu, found.mu)
    assert np.array_equal(sigma, found.sigma)


def test_a_model_without_an_encoder_finds_its_posteriors_by_itself(tmp_path: Path) -> None:
    model = made(tmp_path, inference="per-row")
    assert refining_steps(model, 0) > 0
    assert refining_steps(model, 7) == 7
    mu, sigma = model.encode(tiny_table())
    assert np.abs(mu).max() > 0
    assert np.abs(sigma - 1).max() > 0
    encoded, rows = model.encode_table(tiny_table()), np.arange(ROWS)
    steps = refining_steps(model, 0)
    prior = row_terms(model, encoded, rows, 0).elbo
    raw = infer_raw(model, encoded, rows, 0, steps)
    assert (row_terms(model, encoded, rows, 0, raw).elbo >= prior).all()


def test_an_autoencoder_has_a_code_and_nothing_to_refine(tmp_path: Path) -> None:
    changes = {"kind": "autoencoder", "posterior": "point", "prior": "mixture"}
    model = made(tmp_path, **changes)
    mu, sigma = model.encode(tiny_table())
    assert np.isfinite(mu).all()
    assert np.isnan(sigma).all()
    assert np.isnan(model.log_likelihood(tiny_table(), 3)).all()
    with pytest.raises(UsageError, match="refine: got -1; must be 0 or more"):
        model.encode(tiny_table(), refine=-1)
    with pytest.raises(UsageError, match="k: got 0; at least one sample"):
        model.log_likelihood(tiny_table(), 0)
    with pytest.raises(UsageError, match="refine: got 3; kind autoencoder has no ELBO that steps"):
        model.encode(tiny_table(), refine=3)


@pytest.mark.parametrize("source", ["normal", "uniform", "sobol"])
def test_any_slice_of_a_source_is_the_same_rows(model: Model, source: str) -> None:
    whole = model.sample(300, seed=2, source=source)
    part = model.sample(100, seed=2, offset=150, source=source)
    assert whole.slice(150, 100).equals(part)
    assert not whole.equals(model.sample(300, seed=3, source=source))
    assert whole.schema.equals(model.schema)


def test_sources_sample_one_distribution(model: Model) -> None:
    means = [
        np.stack(model.sample(20_000, source=source)["pixels"].to_numpy()).mean(0)
        for source in ("normal", "uniform", "sobol")
    ]
    assert np.abs(means[1] - means[0]).max() < 5 * 0.5 * 255 * np.sqrt(2 / 20_000)
    assert np.abs(means[2] - means[0]).max() < 5 * 0.5 * 255 * np.sqrt(2 / 20_000)


def test_sobol_ends_at_two_to_the_thirty(model: Model) -> None:
    model.sample(2, offset=2**30 - 2, source="sobol")
    with pytest.raises(UsageError, match="source: got sobol; the sequence has rows 0 to 1,073,74"):
        model.sample(2, offset=2**30 - 1, source="sobol")
    with pytest.raises(UsageError, match="source: got cauchy; it is one of normal, uniform"):
        model.sample(2, source="cauchy")
    assert isinstance(model.sample(1), pa.Table)
