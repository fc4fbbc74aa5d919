"""Nothing is replaced that the user did not name as the output: every writing option against every file of its call."""

from __future__ import annotations

import ast
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest

from onnxheadprune import Curve, CurvePoint, plot_curve
from onnxheadprune.cli.program import group
from onnxheadprune.cli.values import inputs_of
from onnxheadprune.reporting.pictures import PICTURE_MARK, save_figure
from tests.conftest import ROOT, Command
from tests.files.calls import BATCH, CALLS, Call, refused, writing_parameters
from tests.sources import nodes

pytestmark = pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="needs a POSIX system")
REFUSALS = ("choose another path", "are the same file", "is the model itself", "exists already")
ATTACKS = [
    pytest.param(call, name, id=f"{index}-{call.command}-{name}")
    for index, call in enumerate(CALLS)
    for name in call.outputs
]


def test_every_writing_option_is_attacked() -> None:
    attacked = {(call.command, name) for call in (*CALLS, BATCH) for name in call.outputs}
    assert attacked == writing_parameters()


def test_options_that_write_say_so() -> None:
    """A new option that names a file is one that is read, or is in the list of those that are attacked."""
    read = {"model", "pruned", "scores", "tokenizer", "vocab", "folder", "results", "job", "custom_ops"}
    for command in group.commands.values():
        for parameter in inputs_of(command):
            assert parameter.name in read, f"{command.name}: is {parameter.name} read, or is it an OUTPUT?"


def makers(path: Path) -> Iterator[tuple[int, str]]:
    """Calls in a file that make files or change them."""
    verbs = "write_bytes mkstemp NamedTemporaryFile savefig savez save touch rename copyfile copy2 move symlink_to"
    for node in nodes(path):
        if not isinstance(node, ast.Call):
            continue
        name = node.func.attr if isinstance(node.func, ast.Attribute) else getattr(node.func, "id", "")
        texts = [item.value for item in ast.walk(node) if isinstance(item, ast.Constant)]
        modes = [text for text in texts if isinstance(text, str) and set(text) <= set("rwxab+t") and text]
        opens = name in ("open", "fdopen") and any(set(mode) & set("wxa+") for mode in modes)
        flags = name == "open" and any(
            isinstance(item, ast.Attribute) and item.attr in ("O_CREAT", "O_WRONLY", "O_RDWR", "O_TRUNC")
            for item in ast.walk(node)
        )
        method = name == "write_text" and isinstance(node.func, ast.Attribute)
        if name in verbs.split() or opens or flags or method:
            yield node.lineno, name


MAKERS = {
    "model/storage/writing.py": "the one writer",
    "model/storage/stage.py": "models, in a hidden folder of the one writer",
    "runtime/memory_limits.py": "weights, in a new folder of the system's temporary folder",
    "runtime/memory.py": "a temporary folder; and the process's own file in /proc",
    "runtime/foreign.py": "os.devnull",
    **{f"reporting/pictures/{name}.py": "savefig into memory" for name in ("__init__", "draw", "style")},
    "training/checkpoint.py": "savez into memory",
    "cli/guides.py": "text in click's formatter",
    "integrations/olive.py": "a package configuration, under a name that nothing has yet",
    "cli/outcome.py": "os.devnull, and the process's own stdout and stderr",
}


def test_one_module_makes_files(tmp_path: Path) -> None:
    package = ROOT / "onnxheadprune"
    found = {str(path.relative_to(package)) for path in package.rglob("*.py") if any(makers(path))}
    assert found <= set(MAKERS), found - set(MAKERS)
    example = tmp_path / "example.py"
    example.write_text(
        "import os\nopen(p, 'w')\nq.write_text('')\nos.open(p, os.O_CREAT)\nopen(p)\nnp.save(a)\n"
    )
    assert [line for line, _ in makers(example)] == [2, 3, 4, 6]


@pytest.mark.slow
@pytest.mark.parametrize(("call", "name"), ATTACKS)
def test_an_output_that_is_an_input(call: Call, name: str, command: Command, place: Path) -> None:
    """By whatever name: as it is, relative, through folders and links of folders, and as a hard link."""
    (place / "door").symlink_to(place)
    for index, victim in enumerate(call.read):
        os.link(place / victim, place / f"hard{index}")
        names = (
            place / victim,
            victim,
            f"feeds/../{victim}",
            f"door/feeds/../{victim}",
            place / f"door/{victim}",
            f"hard{index}",
        )
        for target in names:
            if name == "backup" and victim == "model.onnx" and target == f"hard{index}":
                continue  # this is what a killed run leaves; see test_backup.py
            said = refused(command, call.arguments(place, **{name: target}), place)
            assert any(reason in said for reason in (*REFUSALS, "must end in")), said
        link = (place / "link").with_suffix(Path(call.outputs[name][1]).suffix)
        link.symlink_to(place / victim)
        assert "is a link to" in refused(command, call.arguments(place, **{name: link.name}), place)
        link.unlink()


@pytest.mark.parametrize(("call", "name"), ATTACKS)
def test_two_outputs_that_are_one(call: Call, name: str, command: Command, place: Path) -> None:
    (place / "door").symlink_to(place)
    for other in call.outputs:
        if other == name:
            continue
        free, own = place / call.outputs[other][1], Path(call.outputs[name][1]).suffix
        for target in (free, f"feeds/../{free.name}", f"door/{free.name}"):
            said = refused(command, call.arguments(place, **{name: target}), place)
            assert "are the same file; give each its own" in said or (
                free.suffix != own and "must end in" in said
            )
        if "backup" in (name, other):
            continue  # it must not be there
        free.write_text("an older one")
        hard = place / f"hard{own}"
        os.link(free, hard)
        assert "are the same file" in refused(command, call.arguments(place, **{name: hard.name}), place)
        hard.unlink()
        free.unlink()


