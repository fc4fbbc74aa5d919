"""Runs blocks of code as a reader would: line by line, in one folder, with the sample models beside them."""

from __future__ import annotations

import contextlib
import io
import os
import re
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path

from onnxheadprune.cli import main
from tests.conftest import ROOT
from tests.documents.blocks import Block

Captured = Callable[[], tuple[str, str]]
"""What was printed since the last call, on stdout and on stderr."""

WIDTH = 100
"""Columns of the terminal that the pages show."""
PROGRAM = "onnxheadprune"
TOLD = ' || echo "exit code $?"'
"""Behind a command that is meant to fail."""
SHELLED = re.compile(r"[|&;<`$]|>>")
"""What a line needs a shell for; `> FILE` at its end is done here."""


class Reader:
    """Somebody who types in what a page shows.

    Args:
        folder: where they are; sample models are put there.
        captured: gives what this process printed since it was asked last.
    """

    def __init__(self, folder: Path, captured: Captured) -> None:
        self.folder = folder
        self.captured = captured
        self.names: dict[str, object] = {"__name__": "__main__"}
        shutil.copytree(ROOT / "sample_models", folder / "sample_models")
        self.programs = folder.parent / "programs"
        self.programs.mkdir()
        for name, module in ((PROGRAM, f"-m {PROGRAM}"), ("python", ""), ("python3", "")):
            program = self.programs / name
            program.write_text(f'#!/bin/sh\nexec "{sys.executable}" {module} "$@"\n')
            program.chmod(0o755)

    def check(self, block: Block) -> None:
        """Runs a block and compares what it prints.

        Raises:
            AssertionError: if it fails, or prints something else.
        """
        printed = self._python(block) if block.language == "python" else self._shell(block)
        compare(block, printed)

    def _python(self, block: Block) -> str:
        printed = io.StringIO()
        # Empty lines in front: a traceback names lines of the page.
        code = compile("\n" * block.line + block.code, block.place, "exec")
        with contextlib.redirect_stdout(printed):
            try:
                exec(code, self.names)
            except Exception as error:
                raise AssertionError(f"{block.place}: {traceback.format_exc()}") from error
        return printed.getvalue()

    def _shell(self, block: Block) -> str:
        printed = ""
        for line in lines_of(block.code):
            code, more = self._typed(line)
            printed += more
            if code:
                raise AssertionError(f"{block.place}: {line}\nends with exit code {code}\n{printed}")
        return printed

    def _typed(self, line: str) -> tuple[int, str]:
        """The exit code of a line, and what it prints: warnings first."""
        command = line.removesuffix(TOLD)
        words = shlex.split(command, comments=True)
        into = Path(words[-1]) if words[-2:-1] == [">"] else None
        if words[0] != PROGRAM or SHELLED.search(command):
            return self._in_a_shell(line)
        self.captured()
        code = main(words[1:-2] if into else words[1:])
        out, err = self.captured()
        if into is not None:
            into.write_text(out, encoding="utf-8")
            out = ""
        if code and command != line:
            return 0, f"{err}{out}exit code {code}\n"
        return code, err + out

    def _in_a_shell(self, line: str) -> tuple[int, str]:
        path = os.pathsep.join([str(self.programs), os.environ["PATH"]])
        environment = {**os.environ, "PATH": path, "PYTHONPATH": str(ROOT), "COLUMNS": str(WIDTH)}
        done = subprocess.run(
            ["bash", "-o", "pipefail", "-c", line],
            cwd=self.folder,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        return done.returncode, done.stdout


def lines_of(code: str) -> Iterator[str]:
    """The commands of a block, one by one; what a backslash continues is one."""
    for line in code.replace("\\\n", " ").splitlines():
        if line.strip() and not line.lstrip().startswith("#"):
            yield line


def compare(block: Block, printed: str) -> None:
    """Whether a block printed what its page says.

    Raises:
        AssertionError: with both, if not.
    """
    if not is_like(block.prints, printed):
        raise AssertionError(
            f"{block.place} prints something else\n== the page says\n{block.prints}\n== it is\n{printed}"
        )


def is_like(wanted: str, printed: str) -> bool:
    """Whether a text is the wanted one, where "..." is anything, or nothing, and blanks and ends of lines are alike."""
    pieces = (r"\s+".join(map(re.escape, piece.split())) for piece in wanted.split("..."))
    return re.fullmatch(r"\s*" + r".*?".join(pieces) + r"\s*", printed, re.DOTALL) is not None
