"""The cost of a proof: processor seconds and memory of `validate`, `prune` and `inspect`.

    python benchmarks/proof.py [--minilm MODEL] [--only encoder] [-o results.json]

Encoders of BERT's shape with random weights, up to a file of 1 GB, one quantized to int8; all-MiniLM-L6-v2, where
`--minilm` names it (sample_models/export_minilm.py); a model with 100 MB of doc strings; attention in front of chains
of small nodes; attention blocks without normalizations; and what `prune --ratio` takes as models get deeper. Every call
is a process of its own.
"""

from __future__ import annotations

import json
import platform
import tempfile
from collections.abc import Callable, Iterator
from datetime import date
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime
from depth import VOCABULARY, Encoder, cost_of
from planning import stack

MEGABYTE = 10**6
CPU = ("--provider", "cpu")


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


PROVEN: dict[str, Callable[[Path], None]] = {
    "encoder, 6 layers of 512": lambda path: encoder(path, 6, 512),
    "encoder, 6 layers of 1024": lambda path: encoder(path, 6, 1024),
    "encoder, 19 layers of 1024": lambda path: encoder(path, 19, 1024),
    "int8 encoder, 6 layers of 512": quantized,
    "100 MB of doc strings": documented,
    "20,000 small nodes": lambda path: onnx.save(stack(2, chain=20_000), path),
    "100,000 small nodes": lambda path: onnx.save(stack(2, chain=100_000), path),
}
"""Models that lose a head, and are compared with what is left."""
INSPECTED = {f"{blocks} blocks without normalizations": blocks for blocks in (50, 100, 200, 400)}
CHOSEN = {f"encoder, {layers} layers of 256": layers for layers in (6, 24)}
"""Models of which data choose a quarter of the heads."""


def calls(name: str, folder: Path, minilm: Path | None) -> Iterator[tuple[str, Path, tuple[object, ...]]]:
    """The calls for one model, each with its name and the model's file."""
    model, pruned, data = folder / "model.onnx", folder / "pruned.onnx", folder / "data.npz"
    if name in INSPECTED:
        onnx.save(stack(INSPECTED[name], norms=False), model)
        yield "inspect", model, (model,)
    elif name in CHOSEN:
        encoder(model, CHOSEN[name], 256)
        ids = np.random.default_rng(1).integers(0, VOCABULARY, (128, 32))
        np.savez(data, input_ids=ids, attention_mask=np.ones_like(ids))
        yield "prune --ratio", model, (model, "--ratio", 0.25, "--data", data, "-o", pruned, *CPU)
    else:
        if name in PROVEN:
            PROVEN[name](model)
        else:
            assert minilm is not None
            model = minilm
        yield "inspect", model, (model,)
        yield "prune --heads", model, (model, "--heads", "0:1", "-o", pruned, *CPU)
        yield "validate", model, (model, pruned, *CPU)


@click.command(help=__doc__)
@click.option("--minilm", type=click.Path(exists=True, path_type=Path), help="all-MiniLM-L6-v2 as ONNX.")
@click.option("--only", default="", help="Models whose name contains this.")
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(minilm: Path | None, only: str, output: Path | None) -> None:
    """Measures every model in turn."""
    names = [*PROVEN, *([] if minilm is None else ["all-MiniLM-L6-v2"]), *INSPECTED, *CHOSEN]
    rows = []
    click.echo("| model | file | call | CPU s | peak |\n|---|---|---|---|---|")
    for name in names:
        with tempfile.TemporaryDirectory() as folder:
            for call, model, arguments in calls(name, Path(folder), minilm) if only in name else ():
                used = cost_of(call.split()[0], *arguments)
                row = {
                    "model": name,
                    "file_mb": round(model.stat().st_size / MEGABYTE, 1),
                    "call": call,
                    "cpu_seconds": round(used.seconds, 1),
                    "peak_mb": round(used.peak / MEGABYTE),
                }
                rows.append(row)
                click.echo(
                    f"| {name} | {row['file_mb']} MB | {call} | {row['cpu_seconds']} | {row['peak_mb']} MB |"
                )
    made = f"{platform.machine()}, Python {platform.python_version()}, onnxruntime {onnxruntime.__version__}"
    found = {"date": date.today().isoformat(), "machine": made, "rows": rows}
    if output is not None:
        output.write_text(json.dumps(found, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
