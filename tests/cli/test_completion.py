"""Completion of commands, of options before the arguments of a command are given, and of values."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import get_origin

import click
from click.shell_completion import ShellComplete

from onnxheadprune.cli.guides import COMMANDS
from onnxheadprune.cli.options import DerivedCommand
from onnxheadprune.cli.program import group
from onnxheadprune.settings.setting import FILES, Declared


def test_a_shell_that_asks_gets_its_completions() -> None:
    asked = {"COMP_WORDS": "onnxheadprune pr", "COMP_CWORD": "1"}
    for value, expected in (("bash_source", "complete -o nosort"), ("bash_complete", "plain,prune")):
        environment = os.environ | asked | {"_ONNXHEADPRUNE_COMPLETE": value}
        call = [sys.executable, "-c", "from onnxheadprune.cli import main; main()"]
        found = subprocess.run(call, env=environment, capture_output=True, text=True, check=True)
        assert expected in found.stdout and found.stderr == ""


def settings_of(name: str) -> Mapping[str, Declared]:
    command = group.commands[name]
    assert isinstance(command, DerivedCommand)
    return command.settings


def words_of(declared: Declared) -> list[str]:
    """The completions of an option: its words, or a file."""
    if declared.kind is Path or declared.setting.offers == FILES:
        return ["FILE"]
    mark = "=" if get_origin(declared.kind) is Mapping else ""
    return [*(f"{word}{mark}" for word in declared.words), *declared.setting.offers.split()]


VALUED = [
    (name, option)
    for name in COMMANDS
    for option in group.commands[name].params
    if isinstance(option, click.Option) and option.name in settings_of(name) and not option.is_flag
]


def test_values_are_completed() -> None:
    """All options of all commands whose values are words or files."""
    asked, offering = ShellComplete(group, {}, "onnxheadprune", "X"), 0
    for name, option in VALUED:
        expected = words_of(settings_of(name)[option.name or ""])
        found = asked.get_completions([name, max(option.opts, key=len)], "")
        assert ["FILE" if item.type == "file" else item.value for item in found] == expected, (name, option)
        offering += bool(expected)
    assert offering > 40
