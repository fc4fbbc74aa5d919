"""Messages name no option that --help does not list, and in Python the keywords of the same names."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path

import click
import pytest

import onnxheadprune as ohp
from onnxheadprune.cli import main as run
from onnxheadprune.cli.program import group
from onnxheadprune.settings.words import keyword, option
from tests.conftest import ROOT
from tests.sources import FILES, nodes

FOREIGN = {
    "runtime/providers.py": {"--query-gpu", "--format"},
    "integrations/olive.py": {"--config", "--package-config"},
    "model/documents.py": {"--model"},
}
"""Options of other programs."""
OPTION = re.compile(r"(?<![\w-])--[a-z][a-z-]*[a-z](?![\w-])")
PACKAGE = ROOT / "onnxheadprune"


def listed() -> tuple[set[str], set[str]]:
    """Options that some --help lists, and those that are hidden."""
    shown, hidden = {"--help", "--version"}, set()
    context = click.Context(group)
    for name in group.list_commands(context):
        command = group.get_command(context, name)
        assert command is not None
        for parameter in command.params:
            is_hidden = isinstance(parameter, click.Option) and parameter.hidden
            (hidden if is_hidden else shown).update((*parameter.opts, *parameter.secondary_opts))
    return shown, hidden


def texts(path: Path) -> Iterator[str]:
    """String literals of a module, without docstrings."""
    documentation = {id(node.value) for node in nodes(path) if isinstance(node, ast.Expr)}
    for node in nodes(path):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_options_in_messages_are_in_help() -> None:
    shown, hidden = listed()
    strays: dict[str, set[str]] = {}
    for path in FILES:
        written = list(texts(path))
        found = {option for text in written for option in OPTION.findall(text)}
        name = path.relative_to(PACKAGE).as_posix()
        # An option that is hidden is named only where it is declared: to say what replaced it.
        strays[name] = found - shown - FOREIGN.get(name, set()) - (hidden & set(written))
    assert {name: options for name, options in strays.items() if options} == {}


AS_WRITTEN = {
    "workflow/pipeline.py": "an entry of metadata, which is the same whoever writes the model",
    "workflow/inspection.py": "titles of the command's tables, which notebooks show too",
}
COMMAND = re.compile(r"(?:onnxheadprune|optimum-cli|pip install)\b[^;,`]*")
ELSEWHERE = ("cli", "settings", "reporting", "integrations", "deploying/jobs")
"""Rooms whose messages Python functions do not raise."""


def keywords() -> set[str]:
    """What public functions, and the public classes that they take, call their arguments."""
    public = [
        getattr(ohp, name) for name in ohp.__all__ if name != "__version__" and not name.endswith("Error")
    ]
    return {name for thing in public if callable(thing) for name in inspect.signature(thing).parameters}


IN_TEXT = re.compile(r"`(?:(\w+) )?([a-z]\w*)(?:=([^`]*))?`")


def named(path: Path) -> Iterator[tuple[str, str, str]]:
    """The settings that messages of a module name: names, values as far as they are fixed, and commands."""
    for text in texts(path) if path.parent.name != "settings" else ():
        found = IN_TEXT.findall(text)
        yield from ((name, value, command) for command, name, value in found if name not in group.commands)


def test_settings_in_messages_are_options_of_commands_and_keywords_of_functions() -> None:
    shown, known = listed()[0], keywords()
    found = {(path.relative_to(PACKAGE).as_posix(), item) for path in FILES for item in named(path)}
    assert len(found) > 50
    for place, (name, value, command) in found:
        written = option(name, value, command)
        assert set(OPTION.findall(written)) <= shown and written.startswith(command), (place, written)
        assert name in known and f"{name}=" in keyword(name, value, command), place


def test_messages_outside_of_the_command_line_leave_the_spelling_to_the_front_end() -> None:
    for path in FILES:
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(ELSEWHERE) and name not in (*FOREIGN, *AS_WRITTEN):
            left = [text for text in texts(path) for text in [COMMAND.sub("", text)] if OPTION.search(text)]
            assert not left, f"{name}: {left}"


def test_an_error_in_python_names_keywords_and_on_the_command_line_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ROOT / "sample_models" / "digits_vit.onnx"
    with pytest.raises(ohp.UsageError, match=r"refit=True requires data=$"):
        ohp.prune(model, ratio=0.25, refit=True)
    assert run(["prune", str(model), "--heads", "0:1", "--refit", "-o", "x.onnx"]) == 2
    assert "--refit requires --data" in capsys.readouterr().err
    assert pickle.loads(pickle.dumps(ohp.prune)) is ohp.prune


def said(value: object) -> Iterator[str]:
    """All texts of a JSON document."""
    if isinstance(value, str):
        yield value
    elif isinstance(value, (dict, list)):
        yield from (
            text for item in (value.values() if isinstance(value, dict) else value) for text in said(item)
        )
