"""The reports of `prune`, `recover` and `fuse`, of a model or a folder: the answer on one screen, then what to type."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType

from onnxheadprune.model.facts import Facts
from onnxheadprune.reporting.console import NEXT, Row, is_asked, next_call, rows_of
from onnxheadprune.reporting.validation import provider_rows

if TYPE_CHECKING:
    from onnxheadprune.deploying.folders.result import FolderResult
    from onnxheadprune.workflow.result import PruneResult


def answer_report(facts: Facts, then: str = "", report: Path | None = None) -> Iterator[RenderableType]:
    """The answer on one screen: the sentence, the figures, what to know, and what to do next.

    Args:
        then: the command to type next, empty for none.
        report: a page that has the rest; None if none was asked for.
    """
    yield from rows_of(facts)
    yield ""
    if then:
        yield next_call(then)
    if not is_asked("verbose"):
        page = "; --report page.html" if report is None else ""
        yield Row("more", f"--verbose shows each site, the plan and the proof{page}", indent=NEXT)


def prune_report(result: PruneResult, report: Path | None = None) -> Iterator[RenderableType]:
    """The answer; with --verbose also the plan, the choice and the proof."""
    if result.validation is not None:
        yield from provider_rows(result.validation.provider)
    command = "validate" if result.validation is None else "bench"
    yield from answer_report(result.facts(), _next(command, result.plan.model, result.output), report)


def folder_report(result: FolderResult, real: str, report: Path | None = None) -> Iterator[RenderableType]:
    """The answer; with --verbose also sites, files, choices and configuration.

    Args:
        real: the command that writes what a dry run showed.
    """
    for validation in [item.result.validation for item in result.files if item.result.validation][:1]:
        yield from provider_rows(validation.provider)
    yield from answer_report(result.facts(), _next("bench", result.folder, result.output) or real, report)


def _next(command: str, before: str, after: str | None) -> str:
    """The command that measures what was written, or proves it where that was left out."""
    return "" if after is None else f"onnxheadprune {command} {shlex.join((before, after))}"
