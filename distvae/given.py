"""The columns that a conditional model is given: from the user, from a file, or from training rows.

A given row is (D,) numbers as the network takes them, NaN in every element that is not given or
whose value is missing.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from distvae.data.arrow_values import Bools
from distvae.data.codec import Policies, encode
from distvae.data.flatten import flatten_table
from distvae.data.roles import Feature
from distvae.errors import DataError, UsageError
from distvae.model import noise
from distvae.model.inference import as_tensor
from distvae.saved import Model

__all__ = ["Pool", "check_given", "given_features", "given_rows", "make_pool"]

Float32 = npt.NDArray[np.float32]
_STREAM = "generate-given"
_STRICT = Policies(unseen="error", out_of_range="error", infinite="error", wrong_type="error")


class Pool:
    """Conditions to draw from: training rows that agree with what the user has fixed.

    Args:
        rows: (r, D) given rows, at least one.
    """

    def __init__(self, rows: Float32) -> None:
        self.rows = rows

    def draw(self, seed: int, first_row: int, rows: int) -> Float32:
        """The conditions (rows, D) of synthetic rows; each follows from (seed, row) alone."""
        u = noise.uniform_rows(seed, _STREAM, first_row, rows, 1)[:, 0]
        place = np.minimum(
            (u.astype(np.float64) * len(self.rows)).astype(np.int64), len(self.rows) - 1
        )
        drawn: Float32 = self.rows[place]
        return drawn


def given_features(model: Model) -> tuple[Feature, ...]:
    """The columns that the model is given, none for an unconditional one."""
    names = model.files.architecture.conditions
    return tuple(feature for feature in model.codec.features if feature.name in names)


def check_given(model: Model, columns: list[str] | Mapping[str, str], option: str) -> None:
    """Refuse a column that the model is not given.

    Raises:
        UsageError: naming the column and those that there are.
    """
    known = [feature.name for feature in given_features(model)]
    for name in columns:
        if name not in known:
            rule = (
                f"the model is conditioned on {', '.join(known)}"
                if known
                else "the model is not conditioned on any column"
            )
            remedy = "train with --condition-on " + name
            raise UsageError(option, f"column {name!r}", rule, remedy)


def make_pool(model: Model, fixed: Mapping[str, str] | None = None) -> Pool | None:
    """What synthetic rows draw their conditions from; None for an unconditional model.

    Training rows with the fixed values if there are some; else all of them, the fixed columns
    replaced.

    Args:
        model: whose conditions.
        fixed: text by column name, as ``--given`` takes it; ``null`` stands for a missing value,
            nothing for the empty text.

    Raises:
        UsageError: a column that the model is not given, or a text that is no value of it.
    """
    check_given(model, fixed or {}, "given")
    features = given_features(model)
    if not features:
        return None
    table = pq.read_table(io.BytesIO(model.files.conditions))
    # Training's own rows: an infinite value there was taken as the largest.
    rows = given_rows(model, table, frozenset(), Policies(infinite="clip"))
    if not fixed:
        return Pool(rows)
    try:
        wanted = given_rows(model, _fixed_table(model, fixed), frozenset(fixed))[0]
    except DataError as error:
        what, value, rule, _ = error.args
        raise UsageError(f"given: {what}", value, rule, "give another value") from None
    elements = _elements(model, frozenset(fixed))
    same = (rows == wanted) | (np.isnan(rows) & np.isnan(wanted))
    agreeing = np.flatnonzero(same[:, elements].all(axis=1))
    if len(agreeing):
        return Pool(rows[agreeing])
    rows[:, elements] = wanted[elements]
    return Pool(rows)


def given_rows(
    model: Model,
    table: pa.Table,
    asked: frozenset[str] | None = None,
    policies: Policies = _STRICT,
) -> Float32:
    """The given rows (n, D) of a table with at least the columns that the model is given.

    Args:
        model: whose conditions.
        table: the rows.
        asked: columns that must have a value, or a null such as training had; None for all.
        policies: for values that training did not see.

    Raises:
        DataError: a column is absent or of another type, or a value that the model does not know.
    """
    flat = flatten_table(table)
    features = given_features(model)
    for feature in features:
        if feature.name not in flat.column_names:
            raise DataError(
                feature.label,
                "is not in the given rows",
                "the model is conditioned on it",
                "add it, or leave it to chance with --given alone",
            )
        missing = flat.column(feature.name).null_count
        asked_for = asked is None or feature.name in asked
        if missing and asked_for and feature.name not in model.codec.companions:
            raise DataError(
                feature.label,
                f"is null in {missing} given rows",
                "training had no null there",
                "give a value",
            )
    present = {f.name for f in features}
    columns = {
        f.name: flat.column(f.name) if f.name in present else pa.nulls(flat.num_rows, f.type)
        for f in model.codec.features
    }
    encoded = encode(model.codec, pa.table(columns), policies)
    network = model.network
    blocks = [as_tensor(block).to(model.device) for block in encoded.blocks]
    masks = [None if m is None else as_tensor(m).to(model.device) for m in encoded.masks]
    y, observed = network.prepare(blocks, masks)
    values: Float32 = y.float().cpu().numpy().copy()
    if observed is not None:
        values[~observed.cpu().numpy()] = np.nan
    values[:, ~_elements(model, frozenset(present))] = np.nan
    return values


def _elements(model: Model, names: frozenset[str]) -> Bools:
    """(D,) whether an element belongs to one of the named columns, or tells of their absence."""
    flags = np.zeros(model.codec.width, np.bool_)
    for column in model.codec.columns:
        if column.feature.name in names or column.companion_of in names:
            flags[column.start : column.stop] = True
    return flags


def _fixed_table(model: Model, fixed: Mapping[str, str]) -> pa.Table:
    """One row: the fixed values in their columns' types, null elsewhere."""
    columns: dict[str, Any] = {}
    cells = {column.feature.name: column.cells for column in model.codec.columns}
    for feature in given_features(model):
        text = fixed.get(feature.name)
        value = pa.nulls(1, feature.type)
        if text is not None and text != "null":
            value = _parsed(feature, text)
            space = cells[feature.name]
            known = None if space is None else space.values
            if known is not None and not _is_among(value, known):
                shown = ", ".join(v or "''" for v in known.cast(pa.string()).to_pylist()[:10])
                rule = f"training saw {len(known)} values, most often {shown}"
                raise UsageError(f"given.{feature.name}", f"got {text!r}", rule, "give one of them")
        columns[feature.name] = value
    return pa.table(columns)


def _is_among(value: pa.Array, known: pa.Array) -> bool:
    plain = value.cast(value.type.value_type) if pa.types.is_dictionary(value.type) else value
    return bool(pc.is_in(plain, value_set=known.cast(plain.type))[0].as_py())


def _parsed(feature: Feature, text: str) -> pa.Array:
    """A text as a value of the column.

    Raises:
        UsageError: it is none.
    """
    kind = feature.type.value_type if pa.types.is_dictionary(feature.type) else feature.type
    try:
        value = pc.cast(pa.array([text], pa.string()), kind)
        return value.dictionary_encode().cast(feature.type) if kind != feature.type else value
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError):
        raise UsageError(
            f"given.{feature.name}",
            f"got {text!r}",
            f"must be a value of type {kind}",
            "write it as in the table, or null for a missing one",
        ) from None
