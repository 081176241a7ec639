"""Charts that wear the page's own colours: matplotlib drawings as small inline SVG.

A chart is drawn with stand-in colours, which become CSS variables in the SVG, so that one drawing
serves the light page, the dark page and the print. Text stays text, in the reader's own font.
"""

from __future__ import annotations

import base64
import hashlib
import io
import re
import warnings
from collections.abc import Callable
from html import escape
from typing import TYPE_CHECKING

import numpy as np

from distvae.report.inputs import Array
from distvae.report.markup import Html, join, tag

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

__all__ = [
    "CATEGORY_COLOURS",
    "FIRST",
    "GRID",
    "INK",
    "MUTED",
    "OTHER_COLOUR",
    "SECOND",
    "both_sizes",
    "gradient",
    "gradient_css",
    "new_chart",
    "picture",
    "tidy",
    "to_svg",
]

INK, MUTED, GRID, FIRST, SECOND = "#010203", "#020304", "#030405", "#040506", "#050607"
_VARIABLES = {
    INK: "var(--ink)",
    MUTED: "var(--muted)",
    GRID: "var(--grid)",
    FIRST: "var(--first)",
    SECOND: "var(--second)",
}

# Drawn as pixels, so the same in both themes: each keeps about 2.5:1 or more on white and on black.
CATEGORY_COLOURS = (
    "#4a7fc9",
    "#e8832a",
    "#3f9f5b",
    "#d6524f",
    "#8f6cc4",
    "#a0714f",
    "#dd6fae",
    "#2aa5a8",
    "#a8a02c",
    "#7b8794",
)
OTHER_COLOUR = "#9a9a9a"
_STOPS = ("#5a4fcf", "#a24bb5", "#d9578c", "#ec7a5c", "#efa73d")

_RASTER_DPI = 150
_PHONE_WIDTH = 340
_LARGEST_SIDE = 64


