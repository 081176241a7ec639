"""Train on one table, test on another: what a learner can get out of synthetic rows.

Two classes: the mean F1 of four learners (boosted stumps, a tree, a logistic regression, a small
network) and the ROC AUC of gradient boosting, for the positive class. More classes: both as the
mean over classes. A number: R² of gradient boosting.
"""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from distvae.errors import DataError, UsageError
from distvae.fidelity.frames import Kind, is_number, names_of

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["MOST_CLASSES", "Task", "learn", "preparation", "task_of"]

MOST_CLASSES = 20
"""Classes of a target; the rarer ones beyond count as one."""
_RARE = "∅ other"
_NOTHING = "∅"
_LEAST_COUNT = 10  # rarer words share one indicator
_MOST_ENCODED = 1 << 27  # numbers of the table of indicators: 1 GiB

Labels = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Task:
    """What is learned from what.

    Attributes:
        target: the column to tell.
        classes: its classes in order, the positive one last where there are two; empty for R².
        numbers: the other columns that are numbers.
        words: the other columns that are words.
        rest: the class that stands for every value that is not listed, None where all are.
    """

    target: str
    classes: tuple[Any, ...]
    numbers: tuple[str, ...]
    words: tuple[str, ...]
    rest: int | None = None

    def labels(self, frame: pd.DataFrame) -> Labels:
        """(n,) number of each row's class, -1 for a missing or an unknown one."""
        codes = np.full(len(frame), -1, dtype=np.int64)
        column = frame[self.target]
        if self.rest is not None:
            codes[column.notna().to_numpy()] = self.rest
        for code, value in enumerate(self.classes):
            if code != self.rest:
                codes[(column == value).to_numpy(dtype=bool)] = code
        return codes


def task_of(
    holdout: pd.DataFrame, kinds: Mapping[str, Kind], target: str, positive: str | None
) -> Task:
    """The task of telling ``target``, as the held-out rows show it.

    A column of words is told by class, and so are two distinct numbers, or any numbers when
    ``positive`` names one of them; other numbers by their value. Of two classes the positive one
    is the rarer.

    Raises:
        UsageError: no such column or value.
        DataError: a target that does not vary, or nothing to tell it from.
    """
    if target not in kinds:
        listed = ", ".join(list(kinds)[:10])
        raise UsageError("target", f"no column {target!r}", "must be compared", f"one of {listed}")
    others = {name: kind for name, kind in kinds.items() if name != target}
    numbers, words = names_of(others, numbers=True), names_of(others, numbers=False)
    counts = holdout[target].dropna().value_counts()
    if len(counts) < 2 or not others:
        found = "takes one value" if others else "is the only column"
        raise DataError(f"target {target!r}", f"{found} in the held-out rows", "two are needed")
    values = sorted(counts.index)
    if positive is not None:
        chosen = _positive(target, values, positive, number=is_number(kinds[target]))
        return Task(target, (_RARE, chosen), tuple(numbers), tuple(words), rest=0)
    if is_number(kinds[target]) and len(values) > 2:
        return Task(target, (), tuple(numbers), tuple(words))
    if len(values) == 2:
        values.sort(key=lambda value: -counts[value])
        return Task(target, tuple(values), tuple(numbers), tuple(words))
    if len(values) > MOST_CLASSES:
        kept = sorted(values, key=lambda value: (-counts[value], value))[: MOST_CLASSES - 1]
        classes = (*sorted(kept), _RARE)
        return Task(target, classes, tuple(numbers), tuple(words), rest=len(classes) - 1)
    return Task(target, tuple(values), tuple(numbers), tuple(words))


def _positive(target: str, values: Sequence[Any], positive: str, *, number: bool) -> Any:
    by_text = {f"{value:g}" if number else str(value): value for value in values}
    text = positive
    if number:
        try:
            text = f"{float(positive):g}"
        except ValueError:
            text = positive
    if text not in by_text:
        listed = ", ".join(list(by_text)[:10])
        raise UsageError(
            "positive", f"{target!r} has no value {positive!r}", "must occur", f"one of {listed}"
        )
    return by_text[text]


def learn(
    train: pd.DataFrame, test: pd.DataFrame, task: Task, seed: int = 0
) -> dict[str, float | None]:
    """Scores on ``test`` of learners trained on ``train``; rows without the target are left out.

    Returns:
        ``f1`` and ``roc_auc``, or ``r2``; a training table with one class alone scores 0 and 0.5.
    """
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # learners that stop before they have converged
        if not task.classes:
            return {"r2": _r2(train, test, task, seed)}
        y, y_test = task.labels(train), task.labels(test)
        train, y = train[y >= 0], y[y >= 0]
        test, y_test = test[y_test >= 0], y_test[y_test >= 0]
        if len(np.unique(y)) < 2:
            return {"f1": 0.0, "roc_auc": 0.5}
        return {
            "f1": _f1(_inputs(train, task), y, _inputs(test, task), y_test, seed),
            "roc_auc": _auc(*_ordinal(train, test, task), y, y_test, seed),
        }


