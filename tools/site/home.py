"""The README is the first page of the site, CHANGELOG.md another: one text, in two places."""

from __future__ import annotations

import contextlib
import re
import subprocess
from pathlib import Path

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

from onnxheadprune import __version__

LINK = re.compile(r"(\]\(|(?:src|href)=\")(?!\w+:|#)")


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `index.md` and `changelog.md`: README and CHANGELOG as they read from inside docs/."""
    root = Path(config.config_file_path).parent
    for name, place in {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}.items():
        text = (root / name).read_text(encoding="utf-8")
        files.append(File.generated(config, place, content=from_docs(text)))
    return files


def on_config(config: MkDocsConfig) -> MkDocsConfig:
    """Add the version to the foot of each page, and the link to the repository, which `origin` names."""
    config.copyright = f"onnxheadprune {__version__} · Apache-2.0"
    if not config.repo_url:
        call = ["git", "-C", str(Path(config.config_file_path).parent), "remote", "get-url", "origin"]
        with contextlib.suppress(OSError):
            told = subprocess.run(call, capture_output=True, text=True, check=False).stdout.strip()
            config.repo_url = told if told.startswith("https://") else None
    return config


def from_docs(text: str) -> str:
    """A page of the repository's root, with its links as they are written in docs/.

    Args:
        text: Markdown.
    """
    return LINK.sub(r"\1../", text).replace("../docs/", "")
