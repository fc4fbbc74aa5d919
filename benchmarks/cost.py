"""Processor seconds and memory of commands, on a file or on models with random weights of any size.

    python benchmarks/cost.py sample_models/digits_vit.onnx "inspect MODEL" "prune MODEL --heads 0:1 -o OUT"
    python benchmarks/cost.py encoder --layers 3,6,12,24 "prune MODEL --ratio 0.25 --data DATA -o OUT"
    python benchmarks/cost.py decoder --shape "width=4096 heads=32 groups=32" --layers 2,4 --whole 32 "inspect MODEL"
    python benchmarks/cost.py decoder cp copy "prune MODEL --heads *:0-7 -o OUT --no-validate" onnx surgeon

MODEL, DATA and OUT stand for files: the model, token ids for it, and what is written. Sizes of models are those of
`Shape` in encoder.py and decoder.py. Beside commands of onnxheadprune one may name `cp`, `copy` (with fsync), `onnx`
(load and save) and `surgeon` (onnx-graphsurgeon, in and out). Every command is a process of its own; with `--rounds`
all take turns, and the fastest run counts. *private* is memory that is no page of a file, which the system could take
back. With `--whole` a last row says what a model of so many layers would take, from what layers add between the first
and the last depth. `--hollow` leaves weights out (holes in a file), for commands that read none.
"""

from __future__ import annotations

import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, fields, replace
from datetime import date
from pathlib import Path
from typing import Any

import click
import decoder
import encoder
import numpy as np
import onnx
import onnxruntime

MEGABYTE = 10**6
COPY = "import os, shutil, sys; shutil.copyfile(*sys.argv[1:]); os.fsync(os.open(sys.argv[2], os.O_RDONLY))"
SAVE = "import onnx, sys; onnx.save(onnx.load(sys.argv[1]), sys.argv[2], save_as_external_data=True)"
SURGEON = """
import onnx, onnx_graphsurgeon as gs, sys
onnx.save(gs.export_onnx(gs.import_onnx(onnx.load(sys.argv[1]))), sys.argv[2], save_as_external_data=True)
"""
BESIDE = {
    "cp": ["cp", "DATAFILE", "OUT"],
    "copy": [sys.executable, "-c", COPY, "DATAFILE", "OUT"],
    "onnx": [sys.executable, "-c", SAVE, "MODEL", "OUT"],
    "surgeon": [sys.executable, "-c", SURGEON, "MODEL", "OUT"],
}
"""Other ways to write a file of the same size."""


@dataclass(frozen=True)
class Cost:
    """Cost of a process.

    Attributes:
        cpu: processor seconds, its children's included.
        wall: seconds.
        peak: most bytes of resident memory.
        private: most bytes of it that are no pages of files.
        code: exit code.
        output: of stdout.
    """

    cpu: float
    wall: float
    peak: int
    private: int
    code: int
    output: str = ""

    def row(self) -> str:
        """The cells of a table."""
        ended = "" if self.code == 0 else f", exit {self.code}"
        megabytes = " | ".join(f"{size / MEGABYTE:.0f}" for size in (self.peak, self.private))
        return f"{self.cpu:.2f} | {self.wall:.2f} | {megabytes}{ended}"


def cost_of(command: Sequence[str], *, seconds: float = 3600, megabytes: float = 16_000) -> Cost:
    """Run a command and measure it.

    Args:
        command: words of a command line.
        seconds: after which it is killed.
        megabytes: of private memory, after which it is killed.
    """
    began, peak, private = time.monotonic(), 0, 0
    with tempfile.TemporaryFile() as output:
        process = subprocess.Popen(command, stdout=output, stderr=subprocess.DEVNULL)
        while (found := os.wait4(process.pid, os.WNOHANG))[0] == 0:
            status = Path(f"/proc/{process.pid}/status").read_text(encoding="utf-8")
            now = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
            peak = max(peak, 1024 * int(now.get("VmHWM", "0").split()[0]))
            private = max(private, 1024 * int(now.get("RssAnon", "0").split()[0]))
            if private > megabytes * MEGABYTE or time.monotonic() - began > seconds:
                process.kill()
            time.sleep(0.01)
        _, ended, usage = found
        process.returncode = os.waitstatus_to_exitcode(ended)
        output.seek(0)
        text = output.read().decode(errors="replace")
    spent = time.monotonic() - began
    return Cost(usage.ru_utime + usage.ru_stime, spent, peak, private, process.returncode, text)


def program(*words: object) -> list[str]:
    """A call of onnxheadprune."""
    return [sys.executable, "-m", "onnxheadprune", *map(str, words)]


def machine() -> str:
    """Machine, versions and date."""
    return (
        f"{platform.machine()}, {os.cpu_count()} cores, load {os.getloadavg()[0]:.1f},"
        f" Python {platform.python_version()}, onnx {onnx.__version__}, onnxruntime {onnxruntime.__version__},"
        f" {date.today()}"
    )


class Hollow(decoder.Decoder):
    """A decoder whose data file has no contents."""

    def fill(self, pool: Any, left: int) -> None:
        """Make room without writing."""
        self.data.seek(left * pool.itemsize, os.SEEK_CUR)


def make_hollow(path: Path, shape: decoder.Shape) -> None:
    """Write a decoder without weights."""
    with path.with_name(f"{path.name}.bin").open("wb") as data:
        onnx.save(Hollow(shape, data).build(), path)
        data.truncate(data.tell())


MAKERS: dict[str, tuple[Any, Callable[[Path, Any], None]]] = {
    "encoder": (encoder.Shape(), encoder.make),
    "decoder": (decoder.Shape(), decoder.make),
}


