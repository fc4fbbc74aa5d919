"""What choosing and refitting costs as a model gets deeper: processor time and memory of `prune --ratio`.

    python benchmarks/depth.py [--layers 3,6,12,24] [--no-validate] [-o results.json]

The models are encoders of BERT's shape with random weights, made without torch. Every depth is a process of its own,
because the peak of a process's memory never falls. Linear means: twice the layers, twice the processor time.
"""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any, NamedTuple

import click
import numpy as np
import onnx
from onnx import ModelProto, TensorProto, helper, numpy_helper

HEADS, VOCABULARY, POSITIONS = 8, 1000, 64
MEGABYTE = 2**20
_RUN = """
import json, resource, subprocess, sys
limit = int(sys.argv[1])
resource.setrlimit(resource.RLIMIT_CPU, (limit, limit))
code = subprocess.call(sys.argv[2:], stdout=subprocess.DEVNULL)
usage = resource.getrusage(resource.RUSAGE_CHILDREN)
print(json.dumps([code, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024]))
"""


class Cost(NamedTuple):
    """Processor seconds of a command, and the most bytes of memory that were resident."""

    seconds: float
    peak: int


def cost_of(*arguments: object, seconds: int = 3600) -> Cost:
    """Measure a call of the command line: processor seconds and peak memory.

    Args:
        arguments: of `onnxheadprune`.
        seconds: processor seconds after which it is killed.

    Raises:
        RuntimeError: if it fails, or is killed.
    """
    command = [sys.executable, "-m", "onnxheadprune", *map(str, arguments)]
    # The peak of a process counts what its parent had before the program was loaded, so a small one starts it.
    small = [sys.executable, "-S", "-c", _RUN, str(seconds)]
    done = subprocess.run([*small, *command], capture_output=True, text=True, check=True)
    code, used, peak = json.loads(done.stdout)
    if code:
        raise RuntimeError(f"{' '.join(command)} ended with {code} after {used:.0f} s: {done.stderr[-500:]}")
    return Cost(used, peak)


class Encoder:
    """Collects the nodes and weights of a stack of transformer layers, normalised behind each sublayer."""

    def __init__(self, layers: int, width: int) -> None:
        self.layers, self.width = layers, width
        self.nodes: list[Any] = []
        self.tensors: list[TensorProto] = []
        self.random = np.random.default_rng(0)

    def stored(self, name: str, value: Any) -> str:
        """An initializer."""
        self.tensors.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def node(self, op_type: str, inputs: list[str], output: str, **attributes: Any) -> str:
        """A node with one output."""
        self.nodes.append(helper.make_node(op_type, inputs, [output], name=output, **attributes))
        return output

    def linear(self, x: str, name: str, rows: int, columns: int) -> str:
        """A linear map with a bias."""
        weight = self.random.standard_normal((rows, columns)) / rows**0.5
        bias = 0.1 * self.random.standard_normal(columns)
        product = self.node(
            "MatMul", [x, self.stored(f"{name}.weight", weight.astype(np.float32))], f"{name}.product"
        )
        return self.node(
            "Add", [product, self.stored(f"{name}.bias", bias.astype(np.float32))], f"{name}.out"
        )

    def norm(self, x: str, name: str) -> str:
        """Layer normalisation."""
        scale = self.stored(f"{name}.weight", np.ones(self.width, np.float32))
        bias = self.stored(f"{name}.bias", np.zeros(self.width, np.float32))
        return self.node("LayerNormalization", [x, scale, bias], f"{name}.out", axis=-1, epsilon=1e-12)

    def heads(self, x: str, name: str) -> str:
        """[batch, heads, position, head size]."""
        split = self.node("Reshape", [x, "split"], f"{name}.split")
        return self.node("Transpose", [split], f"{name}.heads", perm=[0, 2, 1, 3])

    def layer(self, x: str, name: str) -> str:
        """Attention and a feed-forward block."""
        width = self.width
        q, k, v = (
            self.heads(self.linear(x, f"{name}.{part}", width, width), f"{name}.{part}") for part in "qkv"
        )
        turned = self.node("Transpose", [k], f"{name}.turned", perm=[0, 1, 3, 2])
        scaled = self.node(
            "Mul", [self.node("MatMul", [q, turned], f"{name}.product"), "scale"], f"{name}.scaled"
        )
        masked = self.node("Add", [scaled, "bias"], f"{name}.masked")
        weights = self.node("Softmax", [masked], f"{name}.softmax", axis=-1)
        context = self.node("MatMul", [weights, v], f"{name}.context")
        back = self.node("Transpose", [context], f"{name}.back", perm=[0, 2, 1, 3])
        merged = self.node("Reshape", [back, "merge"], f"{name}.merged")
        projected = self.linear(merged, f"{name}.o", width, width)
        x = self.norm(self.node("Add", [x, projected], f"{name}.middle"), f"{name}.norm1")
        inner = self.linear(x, f"{name}.up", width, 4 * width)
        active = self.node("Mul", [inner, self.node("Sigmoid", [inner], f"{name}.gate")], f"{name}.active")
        down = self.linear(active, f"{name}.down", 4 * width, width)
        return self.norm(self.node("Add", [x, down], f"{name}.last"), f"{name}.norm2")

    def build(self) -> ModelProto:
        """`input_ids` and `attention_mask` to `last_hidden_state`."""
        width, head = self.width, self.width // HEADS
        self.stored("split", np.array([0, 0, HEADS, head]))
        self.stored("merge", np.array([0, 0, width]))
        self.stored("scale", np.float32(head**-0.5))
        table = self.random.standard_normal((VOCABULARY, width)).astype(np.float32)
        words = self.node("Gather", [self.stored("words", table), "input_ids"], "embedded")
        wide = self.node("Unsqueeze", ["attention_mask", self.stored("axes", np.array([1, 2]))], "wide")
        hidden = self.node("Cast", [wide], "visible", to=TensorProto.FLOAT)
        gone = self.node("Sub", [self.stored("unit", np.float32(1)), hidden], "gone")
        self.node("Mul", [gone, self.stored("lowest", np.float32(-1e4))], "bias")
        x = self.norm(words, "embeddings.norm")
        for index in range(self.layers):
            x = self.layer(x, f"layer.{index}")
        self.node("Identity", [x], "last_hidden_state")
        inputs = [
            helper.make_tensor_value_info(name, TensorProto.INT64, ["batch", "sequence"])
            for name in ("input_ids", "attention_mask")
        ]
        outputs = [
            helper.make_tensor_value_info(
                "last_hidden_state", TensorProto.FLOAT, ["batch", "sequence", width]
            )
        ]
        graph = helper.make_graph(self.nodes, "encoder", inputs, outputs, self.tensors)
        return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


