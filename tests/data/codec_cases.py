"""What the codec's tests share: fitting on a table, and the device's half of encoding."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import pyarrow as pa

from distvae.data.codec import Codec, Encoded, fit_codec
from distvae.data.profile import profile
from distvae.data.roles import infer_features, peek_widths
from distvae.data.statistics import summarise

__all__ = ["celled", "element", "fit", "standardised"]


def fit(table: pa.Table, unit_interval: frozenset[str] = frozenset()) -> Codec:
    """Standard and unit codings without a profile: what closed forms use."""
    features = infer_features(table.schema, widths=peek_widths(table, table.schema))
    codings = dict.fromkeys(unit_interval, "unit")
    return fit_codec(features, summarise(table, features), codings=codings)


def celled(
    table: pa.Table,
    codings: Mapping[str, str] | None = None,
    roles: Mapping[str, str] | None = None,
    companions: bool = True,
) -> Codec:
    """Cells for every scalar that ``codings`` does not name, companions where values miss."""
    features = infer_features(
        table.schema, widths=peek_widths(table, table.schema), roles=roles or {}
    )
    told = {f.name: "cells" for f in features if f.is_scalar} | dict(codings or {})
    summary = summarise(table, [f for f in features if f.is_measured])
    n = table.num_rows
    return fit_codec(
        features, summary, profile(table, features, np.arange(n), n, 7), told, companions
    )


def element(codec: Codec, encoded: Encoded, name: str) -> np.ndarray:
    """Y (n,) of one scalar column."""
    column = next(c for c in codec.columns if c.feature.name == name)
    return encoded.blocks[0][:, column.start]


def standardised(codec: Codec, encoded: Encoded) -> np.ndarray:
    """What the device does: raw blocks standardised in float32, unobserved values 0."""
    parts = []
    for columns, block, mask in zip(codec.blocks(), encoded.blocks, encoded.masks, strict=True):
        y = block.astype(np.float32)
        if columns[0].raw:
            shift = columns[0].shift.astype(np.float32)
            y = (y - shift) / np.float32(columns[0].scale)
        parts.append(y if mask is None else np.where(mask, y, np.float32(0)))
    return np.concatenate(parts, axis=1)
