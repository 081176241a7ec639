"""Table to arrays: the hot path of every job, without copies of vectors on the common case.

What training did not see goes by `distvae.data.policies.Policies`. Whatever they are, a standard
column's value is encoded as it is as long as its standardised square fits into float32 (or, for a
Bernoulli head, as it lies in [0, 1]), and a row beyond that is rejected, with its reason. Rows are
never dropped here: the caller takes ``rejected`` rows out.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
import pyarrow as pa

from distvae.data.arrow_values import Bools, Numbers, column_of, read_values
from distvae.data.codec_columns import Codec, Column
from distvae.data.codec_companions import encode_states
from distvae.data.codec_scalars import Scalar, encode_scalar, wrong_type
from distvae.data.codec_standard import LARGEST_STANDARDISED, encode_vector
from distvae.data.policies import Policies, Verdicts
from distvae.data.roles import Feature, presence_of

__all__ = ["LARGEST_STANDARDISED", "Encoded", "encode"]


@dataclass(frozen=True)
class Encoded:
    """The blocks of n rows, as `distvae.data.codec_columns.block_layout` describes them.

    Attributes:
        blocks: per block (n, width): float32 elements, or the table's own numbers where the
            layout says ``raw``. May be a read-only view of Arrow's memory.
        masks: per block None when everything is observed, else (n, width) bool, True where
            observed. An unobserved value is 0 once standardised: 0 in a float32 block, the
            shift in a raw float32 block; raw uint8 and float16 rely on the mask.
        rejected: (n,) bool, rows that cannot be used; their values are 0.
        reasons: one line per rejected row, in row order.
        counts: values met per kind of `distvae.data.policies.COUNTED`, whatever the policy.
    """

    blocks: tuple[Numbers, ...]
    masks: tuple[Bools | None, ...]
    rejected: Bools
    reasons: list[str]
    counts: dict[str, int] = field(default_factory=dict)


def encode(codec: Codec, table: pa.Table, policies: Policies | None = None) -> Encoded:
    """The rows of ``table`` (flat or with its structs) as arrays; see `Encoded`.

    Raises:
        DataError: a column that is absent, or what a policy calls an error.
    """
    codes = np.full(table.num_rows, -1, np.int32)
    verdicts = Verdicts(codes, policies or Policies())
    blocks: list[Numbers] = []
    masks: list[Bools | None] = []
    for columns in codec.blocks():
        if columns[0].feature.is_scalar:
            block, mask = _scalars(codec, columns, table, verdicts)
        else:
            block, mask = _vector(columns[0], table, verdicts)
        blocks.append(block)
        masks.append(mask)
    nothing = _nothing_observed(masks)
    if nothing is not None and nothing.any():
        verdicts.reject(nothing, "no value observed")
    rejected = verdicts.codes >= 0
    if rejected.any():
        blocks = [_zeroed(block, rejected) for block in blocks]
    return Encoded(tuple(blocks), tuple(masks), rejected, verdicts.reasons(), verdicts.counts)


def _scalars(
    codec: Codec, columns: Sequence[Column], table: pa.Table, verdicts: Verdicts
) -> tuple[npt.NDArray[np.float32], Bools | None]:
    """All scalar columns and companions as one (n, c) block."""
    rows = len(verdicts.codes)
    block = np.empty((rows, len(columns)), np.float32)
    mask: Bools | None = None
    read: dict[str, Scalar] = {}
    for index, column in enumerate(columns):
        if column.companion_of is not None:
            owner = read.get(column.companion_of)
            nulls = owner.nulls if owner else _null_lists(codec, column.companion_of, table)
            nans = owner.nans if owner else None
            block[:, index] = encode_states(column.states, nulls, nans, rows)
            observed = _struct_is_there(codec, column.companion_of, table)
            if observed is not None:
                block[~observed, index] = 0
        else:
            found = encode_scalar(column, column_of(table, column.feature), verdicts)
            read[column.feature.name] = found
            block[:, index] = found.y
            observed = found.observed
        if observed is not None:
            if mask is None:
                mask = np.ones(block.shape, np.bool_)
            mask[:, index] = observed
    return block, mask


def _struct_is_there(codec: Codec, name: str, table: pa.Table) -> Bools | None:
    """(n,) whether the struct around a column is present: else its absence says all; None: is."""
    feature = _feature(codec, name)
    presence = presence_of(feature, codec.features) if feature.path else None
    if presence is None:
        return None
    there = np.asarray(column_of(table, presence).to_numpy(), np.bool_)
    return None if there.all() else there


def _feature(codec: Codec, name: str) -> Feature:
    return next(f for f in codec.features if f.name == name)


def _null_lists(codec: Codec, name: str, table: pa.Table) -> Bools | None:
    feature = _feature(codec, name)
    held = column_of(table, feature)
    return np.asarray(held.is_null().to_numpy()) if held.null_count else None


def _vector(column: Column, table: pa.Table, verdicts: Verdicts) -> tuple[Numbers, Bools | None]:
    """One vector, or nothing observed where its type is wrong and the policy allows that."""
    feature = column.feature
    kind = column_of(table, feature).type
    lists = pa.types.is_list(kind) or pa.types.is_large_list(kind)
    fixed = pa.types.is_fixed_size_list(kind) and kind.list_size == feature.width
    if (lists or fixed) and kind.value_type == feature.type.value_type:
        return encode_vector(column, read_values(table, feature), verdicts)
    wrong_type(feature, kind, verdicts)
    shape = (len(verdicts.codes), feature.width)
    block = np.zeros(shape, feature.element if column.raw else np.float32)
    return block, np.zeros(shape, np.bool_)


def _nothing_observed(masks: Sequence[Bools | None]) -> Bools | None:
    """(n,) rows without any observed value; None when some block has all of its values."""
    nothing: Bools | None = None
    for mask in masks:
        if mask is None:
            return None
        empty = np.asarray(~mask.any(axis=1))
        nothing = empty if nothing is None else np.asarray(nothing & empty)
    return nothing


def _zeroed(block: Numbers, rows: Bools) -> Numbers:
    """A copy of ``block`` with 0 in ``rows``."""
    copy = block.copy()
    copy[rows] = 0
    return copy
