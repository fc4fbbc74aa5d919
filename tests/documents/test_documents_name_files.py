"""Documents name files and functions that are there."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.conftest import ROOT

DOCUMENTS = sorted([*ROOT.glob("*.md"), *ROOT.glob("docs/*.md"), *ROOT.glob("sample_models/*.md")])
NAMED = re.compile(r"`([\w./-]+\.py)(?:::?(\w+))?`")
HISTORY = {"CHANGELOG.md"}
"""What tells how things were."""


def named(text: str) -> Iterator[tuple[str, str]]:
    """Files that a text names, with a function or class in them, "" if none."""
    yield from ((found[1], found[2] or "") for found in NAMED.finditer(text))


def places(name: str, document: Path) -> list[Path]:
    """The files that a document may mean by a name."""
    roots = (ROOT, ROOT / "onnxheadprune", document.parent)
    return [path for root in roots if (path := root / name).is_file()] + list(ROOT.glob(f"tests/**/{name}"))


def missing(document: Path) -> list[str]:
    """What a document names and nobody finds."""
    found = []
    for file, thing in named(document.read_text(encoding="utf-8")):
        texts = [path.read_text(encoding="utf-8") for path in places(file, document)]
        if not any(not thing or re.search(rf"\b(def|class) {thing}\b", text) for text in texts):
            found.append(f"{file}:{thing}" if thing else file)
    return found


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: path.name)
def test_what_a_document_names_is_there(document: Path) -> None:
    if document.name not in HISTORY:
        assert missing(document) == []
