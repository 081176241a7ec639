from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from scipy.stats import chi2, norm
from torch import Tensor

from distvae.errors import DataError, UsageError
from distvae.model import noise
from distvae.model.categorical import LARGEST_LOGIT, Softmax
from distvae.model.cells import cells_of
from distvae.model.heads import elements_of
from distvae.model.likelihoods import make_head
from distvae.model.observation import Observation
from tests.model.cell_cases import category, cell_table, dense_log_prob, draw_y, histogram
from tests.model.helpers import block, spec

COLUMNS = (
    category("a", 0, 7),
    histogram("b", 1, np.array([-3.0, -1.0, 0.0, 0.5, 4.0, 4.5, 9.0])),
    category("c", 2, 2),
    category("d", 3, 4, pooled=6),
    category("e", 4, 7),
)


def head() -> Softmax:
    made = make_head("categorical", elements_of(COLUMNS))
    assert isinstance(made, Softmax)
    return made


def logits_by_column(params: Tensor) -> list[Tensor]:
    """The head sorts columns by their number of classes, and by whether a class has a rest."""
    widths = {"c": 2, "d": 4, "b": 6, "a": 7, "e": 7}
    parts = dict(zip(widths, params.split(list(widths.values()), -1), strict=True))
    return [parts[name] for name in "abcde"]


def test_log_prob_is_that_of_a_dense_softmax_column_by_column() -> None:
    y = np.stack([draw_y_of(i) for i in range(5)], 1)
    params = torch.from_numpy(np.random.default_rng(1).normal(size=(2, 40, 26)) * 3)
    found = head().double().log_prob(torch.from_numpy(y), params).numpy()
    for sample in range(2):
        for column, logits in enumerate(logits_by_column(params[sample])):
            told = COLUMNS[column]["cells"]
            expected = dense_log_prob(logits.numpy(), told, y[:, column])
            np.testing.assert_allclose(found[sample, :, column], expected, atol=1e-6)


def draw_y_of(column: int) -> np.ndarray:
    random = np.random.default_rng(column)
    return random.integers(0, len(COLUMNS[column]["cells"]["cell_class"]), 40) + 0.5


