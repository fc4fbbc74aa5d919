"""What a proof costs: processor seconds and memory of `validate`, `prune --heads` and `inspect`.

    python benchmarks/proof.py [--only encoder] [-o results.json]

Encoders of BERT's shape with random weights, one quantized to int8; a model with 100 MB of doc strings; attention in
front of a chain of 100,000 small nodes; 400 attention blocks without normalisations. Every call is a process of its
own; its memory is what the system counted at its peak.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import click
import onnx
from depth import Encoder
from planning import stack

MEGABYTE = 10**6


def encoder(path: Path, layers: int, width: int) -> None:
    """Writes an encoder with random weights."""
    onnx.save(Encoder(layers, width).build(), path)


def quantized(path: Path) -> None:
    """Writes an encoder whose products are dynamically quantized to int8."""
    from onnxruntime.quantization import quantize_dynamic

    whole = path.with_suffix(".float.onnx")
    encoder(whole, 6, 512)
    quantize_dynamic(whole, path)
    whole.unlink()


def documented(path: Path) -> None:
    """Writes a small encoder with 100 MB of doc strings, as stack traces of an exporter."""
    model = Encoder(2, 64).build()
    for node in model.graph.node:
        node.doc_string = "x" * (100 * MEGABYTE // len(model.graph.node))
    onnx.save(model, path)


MODELS = {
    "encoder, 6 layers of 512": lambda path: encoder(path, 6, 512),
    "encoder, 6 layers of 1024": lambda path: encoder(path, 6, 1024),
    "encoder, 20 layers of 1024": lambda path: encoder(path, 20, 1024),
    "int8 encoder, 6 layers of 512": quantized,
    "100 MB of doc strings": documented,
    "100,000 small nodes": lambda path: onnx.save(stack(2, chain=100_000), path),
    "400 blocks without normalisations": lambda path: onnx.save(stack(400, norms=False), path),
}


def measured(*arguments: object) -> dict[str, float]:
    """Processor seconds and peak memory of a call of the command line."""
    command = [sys.executable, "-m", "onnxheadprune", *map(str, arguments)]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = os.waitstatus_to_exitcode(status)
    if process.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {process.returncode}")
    seconds = usage.ru_utime + usage.ru_stime
    return {"cpu_seconds": round(seconds, 1), "peak_mb": round(usage.ru_maxrss * 1024 / MEGABYTE)}


@click.command(help=__doc__)
@click.option("--only", default="", help="Models whose name contains this.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(only: str, output: Path | None) -> None:
    """Every model in turn."""
    rows: list[dict[str, Any]] = []
    click.echo("| model | file | call | CPU s | peak MB |\n|---|---|---|---|---|")
    for name, make in MODELS.items():
        if only not in name:
            continue
        with tempfile.TemporaryDirectory() as folder:
            model, pruned = Path(folder, "model.onnx"), Path(folder, "pruned.onnx")
            make(model)
            size = round(model.stat().st_size / MEGABYTE)
            calls = {"inspect": ("inspect", model)}
            if "blocks" not in name:
                calls["prune"] = ("prune", model, "--heads", "0:1", "--provider", "cpu", "-o", pruned)
                calls["validate"] = ("validate", model, pruned, "--provider", "cpu")
            for call, arguments in calls.items():
                row = {"model": name, "file_mb": size, "call": call, **measured(*arguments)}
                rows.append(row)
                click.echo(f"| {name} | {size} | {call} | {row['cpu_seconds']} | {row['peak_mb']} |")
    if output is not None:
        output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
