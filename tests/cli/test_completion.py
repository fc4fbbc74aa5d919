"""Completion of commands, of options before the arguments of a command are given, and of values."""

from __future__ import annotations

import contextlib
import os
import select
import shutil
import signal
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_origin

import click
import pytest
from click.shell_completion import ShellComplete

from onnxheadprune.cli import NAMES, group
from onnxheadprune.cli.completion import Bash, Fish, Zsh
from onnxheadprune.cli.deriving import DerivedCommand
from onnxheadprune.settings.setting import FILES, Declared

with contextlib.suppress(ImportError):  # not on Windows
    import pty


def test_a_shell_that_asks_gets_its_completions() -> None:
    asked = {"COMP_WORDS": "onnxheadprune pr", "COMP_CWORD": "1"}
    for value, expected in (("bash_source", "complete -o nosort"), ("bash_complete", "plain,prune")):
        environment = os.environ | asked | {"_ONNXHEADPRUNE_COMPLETE": value}
        call = [sys.executable, "-c", "from onnxheadprune.cli import main; main()"]
        found = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
        assert expected in found.stdout and found.stderr == ""


@pytest.mark.first_case
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


def settings_of(name: str) -> Mapping[str, Declared]:
    command = group.commands[name]
    assert isinstance(command, DerivedCommand)
    return command.settings


def words_of(option: click.Option, declared: Declared) -> list[str]:
    """The completions of an option: its words, or a file."""
    if declared.kind is Path or declared.setting.offers == FILES:
        return ["FILE"]
    mark = "=" if get_origin(declared.kind) is Mapping else ""
    offered = [] if isinstance(option.type, click.Choice) else declared.setting.offers.split()
    return [*(f"{word}{mark}" for word in declared.words), *offered]


VALUED = [
    (name, option)
    for name in NAMES
    for option in group.commands[name].params
    if isinstance(option, click.Option) and option.name in settings_of(name) and not option.is_flag
]


@pytest.mark.parametrize(("shell", "split"), [(Bash, True), (Bash, False), (Zsh, False), (Fish, False)])
def test_values_are_completed_behind_a_space_and_behind_an_equals_sign(
    shell: type[ShellComplete], split: bool
) -> None:
    """All options of all commands whose values are words or files."""
    offering = 0
    for name, option in VALUED:
        expected = words_of(option, settings_of(name)[option.name or ""])
        flag, asked = max(option.opts, key=len), shell(group, {}, "onnxheadprune", "X")
        joined = ([name, flag, "="], "") if split else ([name], f"{flag}=")
        for args, incomplete in (([name, flag], ""), joined):
            found = asked.get_completions(list(args), incomplete)
            values = ["FILE" if item.type == "file" else item.value for item in found]
            before = f"{flag}=" if shell is not Bash and incomplete else ""
            assert values == [word if word == "FILE" else f"{before}{word}" for word in expected], (
                name,
                flag,
            )
        offering += bool(expected)
    assert offering > 40


@pytest.mark.parametrize(
    ("typed", "completed"),
    [("heads,", "heads,neurons"), ("heads,neurons,e", "heads,neurons,experts"), ("heads,layers,l", "")],
)
def test_a_list_is_completed_item_by_item(typed: str, completed: str) -> None:
    found = Zsh(group, {}, "onnxheadprune", "X").get_completions(["prune", "--units"], typed)
    assert ([item.value for item in found] or [""])[0] == completed
    found = Bash(group, {}, "onnxheadprune", "X").get_completions(
        ["prune", "--multiple-of", "heads", "="], "2,ne"
    )
    assert [item.value for item in found] == ["2,neurons="]


SHELLS = {
    "bash": ("bash --norc --noprofile -i", 'eval "$(_ONNXHEADPRUNE_COMPLETE=bash_source onnxheadprune)"'),
    "zsh": (
        "zsh -f -i",
        'autoload -Uz compinit; compinit -u -D; eval "$(_ONNXHEADPRUNE_COMPLETE=zsh_source onnxheadprune)"',
    ),
    "fish": ("fish --no-config -i", "_ONNXHEADPRUNE_COMPLETE=fish_source onnxheadprune | source"),
}
"""How each shell is started without anybody's settings, and the line that loads the completion."""
TYPED = {
    "prune --rat": "prune --ratio",
    "prune m.onnx --units heads,ne": "prune m.onnx --units heads,neurons",
    "quantize --to=int8-d": "quantize --to=int8-dynamic",
    "prune --report=pa": "prune --report=page.html",
    "prune --data mi": "prune --data mine.npz",
}


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


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs a terminal of POSIX")
@pytest.mark.parametrize("shell", SHELLS)
def test_the_shell_itself_completes_what_is_typed(shell: str, tmp_path: Path) -> None:
    """Options before MODEL is named, and their values, by the key TAB."""
    call, loads = SHELLS[shell]
    if shutil.which(shell) is None:
        pytest.skip(f"{shell} is not installed")
    program = tmp_path / "onnxheadprune"
    program.write_text(
        f"#!{sys.executable}\nimport sys\nfrom onnxheadprune.cli import main\nsys.exit(main())\n"
    )
    program.chmod(0o755)
    for name in ("page.html", "mine.npz"):
        (tmp_path / name).touch()
    terminal = Terminal(call, tmp_path)
    try:
        assert "READY" in terminal.types(f'{loads}; echo RE""ADY; cd {tmp_path}\n', "READY")
        for typed, completed in TYPED.items():
            shown = terminal.types(
                f"onnxheadprune {typed}\t", completed.rpartition(" ")[2].rpartition("=")[2]
            )
            # The whole line, as the shell would run it.
            shown += terminal.types('\x01echo "D"ONE \n', f"DONE onnxheadprune {completed}")
            assert f"DONE onnxheadprune {completed}" in shown and "Traceback" not in shown
    finally:
        terminal.close()
