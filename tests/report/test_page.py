"""The page as text: safe, whole, offline, small, and honest about what is missing."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Callable
from dataclasses import replace
from html.parser import HTMLParser
from typing import Any

import numpy as np
import pytest

from distvae.report import ReportInputs, image_shape, render
from distvae.report.page import SECTIONS
from distvae.report.style import CSS

VOID = {"meta", "img", "br"}
HOSTILE = [
    "<script>alert(1)</script>",
    '"><img src=x onerror=alert(1)>',
    "</style></title><b>bold</b>",
    "$\\frac{1}{$ & 'quoted' <",
    "身長 ارتفاع 🙂",
    'url(#a) href="#b" id="c" #010203',
]


class Outline(HTMLParser):
    """The elements of a page; refuses one that is not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.feed(page)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))
        if tag not in VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, dict(attrs)))

    def handle_endtag(self, tag: str) -> None:
        assert self.open and self.open.pop() == tag, f"</{tag}> closes something else"

    def handle_data(self, data: str) -> None:
        if "style" not in self.open:
            self.text += data

    def named(self, tag: str) -> list[dict[str, str | None]]:
        return [attributes for name, attributes in self.elements if name == tag]


def words(inputs: ReportInputs) -> str:
    return " ".join(Outline(render(inputs)).text.split())


def test_every_section_is_there_and_linked(page: str) -> None:
    outline = Outline(page)
    assert [section["id"] for section in outline.named("section")] == list(SECTIONS)
    assert [link["href"] for link in outline.named("a")] == [f"#{key}" for key in SECTIONS]
    assert len(outline.named("h1")) == 1


def test_ids_are_unique_and_references_resolve(page: str) -> None:
    ids = [a["id"] for _, a in Outline(page).elements if a.get("id")]
    assert len(ids) == len(set(ids)) > 20
    used = set(re.findall(r'(?:url\(#|href="#)([\w.-]+)', page))
    assert used and used <= set(ids)


def test_pictures_have_words(page: str) -> None:
    outline = Outline(page)
    images, charts = outline.named("img"), outline.named("svg")
    assert len(images) == 16 * 2 + 32 and all(image["alt"] for image in images)
    assert len(charts) > 15
    assert all(chart["role"] == "img" and chart["aria-label"] for chart in charts)


def test_nothing_is_fetched_or_run(page: str) -> None:
    addresses = re.findall(r"https?://[^\s\"'<>)]*", page)
    assert all(address.startswith("http://www.w3.org/") for address in addresses)
    outline = Outline(page)
    fetching = {"script", "link", "iframe", "object", "embed", "base", "video", "audio"}
    assert not fetching & {name for name, _ in outline.elements}
    assert not any(key.startswith("on") for _, attrs in outline.elements for key in attrs)
    sources = [a.get("src") or a.get("xlink:href") for n, a in outline.elements if n != "a"]
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in sources if s)
    assert "@import" not in page
    assert all(link.startswith("#") for link in re.findall(r"url\(([^)]*)", page))
    policy = [meta for meta in outline.named("meta") if meta.get("http-equiv")]
    assert policy[0]["content"] is not None and "default-src 'none'" in policy[0]["content"]


def test_the_same_inputs_give_the_same_bytes(inputs: ReportInputs, page: str) -> None:
    assert render(inputs) == page
    assert not re.search(r"20\d\d-\d\d-\d\d", page), "a page without a date"


@pytest.mark.parametrize("name", HOSTILE)
def test_hostile_names_are_only_text(
    inputs: ReportInputs, page: str, renamed: Callable[[ReportInputs, str], ReportInputs], name: str
) -> None:
    hostile = Outline(render(renamed(inputs, name)))
    known = {tag for tag, _ in Outline(page).elements}
    assert {tag for tag, _ in hostile.elements} <= known
    assert not any(key.startswith("on") for _, attrs in hostile.elements for key in attrs)
    text = " ".join(hostile.text.split())
    assert text.count(" ".join(name.split())) > 10


MISSING: list[tuple[dict[str, Any], str]] = [
    ({"metrics": {}}, "No figures given: run distvae evaluate"),
    ({"history": {}}, "No training history"),
    ({"metrics": {"elbo": -1.0}}, "No KL per dimension in the metrics"),
    ({"metrics": {"elbo": -1.0}}, "No comparison with PCA"),
    ({"mu": None, "colour": None}, "No embeddings given: pass --embeddings DIR"),
    ({"colour": None}, "distvae embed --keep COLUMN"),
    ({"originals": {}, "reconstructions": {}}, "No rows to reconstruct: pass --data DATA"),
    ({"samples": {}}, "No synthetic rows given: pass --synthetic DIR"),
    ({"real": {}}, "No data given: pass --data DATA"),
    ({"synthetic": {}}, "No synthetic rows given: pass --synthetic DIR"),
    ({"synthetic": {"other": np.ones(3)}}, "share no column"),
    ({"config": {}}, "No config given"),
    ({"history": {}, "config": {"kind": "pca"}}, "solved in one step"),
    ({"metrics": {}, "config": {"kind": "autoencoder"}}, "has no KL per dimension"),
]


@pytest.mark.parametrize(("change", "said"), MISSING)
def test_what_is_missing_is_said(
    inputs: ReportInputs, page: str, change: dict[str, Any], said: str
) -> None:
    light = ReportInputs(
        "light",
        "0",
        metrics=inputs.metrics,
        mu=inputs.mu,
        real={"height": inputs.real["height"]},
        synthetic={"height": inputs.synthetic["height"]},
    )
    assert said in words(replace(light, **change))
    assert said not in " ".join(Outline(page).text.split())


