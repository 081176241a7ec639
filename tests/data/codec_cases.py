"""What the codec's tests share: fitting on a table, and the device's half of encoding."""

from __future__ import annotations

import numpy as np
import pyarrow as pa

from distvae.data.codec import Codec, Encoded, fit_codec
from distvae.data.roles import infer_features, peek_widths
from distvae.data.statistics import summarise

__all__ = ["fit", "standardised"]


def fit(table: pa.Table, unit_interval: frozenset[str] = frozenset()) -> Codec:
    features = infer_features(table.schema, widths=peek_widths(table, table.schema))
    return fit_codec(features, summarise(table, features), unit_interval)


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
