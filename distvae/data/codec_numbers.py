"""Numbers of every Arrow type as int64 keys or float64, exactly, and back.

Integers, dates, times, durations, decimals and floats of few decimal digits become **keys** on a
grid: value = key step + rest, with the step their greatest common divisor (seconds in a nanosecond
column, days in milliseconds). Unsigned 64-bit numbers are shifted by 2^63, which keeps their order;
decimals are taken as their unscaled numbers, values that 64 bits cannot hold as the nearest that
they can; floats of d digits (prices) as multiples of 10^-d, which are exact, since k / 10^d in
floats is the float nearest to that number.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import pyarrow as pa
import pyarrow.compute as pc

from distvae.data.arrow_types import value_type

__all__ = ["Grid", "Keys", "array_of", "as_dictionary", "decimals_of", "numbers_of"]

Keys = npt.NDArray[np.int64]
Floats = npt.NDArray[np.float64]
Bools = npt.NDArray[np.bool_]

_LEAST, _MOST = -(2**63), 2**63 - 1
_FLIP = np.uint64(1 << 63)
# The largest float64 below 2^63 and 2^64.
_MOST_FLOAT = float(np.nextafter(2.0**63, 0.0))
_MOST_UNSIGNED = float(np.nextafter(2.0**64, 0.0))


@dataclass(frozen=True)
class Grid:
    """The numbers that a column may hold: key step + rest, in ``unit``s or 10^-digits.

    Attributes:
        step: distance of neighbours, at least 1.
        rest: in [0, step).
        unsigned: whether numbers are unsigned 64-bit ones, shifted by 2^63.
        unit: raw value of 1: 10^-scale of decimals, else 1.
        digits: decimal digits that floats have, 0 for whole numbers and of other types.
    """

    step: int = 1
    rest: int = 0
    unsigned: bool = False
    unit: float = 1.0
    digits: int = 0

    @classmethod
    def of(cls, kind: pa.DataType) -> Grid:
        """The finest grid of an Arrow type; days in the milliseconds of ``date64``."""
        kind = value_type(kind)
        unit = 10.0**-kind.scale if pa.types.is_decimal(kind) else 1.0
        step = 86_400_000 if pa.types.is_date64(kind) else 1
        return cls(step=step, unsigned=pa.types.is_uint64(kind), unit=unit)

    @property
    def spacing(self) -> float:
        """Distance of neighbours in raw units."""
        return self.step * self.unit / 10.0**self.digits

    @property
    def limits(self) -> tuple[int, int]:
        """The smallest and largest key whose value 64 bits hold."""
        return -((self.rest - _LEAST) // self.step), (_MOST - self.rest) // self.step

    def keys(self, values: npt.NDArray[Any]) -> Keys:
        """Keys of values (n,); those between two points of the grid go to the lower one.

        Floats are rounded first (a NaN gives any key); what 64 bits cannot hold goes to the end.
        """
        held = self._integers(values)
        if self.step == 1:
            return held
        return np.clip(held // self.step, *self.limits)

    def between(self, values: npt.NDArray[Any], keys: Keys, narrow: Any) -> Bools | None:
        """Which values (n,) are none of the grid's; None for none.

        Args:
            values: numbers of any type; a NaN is none of the grid's.
            keys: theirs.
            narrow: the column's own type; floats are compared in the shorter of both.
        """
        if values.dtype.kind != "f" and not self.digits:
            if self.step == 1:
                return None
            apart = self._integers(values) % self.step != self.rest
        else:
            kinds = [np.dtype(k) for k in (values.dtype, narrow, float) if np.dtype(k).kind == "f"]
            kind = min(kinds, key=lambda k: k.itemsize)
            with np.errstate(over="ignore", invalid="ignore"):
                nearest, found = self.values(keys).astype(kind), values.astype(kind)
                # Arrow's cast of a decimal may be the float beside the nearest one.
                apart = ~(np.abs(found - nearest) <= np.spacing(np.abs(nearest)))
        return apart if apart.any() else None

    def values(self, keys: Keys) -> npt.NDArray[Any]:
        """Values (n,) of keys: float64 of digits, uint64 where unsigned, else int64."""
        held = keys if self.step == 1 else keys * self.step + self.rest
        if self.digits:
            return np.asarray(held / 10.0**self.digits)
        return held.view(np.uint64) ^ _FLIP if self.unsigned else held

    def raw(self, keys: Keys) -> Floats:
        """(n,) float64 in raw units."""
        return np.asarray(self.values(keys).astype(np.float64) * self.unit)

    def _integers(self, values: npt.NDArray[Any]) -> Keys:
        if self.digits:
            with np.errstate(over="ignore"):
                values = values.astype(np.float64) * 10.0**self.digits
        kind = values.dtype.kind
        if kind == "f":
            values = np.rint(np.nan_to_num(values.astype(np.float64)))
        if self.unsigned:
            if kind == "f":
                values = np.clip(values, 0.0, _MOST_UNSIGNED)
            elif kind != "u":
                values = np.maximum(values, 0)
            return (values.astype(np.uint64) ^ _FLIP).view(np.int64)
        if kind == "f":
            most = values >= 2.0**63
            held = np.clip(values, float(_LEAST), _MOST_FLOAT).astype(np.int64)
            return np.where(most, _MOST, held) if most.any() else held
        if values.dtype == np.uint64:
            values = np.minimum(values, np.uint64(_MOST))
        return values.astype(np.int64, copy=False)


def numbers_of(array: pa.Array) -> npt.NDArray[Any]:
    """The values (n,) of numbers, dates, times and decimals; arbitrary where null.

    Integers and floats in their own type, often a view of Arrow's memory; dates and times int64;
    decimals int64 unscaled, the nearest that 64 bits hold.
    """
    kind = array.type
    memory = array.buffers()[1]
    if memory is None or len(array) == 0:
        return np.zeros(len(array), _dtype(kind))
    if pa.types.is_decimal(kind):
        return _unscaled(memory, array, kind.bit_width)
    held = np.frombuffer(memory, _dtype(kind), len(array), array.offset * kind.bit_width // 8)
    return held.astype(np.int64) if pa.types.is_temporal(kind) else held


def array_of(values: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None, kind: Any) -> pa.Array:
    """An Arrow array of numbers (n,), null where not ``valid``: `numbers_of` undone."""
    if not pa.types.is_decimal(kind):
        return _primitive(values.astype(_dtype(kind)), valid, kind)
    if kind.bit_width == 32:
        return _primitive(values.astype(np.int32), valid, kind)
    held = np.empty((len(values), kind.bit_width // 64), np.int64)
    held[:, 0] = values
    held[:, 1:] = (values >> 63)[:, np.newaxis]
    return _primitive(held, valid, kind)


def decimals_of(x: Floats, valid: npt.NDArray[np.bool_] | None, kind: Any) -> pa.Array:
    """Decimals of any width from floats (n,), to the digits that those have."""
    top = float(np.nextafter(10.0**kind.precision, 0.0))
    rest = np.clip(np.rint(x * 10.0**kind.scale), -top, top)
    if kind.bit_width <= 64:
        return array_of(rest.astype(np.int64), valid, kind)
    words = kind.bit_width // 64
    held = np.empty((len(x), words), np.uint64)
    size, negative = np.abs(rest), rest < 0
    for word in range(words - 1, -1, -1):  # each division is by a power of two, and exact
        part = np.floor(size / 2.0 ** (64 * word))
        size -= part * 2.0 ** (64 * word)
        held[:, word] = part.astype(np.uint64)
    carry = negative
    for word in range(words):  # -x = ~x + 1
        held[negative, word] = ~held[negative, word]
        held[carry, word] += np.uint64(1)
        carry = carry & (held[:, word] == 0)
    return _primitive(held, valid, kind)


def _primitive(
    held: npt.NDArray[Any], valid: npt.NDArray[np.bool_] | None, kind: pa.DataType
) -> pa.Array:
    bits, nulls = None, 0
    if valid is not None and not valid.all():
        bits = pa.py_buffer(np.packbits(valid, bitorder="little"))
        nulls = int((~valid).sum())
    memory = pa.py_buffer(np.ascontiguousarray(held))
    return pa.Array.from_buffers(kind, len(held), [bits, memory], nulls)


def as_dictionary(plain: pa.Array, kind: pa.DataType) -> pa.ChunkedArray:
    """Values as a dictionary of type ``kind``, in chunks whose indices its index type holds."""
    bits = kind.index_type.bit_width - pa.types.is_signed_integer(kind.index_type)
    most = max(1, len(plain)) if bits >= 31 else 2**bits - 1
    parts = [
        pc.dictionary_encode(plain.slice(start, most))
        for start in range(0, max(1, len(plain)), most)
    ]
    return pa.chunked_array(
        [
            pa.DictionaryArray.from_arrays(
                part.indices.cast(kind.index_type), part.dictionary, ordered=kind.ordered
            )
            for part in parts
        ],
        kind,
    )


def _dtype(kind: pa.DataType) -> np.dtype[Any]:
    if pa.types.is_integer(kind) or pa.types.is_floating(kind):
        found: np.dtype[Any] = np.dtype(kind.to_pandas_dtype())
        return found
    if pa.types.is_boolean(kind):
        raise TypeError(f"{kind} holds no numbers")
    return np.dtype(np.int32 if kind.bit_width == 32 else np.int64)


def _unscaled(memory: pa.Buffer, array: pa.Array, bits: int) -> Keys:
    if bits == 32:
        narrow = np.frombuffer(memory, np.int32, len(array), array.offset * 4)
        return narrow.astype(np.int64)
    words = bits // 64
    held = np.frombuffer(memory, np.int64, len(array) * words, array.offset * words * 8)
    held = held.reshape(-1, words)
    low, top = held[:, 0], held[:, -1]
    fits = (held[:, 1:] == (low >> 63)[:, np.newaxis]).all(axis=1)
    if fits.all():
        return np.asarray(low)
    return np.where(fits, low, np.where(top < 0, _LEAST, _MOST))
