"""The output and reports of a command: complete before its result gets a name, delivered after that.

So a report that cannot be made leaves no model behind, and once the model is there nothing can fail but a disk.
"""

from __future__ import annotations

import contextlib
import datetime
import os
import shlex
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

import click

from onnxheadprune.cli.outcome import NOT_WRITTEN, printable
from onnxheadprune.settings.inputs import RANDOM, Samples
from onnxheadprune.settings.setting import declared

if TYPE_CHECKING:
    from rich.console import RenderableType

    from onnxheadprune.deploying.folders.result import FolderResult
    from onnxheadprune.display.displayed import Displayed
    from onnxheadprune.workflow.result import PruneResult


_KINDS = {".html": "report", ".png": "plot", ".svg": "plot", ".pdf": "plot"}
"""Names of written files in the output."""


class Presentation:
    """Of one result."""

    def __init__(self) -> None:
        self._text, self._is_json = "", False
        self._files: list[tuple[Path, bytes]] = []

    @contextlib.contextmanager
    def prepared(self) -> Iterator[None]:
        """Reports that are written meanwhile are made, and kept in memory until `deliver`."""
        from onnxheadprune.model.storage.writing import held_back

        with held_back() as files:
            yield
        self._files += files

    def json(self, document: Mapping[str, object]) -> None:
        """The one JSON document of the command."""
        self._is_json = True
        self._text += printable(document)

    def rows(self, *rows: RenderableType) -> None:
        """Text for people."""
        from onnxheadprune.reporting.console import out

        console = out()
        with console.capture() as captured:
            console.print(*rows, sep="\n")
        self._text += captured.get()

    def deliver(self, made: str | None = None) -> int:
        """Write the reports and print the text, even if a report cannot be written."""
        from onnxheadprune.errors import UsageError
        from onnxheadprune.model.storage.writing import write_file
        from onnxheadprune.reporting.console import NEXT, Row, print_error

        lost: list[str] = []
        written = [] if made is None else [made]
        for target, data in self._files:
            try:
                write_file(target, data)
            except UsageError as error:
                lost.append(str(error))
            else:
                written.append(str(target))
                if not self._is_json:
                    kind = _KINDS.get(target.suffix.lower(), "file")
                    self.rows(Row(kind, str(target), indent=NEXT))
        sys.stdout.write(self._text)
        if not lost:
            return 0
        were = f"{' and '.join(written)} {'were' if written[1:] else 'was'} written"
        what = were if written else "the result was printed"
        print_error(f"{what}, but {'; '.join(lost)}")
        return NOT_WRITTEN


def document_of(result: Displayed) -> dict[str, object]:
    """The JSON document of a result with its facts, and with how to repeat it."""
    return {**result.document(), "run": run_record()}


HELD_OUT = "HELD_OUT"
"""Stands for data that a call has not seen."""


def run_record() -> dict[str, object]:
    """The command line, with its time, folder, version and machine."""
    from onnxheadprune import __version__
    from onnxheadprune.runtime.providers import machine
    from onnxheadprune.runtime.session import versions

    return {
        "command": command_line(),
        "folder": _folder(),
        "date": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "versions": {"onnxheadprune": __version__, **versions()},
        "machine": machine(),
    }


def command_line(leaving: str = "") -> str:
    """The words of this call, as a shell takes them; without a switch of this name, if one is left out."""
    words = click.get_current_context().find_root().obj or ()
    return shlex.join(("onnxheadprune", *(word for word in words if word != leaving)))


def next_command(result: PruneResult | FolderResult) -> str:
    """The command to run after a cut: `validate` on held-out data, then `bench`."""
    line, params = command_line(leaving="--dry-run"), click.get_current_context().params
    if result.output is None:
        return line
    chosen = next((item.chosen for item in result.results if item.chosen is not None), None)
    if chosen is not None and chosen.recovery is not None and chosen.recovery.is_interrupted:
        return f"{line} --resume"
    pair, data = shlex.join((result.compared_with, result.output)), params.get("data")
    is_proven = all(item.validation is not None for item in result.results)
    if chosen is None and data not in (None, RANDOM) and is_proven:
        return f"onnxheadprune bench {pair}"
    return f"onnxheadprune validate {pair} {_further(data, Path(params['model']))}"


def _further(data: str | None, model: Path) -> str:
    """Options for held-out data in the format of the data of this call."""
    if data is None or data == RANDOM:
        folder = model if model.is_dir() else model.parent
        return f"--data YOURS.{'txt' if (folder / 'tokenizer.json').is_file() else 'npz'}"
    context = click.get_current_context()
    module, colon, _ = data.rpartition(":")
    named = f"{module}:{HELD_OUT}" if colon and not Path(data).exists() else f"{HELD_OUT}{Path(data).suffix}"
    names = {"data_format", *declared(Samples)}
    flags = {flag for option in context.command.params if option.name in names for flag in option.opts}
    words, kept = list(context.find_root().obj or ()), ["--data", named]
    for place, word in enumerate(words):
        if word.partition("=")[0] in flags:
            kept += words[place : place + (1 if "=" in word else 2)]
    return shlex.join(kept)


def _folder() -> str | None:
    try:
        return os.getcwd()  # noqa: PTH109 - a folder that is gone has no Path
    except OSError:
        return None
