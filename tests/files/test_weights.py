"""A file with weights is an output like any other: claimed before any work, and replaced by nothing of its own call."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import click
import pytest

from onnxheadprune import UsageError
from onnxheadprune.cli.program import group
from onnxheadprune.model.storage.writing import Assembly
from tests.conftest import Command
from tests.deploying import exports
from tests.files.calls import CALLS, Call, refused


def takes(call: Call, name: str) -> bool:
    """Whether the command of a call has a parameter, and the call makes a model."""
    return name in {parameter.name for parameter in group.commands[call.command].params}


MODELS = [call for call in CALLS if takes(call, "external_data")]
NAMED = [call for call in MODELS if takes(call, "data_name")]


def cases(calls: list[Call], *also: str) -> list[tuple[Call, str]]:
    """Calls with each of their outputs; in place the model is one."""
    return [(call, name) for call in calls for name in dict.fromkeys((*also, *call.outputs))]


def spelled(value: object) -> str:
    return value.command if isinstance(value, Call) else str(value)


def written(call: Call, name: str) -> str:
    """The free name of an output; in place the model is one."""
    return call.outputs[name][1] if name in call.outputs else "model.onnx"


def made(call: Call) -> str:
    """The name of the model that a call makes."""
    return written(call, "output")


def test_every_command_that_makes_a_model_is_asked() -> None:
    """A new command with weights beside its model is in the list, and so is a new option that names them."""
    commands = {
        name
        for name, command in group.commands.items()
        if any(parameter.name == "external_data" for parameter in command.params)
    }
    assert commands - {"batch"} <= {call.command for call in MODELS}
    named = {
        (name, parameter.name)
        for name, command in group.commands.items()
        for parameter in command.params
        if isinstance(parameter, click.Option) and "data_name" in (parameter.name or "")
    }
    assert named == {("prune", "data_name")}


@pytest.mark.first_case
@pytest.mark.parametrize(("call", "name"), cases(NAMED, "output"), ids=spelled)
def test_named_weights_are_no_other_output(call: Call, name: str, command: Command, place: Path) -> None:
    """In both orders on the command line, in any spelling, and where the other output is there already."""
    free = written(call, name)
    words = call.arguments(place)
    for there, other in itertools.product((False, True), (free, free.upper(), free.swapcase())):
        if there and name in call.outputs and name != "backup":
            (place / free).write_text("an older one")
        for option in (["--data-name", other], [f"--data-name={other}"]):
            for arguments in ([*words, *option], [words[0], *option, *words[1:]]):
                said = refused(command, arguments, place)
                assert "are the same file; give each its own" in said, said
    if name == "output":
        assert "needs one of its own" in refused(command, [*words, "--data-name", "{}"], place)


@pytest.mark.parametrize("call", NAMED, ids=spelled)
def test_named_weights_are_no_input_and_no_odd_place(call: Call, command: Command, place: Path) -> None:
    words = call.arguments(place)
    for victim in (name for name in call.read if "/" not in name and name != "model.onnx"):
        said = refused(command, [*words, "--data-name", victim], place)
        assert "which this call reads" in said or "are the same file" in said, said
    (place / "folder").mkdir()
    (place / "link").symlink_to("w.bin")
    os.mkfifo(place / "fifo")
    for odd in ("folder", "folder/x", "link", "fifo", "", ".", "..", "/tmp/x", "a\\b", "x" * 256):
        refused(command, [*words, "--data-name", odd], place)


@pytest.mark.parametrize(
    ("call", "name"), [case for case in cases(MODELS) if case[1] != "output"], ids=spelled
)
def test_names_made_from_content_are_no_other_output(
    call: Call, name: str, command: Command, place: Path
) -> None:
    """Whatever the content will be, so that nobody works for hours in vain."""
    for hash_name in ("0123456789abcdef", "FEDCBA9876543210"):
        target = place / f"{made(call)}.{hash_name}.data"
        said = refused(command, call.arguments(place, **{name: target}), place)
        assert "may get by their content" in said or "must end in" in said, said


@pytest.mark.parametrize(("call", "name"), cases(list(CALLS)), ids=spelled)
def test_names_of_what_is_cleared_away_are_no_outputs(
    call: Call, name: str, command: Command, place: Path
) -> None:
    for other in call.outputs.values():
        target = f".{other[1]}.0123456789abcdef.tmp"
        said = refused(command, call.arguments(place, **{name: target}), place)
        assert "temporary file of this tool" in said or "must end in" in said, said


def test_a_report_in_the_folder_that_is_made(command: Command, tmp_path: Path) -> None:
    folder = exports.encoder(tmp_path / "in")
    (tmp_path / "out").mkdir()
    for name in ("r.html", "model.html"):
        words = ["prune", str(folder), "-o", str(tmp_path / "out"), "--heads", "0:1"]
        said = refused(command, [*words, "--report", str(tmp_path / "out" / name)], tmp_path)
        assert "which is made as a whole" in said


@pytest.mark.parametrize("name", ["MODEL_quantized.onnx", "TOKENIZER.json", "sub", "{}.X", "other.BIN"])
def test_weights_in_a_folder_are_no_other_file(name: str, command: Command, tmp_path: Path) -> None:
    """Nor a folder of it, nor what is its like but for cases."""
    folder = exports.encoder(tmp_path / "in")
    inner = folder / "onnx"
    (inner / "tokenizer.json").write_text("{}")
    (inner / "model.onnx.x").write_text("a file")
    (inner / "sub").mkdir()
    (inner / "sub" / "file").write_text("a file")
    (inner / "other.bin").write_text("a file")
    words = ["prune", str(folder), "-o", str(tmp_path / "out"), "--heads", "0:1"]
    assert "is there already" in refused(command, [*words, "--data-name", name], tmp_path)


def test_a_folder_takes_each_name_once(tmp_path: Path) -> None:
    (tmp_path / "source").write_text("another file")
    with Assembly(tmp_path / "out") as assembly:
        assembly.write("a", b"the first")
        for write in (
            lambda: assembly.write("a", b"the second"),
            lambda: assembly.copy(tmp_path / "source", "a"),
        ):
            with pytest.raises(UsageError, match="already"):
                write()
        assembly.commit()
    assert (tmp_path / "out" / "a").read_bytes() == b"the first"
