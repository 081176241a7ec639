"""evaluate: sums over fragments are the same whoever adds them up."""

from __future__ import annotations

from pathlib import Path

import pytest

from distvae.errors import DataError
from tests.cluster.conftest import ROWS
from tests.cluster.helpers import run

pytestmark = pytest.mark.ray


def test_figures_do_not_depend_on_the_workers(
    data: Path, model: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest
) -> None:
    options = {"data": str(data), "model": model, "importance_samples": 5, "fragment_rows": 1500}
    spread = run("evaluate", workers=2, **options)
    request.getfixturevalue("in_process")
    here = run("evaluate", **options)
    assert spread["rows"] == ROWS and spread["rows_rejected"] == 0
    assert spread | {"seconds": 0} == here | {"seconds": 0}
    # ln p(x) >= ELBO; 5 standard errors for the noise of both.
    assert here["log_likelihood"] + 5 * here["log_likelihood_se"] > here["elbo"]


def test_where_that_leaves_nothing_is_an_error(in_process: None, data: Path, model: Path) -> None:
    with pytest.raises(DataError, match="holds no row that can be evaluated"):
        run("evaluate", data=str(data), model=model, where="id < 0")


def test_where_may_leave_some_fragments_empty(in_process: None, data: Path, model: Path) -> None:
    options = {"data": str(data), "model": model, "importance_samples": 2}
    figures = run("evaluate", where="id == 1000", fragment_rows=1500, **options)
    assert figures["rows"] == 1