def _inputs(frame: pd.DataFrame, task: Task) -> pd.DataFrame:
    """What the target is told from; a missing word is a word of its own."""
    frame = frame[[*task.numbers, *task.words]].copy()
    for name in task.words:
        frame[name] = frame[name].fillna(_NOTHING)
    return frame


def preparation(frame: pd.DataFrame) -> Any:
    """A transformer to numbers, not fitted: numbers standardised, words as indicators."""
    from sklearn.compose import ColumnTransformer
    from sklearn.impute import SimpleImputer
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import OneHotEncoder, StandardScaler

    words = [name for name in frame if frame[name].dtype == object]
    numbers = [name for name in frame if name not in words]
    fill = SimpleImputer(strategy="median", keep_empty_features=True)
    one_hot = OneHotEncoder(
        handle_unknown="ignore", min_frequency=_LEAST_COUNT, max_categories=_limit(frame[words])
    )
    parts = [("n", make_pipeline(fill, StandardScaler()), numbers), ("c", one_hot, words)]
    return ColumnTransformer(parts, sparse_threshold=0)


def _limit(words: pd.DataFrame) -> int | None:
    """Indicators per column, None where the table of all of them fits into memory."""
    if words.empty:
        return None
    found = sum(int((words[name].value_counts() >= _LEAST_COUNT).sum()) for name in words)
    room = _MOST_ENCODED // len(words)
    return None if found <= room else max(room // words.shape[1], 2)


def _f1(x: pd.DataFrame, y: Labels, x_test: pd.DataFrame, y_test: Labels, seed: int) -> float:
    from sklearn.ensemble import AdaBoostClassifier
    from sklearn.linear_model import LogisticRegression
    from sklearn.metrics import f1_score
    from sklearn.neural_network import MLPClassifier
    from sklearn.tree import DecisionTreeClassifier

    prepared = preparation(x).fit(x)
    a, b = prepared.transform(x), prepared.transform(x_test)
    learners = (
        AdaBoostClassifier(n_estimators=50, random_state=seed),
        DecisionTreeClassifier(max_depth=20, random_state=seed),
        LogisticRegression(max_iter=300),
        MLPClassifier((50,), max_iter=30, random_state=seed),
    )
    average = "binary" if max(y.max(), y_test.max()) < 2 else "macro"
    scores = [
        f1_score(y_test, learner.fit(a, y).predict(b), average=average) for learner in learners
    ]
    return float(np.mean(scores))


def _ordinal(train: pd.DataFrame, test: pd.DataFrame, task: Task) -> tuple[Any, Any]:
    """Inputs of gradient boosting: words numbered by their order in the training rows."""
    from sklearn.preprocessing import OrdinalEncoder

    x, x_test = _inputs(train, task), _inputs(test, task)
    words = list(task.words)
    # Gradient boosting cannot bin a column without any value.
    numbers = [name for name in task.numbers if x[name].notna().any()]
    encoder = OrdinalEncoder(handle_unknown="use_encoded_value", unknown_value=-1)
    if words:
        encoder.fit(x[words])

    def encode(frame: pd.DataFrame) -> npt.NDArray[np.float64]:
        ordinal = encoder.transform(frame[words]) if words else np.empty((len(frame), 0))
        return np.hstack([frame[numbers].to_numpy(float), ordinal])

    return encode(x), encode(x_test)


def _auc(a: Any, b: Any, y: Labels, y_test: Labels, seed: int) -> float | None:
    from sklearn.ensemble import HistGradientBoostingClassifier
    from sklearn.metrics import roc_auc_score

    learner = HistGradientBoostingClassifier(random_state=seed).fit(a, y)
    share = learner.predict_proba(b)
    if max(y.max(), y_test.max()) < 2:
        return float(roc_auc_score(y_test, share[:, 1])) if len(np.unique(y_test)) > 1 else None
    place = {int(code): i for i, code in enumerate(learner.classes_)}
    scores = [
        roc_auc_score(y_test == code, share[:, place[code]] if code in place else np.zeros(len(b)))
        for code in np.unique(y_test).tolist()
        if 0 < int((y_test == code).sum()) < len(y_test)
    ]
    return float(np.mean(scores)) if scores else None


def _r2(train: pd.DataFrame, test: pd.DataFrame, task: Task, seed: int) -> float | None:
    from sklearn.ensemble import HistGradientBoostingRegressor
    from sklearn.metrics import r2_score

    train, test = train[train[task.target].notna()], test[test[task.target].notna()]
    if len(train) < 2 or len(test) < 2:
        return None
    a, b = _ordinal(train, test, task)
    learner = HistGradientBoostingRegressor(random_state=seed)
    predicted = learner.fit(a, train[task.target].to_numpy()).predict(b)
    score = float(r2_score(test[task.target].to_numpy(), predicted))
    return score if np.isfinite(score) else None
