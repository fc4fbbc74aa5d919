"""Transcripts: what commands print and their exit codes, as they were read; `--update-golden` writes them anew.

Every command keeps the same laws: no traceback, no input touched, one line for what was asked wrongly, lines that fit a
terminal. With `--json` each way in which a command ends has the same exit code and sentence.
"""

from __future__ import annotations

import difflib
import os
import shlex
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

import onnxheadprune
from onnxheadprune import HeadPruneError
from tests.conftest import Command, Outcome
from tests.screens.shelf import write_shelf
from tests.screens.transcript import files, kept, normalized, read, written

TRANSCRIPTS = sorted(Path(__file__).parent.glob("*.txt"))
REPLACING = {"--in-place", "--force"}
WIDTH = 80


class Desk:
    """The folder in which commands run; it is put in order after each paragraph of a transcript."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.stamps = self.before = self._stamps()
        self.kept = {path: Path(path).read_bytes() for path in self.stamps}
        self.folders = {place for place, _, _ in os.walk(folder)}
        self.endings: set[tuple[str, int]] = set()

    def _stamps(self) -> dict[str, tuple[int, int]]:
        """Time and size of each file; after each command, so `Path` would take too long."""
        found, waiting = dict[str, tuple[int, int]](), [str(self.folder)]
        while waiting:
            with os.scandir(waiting.pop()) as entries:
                for entry in entries:
                    if entry.is_dir(follow_symlinks=False):
                        waiting.append(entry.path)
                    elif entry.is_file():
                        found[entry.path] = (entry.stat().st_mtime_ns, entry.stat().st_size)
        return found

    def put(self, named: dict[str, str]) -> None:
        """Add text files."""
        for name, text in named.items():
            (self.folder / name).parent.mkdir(exist_ok=True)
            (self.folder / name).write_text(text, encoding="utf-8")
        self.before = self._stamps()

    def changes(self) -> tuple[list[str], list[str]]:
        """The files that a command wrote or replaced, and those of them that were not its own."""
        before, self.before = self.before, self._stamps()
        changed = [path for path in {**self.before, **before} if before.get(path) != self.before.get(path)]
        found = sorted(changed, key=lambda path: (path not in self.before, Path(path)))
        rows = [f"{'~' if path in before else '+'} {Path(path).relative_to(self.folder)}" for path in found]
        return rows, [path for path in found if path in self.kept]

    def clear(self) -> None:
        """Restore all that was there, and remove the rest."""
        for path, stamp in self._stamps().items():
            if path not in self.kept:
                Path(path).unlink()
            elif stamp != self.stamps[path]:
                Path(path).write_bytes(self.kept[path])
        for place, _, _ in os.walk(self.folder, topdown=False):
            if place not in self.folders:
                Path(place).rmdir()
        self.before = self.stamps = self._stamps()


@pytest.fixture(scope="session")
def shelf(tmp_path_factory: pytest.TempPathFactory) -> Desk:
    return Desk(write_shelf(tmp_path_factory.mktemp("screens")))


@pytest.fixture
def desk(
    shelf: Desk,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    batch_in_process: None,
    short_clocks: None,
) -> Iterator[Desk]:
    monkeypatch.setenv("COLUMNS", str(WIDTH))
    # A module that a paragraph replaces within the same second would be read from its old bytecode.
    monkeypatch.setattr(sys, "dont_write_bytecode", True)
    monkeypatch.setenv("PYTHONDONTWRITEBYTECODE", "1")
    monkeypatch.chdir(shelf.folder)
    monkeypatch.syspath_prepend(str(shelf.folder))
    yield shelf
    shelf.clear()


def answer(line: str, desk: Desk, command: Command) -> list[str]:
    """Run what a transcript asks; raise AssertionError if a law is broken."""
    if line.startswith(">>> "):
        return called(line[4:], desk)
    words = shlex.split(line[2:])
    outcome = command(*words)
    rows, sentence = screen(outcome, desk)
    changes, touched = desk.changes()
    assert not touched or (REPLACING & set(words) and outcome.exit_code == 0), touched
    assert not changes or not sentence or words[0] == "run", changes
    ending = (words[0], outcome.exit_code)
    if outcome.exit_code and ending not in desk.endings:
        desk.endings.add(ending)
        told(command(*words, "--json"), outcome.exit_code, sentence)
        desk.changes()
    return rows + changes or ["[0]"]


def screen(outcome: Outcome, desk: Desk) -> tuple[list[str], str]:
    """The lines of an answer, and its sentence if it is an error."""
    stdout, stderr = outcome.stdout.splitlines(), outcome.stderr.splitlines()
    assert "Traceback" not in outcome.stderr + outcome.stdout
    assert [row for row in stdout if len(row) > WIDTH and str(desk.folder) not in row] == []
    sentence = ""
    if stderr and stderr[-1].startswith("error: "):
        sentence = stderr.pop().removeprefix("error: ").rstrip()
        assert outcome.exit_code != 0
        # A job shows which of its steps failed.
        assert outcome.exit_code != 2 or not stdout or stdout[0].startswith("job "), stdout
    else:
        assert outcome.exit_code in (0, 1) or stdout, outcome.stderr
    printed = [*((" ", row) for row in stdout), *(("!", row) for row in stderr)]
    rows = [f"{mark} {normalized(row, desk.folder).rstrip() or '.'}" for mark, row in printed]
    if outcome.exit_code:
        shown = (
            sentence.replace(str(desk.folder), "FOLDER")
            if outcome.exit_code == 2
            else normalized(sentence, desk.folder)
        )
        rows.append(f"[{outcome.exit_code}] {shown}".rstrip())
    return rows, sentence


def told(outcome: Outcome, exit_code: int, sentence: str) -> None:
    """Check a command line once more, with `--json`: a result that is no success, or the same error."""
    assert outcome.exit_code == exit_code
    if outcome.document.get("error") or exit_code == 2:
        assert outcome.document["exit_code"] == exit_code
        assert sentence.endswith(" ".join(outcome.document["error"].split()))


def called(source: str, desk: Desk) -> list[str]:
    """Call the Python API, which has to refuse."""
    names: dict[str, Any] = {name: getattr(onnxheadprune, name) for name in onnxheadprune.__all__}
    try:
        eval(source, names)
    except HeadPruneError as error:
        assert desk.changes() == ([], [])
        return [f"[{error.exit_code}] {str(error).replace(str(desk.folder), 'FOLDER')}"]
    raise AssertionError("that is no error")


@pytest.mark.parametrize("path", TRANSCRIPTS, ids=lambda path: path.stem)
def test_transcript(path: Path, desk: Desk, command: Command, update_golden: bool) -> None:
    text = path.read_text(encoding="utf-8")
    parts = list(read(text))
    problems = []
    for part in parts:
        if not part.asked:
            if "" in part.lines:
                desk.clear()
            desk.put(files(part.lines))
            continue
        try:
            part.answer = kept(part.answer, answer(part.asked, desk, command))
        except AssertionError as error:
            problems.append(f"{part.asked}\n    {error}")
    if update_golden:
        path.write_text(written(parts), encoding="utf-8")
    assert not problems, "\n".join(problems)
    difference = difflib.unified_diff(
        text.splitlines(), written(parts).splitlines(), "read", "printed", lineterm="", n=1
    )
    assert update_golden or text == written(parts), "\n".join(difference)


def test_a_transcript_is_read_as_it_is_written() -> None:
    for path in TRANSCRIPTS:
        text = path.read_text(encoding="utf-8")
        assert written(list(read(text))) == text
        assert [part for part in read(text) if part.asked and not part.answer] == []
