"""Every way in which the command line makes a file, with every input that such a call can have."""

from __future__ import annotations

import stat
from dataclasses import dataclass, field
from pathlib import Path

import click
import numpy as np
import onnx

from onnxheadprune.cli.program import group
from onnxheadprune.cli.values import Value
from tests.conftest import Command
from tests.graphs import toys

Writing = tuple[str, str]
"""A command, and the name of a parameter of it that names a file to be made."""


@dataclass(frozen=True)
class Call:
    """A command line in which every file has a name.

    Attributes:
        command: its name.
        inputs: arguments and options that are read; words of `place` stand for paths.
        outputs: the parameters that are written, how they are spelled, and a free name.
        read: all files that are read, the weights of models too.
    """

    command: str
    inputs: str
    outputs: dict[str, tuple[str, str]]
    read: tuple[str, ...]
    flags: tuple[str, ...] = field(default=())

    def arguments(self, place: Path, **targets: object) -> list[str]:
        """The command line, with other targets for some outputs."""
        words = [str(place / word[1:]) if word.startswith("@") else word for word in self.inputs.split()]
        for name, (spelled, free) in self.outputs.items():
            words += [spelled, str(targets.get(name, place / free))]
        return [self.command, *words, *self.flags]


MODEL = ("model.onnx", "w.bin")
CALLS = (
    Call(
        "prune",
        "@model.onnx --heads @heads.json --data @data.npz",
        {
            "output": ("-o", "out.onnx"),
            "report": ("--report", "r.html"),
        },
        (*MODEL, "heads.json", "data.npz"),
    ),
    Call(
        "prune",
        "@model.onnx --ratio 0.5 --scores @scores.json --data mine_for_files:feeds --drift other_of_files:far",
        {
            "output": ("-o", "out.onnx"),
            "report": ("--report", "r.html"),
            "heatmap": ("--heatmap", "h.svg"),
        },
        (*MODEL, "scores.json", "mine_for_files.py", "other_of_files.py"),
    ),
    Call(
        "prune",
        "@model.onnx --in-place --heads @heads.json --data @feeds",
        {"backup": ("--backup", "kept.onnx"), "report": ("--report", "r.html")},
        (*MODEL, "heads.json", "feeds/0.npz", "feeds/deep/1.npz"),
    ),
    Call(
        "sweep",
        "@model.onnx 0:0.5:0.25 --data @text.txt --tokenizer @tokenizer.json",
        {"output": ("-o", "curve.png")},
        (*MODEL, "text.txt", "tokenizer.json"),
    ),
    Call(
        "sweep",
        "@model.onnx 0:0.5:0.25 --data @data.npz --scores @scores.json",
        {"output": ("-o", "curve.json")},
        (*MODEL, "data.npz", "scores.json"),
    ),
    Call(
        "recover",
        "@model.onnx @pruned.onnx --data @data.npz",
        {"output": ("-o", "out.onnx"), "report": ("--report", "r.html")},
        (*MODEL, "pruned.onnx", "v.bin", "data.npz"),
    ),
    Call(
        "prune",
        "@model.onnx --fuse contrib --data @data.npz",
        {"output": ("-o", "out.onnx"), "report": ("--report", "r.html")},
        (*MODEL, "data.npz"),
    ),
    Call(
        "prune",
        "@model.onnx --in-place --fuse onnx",
        {"backup": ("--backup", "kept.onnx")},
        MODEL,
    ),
    Call(
        "prune",
        "@model.onnx --ratio 0.5 --data @feeds",
        {"output": ("-o", "out.onnx")},
        (*MODEL, "feeds/0.npz", "feeds/deep/1.npz"),
    ),
    Call(
        "score",
        "@model.onnx --data @text.txt --tokenizer @feeds",
        {"output": ("-o", "s.json"), "heatmap": ("--heatmap", "h.png")},
        (*MODEL, "text.txt", "feeds/0.npz"),
    ),
    Call(
        "score",
        "@model.onnx --method ablation --data @data.npz",
        {"output": ("-o", "s.json"), "heatmap": ("--heatmap", "h.png")},
        (*MODEL, "data.npz"),
    ),
    Call(
        "bench",
        "@model.onnx @pruned.onnx",
        {
            "csv_path": ("--csv", "b.csv"),
            "markdown": ("--export-markdown", "b.md"),
            "plot": ("--plot", "p.pdf"),
        },
        (*MODEL, "pruned.onnx", "v.bin"),
    ),
    Call(
        "run",
        "@job.yaml",
        {"junit": ("--junit", "gates.xml")},
        (*MODEL, "job.yaml", "data.npz", "scores.json", "feeds/0.npz", "mine_for_files.py"),
    ),
    Call(
        "quantize",
        "@model.onnx --to int8-qdq --data @data.npz",
        {"output": ("-o", "out.onnx")},
        (*MODEL, "data.npz"),
    ),
    Call("report", "@scores.json @heads.json", {"output": ("-o", "r.html")}, ("scores.json", "heads.json")),
)
BATCH = Call("batch", "@models --heads @heads.json", {"output": ("-o", "out")}, ())
"""The output is a folder here, which has rules of its own."""


