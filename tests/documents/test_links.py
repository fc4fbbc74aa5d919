"""Links between files of the repository lead to files; that their anchors are there is for the site to say.

Headings go down one level at a time, so that screen readers can jump from one to the next.
"""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from markdown_it import MarkdownIt

from tests.conftest import ROOT
from tests.documents.blocks import PAGES

SCHEME = re.compile(r"\w+:")


def links_of(page: Path) -> Iterator[str]:
    """What a page leads to, or shows, by relative paths; without anchors."""
    for token in MarkdownIt("commonmark").enable("table").parse(page.read_text(encoding="utf-8")):
        for child in token.children or ():
            link = str(child.attrGet("href") or child.attrGet("src") or "").partition("#")[0]
            if link and not SCHEME.match(link):
                yield link


def dead(page: Path) -> list[str]:
    """Links of a page that lead nowhere."""
    return [link for link in links_of(page) if not (page.parent / link).exists()]


@pytest.mark.parametrize("page", PAGES, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(page: Path) -> None:
    assert dead(page) == []


FENCED = re.compile(r"^( *```).*?^\1", re.MULTILINE | re.DOTALL)


def test_no_heading_skips_a_level() -> None:
    for page in PAGES:
        found = re.findall(r"^(#+) ", FENCED.sub("", page.read_text(encoding="utf-8")), re.MULTILINE)
        levels = [0, *map(len, found)]
        assert all(below <= above + 1 for above, below in itertools.pairwise(levels)), page
