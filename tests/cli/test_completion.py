"""What shells complete: commands, and options of each command, before its arguments are there."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import click
import pytest

from onnxheadprune.cli import NAMES, group

with contextlib.suppress(ImportError):  # not on Windows
    import pty


def test_a_shell_that_asks_gets_its_completions() -> None:
    asked = {"COMP_WORDS": "onnxheadprune pr", "COMP_CWORD": "1"}
    for value, expected in (("bash_source", "complete -o nosort"), ("bash_complete", "plain,prune")):
        environment = os.environ | asked | {"_ONNXHEADPRUNE_COMPLETE": value}
        call = [sys.executable, "-c", "from onnxheadprune.cli import main; main()"]
        found = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
        assert expected in found.stdout and found.stderr == ""


@pytest.mark.one_in(4)
@pytest.mark.parametrize("name", NAMES)
def test_an_option_is_completed_before_the_model_is_named(name: str) -> None:
    option = next(
        item for item in group.commands[name].params if isinstance(item, click.Option) and not item.hidden
    )
    flag = max(option.opts, key=len)
    asked = {"COMP_WORDS": f"onnxheadprune {name} {flag[:-1]}", "COMP_CWORD": "2"}
    environment = os.environ | asked | {"_ONNXHEADPRUNE_COMPLETE": "bash_complete"}
    call = [sys.executable, "-c", "from onnxheadprune.cli import main; main()"]
    found = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
    assert f"plain,{flag}" in found.stdout.splitlines() and found.stderr == ""


SHELLS = {
    "bash": ("bash --norc --noprofile -i", 'eval "$(_ONNXHEADPRUNE_COMPLETE=bash_source onnxheadprune)"'),
    "zsh": (
        "zsh -f -i",
        'autoload -Uz compinit; compinit -u -D; eval "$(_ONNXHEADPRUNE_COMPLETE=zsh_source onnxheadprune)"',
    ),
    "fish": ("fish --no-config -i", "_ONNXHEADPRUNE_COMPLETE=fish_source onnxheadprune | source"),
}
"""How each shell is started without anybody's settings, and the line that loads the completion."""


class Terminal:
    """A shell in a terminal of its own."""

    def __init__(self, call: str, folder: Path) -> None:
        self.pid, self.handle = pty.fork()
        if self.pid == 0:
            path = f"{folder}{os.pathsep}{os.environ['PATH']}"
            environment = os.environ | {"PATH": path, "HOME": str(folder), "TERM": "xterm", "PS1": "$ "}
            words = call.split()
            os.execvpe(words[0], words, environment)

    def types(self, text: str, expected: str) -> str:
        """What the terminal shows after some keys, up to an expected text or until nothing comes for a minute."""
        os.write(self.handle, text.encode())
        shown = ""
        while expected not in shown and select.select([self.handle], [], [], 60)[0]:
            try:
                shown += os.read(self.handle, 2**16).decode(errors="replace")
            except OSError:
                break
        return shown

    def close(self) -> None:
        os.close(self.handle)
        os.kill(self.pid, signal.SIGKILL)
        os.waitpid(self.pid, 0)


@pytest.mark.long
@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of POSIX")
@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_completes_what_is_typed(shell: str, tmp_path: Path) -> None:
    """An option before MODEL is named, by the key TAB."""
    call, loads = SHELLS[shell]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = tmp_path / "onnxheadprune"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom onnxheadprune.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    terminal = Terminal(call, tmp_path)
    try:
        assert "READY" in terminal.types(f'{loads}; echo RE""ADY\n', "READY")
        shown = terminal.types("onnxheadprune prune --rat\t", "--ratio")
        assert "--ratio" in shown and "Traceback" not in shown
    finally:
        terminal.close()
