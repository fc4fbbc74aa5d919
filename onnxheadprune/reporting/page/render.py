"""From a story to HTML: templates fill in, nothing decides."""

from __future__ import annotations

import functools
from importlib.resources import files
from typing import TYPE_CHECKING

from markupsafe import Markup

from onnxheadprune.reporting.escaping import escaped
from onnxheadprune.reporting.page.story import Story

if TYPE_CHECKING:
    from jinja2 import Environment

_TEMPLATES = files("onnxheadprune.reporting.page") / "templates"


def rendered(story: Story) -> str:
    """The page.

    Args:
        story: what it tells.
    """
    template = _environment().get_template("compare.html" if len(story.cuts) > 1 else "page.html")
    return template.render(story=story, style=_asset("page.css"), script=_asset("page.js"))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    return Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe,
        loader=FunctionLoader(lambda name: _TEMPLATES.joinpath(name).read_text(encoding="utf-8")),
        trim_blocks=True,
        lstrip_blocks=True,
    )


def _safe(value: object) -> object:
    """Names come from models: control characters and the marks that turn text around are spelled out."""
    return escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> Markup:
    """The style or the script, our own text, as it is."""
    return Markup(_TEMPLATES.joinpath(name).read_text(encoding="utf-8"))
