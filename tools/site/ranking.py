"""What search lists first: guides before commands, these before decisions, and pages for contributors last."""

from __future__ import annotations

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import Files
from mkdocs.structure.pages import Page

BOOSTS = {
    **dict.fromkeys(("decisions", "repository/", "extending", "architecture"), 1e-5),
    **dict.fromkeys(("changelog", "supported-", "api/"), 1e-2),
    "commands/": 1e-3,
}
"""By how the path of a page begins. A word in a title counts a thousand times as much as one in a text."""


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Set the boost of a page."""
    boost = next((boost for start, boost in BOOSTS.items() if page.file.src_uri.startswith(start)), 1)
    page.meta.setdefault("search", {}).setdefault("boost", boost)
    return markdown