JOB = """
model: model.onnx
output: out
data: {path: data.npz}
prune: {ratio: 0.5, scores: scores.json, drift: "mine_for_files:far"}
validate: {data: feeds}
"""
"""Its files are read where it is carried out, so that nothing of it is typed."""


def outputs_of(command: click.Command) -> list[click.Parameter]:
    """The parameters that name files that a command makes."""
    return [
        item for item in command.params if isinstance(item.type, Value) and item.type.item.setting.creates
    ]


def writing_parameters() -> set[Writing]:
    """What click knows of."""
    return {
        (name, str(parameter.name))
        for name, command in group.commands.items()
        for parameter in outputs_of(command)
    }


def furnish(place: Path) -> None:
    """Makes all files that calls read. Those that are no models hold anything."""
    for name, data in (("model.onnx", "w.bin"), ("pruned.onnx", "v.bin")):
        toy = toys.attention(extra_weight=300)
        onnx.save(toy, place / name, save_as_external_data=True, location=data, size_threshold=100)
    (place / "feeds" / "deep").mkdir(parents=True)
    for name in ("feeds/0.npz", "feeds/deep/1.npz", "data.npz"):
        np.savez(place / name, x=np.zeros(3))
    for name in ("scores.json", "text.txt", "tokenizer.json"):
        (place / name).write_text(f"the content of {name}")
    (place / "heads.json").write_text('{"0": [1]}')
    (place / "job.yaml").write_text(JOB)
    for name in ("mine_for_files.py", "other_of_files.py"):
        (place / name).write_text("import pathlib\npathlib.Path(__file__ + '.was_imported').touch()\n")


def snapshot(place: Path) -> dict[str, object]:
    """All that is in a folder: kinds, modes, identities and contents."""
    found: dict[str, object] = {}
    for path in sorted(place.rglob("*")):
        status = path.lstat()
        content: object = None
        if stat.S_ISLNK(status.st_mode):
            content = path.readlink()
        elif stat.S_ISREG(status.st_mode):
            content = path.read_bytes()
        found[str(path.relative_to(place))] = (status.st_mode, status.st_ino, content)
    return found


def refused(command: Command, arguments: list[str], place: Path) -> str:
    """The sentence of a call that is refused before any work, with everything as it was."""
    before = snapshot(place)
    outcome = command(*arguments)
    assert outcome.exit_code == 2, (arguments, outcome)
    assert outcome.stdout == "" and "Traceback" not in outcome.stderr
    assert outcome.stderr.startswith("error: ") and outcome.stderr.count("\n") == 1
    assert snapshot(place) == before, arguments
    return outcome.stderr
