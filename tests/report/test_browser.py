"""The page in a real browser: it renders, fits a phone, and asks the network for nothing."""

from __future__ import annotations

import re
import shutil
import subprocess
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from distvae.report import ReportInputs, render
from distvae.report.page import SECTIONS

NAMES = ("chromium-headless-shell", "chromium", "chromium-browser", "google-chrome")
BROWSER = next((found for found in map(shutil.which, NAMES) if found), None)

pytestmark = pytest.mark.skipif(BROWSER is None, reason=f"no browser: none of {NAMES} is on PATH")

FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--no-first-run",
    "--hide-scrollbars",
)
# The page forbids scripts; only the copy that is measured may run this one.
MEASURE = """<script>
var widest = "", root = document.documentElement;
document.querySelectorAll("body *").forEach(function (e) {
  var right = e.getBoundingClientRect().right;
  if (!e.closest(".scroll, nav") && right > innerWidth + 1) widest = e.tagName + e.className;
});
document.title = "measured " + innerWidth + " " + root.scrollWidth + " " + widest;
</script></body>"""


def browse(page: Path, *options: str, width: int = 1280, height: int = 2000) -> str:
    """Run the browser on a local page and give back its standard output."""
    assert BROWSER is not None
    profile = page.parent / f"profile-{width}-{page.stem}"
    command = [BROWSER, *FLAGS, f"--user-data-dir={profile}", f"--window-size={width},{height}"]
    ran = subprocess.run(
        [*command, *options, page.as_uri()], capture_output=True, text=True, timeout=90, check=False
    )
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def measured(text: str, folder: Path, width: int) -> tuple[int, int, str]:
    """Window width, document width and the last element that sticks out."""
    open_page = re.sub(r'<meta http-equiv="Content-Security-Policy"[^>]*>', "", text)
    path = folder / "measured.html"
    path.write_text(open_page.replace("</body>", MEASURE), encoding="utf-8")
    dom = browse(path, "--dump-dom", width=width)
    found = re.search(r"<title>measured (\d+) (\d+) ([^<]*)</title>", dom)
    assert found, "the measuring script ran"
    return int(found[1]), int(found[2]), found[3]


def test_the_browser_sees_every_section(page: str, tmp_path: Path) -> None:
    path = tmp_path / "report.html"
    path.write_text(page, encoding="utf-8")
    dom = browse(path, "--dump-dom")
    assert re.findall(r'<section id="(\w+)"', dom) == list(SECTIONS)
    assert dom.count("<svg") == page.count("<svg") > 15


@pytest.mark.parametrize("width", [1280, 380])
def test_the_screenshot_is_not_blank(page: str, tmp_path: Path, width: int) -> None:
    from PIL import Image

    path, shot = tmp_path / "report.html", tmp_path / "shot.png"
    path.write_text(page, encoding="utf-8")
    browse(path, f"--screenshot={shot}", width=width, height=3000)
    with Image.open(shot) as image:
        pixels = np.asarray(image.convert("RGB")).astype(int)
    assert pixels.shape == (3000, width, 3)
    rows_with_ink = np.ptp(pixels, axis=(1, 2)) > 60
    assert rows_with_ink.mean() > 0.3
    assert len(np.unique(pixels @ [65536, 256, 1])) > 100


@pytest.mark.parametrize("width", [1280, 380])
def test_nothing_sticks_out(page: str, tmp_path: Path, width: int) -> None:
    window, document, widest = measured(page, tmp_path, width)
    assert window == width
    assert document <= width, widest
    assert widest == ""


def test_long_names_fit_a_phone(
    inputs: ReportInputs, renamed: Callable[[ReportInputs, str], ReportInputs], tmp_path: Path
) -> None:
    long = render(renamed(inputs, "a_very_long_column_name_" * 12))
    window, document, widest = measured(long, tmp_path, 380)
    assert (window, widest) == (380, "")
    assert document <= 380


def test_mixed_columns_fit_a_phone(mixed: ReportInputs, tmp_path: Path) -> None:
    words = np.array(["a_very_long_value_" * 20, "b", None] * 100, dtype=object)
    real, made = {**mixed.real, "w": words}, {**mixed.synthetic, "w": words[:200]}
    window, document, widest = measured(
        render(replace(mixed, real=real, synthetic=made, samples=made)), tmp_path, 380
    )
    assert (window, widest) == (380, "")
    assert document <= 380


def test_hostile_names_run_nothing(
    inputs: ReportInputs, renamed: Callable[[ReportInputs, str], ReportInputs], tmp_path: Path
) -> None:
    hostile = render(renamed(inputs, "<script>document.title='owned'</script>"))
    measured(hostile, tmp_path, 1280)
    dom = browse(tmp_path / "measured.html", "--dump-dom")
    assert "<title>owned" not in dom and dom.count("<script") == 1
