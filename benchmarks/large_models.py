"""Processor seconds and private memory of `inspect` and of planning, for models of a billion weights and more.

    python benchmarks/large_models.py [--only 7B]

The weights are holes in a file beside the model, so no disk is needed: neither `inspect` nor the plan of named heads
reads them. Every command is a process of its own.
"""

from __future__ import annotations

import math
import platform
import subprocess
import sys
import tempfile
import time
from datetime import date
from pathlib import Path

import click
import onnx
import onnxruntime
from decoder import ALIGNMENT, Decoder, Shape
from onnx import TensorProto, save_model

SHAPES = {
    "1B": Shape(layers=22),
    "7B": Shape(layers=32, width=4096, heads=32, groups=32, inner=11008),
    "8B, 128,256 words": Shape(layers=32, width=4096, heads=32, groups=8, inner=14336, vocabulary=128256),
}
COMMANDS = {"inspect": ["inspect"], "plan of named heads": ["prune", "--heads", "*:0-7", "--dry-run"]}


class Hollow(Decoder):
    """A decoder whose data file has no contents."""

    def weight(self, name: str, *dims: int) -> str:
        """A weight in the data file, which grows without being written."""
        offset, size = -(-self.data.tell() // ALIGNMENT) * ALIGNMENT, 4 * math.prod(dims)
        self.data.seek(offset + size)
        tensor = TensorProto(name=name, data_type=TensorProto.FLOAT, dims=dims)
        tensor.data_location = TensorProto.EXTERNAL
        for key, value in (("location", Path(self.data.name).name), ("offset", offset), ("length", size)):
            tensor.external_data.add(key=key, value=str(value))
        self.tensors.append(tensor)
        return name


def measured(command: list[str]) -> tuple[float, int]:
    """Processor seconds and the most private megabytes of a process."""
    process, most, ticks = subprocess.Popen(command, stdout=subprocess.DEVNULL), 0, 0.0
    folder = Path(f"/proc/{process.pid}")
    while process.poll() is None:
        status = (folder / "status").read_text(encoding="utf-8")
        found = dict(line.split(":", 1) for line in status.splitlines() if ":" in line)
        most = max(most, int(found.get("RssAnon", "0").split()[0]) // 1024)
        fields = (folder / "stat").read_text(encoding="utf-8").rsplit(")", 1)[1].split()
        ticks = max(ticks, (int(fields[11]) + int(fields[12])) / 100)
        time.sleep(0.02)
    return ticks, most


@click.command(help=__doc__)
@click.option("--only", help="A single size.")
def main(only: str | None) -> None:
    """Prints the table."""
    click.echo(
        f"{platform.machine()}, Python {platform.python_version()}, onnx {onnx.__version__}, onnxruntime"
        f" {onnxruntime.__version__}, {date.today()}\n"
    )
    click.echo("| model | command | CPU s | private MB |\n|---|---|---|---|")
    for name, shape in SHAPES.items():
        if only not in (None, name):
            continue
        with tempfile.TemporaryDirectory() as folder:
            path = Path(folder, "model.onnx")
            with path.with_name(f"{path.name}.bin").open("wb") as data:
                save_model(Hollow(shape, data).build(), path)
                data.truncate(data.tell())
            for title, (command, *options) in COMMANDS.items():
                seconds, most = measured(
                    [sys.executable, "-m", "onnxheadprune", command, str(path), *options]
                )
                click.echo(f"| {name} | {title} | {seconds:.1f} | {most} |")


if __name__ == "__main__":
    main()
