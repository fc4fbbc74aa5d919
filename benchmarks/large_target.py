"""Time and memory of choosing heads, refitting and proving on a model that is larger than memory should be.

    python benchmarks/large_target.py [--layers 22] [--samples 128] [--length 256] [--ratio 0.25] [--folder DIR]
    python benchmarks/large_target.py --layers 2 --small --vocabulary 151936 --samples 32 --length 127 [--named 0:0-1]

The model is made by `benchmarks/decoder.py`: TinyLlama's shape (width 2048, 32 query heads in 4 groups), random
weights in a file beside it; 22 layers have 1.1 billion. Printed for every stage: processor seconds, wall seconds, and
the most memory that the process had in it: all of it, and what of that is its own (the rest are pages of files that it
maps, which the system takes back when others need the room). The second form is a model that is small but for its
vocabulary: what its outputs take; with `--recover 1`, what steps of training do.
"""

from __future__ import annotations

import os
import shutil
import tempfile
import threading
import time
from pathlib import Path
from typing import Any

import click
import numpy as np
from decoder import Shape, make

import onnxheadprune as ohp

BATCH = 4


def feeds(shape: Shape, samples: int, length: int) -> list[dict[str, Any]]:
    """Random token ids, and an empty cache."""
    random = np.random.default_rng(0)
    found = []
    for first in range(0, samples, BATCH):
        rows = min(BATCH, samples - first)
        feed: dict[str, Any] = {
            "input_ids": random.integers(0, shape.vocabulary, (rows, length)),
            "position_ids": np.tile(np.arange(length), (rows, 1)),
        }
        empty = np.zeros((rows, shape.groups, 0, shape.head), np.float32)
        feed |= {f"past.{layer}.{part}": empty for layer in range(shape.layers) for part in ("key", "value")}
        found.append(feed)
    return found


class Memory(threading.Thread):
    """Looks at this process's memory twice a second.

    Attributes:
        most: megabytes since the last look at them: all, and what is no page of a file.
    """

    def __init__(self) -> None:
        super().__init__(daemon=True)
        self.most = 0, 0

    def run(self) -> None:
        """Looks."""
        while True:
            status = Path("/proc/self/status").read_text(encoding="utf-8")
            found = dict(line.split(":", 1) for line in status.splitlines())
            now = (int(found[key].split()[0]) // 1024 for key in ("VmRSS", "RssAnon"))
            self.most = tuple(map(max, self.most, now))
            time.sleep(0.5)


class Stages:
    """Prints what each stage took when the next one begins."""

    def __init__(self) -> None:
        self.name = ""
        self.clocks = time.process_time(), time.monotonic()
        self.memory = Memory()
        self.memory.start()

    def __call__(self, name: str, done: int = 0, total: int = 0) -> None:
        """Told what is being done, as `progress`."""
        if name == self.name:
            return
        now = time.process_time(), time.monotonic()
        if self.name:
            cpu, wall = (after - before for after, before in zip(now, self.clocks, strict=True))
            most, own = self.memory.most
            click.echo(f"| {self.name} | {cpu:.0f} | {wall:.0f} | {most} | {own} |")
        self.name, self.clocks, self.memory.most = name, now, (0, 0)


@click.command(help=__doc__)
@click.option("--layers", default=22, show_default=True)
@click.option("--samples", default=128, show_default=True)
@click.option("--length", default=256, show_default=True)
@click.option("--ratio", default=0.25, show_default=True)
@click.option("--vocabulary", default=32000, show_default=True)
@click.option("--small", is_flag=True, help="A width of 64 in place of 2,048.")
@click.option("--named", help="Heads to remove, in place of a ratio.")
@click.option("--recover", type=float, help="Epochs of training afterwards.")
@click.option("--validate/--no-validate", default=True, show_default=True)
@click.option(
    "--folder", type=click.Path(path_type=Path), help="Where to work; a new one in the current folder."
)
def main(
    layers: int,
    samples: int,
    length: int,
    ratio: float,
    vocabulary: int,
    small: bool,
    named: str | None,
    recover: float | None,
    validate: bool,
    folder: Path | None,
) -> None:
    """Makes the model, then one call of `prune`."""
    sizes = {"width": 64, "heads": 8, "groups": 4, "inner": 128} if small else {}
    shape = Shape(layers=layers, vocabulary=vocabulary, **sizes)
    work = Path(tempfile.mkdtemp(prefix="large-target-", dir=Path.cwd())) if folder is None else folder
    work.mkdir(exist_ok=True)
    path = work / f"decoder{layers}.onnx"
    try:
        make(path, shape)
        size = path.with_name(f"{path.name}.bin").stat().st_size / 2**20
        click.echo(
            f"{layers} layers, {size:.0f} MB, {samples} x {length} tokens, load {os.getloadavg()[0]:.1f}\n"
        )
        click.echo("| stage | CPU s | wall s | most MB | of it own |\n|---|---|---|---|---|")
        stages = Stages()
        stages("reading the model")
        result = ohp.prune(
            path,
            work / "pruned.onnx",
            heads=named,
            ratio=None if named else ratio,
            recover=recover,
            data=feeds(shape, samples, length),
            provider="cpu",
            validate=validate,
            progress=stages,
        )
        stages("end")
        verdict = "not validated" if result.validation is None else result.validation.verdict
        click.echo(f"\n{result.chosen.selection.count if result.chosen else 0} heads less; {verdict}")
    finally:
        if folder is None:
            shutil.rmtree(work, ignore_errors=True)


if __name__ == "__main__":
    main()
