"""The top of the page: what the model is, what it learned from, and its figures at a glance."""

from __future__ import annotations

from collections import deque
from collections.abc import Iterator, Mapping
from typing import Any

from distvae.report.inputs import ReportInputs
from distvae.report.markup import Html, missing, section, table, tag
from distvae.report.metrics import error_ratio, ratio_reading
from distvae.report.words import count, finite, number, percent, plain, plural

__all__ = ["config_section", "features_of", "find", "header"]

_KINDS = {
    "vae": "Variational autoencoder",
    "autoencoder": "Autoencoder",
    "pca": "Principal component analysis",
    "kernel-pca": "Kernel principal component analysis",
}
_FACTS = (
    ("latent_dim", "latent dimensions"),
    ("hidden_dims", "hidden layers"),
    ("activation", "activation"),
    ("posterior", "posterior"),
    ("prior", "prior"),
    ("likelihoods", "likelihoods"),
    ("parameters", "parameters"),
    ("rows", "training rows"),
    ("train_rows", "training rows"),
    ("epochs", "epochs"),
    ("batch_size", "batch size"),
    ("learning_rate", "learning rate"),
    ("kl_weight", "KL weight"),
    ("seed", "seed"),
)
_MOST_NAMES, _MOST_SETTINGS, _SHORT_ID, _LONG = 8, 200, 12, 22


def find(config: Mapping[str, Any], key: str) -> Any:
    """The value of a key wherever it stands in a nested config, the outermost first."""
    waiting = deque([config])
    while waiting:
        here = waiting.popleft()
        if here.get(key) is not None:
            return here[key]
        waiting.extend(value for value in here.values() if isinstance(value, Mapping))
    return None


def features_of(config: Mapping[str, Any]) -> list[tuple[str, str, int]]:
    """Name, role and width of the features that the config lists."""
    listed = find(config, "features")
    if not isinstance(listed, (list, tuple)):
        return []
    found = []
    for item in listed:
        if isinstance(item, Mapping) and "name" in item:
            if item.get("companion_of"):
                continue  # says whether another column's value is there
            start, stop = finite(item.get("start")), finite(item.get("stop"))
            given = finite(item.get("width"))
            width = stop - start if start is not None and stop is not None else given
            found.append((str(item["name"]), str(item.get("role", "column")), int(width or 1)))
        else:
            found.append((str(item), "column", 1))
    return found


def header(inputs: ReportInputs) -> Html:
    """The card with the model's name, its facts and its headline figures."""
    what = _KINDS.get(inputs.kind, inputs.kind)
    code = tag("code", inputs.model_id[:_SHORT_ID] or "no id", title=inputs.model_id)
    ratio = error_ratio(inputs.metrics)
    verdict = ratio_reading(ratio, inputs.kind) if ratio is not None else ""
    return tag(
        "header",
        tag("p", what, class_="eyebrow"),
        tag("h1", inputs.model_name),
        tag("p", verdict, class_="verdict") if verdict else None,
        _tiles(inputs),
        tag("dl", *_facts(inputs, code), class_="facts"),
        class_="hero",
    )


def _tiles(inputs: ReportInputs) -> Html | None:
    tiles = [
        tag("li", tag("strong", figure), tag("span", words)) for figure, words in _headline(inputs)
    ]
    return tag("ul", *tiles, class_="headline") if tiles else None


def _headline(inputs: ReportInputs) -> Iterator[tuple[str, str]]:
    """Up to four figures worth large type."""
    metrics = inputs.metrics
    ratio, kept = error_ratio(metrics), finite(metrics.get("explained_variance"))
    if ratio is not None:
        yield f"{ratio:.2f}\u00a0×", "PCA\u2019s reconstruction error"
    if kept is not None:
        yield percent(kept), "of the variance kept"
    if (active := finite(metrics.get("active_units"))) is not None:
        per_dimension = metrics.get("kl_per_dimension")
        of = f" of {len(per_dimension)}" if per_dimension else ""
        yield f"{count(active)}{of}", "latent dimensions active"
    likelihood, elbo = metrics.get("log_likelihood"), metrics.get("elbo")
    if finite(likelihood) is not None:
        yield number(likelihood), "nats per row, log-likelihood"
    elif finite(elbo) is not None:
        yield number(elbo), "nats per row, ELBO"


def _facts(inputs: ReportInputs, code: Html) -> Iterator[Html]:
    yield _fact("model id", code)
    features = features_of(inputs.config)
    if features:
        names = [f"{name} ({width})" if width > 1 else name for name, _, width in features]
        more = len(names) - _MOST_NAMES
        listed = ", ".join(names[:_MOST_NAMES]) + (f" and {more} more" if more > 0 else "")
        values = sum(width for _, _, width in features)
        sizes = f"{plural(len(features), 'column')}, {plural(values, 'number')} per row"
        yield _fact("data", f"{sizes}: {listed}")
    for key, words in _FACTS:
        value = find(inputs.config, key)
        if value is not None:
            yield _fact(words, _written(value))


def _written(value: Any) -> str:
    if isinstance(value, Mapping):
        heads = sorted({str(head) for head in value.values()})
        if len(value) > 3 and len(heads) == 1:
            return f"{heads[0]} for all {len(value)} columns"
        return plain([f"{name}: {head}" for name, head in value.items()])
    if isinstance(value, int) and not isinstance(value, bool):
        return count(value)
    return plain(value)


def _fact(name: str, value: str) -> Html:
    wide = not isinstance(value, Html) and len(value) > _LONG
    return tag("div", tag("dt", name), tag("dd", value), class_="wide" if wide else None)


def config_section(inputs: ReportInputs) -> Html:
    """The section with notes, and the whole config folded away."""
    notes = tag("ul", *(tag("li", note) for note in inputs.notes), class_="notes")
    shown: list[Html | None] = [notes if inputs.notes else None]
    if inputs.config:
        rows = list(_flat(inputs.config))
        cut = len(rows) - _MOST_SETTINGS
        folded = (
            tag("summary", f"All {plural(len(rows), 'setting')}"),
            table(("setting", "value"), rows[:_MOST_SETTINGS], caption="Config", class_="plain"),
            missing(f"{plural(cut, 'more setting')} in config.json.") if cut > 0 else None,
        )
        shown.append(tag("details", *folded))
    else:
        shown.append(missing("No config given."))
    return section("config", "Notes and settings", "", *shown)


def _flat(config: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, str]]:
    """Nested settings as ``outer.inner`` and a short value."""
    for key, value in config.items():
        if isinstance(value, Mapping) and value:
            yield from _flat(value, f"{prefix}{key}.")
        elif isinstance(value, (list, tuple)) and any(isinstance(x, Mapping) for x in value):
            names = [x.get("name", "…") if isinstance(x, Mapping) else x for x in value]
            yield f"{prefix}{key}", f"{len(value)}: {plain(names)}"
        else:
            yield f"{prefix}{key}", plain(value)
