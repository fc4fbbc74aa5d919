"""`--help` says in a screen how a command is called; the cases are all commands and all declarations."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import click
import onnx
import pytest

from onnxheadprune import errors
from onnxheadprune.cli.guides import COMMANDS
from onnxheadprune.cli.options import DerivedCommand
from onnxheadprune.cli.program import EPILOG, group
from tests.conftest import Command
from tests.graphs import toys

MOST = 13
"""Options that --help shows of a command that has more."""
CASES = [(name, example) for name, guide in COMMANDS.items() for example in guide.examples]
SLOW = ("bench model.onnx pruned.onnx", "bench model.onnx pruned.onnx --batch 1,8 --csv latency.csv")
"""Examples that measure for as long as users want it to be measured."""


def derived(name: str) -> DerivedCommand:
    found = group.commands[name]
    assert isinstance(found, DerivedCommand)
    return found


def options_of(name: str) -> list[click.Option]:
    return [option for option in derived(name).params if isinstance(option, click.Option)]


@pytest.mark.parametrize("name", COMMANDS)
def test_help_is_one_screen(name: str, command: Command) -> None:
    lines = command(name, "--help").stdout.splitlines()
    text = "\n".join(lines)
    about = text.split("\n\n")[1].strip()
    assert about.count(". ") == 0 and about.endswith(".") and len(about.splitlines()) <= 3
    assert len(COMMANDS[name].examples) == 3
    assert all(f"  onnxheadprune {example}" in lines for example in COMMANDS[name].examples)
    shown = [
        option
        for option in options_of(name)
        if f"  {option.opts[0]}" in text or f", {option.opts[-1]} " in text
    ]
    assert max(map(len, lines)) <= 80
    assert 1 <= len(COMMANDS[name].common.split()) <= MOST or len(options_of(name)) <= MOST, name
    assert shown and "--help-all" in text


@pytest.mark.parametrize("name", COMMANDS)
def test_all_options_are_in_help_all(name: str, command: Command) -> None:
    text = command(name, "--help-all").stdout
    assert all(option.opts[-1] in text and not option.hidden for option in options_of(name))
    assert all(f"  onnxheadprune {example}" in text.splitlines() for example in COMMANDS[name].examples)


@pytest.mark.parametrize("name", COMMANDS)
def test_help_speaks_of_no_option_that_the_command_lacks(name: str) -> None:
    own = {
        "--help",
        *(spelled for option in options_of(name) for spelled in (*option.opts, *option.secondary_opts)),
    }
    texts = [derived(name).help or "", *(option.help or "" for option in options_of(name))]
    spoken_of = {word for text in texts for word in re.findall(r"--[a-z][a-z-]+", text)}
    assert spoken_of <= own


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "example"), [case for case in CASES if case[1] not in SLOW], ids=lambda word: word[:60]
)
def test_examples_run(name: str, example: str, desk: Path, command: Command) -> None:
    outcome = command(*shlex.split(example))
    # A toy of random weights breaks a limit that suits models.
    limited = any(flag in example for flag in ("--max-drift", "--min-speedup"))
    said = ("rejected: the limit is broken", "limit       broken: ")
    broken = limited and any(words in outcome.stdout for words in said)
    assert outcome.exit_code == broken, outcome.stderr


@pytest.mark.slow
def test_verbose_prints_every_step_and_where_an_error_came_from(desk: Path, command: Command) -> None:
    plain = command("prune", "model.onnx", "--heads", "0:1", "-o", "a.onnx")
    outcome = command("prune", "model.onnx", "--heads", "0:1", "-o", "b.onnx", "-v")
    assert "validating" in outcome.stderr and "validating" not in plain.stderr
    onnx.save(toys.no_attention(), "none.onnx")
    refused = ("prune", "none.onnx", "--heads", "0:1")
    assert "Traceback" in command(*refused, "-v").stderr and "Traceback" not in command(*refused).stderr
    # What was typed wrong came from nowhere in the program.
    for wrong in (("--heads", "9:1"), ("--head", "0:1"), ("--ratio", "2")):
        outcome = command("prune", "model.onnx", *wrong, "-v")
        assert outcome.exit_code == 2 and "Traceback" not in outcome.stderr
    assert command("prune", "model.onnx", "--heads", "0:1", "-v", "-q").exit_code == 2


def test_the_help_lists_every_exit_code() -> None:
    documented = set(re.findall(r"\b(\d+) [a-z]", EPILOG.partition("Exit codes:")[2]))
    raised = {str(error.exit_code) for error in vars(errors).values() if hasattr(error, "exit_code")}
    assert documented == raised | {"0", "70", "74", "130"}
