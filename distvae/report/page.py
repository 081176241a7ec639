"""The page: sections in reading order, one file, nothing fetched from anywhere."""

from __future__ import annotations

from distvae.report.curves import training_section
from distvae.report.examples import examples_section
from distvae.report.header import config_section, header
from distvae.report.inputs import ReportInputs
from distvae.report.latent import latent_section
from distvae.report.marginals import marginals_section
from distvae.report.markup import Html, join, tag
from distvae.report.metrics import metrics_section
from distvae.report.style import CSS
from distvae.report.units import units_section

__all__ = ["SECTIONS", "render"]

SECTIONS = {
    "figures": "Figures",
    "training": "Training",
    "dimensions": "Dimensions",
    "latent": "Latent space",
    "examples": "Rows",
    "marginals": "Synthetic and real",
    "config": "Settings",
}

# The browser itself then refuses to fetch or run anything.
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'"


def render(inputs: ReportInputs) -> str:
    """The report as one HTML document, the same bytes for the same inputs."""
    title = f"{inputs.model_name}: distvae report"
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=_POLICY),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(CSS)),
    )
    links = (tag("li", tag("a", words, href=f"#{key}")) for key, words in SECTIONS.items())
    main = tag(
        "main",
        metrics_section(inputs),
        training_section(inputs),
        units_section(inputs),
        latent_section(inputs),
        examples_section(inputs),
        marginals_section(inputs),
        config_section(inputs),
    )
    body = tag(
        "body",
        header(inputs),
        tag("nav", tag("ul", *links), aria_label="Sections"),
        main,
        tag("footer", "Made by distvae report. This page is one file and works offline."),
    )
    return join([Html("<!DOCTYPE html>\n"), tag("html", head, body, lang="en")]) + "\n"
