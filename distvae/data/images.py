"""Which vector columns are pictures, and their shape: ``pixels``, ``pixels=28x28``, ``=32x32x3``.

A picture's elements lie in H, W, C order: row by row, the colours of a pixel side by side.
"""

from __future__ import annotations

import math
import re
from collections.abc import Mapping, Sequence

from distvae.data.roles import Feature, require_known
from distvae.errors import UsageError

__all__ = ["SMALLEST_SIDE", "Shape", "image_shapes"]

Shape = tuple[int, int, int]
SMALLEST_SIDE = 4
_COLOURS = 3
_SHAPE = re.compile(r"(\d{1,6})x(\d{1,6})(?:x(\d{1,6}))?", re.ASCII)


def image_shapes(
    requests: Sequence[str] | Mapping[str, str], features: Sequence[Feature]
) -> dict[str, Shape]:
    """The shape (H, W, C) of each column that is asked to be a picture.

    Without a shape the picture is a square of one colour, or else a square of three.

    Args:
        requests: ``COL``, ``COL=HxW`` or ``COL=HxWxC``; as a mapping, column to shape, where the
            empty shape is inferred.
        features: the table's features, widths known.

    Raises:
        UsageError: a column that is none, is no vector, or is named twice; a shape that is
            malformed, too small, not of the vector's width, or that cannot be inferred.
    """
    known = {feature.name: feature for feature in features}
    if isinstance(requests, Mapping):
        pairs = list(requests.items())
    else:
        pairs = [_parted(request, known) for request in requests]
    shapes: dict[str, Shape] = {}
    for name, text in pairs:
        require_known("image", [name], list(known))
        if name in shapes:
            raise UsageError("image", f"{name!r} is given twice", "a picture has one shape")
        shapes[name] = _shape(known[name], text)
    return shapes


def _parted(request: str, known: Mapping[str, Feature]) -> tuple[str, str]:
    """Column and shape; a column whose own name holds ``=`` is taken whole."""
    if request in known or "=" not in request:
        return request, ""
    name, _, text = request.rpartition("=")
    return name, text or "="


def _shape(feature: Feature, text: str) -> Shape:
    if feature.role != "vector":
        rule = "a picture is a vector column"
        found = f"{feature.name!r} holds one value per row"
        raise UsageError("image", found, rule, f"leave out --image {feature.name}")
    shape = _parsed(feature, text) if text else _inferred(feature)
    if min(shape[:2]) < SMALLEST_SIDE:
        raise UsageError(
            "image",
            f"{feature.name!r} is {_as_text(shape)}",
            f"sides must be at least {SMALLEST_SIDE}",
            f"leave out --image {feature.name}",
        )
    return shape


def _parsed(feature: Feature, text: str) -> Shape:
    match = _SHAPE.fullmatch(text)
    height, width, colours = (int(part or 1) for part in match.groups()) if match else (0, 0, 0)
    if not height * width * colours:
        rule = "a shape is HxW or HxWxC in whole numbers above 0"
        raise UsageError(
            "image", f"{feature.name}={text.removeprefix('=')}", rule, "write 28x28 or 32x32x3"
        )
    shape = (height, width, colours)
    if math.prod(shape) != feature.width:
        square = _square(feature.width)
        fitting = f"={_as_text(square)}" if square else "=HxW or HxWxC of that product"
        raise UsageError(
            "image",
            f"{feature.name}={text} has {math.prod(shape)} elements",
            f"the vector has {feature.width}",
            f"give --image {feature.name}{fitting}",
        )
    return shape


def _inferred(feature: Feature) -> Shape:
    shape = _square(feature.width)
    if shape is None:
        raise UsageError(
            "image",
            f"{feature.name!r} has {feature.width} elements",
            f"which is no square and not {_COLOURS} colours of one",
            f"give its shape, --image {feature.name}=HxW",
        )
    return shape


def _square(width: int) -> Shape | None:
    for colours in (1, _COLOURS):
        side = math.isqrt(width // colours)
        if side * side * colours == width:
            return side, side, colours
    return None


def _as_text(shape: Shape) -> str:
    height, width, colours = shape
    return f"{height}x{width}" + (f"x{colours}" if colours > 1 else "")
