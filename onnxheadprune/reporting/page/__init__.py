"""A report as one self-contained HTML page, made from the JSON documents that commands print."""

from __future__ import annotations

import functools
from importlib.resources import files
from pathlib import Path
from typing import TYPE_CHECKING

from markupsafe import Markup

from onnxheadprune.errors import UsageError
from onnxheadprune.model.display import page_html
from onnxheadprune.model.documents import Document
from onnxheadprune.model.spelling import escaped
from onnxheadprune.model.storage.writing import write_text
from onnxheadprune.reporting.page.documents import Documents, Shipped, read_documents
from onnxheadprune.reporting.page.story import Story, story_of

if TYPE_CHECKING:
    from jinja2 import Environment


__all__ = ["Documents", "Shipped", "page_of", "read_documents", "save_page"]


def save_page(path: Path, document: Document) -> None:
    """Write the page of one result."""
    documents = Documents()
    documents.add(document, "the result")
    write_text(path, page_of(documents))


def page_of(documents: Documents) -> str:
    """The page of one or several results."""
    try:
        return _rendered(story_of(documents))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(
            f"a result is not as this version writes it ({type(error).__name__}: {error}); make it once more with"
            " --json"
        ) from error


_TEMPLATES = files("onnxheadprune.reporting.page") / "templates"


def _rendered(story: Story) -> str:
    template = _environment().get_template("compare.html" if len(story.cuts) > 1 else "page.html")
    return template.render(story=story, style=_asset("page.css"), script=_asset("page.js"))


@functools.cache
def _environment() -> Environment:
    from jinja2 import Environment, FunctionLoader, StrictUndefined

    made = Environment(
        autoescape=True,
        undefined=StrictUndefined,
        finalize=_safe,
        loader=FunctionLoader(lambda name: _TEMPLATES.joinpath(name).read_text(encoding="utf-8")),
        trim_blocks=True,
        lstrip_blocks=True,
    )
    made.filters["html"] = lambda said: Markup(page_html(said))
    return made


def _safe(value: object) -> object:
    """Names come from models: control characters and the marks that turn text around are spelled out."""
    return escaped(value) if isinstance(value, str) and not isinstance(value, Markup) else value


def _asset(name: str) -> Markup:
    return Markup(_TEMPLATES.joinpath(name).read_text(encoding="utf-8"))
