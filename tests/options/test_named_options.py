"""Messages name no option that --help does not list."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import click

from onnxheadprune.cli import group
from tests.conftest import ROOT

FOREIGN = {
    "runtime/host.py": {"--query-gpu", "--format"},
    "integrations/olive.py": {"--config", "--package-config"},
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
    tree = ast.parse(path.read_text(encoding="utf-8"))
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


def test_options_in_messages_are_in_help() -> None:
    shown, hidden = listed()
    strays: dict[str, set[str]] = {}
    for path in sorted(PACKAGE.rglob("*.py")):
        written = list(texts(path))
        found = {option for text in written for option in OPTION.findall(text)}
        name = path.relative_to(PACKAGE).as_posix()
        # An option that is hidden is named only where it is declared: to say what replaced it.
        strays[name] = found - shown - FOREIGN.get(name, set()) - (hidden & set(written))
    assert {name: options for name, options in strays.items() if options} == {}


def test_the_scan_finds_options() -> None:
    assert OPTION.findall("give --data, or --max-drift=2; not a--b or --no-") == ["--data", "--max-drift"]
