"""Column shapes and column pairs: how alike two tables' distributions are, by SDMetrics.

A shape is 1 - sup |F_real - F_synthetic| (Kolmogorov and Smirnov) for numbers and
1 - sum |p_real - p_synthetic| / 2 (total variation) for words, over values that are there. A pair
is the total variation complement of the two columns' joint frequencies, numbers cut into ten
bins, and 1 - |r_real - r_synthetic| / 2 (Pearson) of two numbers. ``quality`` is the mean of both
means, SDMetrics' own.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from distvae.fidelity.frames import Kind, is_number

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MOST_PAIRED", "MOST_VALUES", "Quality", "quality"]

MOST_PAIRED = 64
"""Columns whose pairs are compared; there are 2,016 pairs of 64."""
MOST_VALUES = 2_000
"""Distinct words of a column whose pairs are compared: SDMetrics' cost grows with their square."""


@dataclass(frozen=True)
class Quality:
    """The figures; None where there is nothing to compare.

    Attributes:
        score: mean of ``shapes`` and ``pairs``.
        shapes: mean of ``by_column``.
        pairs: mean over pairs.
        by_column: column → its shape's score.
        paired: the columns whose pairs were compared.
        matrix: (c, c) scores of their pairs, 1 on the diagonal, None where there is none.
    """

    score: float | None
    shapes: float | None
    pairs: float | None
    by_column: dict[str, float | None]
    paired: tuple[str, ...]
    matrix: list[list[float | None]]


def quality(real: pd.DataFrame, synthetic: pd.DataFrame, kinds: Mapping[str, Kind]) -> Quality:
    """Compare the columns of ``kinds`` of two frames that `to_frame` made.

    Where there are more than `MOST_PAIRED` columns, pairs are compared among the first of them.
    """
    import pandas as pd

    coded = {
        name: (real[name], synthetic[name]) if is_number(kind) else _codes(real, synthetic, name)
        for name, kind in kinds.items()
    }
    small = [
        name
        for name, (one, two) in coded.items()
        if is_number(kinds[name]) or pd.concat([one, two]).nunique() <= MOST_VALUES
    ]
    paired = tuple(small[:MOST_PAIRED])
    by_column, matrix = _report(coded, kinds, paired)
    for name in kinds:
        if name not in by_column:
            by_column[name] = _alone(*coded[name], kinds[name])
    by_column = {name: by_column[name] for name in kinds}
    shapes = _mean(list(by_column.values()))
    above = [matrix[i][j] for i in range(len(paired)) for j in range(i)]
    pairs = _mean(above)
    return Quality(_mean([shapes, pairs]), shapes, pairs, by_column, paired, matrix)


def _codes(
    real: pd.DataFrame, synthetic: pd.DataFrame, name: str
) -> tuple[pd.Series[float], pd.Series[float]]:
    """Words as numbers that name them: the same frequencies, counted many times faster."""
    import pandas as pd

    codes, _ = pd.factorize(pd.concat([real[name], synthetic[name]], ignore_index=True))
    numbers = np.where(codes < 0, np.nan, codes.astype(np.float64))
    one, two = numbers[: len(real)], numbers[len(real) :]
    return pd.Series(one, real.index), pd.Series(two, synthetic.index)


def _report(
    coded: Mapping[str, tuple[Any, Any]], kinds: Mapping[str, Kind], paired: Sequence[str]
) -> tuple[dict[str, float | None], list[list[float | None]]]:
    """SDMetrics' report: score by column, and the matrix of pairs."""
    import pandas as pd
    from sdmetrics.reports.single_table import QualityReport

    if not paired:
        return {}, []
    one, two = (pd.DataFrame({name: coded[name][side] for name in paired}) for side in (0, 1))
    metadata = {
        "columns": {
            name: {"sdtype": "numerical" if is_number(kinds[name]) else "categorical"}
            for name in paired
        }
    }
    report = QualityReport()
    # Beyond its own limit it would draw rows without a seed.
    report.num_rows_subsample = None
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # constant columns: their pairs have no correlation
        report.generate(one, two, metadata, verbose=False)
        shapes = report.get_details("Column Shapes")
        pairs = report.get_details("Column Pair Trends")
    by_column = {
        str(name): _plain(score)
        for name, score in zip(shapes["Column"], shapes["Score"], strict=True)
    }
    place = {name: i for i, name in enumerate(paired)}
    matrix: list[list[float | None]] = [
        [1.0 if i == j else None for j in range(len(paired))] for i in range(len(paired))
    ]
    for first, second, score in zip(
        pairs["Column 1"], pairs["Column 2"], pairs["Score"], strict=True
    ):
        i, j = place[first], place[second]
        matrix[i][j] = matrix[j][i] = _plain(score)
    return by_column, matrix


def _alone(one: pd.Series[float], two: pd.Series[float], kind: Kind) -> float | None:
    """A column's shape without its pairs."""
    from sdmetrics.single_column import KSComplement

    if not one.notna().any() or not two.notna().any():
        return None
    if is_number(kind):
        return _plain(KSComplement.compute(one, two))
    shares = [side.value_counts(normalize=True) for side in (one, two)]
    gap = shares[0].sub(shares[1], fill_value=0.0).abs().sum()
    return _plain(1.0 - 0.5 * gap)


def _plain(value: Any) -> float | None:
    return float(value) if math.isfinite(float(value)) else None


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if known else None