def measure(
    layers: int, width: int, samples: int, length: int, ratio: float, validate: bool
) -> dict[str, Any]:
    """One depth, in this process."""
    import onnxheadprune as ohp

    random = np.random.default_rng(1)
    ids = random.integers(0, VOCABULARY, (samples, length))
    feeds = [
        {"input_ids": ids[first : first + 32], "attention_mask": np.ones_like(ids[first : first + 32])}
        for first in range(0, samples, 32)
    ]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "encoder.onnx")
        onnx.save(Encoder(layers, width).build(), path)
        bytes_stored = path.stat().st_size
        started, before = time.monotonic(), time.process_time()
        ohp.prune(
            path, Path(folder, "pruned.onnx"), ratio=ratio, data=feeds, provider="cpu", validate=validate
        )
        return {
            "layers": layers,
            "cpu_seconds": round(time.process_time() - before, 1),
            "seconds": round(time.monotonic() - started, 1),
            "peak_mb": round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024),
            "weights_mb": round(bytes_stored / MEGABYTE, 1),
        }


@click.command(help=__doc__)
@click.option("--layers", default="3,6,12,24", show_default=True)
@click.option("--width", default=256, show_default=True)
@click.option("--samples", default=128, show_default=True)
@click.option("--length", default=32, show_default=True)
@click.option("--ratio", default=0.25, show_default=True)
@click.option("--validate/--no-validate", default=True, show_default=True)
@click.option("--here", is_flag=True, hidden=True)
@click.option("-o", "--output", type=click.Path(path_type=Path))
def main(
    layers: str,
    width: int,
    samples: int,
    length: int,
    ratio: float,
    validate: bool,
    here: bool,
    output: Path | None,
) -> None:
    """Every depth in a process of its own."""
    if here:
        click.echo(json.dumps(measure(int(layers), width, samples, length, ratio, validate)))
        return
    rows: list[dict[str, Any]] = []
    click.echo(f"{os.cpu_count()} cores, load {os.getloadavg()[0]:.1f}")
    click.echo(
        "| layers | CPU s | wall s | CPU s per layer | peak MB | weights MB |\n|---|---|---|---|---|---|"
    )
    for depth in layers.split(","):
        command = [sys.executable, __file__, "--here", "--layers", depth, "--width", str(width)]
        command += ["--samples", str(samples), "--length", str(length), "--ratio", str(ratio)]
        command += [] if validate else ["--no-validate"]
        found = subprocess.run(command, capture_output=True, text=True, check=True)
        row: dict[str, Any] = json.loads(found.stdout.splitlines()[-1])
        rows.append(row)
        each = row["cpu_seconds"] / row["layers"]
        click.echo(
            f"| {row['layers']} | {row['cpu_seconds']} | {row['seconds']} | {each:.2f} | {row['peak_mb']} |"
            f" {row['weights_mb']} |"
        )
    if output is not None:
        output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
