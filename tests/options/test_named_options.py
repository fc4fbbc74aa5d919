"""Messages name no option that --help does not list, and in Python the keywords of the same names."""

from __future__ import annotations

import ast
import inspect
import pickle
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import onnx
import pytest

import onnxheadprune as ohp
from onnxheadprune.cli import group
from onnxheadprune.cli import main as run
from onnxheadprune.settings.words import OPTION as SPELLED
from onnxheadprune.settings.words import in_python
from tests import toys
from tests.conftest import ROOT, Command
from tests.sources import FILES, nodes

FOREIGN = {
    "runtime/host.py": {"--query-gpu", "--format"},
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


def test_the_scan_finds_options() -> None:
    assert OPTION.findall("give --data, or --max-drift=2; not a--b or --no-") == ["--data", "--max-drift"]


NO_KEYWORD = {"per_layer_config", "force"}
"""Options of commands and keys of jobs alone: no function says their messages."""
ELSEWHERE = ("cli", "settings", "reporting", "integrations", "deploying/jobs")
"""Rooms whose messages Python functions do not raise."""


def keywords() -> set[str]:
    """What public functions, and the public classes that they take, call their arguments."""
    public = [
        getattr(ohp, name) for name in ohp.__all__ if name != "__version__" and not name.endswith("Error")
    ]
    return {name for thing in public if callable(thing) for name in inspect.signature(thing).parameters}


def named_in_python(text: str) -> set[str]:
    """The keywords that a message has in Python in place of options, and the options that are left."""
    shown = in_python(text)
    commands = "".join(found[0] for found in SPELLED.finditer(shown) if found["name"] is None)
    left = set(OPTION.findall(shown)) - set(OPTION.findall(commands))
    return left | {found[1] for found in re.finditer(r"\b([a-z_]+)=", shown) if f"{found[1]}=" not in text}


def test_messages_in_python_name_keywords() -> None:
    known, strays = keywords() | NO_KEYWORD, {}
    for path in FILES:
        name = path.relative_to(PACKAGE).as_posix()
        if not name.startswith(ELSEWHERE):
            strays[name] = {
                word for text in texts(path) if " " in text for word in named_in_python(text)
            } - known
    assert {name: words for name, words in strays.items() if words} == {}


def test_an_error_in_python_names_keywords_and_on_the_command_line_options(
    capsys: pytest.CaptureFixture[str],
) -> None:
    model = ROOT / "sample_models" / "digits_vit.onnx"
    with pytest.raises(ohp.UsageError, match=r"refit= requires data=$"):
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


@pytest.mark.long
@pytest.mark.parametrize(
    ("keywords", "options"),
    [
        ({"heads": "0:0", "cache": "renumber"}, "prune --heads 0:0 --cache renumber"),
        ({"ratio": 0.25}, "prune --ratio 0.25"),
        ({"to": "int8-dynamic"}, "quantize --to int8-dynamic"),
    ],
)
def test_a_result_in_python_names_keywords_and_on_the_command_line_options(
    keywords: dict[str, Any], options: str, command: Command, tmp_path: Path
) -> None:
    model, name = tmp_path / "toy.onnx", options.partition(" ")[0]
    onnx.save(toys.attention(), model)
    result = getattr(ohp, name)(model, **keywords)
    document = command(*options.split(), model, "-o", tmp_path / "out.onnx", "--json").document
    texts_of_command = (text for text in said(document) if not text.startswith("onnxheadprune"))
    written = {text for text in texts_of_command if OPTION.search(text)}
    read = {*said(result.to_dict()), *([result._repr_html_()] if name == "prune" else [])}
    assert written and {in_python(text) for text in written} <= read
    assert not [text for text in read if OPTION.search(text)]
