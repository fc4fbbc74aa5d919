"""Results that are displayed: printed as the lines of their command, and shown by notebooks."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from onnxheadprune.display.facts import Facts
from onnxheadprune.display.html import html_of
from onnxheadprune.model.typed_json import JsonObject
from onnxheadprune.settings.words import keyword, spelled_by


class Displayed(JsonObject):
    """A result that prints as the lines of its command, and that notebooks show as HTML.

    Attributes:
        as_text: the writer for terminals, which the Python API supplies; without it a result prints as its repr.
    """

    as_text: ClassVar[Callable[[Facts], str] | None] = None

    def facts(self) -> Facts:
        """The facts of the result, for every writer."""
        raise NotImplementedError

    def document(self) -> dict[str, Any]:
        """The JSON document with the facts, of which pages are made."""
        return {**self.to_dict(), "facts": self.facts().to_dict()}

    def __str__(self) -> str:
        writer = type(self).as_text
        return repr(self) if writer is None else writer(spelled_by(keyword, self.facts()))

    def _repr_html_(self) -> str:
        return html_of(spelled_by(keyword, self.facts()))