def shaped(shape: Any, text: str) -> Any:
    """A shape with other sizes: `width=512 heads=8`."""
    types = {item.name: type(getattr(shape, item.name)) for item in fields(shape)}
    given = dict(word.split("=", 1) for word in text.split())
    return replace(shape, **{n: v == "True" if types[n] is bool else types[n](v) for n, v in given.items()})


def token_ids(path: Path, model: str, shape: Any, samples: int, length: int) -> None:
    """Write random token ids for a model."""
    ids = np.random.default_rng(1).integers(0, shape.vocabulary, (samples, length))
    np.savez(path, input_ids=ids, **({"attention_mask": np.ones_like(ids)} if model == "encoder" else {}))


def filled(command: str, places: dict[str, str]) -> list[str]:
    """The words of a command, with files in the place of their names."""
    words = BESIDE.get(command) or program(*shlex.split(command))
    return [places.get(word, word) for word in words]


def extended(first: Cost, last: Cost, layers: Sequence[int], whole: int) -> Cost:
    """The cost of a deeper model, by what each layer adds."""
    more = (whole - layers[-1]) / (layers[-1] - layers[0])

    def line(before: float, after: float) -> float:
        return after + more * max(after - before, 0)

    return Cost(
        line(first.cpu, last.cpu),
        line(first.wall, last.wall),
        int(line(first.peak, last.peak)),
        int(line(first.private, last.private)),
        0,
    )


def turns(
    commands: Sequence[str], places: dict[str, str], rounds: int, limits: dict[str, float]
) -> list[Cost]:
    """The fastest run of each command, all taking turns."""
    best: dict[str, Cost] = {}
    for _ in range(rounds):
        for command in commands:
            # What an earlier command left to be written must not slow this one.
            os.sync()
            found = cost_of(filled(command, places), **limits)
            if command not in best or found.cpu < best[command].cpu:
                best[command] = found
            for path in Path(places["OUT"]).parent.glob("out.onnx*"):
                if "-o OUT" in command or command in BESIDE:
                    path.rename(path.with_name(f"last-{path.name}"))
    return [best[command] for command in commands]


@click.command(help=__doc__)
@click.argument("model")
@click.argument("commands", nargs=-1, required=True)
@click.option("--layers", help="Depths to make: 6,12,24.")
@click.option("--shape", "sizes", default="", help="Other sizes: 'width=512 heads=8'.")
@click.option("--whole", type=int, help="Layers of a model to estimate.")
@click.option("--hollow", is_flag=True, help="A decoder without weights.")
@click.option("--data", type=click.Path(path_type=Path), help="DATA of a model that is a file.")
@click.option("--samples", default=128, show_default=True)
@click.option("--length", default=32, show_default=True)
@click.option("--rounds", default=1, show_default=True)
@click.option("--seconds", default=3600.0, show_default=True, help="Of a command, then it is killed.")
@click.option("--megabytes", default=16_000.0, show_default=True, help="Private memory of a command.")
@click.option(
    "--folder", type=click.Path(path_type=Path, exists=True), help="For models, on a disk of your choice."
)
@click.option("-o", "--output", type=click.Path(path_type=Path), help="Also as JSON.")
def main(
    model: str,
    commands: tuple[str, ...],
    layers: str | None,
    sizes: str,
    whole: int | None,
    hollow: bool,
    data: Path | None,
    samples: int,
    length: int,
    rounds: int,
    seconds: float,
    megabytes: float,
    folder: Path | None,
    output: Path | None,
) -> None:
    """Print a Markdown table."""
    limits = {"seconds": seconds, "megabytes": megabytes}
    click.echo(f"{machine()}\n\n| model | file | command | CPU s | wall s | peak MB | private MB |")
    click.echo("|---|---|---|---|---|---|---|")
    rows: dict[str, list[Cost]] = {}
    depths = [int(part) for part in layers.split(",")] if layers else [0]
    for depth in depths:
        with tempfile.TemporaryDirectory(dir=folder) as place:
            path, title = Path(model), Path(model).stem
            if model in MAKERS:
                path, (shape, make) = Path(place, "model.onnx"), MAKERS[model]
                shape = shaped(replace(shape, **({"layers": depth} if depth else {})), sizes)
                (make_hollow if hollow else make)(path, shape)
                data, title = Path(place, "data.npz"), f"{model}, {shape.layers} layers of {shape.width}"
                token_ids(data, model, shape, samples, length)
            beside = path.with_name(f"{path.name}.bin")
            files = {"MODEL": path, "DATA": data, "OUT": Path(place, "out.onnx")}
            files["DATAFILE"] = beside if beside.exists() else path
            stored = path.stat().st_size + (beside.stat().st_size if beside.exists() else 0)
            places = {name: str(file) for name, file in files.items()}
            for command, found in zip(commands, turns(commands, places, rounds, limits), strict=True):
                click.echo(f"| {title} | {stored / MEGABYTE:.1f} MB | `{command}` | {found.row()} |")
                rows.setdefault(command, []).append(found)
    if whole is not None:
        for command, (first, *_, last) in rows.items():
            click.echo(
                f"| {whole} layers, estimated | | `{command}` | {extended(first, last, depths, whole).row()} |"
            )
    if output is not None:
        found_rows = {
            command: [vars(item) | {"output": None} for item in own] for command, own in rows.items()
        }
        output.write_text(
            json.dumps({"on": machine(), "layers": depths, "rows": found_rows}, indent=1) + "\n", "utf-8"
        )


if __name__ == "__main__":
    main()
