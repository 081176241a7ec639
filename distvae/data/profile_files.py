"""Profiles as bytes: one Arrow IPC record batch of one row, a list per array."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
import pyarrow as pa

from distvae.data.profile_parts import ColumnProfile, Profile, Rows
from distvae.errors import DataError

__all__ = ["profile_from_bytes", "profile_to_bytes"]

_KEY = b"distvae.profile"
_NUMBERS = ("rows", "nulls", "nans", "text_bytes", "divisor")
_LISTS = ("values", "counts", "sample")
_SCALARS = ("minimum", "maximum")


def profile_to_bytes(profile: Profile) -> bytes:
    """The profile as an Arrow IPC stream (no pickle)."""
    held: dict[str, pa.Array] = {
        "places": _listed(pa.array(profile.places)),
        "numbers": _listed(pa.array(profile.numbers)),
    }
    told: list[dict[str, Any]] = []
    for index, (name, column) in enumerate(profile.columns.items()):
        told.append({"name": name} | {key: getattr(column, key) for key in _NUMBERS})
        for key in _LISTS:
            values = getattr(column, key)
            if values is not None:
                values = values if isinstance(values, pa.Array) else pa.array(values)
                held[f"{index}.{key}"] = _listed(values)
        for key in _SCALARS:
            if (value := getattr(column, key)) is not None:
                held[f"{index}.{key}"] = pa.repeat(value, 1)
    note = json.dumps({"rows": profile.rows, "count": profile.count, "columns": told})
    batch = pa.RecordBatch.from_arrays(list(held.values()), list(held))
    schema = batch.schema.with_metadata({_KEY: note.encode()})
    target = pa.BufferOutputStream()
    with pa.ipc.new_stream(target, schema) as writer:
        writer.write_batch(batch.replace_schema_metadata(schema.metadata))
    return bytes(target.getvalue().to_pybytes())


def profile_from_bytes(data: bytes) -> Profile:
    """The profile that `profile_to_bytes` wrote.

    Raises:
        DataError: bytes that are no such stream.
    """
    try:
        with pa.ipc.open_stream(pa.py_buffer(data)) as reader:
            batch = reader.read_next_batch()
        batch.validate()
        note = json.loads(batch.schema.metadata[_KEY])
        columns = {
            entry["name"]: _column(batch, index, entry)
            for index, entry in enumerate(note["columns"])
        }
        found = Profile(
            int(note["rows"]),
            _rows(batch, "places"),
            _rows(batch, "numbers"),
            columns,
            int(note["count"]),
        )
        _check(found)
    except (pa.ArrowException, OSError, StopIteration, LookupError, TypeError, ValueError) as error:
        raise DataError("profile", f"cannot be read ({error})", "it must be whole") from error
    return found


def _listed(values: pa.Array) -> pa.Array:
    return pa.LargeListArray.from_arrays(pa.array([0, len(values)], pa.int64()), values)


def _rows(batch: pa.RecordBatch, name: str) -> Rows:
    return np.asarray(batch.column(name).flatten().to_numpy(), np.int64)


def _column(batch: pa.RecordBatch, index: int, entry: dict[str, Any]) -> ColumnProfile:
    held: dict[str, Any] = {key: int(entry[key]) for key in _NUMBERS}
    for key in _LISTS:
        if (name := f"{index}.{key}") in batch.schema.names:
            held[key] = _rows(batch, name) if key == "counts" else batch.column(name).flatten()
    for key in _SCALARS:
        if (name := f"{index}.{key}") in batch.schema.names:
            held[key] = batch.column(name)[0]
    return ColumnProfile(**held)


def _check(profile: Profile) -> None:
    drawn = len(profile.places)
    if len(profile.numbers) != drawn or (np.diff(profile.places) <= 0).any():
        raise ValueError("places and numbers of drawn rows do not fit")
    for name, column in profile.columns.items():
        if column.sample is not None and len(column.sample) != drawn:
            raise ValueError(f"{len(column.sample)} drawn rows of {name!r}, not {drawn}")
        if len(column.values or ()) != len(() if column.counts is None else column.counts):
            raise ValueError(f"values and counts of {name!r}")