def odd_targets(place: Path, suffix: str) -> dict[str, str]:
    """What is no regular file, or no place for one, and what is said; names that are free to choose have a suffix."""
    folder, fifo, made, fresh = (place / f"{name}{suffix}" for name in ("folder", "fifo", "socket", "fresh"))
    folder.mkdir()
    os.mkfifo(fifo)
    with socket.socket(socket.AF_UNIX) as bound:
        bound.bind(made.name)
    fresh.write_text("not of this call")
    for name, target in {
        "nowhere": "is not here",
        "loop": f"loop{suffix}",
        "to a file": fresh.name,
        "to a folder": folder.name,
    }.items():
        (place / f"{name}{suffix}").symlink_to(target)
    named = {
        "folder": "is a folder; name a file in it",
        "fifo": "is not a regular file",
        "socket": "is not a regular file",
        "nowhere": "is a link that leads nowhere",
        "loop": "is a link that leads nowhere",
        "to a file": "name that file",
        "to a folder": "is a link to a folder",
        "missing/x": "does not exist",
        f"{fresh.name}/x": "is not a folder",
        "/proc/x": "cannot be written",
        "x" * 256: "more than 255 bytes",
        "é" * 128: "more than 255 bytes",
        "x/" * 3000 + "x": "longer than the 4,095 bytes",
        ("x" * 256 + "/") * 3 + "x": "more than 255 bytes",
    }
    return {f"{name}{suffix}": why for name, why in named.items()} | {
        f"{folder.name}/": "is a folder; name a file in it",
        "new/": "is a folder; name a file in it",
        "new/.": "is a folder; name a file in it",
        ".": "is a folder",
        "": "is empty",
        "..": "is a folder",
        "/dev/null": "is not a regular file",
        "/dev/stdout": "is a link to",
        "/dev/fd/1": "is a link to",
        "-": "would be standard output",
    }


@pytest.mark.first_case
@pytest.mark.parametrize(("call", "name"), ATTACKS)
def test_a_target_that_is_no_file(call: Call, name: str, command: Command, place: Path) -> None:
    suffix = Path(call.outputs[name][1]).suffix
    for target, why in odd_targets(place, suffix).items():
        said = refused(command, call.arguments(place, **{name: target}), place)
        # Some outputs must have a suffix, which is looked at first.
        endings = ("must end in", "a picture is one of") if not target.endswith(suffix) else ()
        assert any(reason in said for reason in (why, *endings)), (target, said)
        assert len(said) < 1500
    assert not list(place.glob("*.was_imported"))


@pytest.mark.parametrize(("call", "name"), ATTACKS)
def test_a_free_name_is_none_of_these(call: Call, name: str, command: Command, place: Path) -> None:
    """The checks do not refuse everything; the call goes on to its work, and fails there or does it."""
    suffix = Path(call.outputs[name][1]).suffix
    for target in (f"free{suffix}", f"a\nb\x1b[31m{suffix}", f"{'x' * (255 - len(suffix))}{suffix}"):
        if (
            len(target) > 200
            and name == "output"
            and (call.command == "recover" or "ablation" in call.inputs or "0:0.5:0.25" in call.inputs)
        ):
            continue  # the longer name of the file beside it is too long
        arguments = [*call.arguments(place, **{name: target}), "--provider", "none-of-this-name"]
        outcome = command(*arguments)
        said = outcome.stderr
        assert not any(reason in said for reason in (*REFUSALS, "is a folder", "regular", "bytes")), said
        assert "Traceback" not in said


@pytest.mark.parametrize(("call", "name"), ATTACKS)
def test_what_this_tool_did_not_write_is_replaced_with_force_only(
    call: Call, name: str, command: Command, place: Path
) -> None:
    if name == "backup":
        return  # replaces nothing at all
    target = place / f"theirs{Path(call.outputs[name][1]).suffix}"
    target.write_text("<!-- notes on onnxheadprune, written by somebody -->")
    arguments = call.arguments(place, **{name: target})
    assert "exists, and was not written by this tool" in refused(command, arguments, place)
    said = command(*arguments, "--force", "--provider", "none-of-this-name").stderr
    assert "was not written by this tool" not in said


@pytest.mark.slow
@pytest.mark.parametrize("named", ["curve.json", "curve.png"])
def test_what_comes_beside_a_curve_replaces_nothing_but_its_like(
    named: str, command: Command, place: Path
) -> None:
    beside = {"curve.json": "curve.png", "curve.png": "curve.json"}[named]
    arguments = ["sweep", "model.onnx", "0:0.5:0.5", "--data", "random", "-o", named]
    (place / beside).write_text("not made by a sweep")
    assert "is not what this tool would write" in refused(command, arguments, place)
    save_figure(plot_curve(Curve("model.onnx", 4, "KL", (), None)), place / "curve.png")
    (place / "curve.json").write_text('{"0": [1]}')
    reason = "was not written by this tool" if named == "curve.json" else "is not what this tool would write"
    assert reason in refused(command, arguments, place)
    curve = Curve("model.onnx", 4, "KL", (CurvePoint(0.0, 0, {}, 0.0, None, 1.0),), None)
    curve.write(place / "curve.json")
    save_figure(plot_curve(curve), place / "curve.png", PICTURE_MARK)
    assert command(*arguments, "--provider", "none-of-this-name").exit_code == 4
    (place / beside).unlink()
    assert command(*arguments, "--provider", "none-of-this-name").exit_code == 4
    os.link(place / "model.onnx", place / beside)
    assert "curve" in refused(command, arguments, place)
