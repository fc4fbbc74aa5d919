"""Processor seconds and private memory of commands on models of a billion weights and more.

    python benchmarks/large_models.py [--only 7B] [--kind float16] [--command inspect]
    python benchmarks/large_models.py --only 7B --stack 4 --command "ratio 0.25"
    python benchmarks/large_models.py --model vit.onnx --data images.npz --command "ratio 0.25"

What reads no weights is measured on whole models whose weights are holes in a file, so no disk is needed. Everything
else runs on random weights (`benchmarks/decoder.py`), each command a process of its own on one core. With `--stack`,
stacks of N/2 and N layers of that width are measured, and the whole model is estimated from the difference, which is
what N/2 layers cost. A process is ended when its own memory passes `--limit`, or its time `--seconds`.
"""

from __future__ import annotations

import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from datetime import date
from pathlib import Path
from typing import Any

import click
import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from decoder import KINDS, Decoder, Shape
from onnx import save_model

SHAPES = {
    "1B": Shape(layers=22),
    "7B": Shape(layers=32, width=4096, heads=32, groups=32, inner=11008),
    "8B, 128,256 words": Shape(layers=32, width=4096, heads=32, groups=8, inner=14336, vocabulary=128256),
    "45M": Shape(layers=4, width=512, heads=8, groups=8, inner=1408),
    "8x0.3B": Shape(layers=24, width=1024, heads=16, groups=8, inner=4096, experts=8),
}
NAMED = ["--heads", "*:0-7"]
READING = {"inspect": ["inspect"], "plan of named heads": ["prune", *NAMED, "--dry-run"]}
"""Commands that read no weights."""
RUNNING = {
    "named heads, validated": ["prune", *NAMED],
    "ratio 0.25": ["prune", "--ratio", "0.25"],
    "ratio 0.25, neurons": ["prune", "--ratio", "0.25", "--units", "neurons"],
    "ratio 0.25, experts": ["prune", "--ratio", "0.25", "--units", "experts"],
    "named heads, recover 1": ["prune", *NAMED, "--recover", "1"],
    "score": ["score"],
    "sweep 0:50%:25%": ["sweep", "0:50%:25%"],
}


class Hollow(Decoder):
    """A decoder whose data file has no contents."""

    def fill(self, pool: npt.NDArray[Any], left: int) -> None:
        """Makes room without writing."""
        self.data.seek(left * pool.itemsize, os.SEEK_CUR)


@dataclass(frozen=True)
class Cost:
    """Processor seconds and private memory of a process."""

    seconds: float
    megabytes: float
    end: str = ""  # why it did not end well

    def __str__(self) -> str:
        return f"{self.seconds:.3g} | {self.megabytes:.0f} | {self.end or 'measured'}"

    def of(self, layers: int, half: Cost, measured: int) -> Cost:
        """That of more layers, from half of those measured."""
        more = (layers - measured) / (measured / 2)
        seconds = self.seconds + more * max(self.seconds - half.seconds, 0.0)
        most = self.megabytes + more * max(self.megabytes - half.megabytes, 0)
        return Cost(seconds, most, f"estimated: stacks of {measured // 2} and {measured} layers")


