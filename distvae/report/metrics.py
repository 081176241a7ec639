"""The held-out figures, beside PCA's where it has them, each with a reading in plain words."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from distvae.report.inputs import ReportInputs
from distvae.report.markup import Html, missing, section, table, tag
from distvae.report.words import count, finite, number, percent, plain

__all__ = ["error_ratio", "metrics_section", "ratio_reading", "subject"]

_NAMES = {"vae": "The VAE", "autoencoder": "The autoencoder", "pca": "This PCA"}
_IN_THE_TABLE = frozenset(
    {
        "reconstruction_mse",
        "pca_reconstruction_mse",
        "explained_variance",
        "pca_explained_variance",
        "elbo",
        "reconstruction",
        "kl",
        "log_likelihood",
        "log_likelihood_se",
        "importance_samples",
        "active_units",
        "rows",
    }
)


def subject(kind: str) -> str:
    """What the page calls the model in a sentence."""
    return _NAMES.get(kind, "The model")


def error_ratio(metrics: Mapping[str, Any]) -> float | None:
    """Reconstruction error over PCA's, or None when one is absent or PCA's is zero."""
    mse = finite(metrics.get("reconstruction_mse"))
    pca = finite(metrics.get("pca_reconstruction_mse"))
    return mse / pca if mse is not None and pca is not None and pca > 0.0 else None


def ratio_reading(ratio: float, kind: str) -> str:
    """The ratio as a sentence."""
    name = f"{subject(kind)}\u2019s reconstruction error"
    return f"{name} is {ratio:.2f}\u00a0× PCA\u2019s: {_meaning(ratio, kind)}"


def _meaning(ratio: float, kind: str) -> str:
    if kind == "pca":
        return "the model is the baseline itself."
    if ratio < 0.98:
        return f"{percent(1.0 - ratio)} less error from a code of the same size."
    if ratio <= 1.02:
        return "no better and no worse than a straight projection of the same size."
    return (
        "PCA reconstructs better from a code of the same size. "
        "Longer training, a wider network or a smaller KL weight may help."
    )


def metrics_section(inputs: ReportInputs) -> Html:
    """The section with the table of figures."""
    title, metrics = "How good it is", inputs.metrics
    if not metrics:
        line = missing("No figures given: run", command="distvae evaluate DATA --model M")
        return section("figures", title, "", line)
    rows = _rows(metrics, inputs.kind)
    held_out = finite(metrics.get("rows"))
    lead = "" if held_out is None else f"On {count(held_out)} held-out rows. "
    lead += "PCA has as many numbers per row as the model\u2019s code."
    body: list[Html | None] = []
    if rows:
        model = "VAE" if inputs.kind == "vae" else inputs.kind
        headers = ("figure", model, "PCA", "in words")
        body.append(table(headers, rows, caption="Held-out figures", class_="figures"))
    if error_ratio(metrics) is None:
        body.append(missing("No comparison with PCA: the figures lack one of the two errors."))
    body.append(_rest(metrics))
    return section("figures", title, lead, *body)


def _rows(metrics: Mapping[str, Any], kind: str) -> list[tuple[str, str, str, str]]:
    """figure, model, PCA, reading; a figure that the kind does not have is left out."""
    found = (
        _errors(metrics, kind),
        _variance(metrics),
        _elbo(metrics),
        _plain(metrics, "reconstruction", "Reconstruction term", "nats", _RECONSTRUCTION),
        _plain(metrics, "kl", "KL", "nats", "How much the code says about a row."),
        _likelihood(metrics),
        _units(metrics),
    )
    return [row for row in found if row is not None]


_RECONSTRUCTION = "How likely a row is given its code, mean log p(x|z)."


def _errors(metrics: Mapping[str, Any], kind: str) -> tuple[str, str, str, str] | None:
    mse, pca = metrics.get("reconstruction_mse"), metrics.get("pca_reconstruction_mse")
    if finite(mse) is None and finite(pca) is None:
        return None
    ratio = error_ratio(metrics)
    reading = "" if ratio is None else f"{ratio:.2f}\u00a0× PCA\u2019s: {_meaning(ratio, kind)}"
    return "Reconstruction error (MSE)", number(mse), number(pca), reading


def _variance(metrics: Mapping[str, Any]) -> tuple[str, str, str, str] | None:
    share = finite(metrics.get("explained_variance"))
    pca = finite(metrics.get("pca_explained_variance"))
    if share is None:
        return None
    reading = f"The code keeps {percent(share)} of the variance of the data."
    if share < 0.0:
        reading = "Worse than answering with the mean of every column."
    return "Explained variance", percent(share), "" if pca is None else percent(pca), reading


def _elbo(metrics: Mapping[str, Any]) -> tuple[str, str, str, str] | None:
    elbo, likelihood = finite(metrics.get("elbo")), finite(metrics.get("log_likelihood"))
    if elbo is None:
        return None
    reading = "A lower bound of the log-likelihood, mean per row."
    if likelihood is not None and likelihood > elbo:
        gap = number(likelihood - elbo, 3)
        reading = f"The bound lies {gap} nats below the likelihood estimate."
    return "ELBO", f"{number(elbo)} nats", "", reading


def _likelihood(metrics: Mapping[str, Any]) -> tuple[str, str, str, str] | None:
    value, error = finite(metrics.get("log_likelihood")), finite(metrics.get("log_likelihood_se"))
    if value is None:
        return None
    samples = finite(metrics.get("importance_samples"))
    how = "Importance-weighted"
    how += "" if samples is None else f" with {count(samples)} samples per row"
    spread = "" if error is None else f" ± {number(error, 2)}"
    return "Log-likelihood", f"{number(value)}{spread} nats", "", f"{how}, mean per row."


def _plain(
    metrics: Mapping[str, Any], key: str, name: str, unit: str, reading: str
) -> tuple[str, str, str, str] | None:
    value = finite(metrics.get(key))
    return None if value is None else (name, f"{number(value)} {unit}", "", reading)


def _units(metrics: Mapping[str, Any]) -> tuple[str, str, str, str] | None:
    active, per_dimension = finite(metrics.get("active_units")), metrics.get("kl_per_dimension")
    if active is None:
        return None
    if not per_dimension:
        return "Active units", count(active), "", "Dimensions of the code that carry information."
    all_ = len(per_dimension)
    off = all_ - int(active)
    reading = "Every dimension of the code is in use."
    if int(active) == 0:
        reading = "The decoder ignores the code: posterior collapse."
    elif off:
        reading = f"{off} of {all_} dimensions are switched off: a smaller code would do."
    return "Active units", f"{count(active)} of {all_}", "", reading


def _rest(metrics: Mapping[str, Any]) -> Html | None:
    """Figures that the table has no line for, as they are."""
    rest = {
        key: value
        for key, value in metrics.items()
        if key not in _IN_THE_TABLE and not isinstance(value, (list, tuple, dict))
    }
    if not rest:
        return None
    rows = [
        (key, number(value) if isinstance(value, float) else plain(value))
        for key, value in rest.items()
    ]
    inside = table(("figure", "value"), rows, caption="Further figures", class_="plain")
    return tag("details", tag("summary", "Further figures"), inside)