def test_log_prob_agrees_with_torch_and_its_gradient_with_differences() -> None:
    one = make_head("histogram", elements_of((category("a", 0, 5),))).double()
    logits = torch.randn(6, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    y = torch.tensor([[0.5], [1.5], [2.5], [3.5], [4.5], [0.5]], dtype=torch.float64)
    expected = torch.distributions.Categorical(logits=logits).log_prob(y[:, 0].long())
    torch.testing.assert_close(one.log_prob(y, logits)[:, 0], expected, rtol=1e-7, atol=1e-7)
    whole = head().double()
    params = torch.randn(2, 3, 26, dtype=torch.float64, requires_grad=True)
    rows = torch.from_numpy(np.stack([draw_y_of(i)[:3] for i in range(5)], 1))
    assert torch.autograd.gradcheck(lambda p: whole.log_prob(rows, p), (params,))


def test_the_density_of_a_histogram_integrates_to_one() -> None:
    edges = np.array([-3.0, -1.0, 0.0, 0.5, 4.0])
    column = histogram("x", 0, edges)
    one = make_head("histogram", elements_of((column,))).double()
    logits = torch.tensor([[0.3, -1.0, 2.0, 0.1]], dtype=torch.float64)
    low, high = (np.array(column["cells"][key]) for key in ("low", "high"))
    fractions = (np.arange(50) + 0.5) / 50
    total = 0.0
    for cell, (a, b) in enumerate(zip(low, high, strict=True)):
        y = torch.from_numpy(cell + fractions)[:, None]
        p = one.log_prob(y, logits.expand(50, -1)).exp().mean()
        total += float(p) * ((b - a) if b > a else 1.0)
    assert total == pytest.approx(1, abs=1e-6)


@pytest.mark.parametrize("size", [1e-8, 59.0, 1e4])
def test_extreme_logits_give_finite_numbers_and_gradients_that_lead_back(size: float) -> None:
    params = torch.zeros(1, 26)
    params[:, ::2], params[:, 1::2] = size, -size
    params.requires_grad_()
    y = torch.tensor([[1.5, 2.5, 1.5, 3.5, 2.5]])
    value = head().log_prob(y, params)
    (gradient,) = torch.autograd.grad(value.sum(), params)
    assert torch.isfinite(value).all()
    assert torch.isfinite(gradient).all()
    assert value.min() > -2 * LARGEST_LOGIT - 10
    # "c": the second of two classes came, with the first one likelier.
    assert gradient[0, 0] < 0 < gradient[0, 1]


def test_draws_have_the_frequencies_of_the_classes_cells_and_fractions() -> None:
    whole, n = head(), 40_000
    params = torch.from_numpy(np.random.default_rng(5).normal(size=26).astype(np.float32))
    eps = torch.from_numpy(noise.normal(3, "test", 0, n, 5))
    drawn = whole.sample(params.expand(n, -1), eps).double().numpy()
    for column, logits in enumerate(logits_by_column(params)):
        told = COLUMNS[column]["cells"]
        p = torch.softmax(logits.double(), -1).numpy()[told["cell_class"]] * told["share"]
        cell = np.floor(drawn[:, column]).astype(int)
        counts = np.bincount(cell, minlength=len(p))
        assert counts[p == 0].sum() == 0
        statistic = (np.square(counts - n * p)[p > 0] / (n * p[p > 0])).sum()
        assert chi2.sf(statistic, (p > 0).sum() - 1) > 1e-3, COLUMNS[column]["name"]
        fraction = drawn[:, column] - cell
        if told["low"] is None:
            assert (fraction == 0.5).all()
        else:
            wide = np.array(told["high"])[cell] > np.array(told["low"])[cell]
            assert abs(fraction[wide].mean() - 0.5) < 5 / math.sqrt(12 * wide.sum())
            assert fraction.max() < 1


def test_a_draw_is_the_inverse_distribution_function_of_the_number() -> None:
    column = category("a", 0, 4)
    one = make_head("categorical", elements_of((column,)))
    p = np.array([0.1, 0.0, 0.6, 0.3])
    logits = torch.from_numpy(np.log(np.maximum(p, 1e-30))).float()
    u = np.array([1e-9, 0.0999, 0.1001, 0.6999, 0.7001, 1 - 1e-8])
    eps = torch.from_numpy(norm.ppf(u)).float()[:, None]
    assert one.sample(logits.expand(6, -1), eps)[:, 0].tolist() == [0.5, 0.5, 2.5, 2.5, 3.5, 3.5]
    far = torch.tensor([[-40.0], [40.0], [0.0]])
    assert one.sample(logits.expand(3, -1), far)[:, 0].tolist() == [0.5, 3.5, 2.5]


def test_the_mean_is_the_median_of_numbers_and_the_mode_of_categories() -> None:
    column = histogram("x", 0, np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    one = make_head("histogram", elements_of((column,)))
    logits = torch.tensor([[0.4, 0.01, 0.4, 0.19]]).log()
    # Before the third class 0.41: 0.09 of its 0.4 are left, in its first cell, of share 0.3.
    assert one.mean(logits).item() == pytest.approx(3 + 0.09 / 0.4 / 0.3, abs=1e-5)
    pair = make_head("categorical", elements_of((category("a", 0, 3), category("b", 1, 3, 2))))
    found = pair.mean(torch.tensor([[0.3, 0.3, 0.4, 0.2, 0.1, 0.7]]).log())
    # Columns whose classes have several members stand first among those of as many classes.
    assert found.tolist() == [[2.5, 2.5]]
    assert pair.mean(torch.tensor([[0.7, 0.2, 0.1, 0.2, 0.7, 0.1]]).log()).tolist() == [[1.5, 0.5]]


def test_the_raw_error_is_the_expected_value_minus_x() -> None:
    column = histogram("x", 0, np.array([0.0, 1.0, 2.0, 3.0, 4.0]))
    one = make_head("histogram", elements_of((column,)))
    p = torch.tensor([[0.4, 0.01, 0.4, 0.19]])
    y = torch.tensor([[1.25]])
    mean = 0.4 * (0.3 * 0.5 + 0.7 * 1.5) + 0.01 * 2 + 0.4 * (0.3 * 2.5 + 0.7 * 3.5) + 0.19 * 4
    assert one.raw_error(p.log(), y).item() == pytest.approx(mean - 1.25, abs=1e-6)
    eps = torch.from_numpy(noise.normal(3, "test", 0, 40_000, 1))
    drawn = one.sample(p.log().expand(40_000, -1), eps)
    low, high = (torch.tensor(column["cells"][key]) for key in ("low", "high"))
    cell = drawn.long()
    raw = low[cell] + (drawn - cell) * (high - low)[cell]
    assert float(raw.mean()) == pytest.approx(mean, abs=5 * 1.3 / 200)


def test_no_row_feels_another_and_batches_give_the_same_bits() -> None:
    observation = Observation(cell_table())
    params = torch.randn(64, observation.outputs, generator=torch.Generator().manual_seed(0))
    y, eps = torch.from_numpy(draw_y(cell_table(), 64)), torch.randn(64, 6)
    values = observation.log_prob(y, params), observation.sample(params, eps)
    for rows in (slice(5, 6), slice(3, 40)):
        assert torch.equal(observation.log_prob(y[rows], params[rows]), values[0][rows])
        assert torch.equal(observation.sample(params[rows], eps[rows]), values[1][rows])


def test_missing_cells_count_nothing_and_only_measured_elements_have_an_error() -> None:
    observation = Observation(cell_table())
    y = torch.from_numpy(draw_y(cell_table(), 8))
    params = torch.randn(8, observation.outputs, generator=torch.Generator().manual_seed(0))
    observed = torch.ones(8, 6, dtype=torch.bool)
    observed[:, 2] = False
    found = observation.log_prob(y, params, observed)
    assert (found[:, 2] == 0).all()
    assert torch.equal(found[:, [0, 1, 3]], observation.log_prob(y, params)[:, [0, 1, 3]])
    assert observation.measured.tolist() == [True, False, False, True, False, False]
    error = observation.raw_error(params, y)
    assert (error[:, ~observation.measured] == 0).all()
    assert (error[:, observation.measured] != 0).all()


def test_known_masses_are_where_the_decoder_starts() -> None:
    column = category("a", 0, 3)
    column["cells"]["mass"] = [6.0, 3.0, 1.0]
    one = make_head("categorical", elements_of((column,)))
    start = one.output_bias(torch.zeros(1))
    torch.testing.assert_close(start.exp(), torch.tensor([0.6, 0.3, 0.1]))
    assert one.output_gain().tolist() == [1.0] * 3


def test_heads_and_codings_that_do_not_fit_are_refused() -> None:
    number = elements_of((spec("a", 0, 1),))
    with pytest.raises(UsageError, match="likelihood: 'categorical' for a; takes columns coded"):
        make_head("categorical", number)
    with pytest.raises(UsageError, match="likelihood: 'gaussian' for b; takes columns coded as"):
        make_head("gaussian", elements_of((category("b", 0, 2),)))
    with pytest.raises(UsageError, match=r"likelihood: ':3'; this head takes no argument"):
        make_head("categorical:3", elements_of((category("b", 0, 2),)))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        (None, "feature 'a': has no cells; its coding is cells"),
        ({"share": [1.0]}, "feature 'a': has cells of different lengths"),
        ({"cell_class": [0, 0, 2, 2]}, "feature 'a': has a class without a cell"),
        ({"share": [1.0, -1.0, 1.0, 0.0]}, "feature 'a': has cells with shares that are none"),
        ({"mass": [1.0]}, "feature 'a': has 1 masses; there are 3 classes"),
    ],
)
def test_cells_that_do_not_fit_together_are_refused(
    changes: dict[str, list[float]] | None, message: str
) -> None:
    column = category("a", 0, 3)
    column["cells"] = None if changes is None else column["cells"] | changes
    with pytest.raises(DataError, match=message):
        cells_of(column)


def test_a_cell_that_nothing_says_can_be_drawn_is_drawn_all_the_same() -> None:
    column = category("a", 0, 2)
    column["cells"]["share"] = [0.0, 0.0, 0.0]
    assert cells_of(column).share.tolist() == [1.0, 0.5, 0.5]
    assert block(1)["width"] == 1