def measured(command: list[str], limit: int, seconds: int, told: Path) -> Cost:
    """Processor seconds and the most private megabytes of a process and its children."""
    with told.open("wb") as output:
        process, most, ticks = subprocess.Popen(command, stdout=output, stderr=output), 0, 0.0
    folder = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        status = (folder / "status").read_text(encoding="utf-8")
        found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        most = max(most, int(found.get("RssAnon", "0").split()[0]) // 1024)
        fields = (folder / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        ticks = max(ticks, sum(map(int, fields[11:15])) / os.sysconf("SC_CLK_TCK"))
        if most > limit or ticks > seconds:
            process.kill()
            return Cost(ticks, most, f"ended after {ticks:.0f} s with {most} MB")
        time.sleep(0.1)
    return Cost(ticks, most, "" if process.returncode == 0 else f"exit {process.returncode}")


def made(shape: Shape, path: Path, *, hollow: bool) -> None:
    """Writes a model."""
    with path.with_name(f"{path.name}.bin").open("wb") as data:
        save_model((Hollow if hollow else Decoder)(shape, data).build(), path)
        data.truncate(data.tell())


@dataclass(frozen=True)
class Trial:
    """Samples, limits and folder of all measurements."""

    samples: int
    length: int
    limit: int
    seconds: int
    folder: Path

    def costs(self, shape: Shape, wanted: tuple[str, ...], *, hollow: bool) -> Iterator[tuple[str, Cost]]:
        """The costs of commands on a model."""
        with tempfile.TemporaryDirectory(dir=self.folder) as folder:
            path, data = Path(folder, "model.onnx"), Path(folder, "data.npz")
            made(shape, path, hollow=hollow)
            words = np.random.default_rng(0).integers(0, shape.vocabulary, (self.samples, self.length))
            np.savez(data, input_ids=words)
            yield from self.costs_of(path, data, [title for title in wanted if (title in READING) == hollow])

    def costs_of(self, path: Path, data: Path, wanted: Iterable[str]) -> Iterator[tuple[str, Cost]]:
        """The same on a model that is there."""
        for title in wanted:
            command, *options = (READING | RUNNING)[title]
            if title in RUNNING:
                options += [] if title == "named heads, validated" else ["--data", str(data)]
                options += [] if command != "prune" else ["-o", str(self.folder / "pruned.onnx"), "--force"]
            run = [sys.executable, "-m", "onnxheadprune", command, str(path), *options]
            yield title, measured(run, self.limit, self.seconds, self.folder / "output.txt")


@click.command(help=__doc__)
@click.option("--only", type=click.Choice(list(SHAPES)), help="A single size.")
@click.option("--kind", type=click.Choice(KINDS), multiple=True, help="Types of weights; float32 by default.")
@click.option("--command", type=click.Choice([*READING, *RUNNING]), multiple=True, help="READING by default.")
@click.option("--model", type=click.Path(path_type=Path), help="A model that is there, in place of those.")
@click.option("--data", type=click.Path(path_type=Path), help="Its data.")
@click.option("--stack", type=int, help="Layers that are measured, and half of them.")
@click.option("--samples", default=20, show_default=True, help="A sweep and --recover hold out a fifth.")
@click.option("--length", default=128, show_default=True)
@click.option("--limit", default=9000, show_default=True, help="Megabytes of a process.")
@click.option("--seconds", default=3600, show_default=True, help="Processor seconds of a process.")
@click.option("--core", type=int, help="The core to run on.")
@click.option("--folder", type=click.Path(path_type=Path), default=tempfile.gettempdir(), help="For models.")
def main(
    only: str | None,
    kind: tuple[str, ...],
    command: tuple[str, ...],
    model: Path | None,
    data: Path | None,
    stack: int | None,
    core: int | None,
    **given: Any,
) -> None:
    """Prints the table."""
    if core is not None:
        os.sched_setaffinity(0, {core})
    trial = Trial(**given)
    click.echo(
        f"{platform.machine()}, Python {platform.python_version()}, onnx {onnx.__version__}, onnxruntime"
        f" {onnxruntime.__version__}, {date.today()}; {trial.samples} x {trial.length} tokens\n"
    )
    click.echo("| model | type | command | CPU s | private MB | how |\n|---|---|---|---|---|---|")
    if model is not None and data is not None:
        for title, cost in trial.costs_of(model, data, command or tuple(READING)):
            click.echo(f"| {model.stem} | {title} | {cost} |")
        return
    for name, whole in SHAPES.items():
        if only not in (None, name):
            continue
        for each in kind or KINDS[:1]:
            shape, wanted = replace(whole, kind=each), command or tuple(READING)
            for title, cost in trial.costs(shape, wanted, hollow=True):
                click.echo(f"| {name} | {each} | {title} | {cost} |")
            running = tuple(title for title in wanted if title in RUNNING)
            half: dict[str, Cost] = {}
            for layers in ((stack // 2, stack) if stack else (shape.layers,)) if running else ():
                found = {}
                for title, cost in trial.costs(replace(shape, layers=layers), running, hollow=False):
                    told = f"{title} ({layers} layers)" if stack else title
                    click.echo(f"| {name} | {each} | {told} | {cost} |")
                    found[title] = cost
                    if title in half and not (cost.end or half[title].end):
                        rest = cost.of(shape.layers, half[title], layers)
                        click.echo(f"| {name} | {each} | {title} | {rest} |")
                half = found


if __name__ == "__main__":
    main()