def test_a_name_alone_makes_a_page() -> None:
    outline = Outline(render(ReportInputs("bare", "")))
    assert [section["id"] for section in outline.named("section")] == list(SECTIONS)


@pytest.mark.parametrize(
    ("mse", "said"),
    [
        (0.62, "The VAE\u2019s reconstruction error is 0.62\u00a0× PCA\u2019s: 38\u00a0% less"),
        (1.01, "no better and no worse"),
        (1.3, "PCA reconstructs better"),
    ],
)
def test_the_comparison_is_put_in_words(inputs: ReportInputs, mse: float, said: str) -> None:
    metrics = {**inputs.metrics, "reconstruction_mse": mse}
    assert said in Outline(render(ReportInputs("m", "i", metrics=metrics))).text


def test_null_figures_are_left_out(inputs: ReportInputs) -> None:
    nothing = dict.fromkeys(inputs.metrics)
    text = words(ReportInputs("m", "i", metrics=nothing))
    assert "None" not in text and "nan" not in text
    assert "No comparison with PCA" in text


def test_the_page_stays_small(history: Callable[[int], Any]) -> None:
    random = np.random.default_rng(1)

    def rows(count: int) -> dict[str, np.ndarray[Any, Any]]:
        scalars = {f"column_{i}": random.normal(size=count) for i in range(300)}
        return {
            **scalars,
            "photo": random.integers(0, 256, (count, 128 * 128), dtype=np.uint8),
            "embedding": random.normal(size=(count, 1000)),
        }

    few, many = rows(32), rows(100)
    inputs = ReportInputs(
        model_name="large",
        model_id="f" * 64,
        config={"features": list(few), "more": {str(i): i for i in range(999)}},
        history=history(500),
        metrics={"kl_per_dimension": random.random(512).tolist(), "active_units": 500},
        mu=random.normal(size=(5000, 512)),
        colour=random.normal(size=5000),
        colour_name="column_0",
        originals=few,
        reconstructions=few,
        samples=few,
        real=many,
        synthetic=many,
        image_shapes={"photo": (128, 128)},
    )
    page = render(inputs)
    assert len(page.encode()) < 2_000_000
    assert "12 of 300 columns" in page


def test_odd_values_do_no_harm() -> None:
    columns = {
        "constant": np.full(50, 7),
        "huge": np.array([1e300, -1e300] * 25),
        "tiny": np.full(50, 1e-300),
        "empty": np.full(50, np.nan),
        "infinite": np.array([np.inf, 1.0] * 25),
        "big_integers": np.arange(50) + 2**60,
        "flags": np.array([True, False] * 25),
        "hollow": np.full((50, 4), np.nan),
        "flat": np.zeros((50, 3)),
    }
    short = {"epoch": np.array([1]), "train_loss": np.array([1.0]), "train_kl": np.array([np.nan])}
    mu = np.ones((50, 3))
    mu[0] = np.nan
    inputs = ReportInputs(
        "odd",
        "x",
        history=short,
        metrics={"kl_per_dimension": [0.0], "active_units": 0},
        mu=mu,
        originals=columns,
        reconstructions=columns,
        samples=columns,
        real=columns,
        synthetic=columns,
    )
    text = words(inputs)
    assert "posterior collapse" in text
    assert "hold no value here" in text
    assert "1 row not finite" in text


def test_matplotlib_waits_until_a_page_is_made() -> None:
    code = (
        "import sys, distvae.report; sys.exit('matplotlib' in sys.modules or 'PIL' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_drawing_leaves_matplotlib_as_it_was() -> None:
    code = """if True:
        import sys, numpy as np, distvae.report as report, matplotlib
        before = matplotlib.rcParams.copy()
        inputs = report.ReportInputs("m", "i", metrics={"kl_per_dimension": [1.0, 2.0]})
        assert "<svg" in report.render(inputs)
        assert matplotlib.rcParams.copy() == before
        assert "matplotlib.pyplot" not in sys.modules
    """
    subprocess.run([sys.executable, "-W", "error", "-c", code], check=True)


@pytest.mark.parametrize(
    ("width", "shape"),
    [(784, (28, 28)), (64, (8, 8)), (49, (7, 7)), (36, None), (1, None), (0, None), (783, None)],
)
def test_image_shape(width: int, shape: tuple[int, int] | None) -> None:
    assert image_shape(width) == shape


def luminance(colour: str) -> float:
    colour = colour.lstrip("#")
    if len(colour) == 3:
        colour = "".join(2 * digit for digit in colour)
    parts = [int(colour[i : i + 2], 16) / 255.0 for i in (0, 2, 4)]
    linear = [x / 12.92 if x <= 0.04045 else ((x + 0.055) / 1.055) ** 2.4 for x in parts]
    return float(np.dot(linear, [0.2126, 0.7152, 0.0722]))


def contrast(one: str, two: str) -> float:
    low, high = sorted([luminance(one), luminance(two)])
    return (high + 0.05) / (low + 0.05)


def test_text_has_contrast_in_every_theme() -> None:
    themes = [
        dict(re.findall(r"--(\w+):(#\w+)", block)) for block in re.findall(r":root\{[^}]*", CSS)
    ]
    assert len(themes) == 3, "light, dark and print"
    for theme in themes:
        for ground in ("bg", "card", "soft"):
            for text in ("ink", "muted", "first", "second"):
                assert contrast(theme[text], theme[ground]) >= 4.5, (text, ground, theme)
