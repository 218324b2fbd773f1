"""Builds a page from a template: its style, its script, and sortable table cells."""

import base64
import re
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from importlib import resources
from typing import Any

from markupsafe import Markup, escape

_MARKS = {"confirmed": "✓", "refuted": "✗", "unresolved": "?", "better": "✓", "worse": "✗", "undecided": "?"}
_NUMBER = re.compile(r"[+-]?\d+(?:\.\d+)?")
_NOTHING = Markup("")


@dataclass(frozen=True)
class Cell:
    """A table cell."""

    text: str
    value: float | None
    """Value to sort by; None if it is not a number."""
    mark: str = ""
    """A sign with the same meaning as the colour."""
    svg: Markup = _NOTHING
    """An SVG drawn below the text."""


def cells_of(texts: Iterable[str]) -> list[Cell]:
    """A row of a table."""
    cells = []
    for text in texts:
        match = _NUMBER.match(text.replace(",", ""))
        cells.append(Cell(text, float(match[0]) if match else None, _MARKS.get(text, "")))
    return cells


def render(template: str, **values: Any) -> str:
    """A page. Text from outside is escaped, and only the page's own script can run.

    Args:
        template: name of a file in the folder `page`.
        values: what the template shows.
    """
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("resact.train.report", "page"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["coded"] = _coded
    css, js = _resource("page.css"), _resource("page.js")
    return environment.get_template(template).render(
        css=Markup(css),  # noqa: S704 - our own file
        css_hash=_hash(css),
        js=Markup(js),  # noqa: S704 - our own file
        js_hash=_hash(js),
        **values,
    )


def _coded(text: str) -> Markup:
    """The text, with its parts in backquotes as code."""
    parts = text.split("`")
    if len(parts) % 2 == 0:
        return escape(text)
    return Markup("").join(
        Markup("<code>{}</code>").format(part) if n % 2 else escape(part) for n, part in enumerate(parts)
    )


def _resource(name: str) -> str:
    return resources.files("resact.train.report").joinpath("page", name).read_text(encoding="utf-8")


def _hash(text: str) -> str:
    """The hash by which a content security policy allows an inline style or script."""
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"
