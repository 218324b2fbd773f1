"""Builds a page from a template: its style, its script and its pictures."""

import base64
import re
from hashlib import sha256
from importlib import resources
from typing import Any

import numpy as np
import numpy.typing as npt
import simplejpeg
from markupsafe import Markup, escape

_MARKS = {"confirmed": "✓", "refuted": "✗", "unresolved": "?", "better": "✓", "worse": "✗", "undecided": "?"}
"""Verdict -> a sign with the same meaning as its colour."""
_QUALITY = 85


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
    environment.globals |= {"image": _image, "marks": _MARKS}
    page = resources.files("resact.train.report").joinpath("page")
    css, js = (page.joinpath(name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return environment.get_template(template).render(
        css=Markup(css),  # noqa: S704 - our own file
        css_hash=_hash(css),
        js=Markup(js),  # noqa: S704 - our own file
        js_hash=_hash(js),
        **values,
    )


def _coded(text: str) -> Markup:
    """The text, with its parts in backquotes as code."""
    return Markup(re.sub("`([^`]*)`", r"<code>\1</code>", str(escape(text))))  # noqa: S704 - escaped


def _image(picture: npt.NDArray[np.uint8], words: str) -> Markup:
    """A picture as a part of the page, and words for those who do not see it."""
    height, width, _ = picture.shape
    jpeg = simplejpeg.encode_jpeg(np.ascontiguousarray(picture), _QUALITY, "RGB", "444")
    return Markup('<img src="data:image/jpeg;base64,{}" width="{}" height="{}" alt="{}">').format(
        base64.b64encode(jpeg).decode(), width, height, words
    )


def _hash(text: str) -> str:
    """The hash by which a content security policy allows an inline style or script."""
    return f"sha256-{base64.b64encode(sha256(text.encode()).digest()).decode()}"
