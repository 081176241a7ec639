"""Filling the holes of a table with decoded values, and nothing else."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from distvae.data.arrow_values import read_values
from distvae.data.codec_columns import Codec
from distvae.data.codec_numbers import as_dictionary
from distvae.data.flatten import flatten_table, nest_table
from distvae.data.roles import Feature
from distvae.errors import DataError

__all__ = ["fills"]


def fills(codec: Codec, table: pa.Table, decoded: pa.Table) -> pa.Table:
    """``table`` with its missing values (null, NaN, elements and lists) taken from ``decoded``.

    Columns that are no feature, and structs that are null themselves, stay as they are; so do
    the table's types.

    Args:
        codec: of the features.
        table: rows with holes.
        decoded: the same rows by `distvae.data.codec.decode` with ``missing=False``.

    Raises:
        DataError: a decoded value that the table's own type cannot hold.
    """
    if decoded.num_rows != table.num_rows:
        raise ValueError(f"{table.num_rows} rows, {decoded.num_rows} decoded ones")
    flat, values = flatten_table(table), flatten_table(decoded)
    for feature in codec.features:
        index = flat.schema.get_field_index(feature.name)
        if index < 0 or feature.is_presence:
            continue
        held, new = flat.column(index), values.column(feature.name)
        if feature.is_scalar:
            filled = _filled(feature, held, new)
        else:
            filled = _filled_lists(feature, held, new)
        flat = flat.set_column(index, flat.schema.field(index), filled)
    return nest_table(flat, table.schema)


def _filled(feature: Feature, held: pa.ChunkedArray, new: pa.ChunkedArray) -> pa.ChunkedArray:
    kind = held.type
    own = _decoded(held)
    missing = pc.is_null(own, nan_is_null=pa.types.is_floating(own.type))
    if not pc.any(missing).as_py():
        return held
    try:
        filled = pc.if_else(missing, _decoded(new).cast(own.type), own)
    except pa.ArrowInvalid as error:
        raise DataError(
            feature.label, f"has type {kind}", f"cannot be filled ({error})", "cast it"
        ) from error
    if pa.types.is_dictionary(kind):
        return as_dictionary(filled, kind)
    return pa.chunked_array([filled.cast(kind)])


def _decoded(held: pa.ChunkedArray) -> pa.Array:
    if pa.types.is_dictionary(held.type):
        held = held.cast(held.type.value_type)
    if held.type.equals(pa.string_view()):
        held = held.cast(pa.large_string())  # Arrow has no if_else of views
    return pa.concat_arrays(held.chunks) if held.num_chunks else pa.array([], held.type)


def _filled_lists(feature: Feature, held: pa.ChunkedArray, new: pa.ChunkedArray) -> pa.ChunkedArray:
    """Lists with holes as (n, width) numbers; those of wrong length stay as they are."""
    before = read_values(pa.table({feature.name: held}), _flat(feature))
    after = read_values(pa.table({feature.name: new}), _flat(feature))
    x = before.values
    missing = np.zeros(x.shape, np.bool_) if before.valid is None else ~before.valid
    if x.dtype.kind == "f":
        missing |= np.isnan(x)
    if not missing.any():
        return held
    filled = np.where(missing, after.values, x)
    kind = held.type
    flat = pa.array(filled.reshape(-1), kind.value_type)
    if pa.types.is_fixed_size_list(kind):
        return pa.chunked_array([pa.FixedSizeListArray.from_arrays(flat, type=kind)])
    offsets = np.arange(len(x) + 1) * feature.width
    large = pa.types.is_large_list(kind)
    maker = pa.LargeListArray if large else pa.ListArray
    places = pa.array(offsets, pa.int64() if large else pa.int32())
    whole = maker.from_arrays(places, flat, type=kind)
    if before.lengths is None:
        return pa.chunked_array([whole])
    right = pa.array(before.lengths == feature.width)
    return pa.chunked_array([pc.if_else(right, whole, _decoded(held))])


def _flat(feature: Feature) -> Feature:
    return replace(feature, path=())
