"""`--when`: a command line that fails, read as far as it must be known to run it on other models."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING

import click

from onnxheadprune.cli.options import UNITS, Output
from onnxheadprune.errors import UsageError

if TYPE_CHECKING:
    from onnxheadprune.attention.heads import HeadSpec
    from onnxheadprune.workflow.reducing.line import Line

WRITES: dict[str, tuple[str, str] | tuple[()]] = {
    "bench": (),
    "fuse": ("-o", "out.onnx"),
    "inspect": (),
    "prune": ("-o", "out.onnx"),
    "quantize": ("-o", "out.onnx"),
    "score": (),
    "sweep": ("-o", "curve.json"),
}
"""Commands that take one model, and how they are told where to write if they must be."""
PLACE = "MODEL"
"""May stand where the model goes, behind the command."""


def read_when(text: str, group: click.Group) -> tuple[Line, HeadSpec | None]:
    """The command line, and the heads and other units that it names, as one spec.

    Args:
        text: as it is typed, without the program's name and without the model.
        group: all commands.

    Raises:
        UsageError: if it is no command line of this program, or says where to write.
    """
    from onnxheadprune.attention.units import combined
    from onnxheadprune.workflow.reducing.line import Line

    try:
        words = shlex.split(text)
    except ValueError as error:
        raise UsageError(f"--when cannot be read: {error}") from error
    if words[:1] == ["onnxheadprune"]:
        words = words[1:]
    name, given = (words[0], words[1:]) if words else ("", [])
    if name not in WRITES:
        raise UsageError(
            f'--when is a command with its options, without the model, as in "prune --heads 3:0"; it can be'
            f" {', '.join(sorted(WRITES))}, not {name!r}"
        )
    if given[:1] == [PLACE]:
        given = given[1:]
    command = group.commands[name]
    _check_writes_nowhere(command, given)
    written = () if "--dry-run" in given else WRITES[name]
    params = _parsed(command, name, [*given, *written])
    heads, neurons, layers = (_text(params.get(option)) for option in UNITS)
    spec = combined(heads, {"neurons": neurons}, layers)
    return Line(name, tuple(_without_units(given)), written=written), spec


def _text(value: object) -> str | None:
    return None if value is None else str(value)


def _check_writes_nowhere(command: click.Command, given: list[str]) -> None:
    """Raises a UsageError if the command line names a file that is written."""
    for option in command.params:
        if not isinstance(option.type, Output) and option.name != "in_place":
            continue
        for spelled in option.opts:
            is_short = not spelled.startswith("--")
            if any(
                word.split("=")[0] == spelled or (is_short and word.startswith(spelled)) for word in given
            ):
                raise UsageError(
                    f"leave {spelled} out of --when: the command runs on many models, and what it writes goes into"
                    " a folder that is thrown away"
                )


def _parsed(command: click.Command, name: str, words: list[str]) -> dict[str, object]:
    """The values of the parameters.

    Raises:
        UsageError: if the command does not take them, or takes a second model.
    """
    try:
        # A copy, since click takes words off the list.
        params = command.make_context(name, [PLACE, *words]).params
    except click.exceptions.Exit as error:
        raise UsageError("--when asks for help, which never fails") from error
    except click.ClickException as error:
        raise UsageError(
            f"--when is wrong whatever the model: {error.format_message().rstrip('.')}"
        ) from error
    if params.get("pruned"):
        raise UsageError("--when takes one model, which goes where it belongs by itself")
    return dict(params)


def _without_units(words: list[str]) -> list[str]:
    options = [f"--{name}" for name in UNITS]
    kept = []
    waiting = iter(words)
    for word in waiting:
        if word in options:
            next(waiting, None)
        elif word.partition("=")[0] not in options:
            kept.append(word)
    return kept
