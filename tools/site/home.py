"""The first page of the site is the README: one text, in two places."""

from __future__ import annotations

import re
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

LINK = re.compile(r"(\]\(|(?:src|href)=\")(?!\w+:|#)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `index.md`: the README as it reads from inside docs/."""
    root = Path(config.config_file_path).parent
    text = (root / "README.md").read_text(encoding="utf-8")
    files.append(File.generated(config, "index.md", content=from_docs(text)))
    return files


def from_docs(text: str) -> str:
    """A page of the repository's root, with its links as they are written in docs/.

    Args:
        text: Markdown.
    """
    return LINK.sub(r"\1../", text).replace("../docs/", "")
