"""Exports the tiny samples: 5 architectures x 2 exporters x 2 attention implementations.

Writes `tiny/<architecture>-<torchscript|dynamo>-<eager|sdpa>.onnx`, and beside them
`tiny/<architecture>.reference.npz` with the outputs of PyTorch's own silenced models.
"""

from __future__ import annotations

import warnings
from pathlib import Path

import click
import numpy as np
import onnx
import onnxruntime as ort
import torch
from onnx_export import OPSETS, export
from tiny_configs import ARCHITECTURES, SEED, Architecture, build, exportable, make_feed
from tiny_reference import FEEDS, Arrays, make_reference, smallest_effect

ATTENTIONS = ("eager", "sdpa")
# No size of the traced inputs is one of the model's own or of the reference feeds.
TRACED_BATCH, TRACED_SEQUENCE = 6, 13
# Both relative to the largest absolute value of the output.
TOLERANCE, LEAST_EFFECT = 1e-5, 1e-3


def largest_error(path: Path, architecture: Architecture, arrays: Arrays) -> float:
    """Compares ONNX Runtime with PyTorch on every feed, relative to the output's scale."""
    session = ort.InferenceSession(path, providers=["CPUExecutionProvider"])
    errors = []
    for index in range(len(FEEDS)):
        feed = {name: arrays[f"feed{index}/{name}"] for name in architecture.inputs}
        expected = arrays[f"original/feed{index}/{architecture.output}"]
        (actual,) = session.run([architecture.output], feed)
        errors.append(float(np.abs(actual - expected).max() / np.abs(expected).max()))
    return max(errors)


def check(path: Path, architecture: Architecture, arrays: Arrays) -> None:
    """Stops where an export is not valid or does not match PyTorch."""
    onnx.checker.check_model(path, full_check=True)
    error = largest_error(path, architecture, arrays)
    nodes, size = len(onnx.load(path).graph.node), path.stat().st_size / 1e3
    click.echo(f"{path.name:32} {nodes:4} nodes  {size:4.0f} kB  error {error:.1e}")
    # Written so that NaN fails too.
    if not error <= TOLERANCE:
        raise click.ClickException(f"{path.name} differs from PyTorch by {error:.1e}.")


def write_samples(architecture: Architecture, folder: Path) -> None:
    """Writes an architecture's reference and its four exports."""
    effect = smallest_effect(architecture)
    click.echo(f"{architecture.name}: silencing any head moves the output by >= {effect:.3f}")
    if not effect >= LEAST_EFFECT:
        raise click.ClickException(f"{architecture.name} has a head that does not matter.")
    arrays = make_reference(architecture)
    np.savez_compressed(folder / f"{architecture.name}.reference.npz", **arrays)
    feed = make_feed(architecture, TRACED_BATCH, TRACED_SEQUENCE, SEED)
    for exporter in OPSETS:
        for attention in ATTENTIONS:
            path = folder / f"{architecture.name}-{exporter}-{attention}.onnx"
            model = exportable(build(architecture, attention), architecture)
            export(model, feed, architecture.output, architecture.axes, exporter, path)
            check(path, architecture, arrays)


@click.command()
@click.option(
    "--output",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path(__file__).parent / "tiny",
    help="Folder to write to; by default the one beside this script.",
)
def main(output: Path) -> None:
    """Writes the tiny samples and what PyTorch says about their silenced heads."""
    # Both exporters warn about tracing and about their own deprecations; `check` is the judge.
    warnings.filterwarnings("ignore")
    torch.set_num_threads(2)
    output.mkdir(parents=True, exist_ok=True)
    for architecture in ARCHITECTURES:
        write_samples(architecture, output)


if __name__ == "__main__":
    main()