def new_chart(width: int, height: int, *, grid: str = "y") -> tuple[Figure, Axes]:
    """An empty chart, ``width`` × ``height`` CSS pixels, with quiet axes."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width / 72, height / 72), dpi=72, layout="constrained")
    figure.get_layout_engine().set(w_pad=2 / 72, h_pad=2 / 72)  # type: ignore[union-attr,call-arg]
    axes = figure.add_subplot()
    axes.set_axisbelow(True)
    for side, spine in axes.spines.items():
        spine.set_visible(side == "bottom" or (grid == "both" and side == "left"))
        spine.set_color(GRID if grid == "both" else MUTED)
        spine.set_linewidth(0.8)
    axes.tick_params(labelsize=11, labelcolor=MUTED, color=MUTED, length=0, pad=4)
    if grid == "both":
        axes.grid(True, color=GRID, linewidth=0.8)
    else:
        axes.grid(True, axis="y", color=GRID, linewidth=0.8)
    return figure, axes


def tidy(
    axes: Axes, *, x: int = 5, y: int = 4, x_label: str = "", y_label: str = "", whole: bool = False
) -> None:
    """Few ticks, about ``x`` and ``y`` of them (``whole``: at whole numbers of x), quiet labels."""
    from matplotlib.ticker import MaxNLocator

    axes.xaxis.set_major_locator(MaxNLocator(x, steps=[1, 2, 5, 10], integer=whole))
    axes.yaxis.set_major_locator(MaxNLocator(y, steps=[1, 2, 2.5, 5, 10]))
    if x_label:
        axes.set_xlabel(x_label, fontsize=11, color=MUTED, labelpad=3)
    if y_label:
        axes.set_ylabel(y_label, fontsize=11, color=MUTED, labelpad=4)
    for axis in (axes.xaxis, axes.yaxis):
        axis.get_offset_text().set(fontsize=10, color=MUTED)


def to_svg(figure: Figure, alt: str) -> Html:
    """The chart as inline SVG, named by ``alt`` for those who cannot see it."""
    import matplotlib as mpl

    buffer = io.StringIO()
    nothing = dict.fromkeys(("Creator", "Date", "Format", "Type"))
    with (
        mpl.rc_context({"svg.fonttype": "none", "svg.hashsalt": "distvae"}),
        warnings.catch_warnings(),
    ):
        # The reader's browser draws the text: glyphs that matplotlib's own font lacks are no loss.
        warnings.filterwarnings("ignore", message="Glyph .* missing from")
        warnings.filterwarnings("ignore", message="Matplotlib currently does not support")
        figure.savefig(buffer, format="svg", transparent=True, dpi=_RASTER_DPI, metadata=nothing)
    return _inline(buffer.getvalue(), alt)


def _inline(svg: str, alt: str) -> Html:
    """Cut matplotlib's file down to what an HTML page needs, with ids that no other chart has."""
    body = svg[svg.index("<svg") : svg.rindex("</svg>")]
    opening, body = body.split(">", 1)
    view = re.search(r'viewBox="([^"]*)"', opening)
    assert view is not None, "matplotlib always writes a viewBox"
    body = re.sub(
        r"<metadata>.*?</metadata>|<style.*?</style>|<!--.*?-->", "", body, flags=re.DOTALL
    )
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', body))
    prefix = "c" + hashlib.sha256((alt + body).encode()).hexdigest()[:10]

    def renamed(match: re.Match[str]) -> str:
        name = match.group(1)
        if name.startswith("halo"):
            return ' class="halo"'
        return f' id="{prefix}{name}"' if name in used else ""

    body = re.sub(r' id="([^"]*)"', renamed, body)
    body = re.sub(r'(url\(#|href="#)', rf"\g<1>{prefix}", body)
    for colour, variable in _VARIABLES.items():
        body = body.replace(colour, variable)
    body = re.sub(r"\n\s*", "\n", body)
    width, height = view.group(1).split()[2:]
    start = (
        f'<svg viewBox="{view.group(1)}" width="{width}" height="{height}" role="img" '
        f'aria-label="{escape(alt)}">'
    )
    return Html(f"{start}{body}</svg>")


def both_sizes(draw: Callable[[int, int], Html], broad: tuple[int, int]) -> Html:
    """A large chart drawn twice, for a phone and for a screen, so that its text keeps its size."""
    width, height = _PHONE_WIDTH, round(_PHONE_WIDTH * max(0.7, broad[1] / broad[0]))
    return join(
        [
            tag("div", draw(width, height), class_="narrow"),
            tag("div", draw(*broad), class_="broad"),
        ]
    )


def gradient(values: Array) -> Array:
    """Colours (n, 3) in [0, 1] for values (n,) in [0, 1]."""
    stops = np.array([[int(stop[i : i + 2], 16) for i in (1, 3, 5)] for stop in _STOPS]) / 255.0
    at = np.linspace(0.0, 1.0, len(stops))
    return np.stack([np.interp(values, at, stops[:, channel]) for channel in range(3)], axis=1)


def gradient_css() -> str:
    """The same scale as a CSS background."""
    return f"background:linear-gradient(90deg,{','.join(_STOPS)})"


def picture(pixels: Array, alt: str) -> Html:
    """An image (h, w) or (h, w, 3) of uint8 as a PNG in the page; large ones are thinned."""
    from PIL import Image

    step = -(-max(pixels.shape[:2]) // _LARGEST_SIDE)
    image = Image.fromarray(np.ascontiguousarray(pixels))
    if step > 1:
        image = image.reduce(step)
    buffer = io.BytesIO()
    image.save(buffer, format="PNG", optimize=True)
    data = base64.b64encode(buffer.getvalue()).decode("ascii")
    return tag(
        "img",
        src=f"data:image/png;base64,{data}",
        alt=alt,
        width=str(image.width),
        height=str(image.height),
    )
