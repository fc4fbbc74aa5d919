"""The README's blocks that end in a client, run where the client is installed."""

from __future__ import annotations

import contextlib
import re
import shlex
from pathlib import Path

from cuts import prune
from environment import ROOT

BLOCK = r"<!-- run by tests/clients/{} -->\n```(sh|python)\n(.*?)```"


def run_readme(script: str, place: Path) -> None:
    """Run the blocks of README.md that name a script, as they are printed.

    Args:
        script: its file name.
        place: the folder to run them in, with the files that they read.

    Raises:
        Exception: what a block raises; there must be one of either language.
    """
    page = (ROOT / "README.md").read_text(encoding="utf-8")
    blocks = re.findall(BLOCK.format(re.escape(script)), page, re.DOTALL)
    assert {language for language, _ in blocks} == {"sh", "python"}, script
    with contextlib.chdir(place):
        for language, code in blocks:
            if language == "python":
                exec(compile(code, f"README.md, {script}", "exec"), {})
            else:
                command, verb, *options = shlex.split(code.replace("\\\n", " "))
                assert (command, verb) == ("onnxheadprune", "prune"), code
                prune(*options)
