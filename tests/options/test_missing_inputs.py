"""What is named and does not exist is called that, before anything is said of its kind, or of options for a kind."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from pathlib import Path

import click
import pytest

from onnxheadprune.cli.program import group
from onnxheadprune.cli.values import inputs_of
from tests.conftest import Outcome
from tests.options.catalogue import MODES, TRIALS, Mode

HUB = "(; a model of a hub is exported first: optimum-cli export onnx --model .* FOLDER)?"
"""What is also said of models whose name has no suffix."""


def named_inputs(name: str) -> list[str]:
    """The parameters of a command that name what it reads."""
    command = group.commands[name]
    files = inputs_of(command)
    return [item.name or "" for item in command.params if item in files or item.name == "data"]


def is_complete(name: str, line: list[str]) -> bool:
    """Whether the command line alone, without a look at files, is right."""
    try:
        group.commands[name].make_context(name, list(line)).close()
    except click.ClickException:
        return False
    return True


def calls(name: str) -> Iterator[tuple[str, Mode]]:
    """Calls by what they lack: the model beside each option, and each other input once."""
    first, *others = named_inputs(name)
    for path, option in [*((first, option) for option in TRIALS[name]), *zip(others, others, strict=True)]:
        trial = TRIALS[name][option]
        for mode in MODES[name].values():
            within = mode if option in mode else trial.within(option, mode)
            typed = within if option in within else within | {option: (*trial.values[0], *trial.along)}
            if path in typed and is_complete(name, words_of(typed)):
                yield path, typed
                break


def words_of(typed: Mode) -> list[str]:
    return [word.replace("{model}", "fixed") for words in typed.values() for word in words]


@pytest.mark.parametrize("name", [name for name in MODES if named_inputs(name)])
def test_missing_inputs_are_said_to_be_missing(
    name: str, command: Callable[..., Outcome], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    seen = set()
    for path, typed in calls(name):
        missing = words_of({path: typed[path]})
        for word in {word for word in words_of(typed) if word[0] != "-"} - set(missing):
            (tmp_path / word).touch()
        outcome = command(name, *words_of(typed))
        sentences = [rf"{re.escape(word)} does not exist{HUB}$" for word in missing]
        assert outcome.exit_code == 2, typed
        said = " ".join(outcome.stderr.split())
        assert any(re.search(sentence, said) for sentence in sentences), (
            typed,
            outcome.stderr,
        )
        seen.add(path)
        for file in tmp_path.iterdir():
            file.unlink()
    assert seen == set(named_inputs(name))
