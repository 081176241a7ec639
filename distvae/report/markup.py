"""HTML by construction: a plain ``str`` is always escaped, only ``Html`` is taken as it is."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from html import escape

__all__ = ["Card", "Html", "cards", "join", "legend", "missing", "section", "table", "tag"]

_VOID = frozenset({"br", "img", "meta"})


class Html(str):
    """Text that is HTML already. Only this module and ``theme`` make it."""

    __slots__ = ()


@dataclass(frozen=True)
class Card:
    """A chart with its title, a line that says what it shows and a line that reads it."""

    title: str
    body: Html
    subtitle: str = ""
    reading: str = ""


def join(children: Iterable[str | None]) -> Html:
    """One piece of HTML out of several; strings are escaped, None is nothing."""
    return Html(
        "".join(
            child if isinstance(child, Html) else escape(child)
            for child in children
            if child is not None
        )
    )


def tag(name: str, /, *children: str | None, **attributes: str | None) -> Html:
    """``<name …>children</name>``; ``class_`` and ``aria_label`` become what HTML calls them."""
    written = "".join(
        f' {key.rstrip("_").replace("_", "-")}="{escape(value)}"'
        for key, value in attributes.items()
        if value is not None
    )
    if name in _VOID:
        return Html(f"<{name}{written}>")
    return Html(f"<{name}{written}>{join(children)}</{name}>")


def section(key: str, title: str, lead: str, *body: str | None) -> Html:
    """A titled section that the navigation can point at."""
    return tag(
        "section",
        tag("h2", title, id=f"{key}-title"),
        tag("p", lead, class_="lead") if lead else None,
        *body,
        id=key,
        aria_labelledby=f"{key}-title",
    )


def missing(what: str, *, command: str = "", after: str = "") -> Html:
    """A line that says what is not there and how to get it."""
    return tag(
        "p",
        what,
        " " if command else None,
        tag("code", command) if command else None,
        f" {after}" if after else None,
        class_="missing",
    )


def cards(items: Iterable[Card], *, level: str = "h3", size: str = "small") -> Html:
    """A grid of cards that reflows with the width of the page."""
    return tag("div", *(_card(item, level) for item in items), class_=f"grid {size}")


def _card(item: Card, level: str) -> Html:
    return tag(
        "figure",
        tag(
            "figcaption",
            tag(level, item.title),
            tag("p", item.subtitle, class_="unit") if item.subtitle else None,
        ),
        item.body,
        tag("p", item.reading, class_="reading") if item.reading else None,
        class_="card",
    )


def legend(*entries: tuple[str, str]) -> Html:
    """A key: pairs of a swatch class (``first``, ``second`` …) and its words."""
    return tag(
        "ul",
        *(
            tag("li", tag("span", class_=f"swatch {swatch}", aria_hidden="true"), words)
            for swatch, words in entries
        ),
        class_="legend",
    )


def table(
    headers: Sequence[str], rows: Iterable[Sequence[str]], *, caption: str, class_: str = ""
) -> Html:
    """A table that scrolls inside its own box; the first cell of a row is its header."""
    head = tag("tr", *(tag("th", header, scope="col") for header in headers))
    body = (
        tag(
            "tr",
            *(
                tag("td", cell, data_label=header) if index else tag("th", cell, scope="row")
                for index, (header, cell) in enumerate(zip(headers, row, strict=True))
            ),
        )
        for row in rows
    )
    return tag(
        "div",
        tag(
            "table",
            tag("caption", caption),
            tag("thead", head),
            tag("tbody", *body),
            class_=class_ or None,
        ),
        class_="scroll",
        tabindex="0",
        role="region",
        aria_label=caption,
    )
