"""What a job is going to do, known before anything starts: files, fragments, rows, features."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa

from distvae.data.flatten import flatten_schema
from distvae.data.fragments import Fragment, plan_input
from distvae.data.inputs import Inputs, scan
from distvae.data.reading import read_fragment
from distvae.data.roles import (
    Feature,
    LeftOut,
    infer_features,
    peek_widths,
    require_known,
    total_width,
    unusable,
)
from distvae.data.storage import Location, kind, locate
from distvae.data.where import parse_where
from distvae.errors import DataError, OutputError, StorageError

__all__ = [
    "DataPlan",
    "expand_names",
    "plan_data",
    "plan_features",
    "require_file_place",
    "require_model",
    "require_parent",
    "sources",
]

_PEEK_ROWS = 1024
_MODEL_CONFIG = "config.json"  # written last: the directory is whole with it


@dataclass(frozen=True)
class DataPlan:
    """The input and how it is cut.

    Attributes:
        inputs: files with their footers, and the common schema.
        fragments: contiguous stretches of rows, in order.
    """

    inputs: Inputs
    fragments: tuple[Fragment, ...]

    @property
    def rows(self) -> int:
        """Rows of the input."""
        return self.inputs.rows

    @property
    def bytes(self) -> int:
        """Uncompressed bytes of the input's row groups."""
        return sum(g.uncompressed_bytes for f in self.inputs.files for g in f.row_groups)

    def describe(self) -> dict[str, int]:
        """Figures for ``--dry-run``."""
        return {
            "files": len(self.inputs.files),
            "fragments": len(self.fragments),
            "rows": self.rows,
            "uncompressed_bytes": self.bytes,
        }


def plan_data(
    data: Sequence[str],
    rows_per_fragment: int,
    where: str | None = None,
    expected: pa.Schema | None = None,
) -> DataPlan:
    """Read the footers of ``data`` and cut it into fragments.

    ``expected`` as for `distvae.data.inputs.scan`.

    Raises:
        StorageError: a path that is missing or cannot be read.
        DataError: not Parquet, schemas that differ, or no rows at all.
        UsageError: ``where`` does not fit the columns.
    """
    inputs = scan(data, expected)
    if inputs.rows == 0:
        raise DataError(", ".join(data[:3]), "holds no rows", "at least one row is needed")
    if where is not None:
        parse_where(where, inputs.schema)
    return DataPlan(inputs, plan_input(inputs, rows_per_fragment))


def require_model(path: str) -> Location:
    """The place of a model directory that is there and whole, as far as a look can tell.

    Raises:
        StorageError: the directory is missing or cannot be read.
        DataError: it is no whole model directory.
    """
    place = locate(path)
    if kind(place) != "directory":
        raise StorageError(
            path, "no such model directory", "", "train one with distvae train DATA --model DIR"
        )
    if kind(place.child(_MODEL_CONFIG)) != "file":
        began = kind(place.child("_train")) == "directory"
        found = "training is not finished" if began else f"holds no {_MODEL_CONFIG}"
        remedy = (
            "go on with distvae train --resume"
            if began
            else "give a directory that distvae train wrote"
        )
        raise DataError(path, found, "must be a whole model directory", remedy)
    return place


def expand_names(option: str, names: Sequence[str], known: Sequence[str]) -> tuple[str, ...]:
    """Column names as given, where ``a,b`` stands for two unless a column is called so.

    Raises:
        UsageError: a name that is no column.
    """
    parts = [part for name in names for part in ([name] if name in known else name.split(","))]
    stripped = [part if part in known else part.strip() for part in parts]
    require_known(option, stripped, known)
    return tuple(dict.fromkeys(stripped))


def plan_features(
    plan: DataPlan,
    include: Sequence[str] = (),
    exclude: Sequence[str] = (),
    roles: Mapping[str, str] | None = None,
) -> tuple[tuple[Feature, ...], tuple[LeftOut, ...]]:
    """The features of the input, and the columns that are none, with the reason.

    The first rows tell the widths of variable lists.

    Raises:
        UsageError: an unknown column, or a role that its type cannot have.
        DataError: a column that was asked for is no feature, or its width cannot be told.
    """
    schema = plan.inputs.schema
    flat = flatten_schema(schema).names
    parts = [name[:end] for name in flat for end in range(len(name)) if name[end] == "."]
    known = list(dict.fromkeys((*schema.names, *flat, *parts)))
    included = expand_names("include", include, known)
    excluded = expand_names("exclude", exclude, known)
    features = infer_features(schema, included, excluded, roles=roles or {})
    unknown = [feature.source for feature in features if feature.width == 0]
    if unknown:
        first = next(read_fragment(plan.inputs.files, plan.fragments[0], unknown, _PEEK_ROWS))
        widths = peek_widths(first, first.schema)
        features = infer_features(schema, included, excluded, widths, roles or {})
    total_width(features)
    return features, tuple(unusable(schema, included, excluded, roles or {}))


def sources(features: Sequence[Feature]) -> list[str]:
    """The table's columns that hold ``features``: several may come from one struct."""
    return list(dict.fromkeys(feature.source for feature in features))


def require_file_place(option: str, path: str) -> None:
    """Refuse a path where no file can be written, before the work for it is done.

    Raises:
        OutputError: a directory is there.
        StorageError: as in ``require_parent``.
    """
    if kind(locate(path)) == "directory":
        raise OutputError(option, f"{path} is a directory", "must be a file", "add a file name")
    require_parent(option, path)


def require_parent(option: str, path: str) -> None:
    """Refuse a local path whose folder is not there and cannot be made.

    Raises:
        StorageError: the part of the path that is there is no folder, or read-only.
    """
    place = locate(path)
    if not place.is_local:
        return
    parent = next(folder for folder in Path(place.path).parents if folder.exists())
    if not parent.is_dir():
        raise StorageError(option, f"{parent} is a file", "must be a folder", "choose another")
    if not os.access(parent, os.W_OK):
        raise StorageError(option, f"{parent} is read-only", "must be writable", "choose another")
