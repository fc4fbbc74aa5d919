"""A report as one self-contained HTML page: what the terminal shows, and the heat map."""

from __future__ import annotations

import io
from collections.abc import Iterable
from html import escape
from pathlib import Path

from rich.console import RenderableType
from rich.terminal_theme import DEFAULT_TERMINAL_THEME

from onnxheadprune.cli.report.console import Console
from onnxheadprune.cli.report.escaping import escaped
from onnxheadprune.cli.report.heatmap import Removed, Scores, heatmap_svg
from onnxheadprune.model.storage.folder import write_text

WIDTH = 130
STYLE = "body{margin:2em;font-family:sans-serif} pre{font-size:13px;line-height:1.25} svg{max-width:100%;height:auto}"


def save_page(
    path: Path, title: str, rows: Iterable[RenderableType], heat: tuple[Scores, Removed] | None = None
) -> None:
    """Writes the page.

    Args:
        path: an .html file.
        title: of the page.
        rows: what the terminal would show.
        heat: scores and removed heads per site, for the picture.

    Raises:
        UsageError: if the file cannot be written.
    """
    console = Console(
        record=True,
        file=io.StringIO(),
        width=WIDTH,
        highlight=False,
        markup=False,
        emoji=False,
        color_system="truecolor",
    )
    console.print(*rows, sep="\n")
    text = console.export_html(
        inline_styles=True, theme=DEFAULT_TERMINAL_THEME, code_format="<pre>{code}</pre>"
    )
    title = escaped(title)
    picture = "" if heat is None or not heat[0] else heatmap_svg(*heat, title="what heads are worth")
    page = (
        f'<!doctype html><html lang="en"><head><meta charset="utf-8"><title>{escape(title)}</title>'
        f"<style>{STYLE}</style></head><body><h1>{escape(title)}</h1>{text}{picture}</body></html>\n"
    )
    write_text(path, page)
