"""The notebook is a page: its cells, and what they gave when it was run."""

from __future__ import annotations

import base64
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

NAME = "tutorial"
BLANK_LINES = re.compile(r"\n\s*(?=\n)")
"""They would end a block of HTML in Markdown."""


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add `tutorial.md` and its plots."""
    notebook = json.loads(Path(config.docs_dir, f"{NAME}.ipynb").read_text(encoding="utf-8"))
    plots: list[bytes] = []
    text = "\n\n".join(part for cell in notebook["cells"] for part in parts(cell, plots))
    files.append(File.generated(config, f"{NAME}.md", content=text + f"\n\n[The notebook]({NAME}.ipynb)\n"))
    for number, plot in enumerate(plots):
        files.append(File.generated(config, f"{NAME}-{number}.png", content=plot))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Lead links to the notebook to its page, but for the one that downloads it."""
    return re.sub(rf"(?<!The notebook\]\()\b{NAME}\.ipynb(?=\))", f"{NAME}.md", markdown)


def parts(cell: dict[str, Any], plots: list[bytes]) -> Iterator[str]:
    """A cell as Markdown.

    Args:
        cell: of a notebook of version 4.
        plots: gets the PNG images that it shows.
    """
    source = "".join(cell["source"])
    yield source if cell["cell_type"] == "markdown" else f"```python\n{source}\n```"
    for output in cell.get("outputs", ()):
        data = output.get("data", {})
        if "text" in output:
            yield f'```text title="prints"\n{"".join(output["text"])}```'
        elif "image/png" in data:
            plots.append(base64.b64decode(data["image/png"]))
            yield f'<img src="../{NAME}-{len(plots) - 1}.png" alt="Plot of the cell above">'
        elif "text/html" in data:
            html = BLANK_LINES.sub("", "".join(data["text/html"]))
            yield f'<div class="output">{html}</div>'
