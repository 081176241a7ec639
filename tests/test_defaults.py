"""Defaults of training that follow the data: tables of scalar columns, vectors, what is given."""

from __future__ import annotations

from typing import Any

import pyarrow as pa
import pytest

from distvae.data.roles import infer_features
from distvae.defaults import TABLE_STEPS, TrainSettings, settings_of
from distvae.train_options import TrainConfig

TABLE = pa.schema([("a", pa.int64()), ("b", pa.string()), ("c", pa.float64())])
VECTORS = pa.schema([("a", pa.int64()), ("v", pa.list_(pa.float32(), 8))])
HEADS = {"a": "histogram", "b": "categorical", "c": "histogram", "v": "gaussian"}


def _settings(schema: pa.Schema, rows: int = 30_000, **options: Any) -> TrainSettings:
    config = TrainConfig(data=("d",), model="m", **options)
    return settings_of(config, infer_features(schema), HEADS, rows)


def test_a_table_has_its_own_defaults_and_vectors_keep_theirs() -> None:
    table, vectors = _settings(TABLE), _settings(VECTORS)
    assert (table.prior, vectors.prior) == ("mixture", "normal")
    assert table.kl_weight < 1.0 == vectors.kl_weight
    assert (vectors.epochs, vectors.hidden_dims) == (20, (512, 512))
    assert vectors.decoder_dims is None


def test_epochs_of_a_table_make_as_many_steps_whatever_its_rows() -> None:
    for rows in (30_000, 100_000):
        settings = _settings(TABLE, rows)
        steps = settings.epochs * rows / settings.batch_size
        assert steps == pytest.approx(TABLE_STEPS, rel=0.1)
    assert _settings(TABLE, 10).epochs < 1000
    assert _settings(TABLE, 10**9).epochs >= 1


def test_the_kl_weight_of_a_table_rises_over_the_first_fifth() -> None:
    settings = _settings(TABLE)
    assert settings.kl_warmup == pytest.approx(0.2 * settings.epochs)
    short = _settings(TABLE, max_steps=100)
    assert short.kl_warmup * 30_000 / short.batch_size == pytest.approx(20)
    assert _settings(TABLE, kl_warmup=0).kl_warmup == 0 == _settings(VECTORS).kl_warmup


def test_columns_of_a_table_have_weights_where_the_objective_can() -> None:
    assert _settings(TABLE).column_weights == "entropy"
    assert _settings(VECTORS).column_weights == "equal"
    assert _settings(TABLE, objective="iwae", importance_samples=4).column_weights == "equal"
    assert _settings(TABLE, column_weights="equal").column_weights == "equal"


def test_the_prior_of_a_table_is_narrower_than_its_posteriors() -> None:
    assert (_settings(TABLE).prior_components, _settings(TABLE).prior_spread) == (128, 0.7)
    assert _settings(VECTORS).prior_spread == 1.0
    assert _settings(VECTORS, prior="mixture").prior_spread == 1.0
    assert _settings(TABLE, prior_spread=0).prior_spread == 0


def test_what_is_given_stays() -> None:
    given = {"epochs": 3, "kl_weight": 1.0, "prior": "normal", "hidden_dims": (7,)}
    settings = _settings(TABLE, **given)
    assert {name: getattr(settings, name) for name in given} == given
    assert settings.decoder_dims is None  # the encoder's, reversed


def test_gaussian_heads_make_no_table() -> None:
    config = TrainConfig(data=("d",), model="m")
    heads = dict.fromkeys("abc", "gaussian")
    assert settings_of(config, infer_features(TABLE), heads, 100).prior == "normal"


def test_an_autoencoder_draws_from_a_mixture() -> None:
    settings = _settings(VECTORS, kind="autoencoder")
    assert (settings.prior, settings.prior_components) == ("mixture", 16)
