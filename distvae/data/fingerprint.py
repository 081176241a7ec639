"""The fingerprint of a run: one hash over all that changes the bytes of its output."""

from __future__ import annotations

import hashlib
import json
import math
from collections.abc import Iterator, Mapping
from typing import Any, TypeAlias

__all__ = ["Json", "canonical", "fingerprint", "first_difference"]

Json: TypeAlias = Any
"""Mappings with text keys, lists, tuples, texts, finite numbers, booleans and None."""

_SHOWN = 60
_ABSENT = "(absent)"


def canonical(value: Json) -> str:
    """Return the one JSON text of a value: keys sorted, no spaces, floats by their shortest repr.

    Raises:
        ValueError: a NaN or an infinity, which JSON has no text for.
        TypeError: a value or a key that JSON does not know.
    """
    return json.dumps(
        _plain(value), sort_keys=True, separators=(",", ":"), ensure_ascii=True, allow_nan=False
    )


def fingerprint(items: Mapping[str, Json]) -> str:
    """Return the sha256, as 64 hexadecimal digits, of the canonical JSON of ``items``.

    Order of keys, and tuple or list, make no difference; 1 and 1.0 do.

    Raises:
        ValueError: a NaN or an infinity.
        TypeError: a value that JSON does not know.
    """
    return hashlib.sha256(canonical(items).encode("ascii")).hexdigest()


def first_difference(old: Mapping[str, Json], new: Mapping[str, Json]) -> str:
    """Return the first item that differs, e.g. ``engine.torch was 2.12.0, is 2.13.0``.

    Items are compared in the order of their names, nested ones by a dotted path, elements of a
    list by ``[index]``; values are shown shortened. Empty when nothing differs.
    """
    for path, before, after in _differences("", _plain(old), _plain(new)):
        return f"{path} was {before}, is {after}"
    return ""


def _plain(value: Any) -> Any:
    """Return ``value`` as dicts, lists and scalars that compare as their JSON texts do."""
    if isinstance(value, Mapping):
        if not all(isinstance(key, str) for key in value):
            raise TypeError("a fingerprint's keys must be strings")
        return {key: _plain(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_plain(item) for item in value]
    if isinstance(value, float) and not math.isfinite(value):
        raise ValueError(f"a fingerprint's numbers must be finite, not {value}")
    if value is None or isinstance(value, (str, int, float)):
        return value
    raise TypeError(f"a fingerprint holds plain JSON values, not {type(value).__name__}")


def _differences(path: str, old: Any, new: Any) -> Iterator[tuple[str, str, str]]:
    if canonical(old) == canonical(new):
        return
    if isinstance(old, dict) and isinstance(new, dict):
        for key in sorted({*old, *new}):
            below = f"{path}.{key}" if path else key
            if key not in old or key not in new:
                yield below, _shown(old, key), _shown(new, key)
            else:
                yield from _differences(below, old[key], new[key])
    elif isinstance(old, list) and isinstance(new, list):
        if len(old) != len(new):
            yield path, _counted(old), _counted(new)
        for index, (before, after) in enumerate(zip(old, new, strict=False)):
            yield from _differences(f"{path}[{index}]", before, after)
    else:
        yield path, _short(canonical(old)), _short(canonical(new))


def _shown(values: dict[str, Any], key: str) -> str:
    return _short(canonical(values[key])) if key in values else _ABSENT


def _counted(values: list[Any]) -> str:
    return _short(canonical(values)) if len(values) <= 4 else f"a list of {len(values):,}"


def _short(text: str) -> str:
    return text if len(text) <= _SHOWN else text[: _SHOWN - 3] + "..."
