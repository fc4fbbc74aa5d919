"""The model card of a pruned folder: a section on the pruning, followed by the original card."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from onnxheadprune.deploying.folders.export import CARD
from onnxheadprune.deploying.folders.result import FolderResult
from onnxheadprune.model.facts import Fact
from onnxheadprune.model.markdown import markdown_lines
from onnxheadprune.model.spelling import change, count, in_markdown, size

_LARGEST = 2**20
"""The largest size of a model card in bytes; a larger README is copied unchanged."""
_FRONT_MATTER = re.compile(r"---[ \t]*\r?\n.*?^---[ \t]*(?:\r?\n|\Z)", re.DOTALL | re.MULTILINE)
_HUB_NAME = re.compile(r"[\w.-]+/[\w.-]+", re.ASCII)


def read_card(root: Path, others: Sequence[str]) -> str | None:
    """Return the card of a folder: "" where it has none, None for a file that can only be copied."""
    if CARD not in others:
        return ""
    path = root / CARD
    if path.stat().st_size > _LARGEST:
        return None
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return None


def model_card(
    result: FolderResult,
    before: str,
    config: Mapping[str, Any],
    command: str | None,
    step: str | None = None,
) -> str:
    """Return the card of a pruned folder, in Markdown as the Hugging Face Hub shows it.

    Args:
        before: the card of the folder that was read; its front matter and its text are kept.
        command: the command line or the line of Python that repeats the call, None for none.
        step: the pass of a pipeline whose result this is; the card then names the folder that was read, since the other
            one is the pipeline's own, and says that later passes are not in it.
    """
    kept = _FRONT_MATTER.match(before)
    front = kept[0].rstrip() if kept is not None else "\n".join(_front_matter(config))
    text = before[kept.end() :] if kept is not None else before
    return "\n".join(
        [front, "", *_section(result, command, step), *(["", text.strip()] if text.strip() else []), ""]
    )


def _front_matter(config: Mapping[str, Any]) -> Iterator[str]:
    yield "---"
    name = config.get("_name_or_path")
    if isinstance(name, str) and _HUB_NAME.fullmatch(name):
        yield f"base_model: {name}"
    yield from ("tags:", "- onnx", "- pruned", "---")


def _section(result: FolderResult, command: str | None, step: str | None) -> Iterator[str]:
    from onnxheadprune import __version__

    name = Path(result.folder if step is not None else result.output or result.folder).name
    yield f"# {in_markdown(name)}"
    yield ""
    if step is not None:
        yield (
            f"This section describes the models as the pass {step} wrote them. What later passes changed, as a"
            " quantization does, is not in its answers and sizes."
        )
        yield ""
    yield f"Pruned with onnxheadprune {__version__}: {', '.join(result.removed) or 'nothing is removed'}."
    yield ""
    told = result.facts()
    # Fields of the configuration are all listed below.
    parts = tuple(part for part in told.parts if not (isinstance(part, Fact) and part.label == "config"))
    yield from markdown_lines(replace(told, parts=parts))
    if any(result.heads.values()):
        yield from ("", "| | block | removed | left |", "|---|---|---|---|")
    for item in (item for kind in result.match.kinds for item in result.match.of_kind(kind)):
        gone = result.heads.get(item.index, ())
        if gone:
            site = item.site
            left = f"{count(site.num_units - len(gone))} of {count(site.original_num_units)}"
            numbers = site.listed(gone, named=True)
            yield f"| {site.tag} | {in_markdown(site.name)} | {numbers} | {left} |"
    yield from ("", "| file | weights before | after | |", "|---|---:|---:|---:|")
    for file in result.files:
        was, now = file.result.before.bytes, file.result.after.bytes
        yield f"| {in_markdown(file.name)} | {size(was)} | {size(now)} | {change(was, now)} |"
    if result.changes:
        yield ""
        yield from (f"* {in_markdown(str(change))}" for change in result.changes)
    if command is not None:
        yield from ("", "To repeat it:", "", f"    {command}")
