"""One self-contained page of pictures about a model. matplotlib is loaded only to draw it."""

from __future__ import annotations

from distvae.report.inputs import ReportInputs, image_shape
from distvae.report.page import render

__all__ = ["ReportInputs", "image_shape", "render"]
