"""How much work planning is on large graphs, and whether it stays linear.

    python benchmarks/planning.py [--layers 100,200,400]

The graphs are stacks of pre-norm attention layers as an exporter writes them (computed target shapes,
decomposed normalisation), built here with tiny weights: the number of nodes is what matters.
"""

from __future__ import annotations

import json
import platform
import time
from datetime import date

import click
import numpy as np
import numpy.typing as npt
import onnx
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune import plan_pruning

HEADS, SIZE = 4, 8
HIDDEN = HEADS * SIZE


class Stack:
    """Collects the nodes and initializers of a stack of layers."""

    def __init__(self) -> None:
        self.nodes: list[NodeProto] = []
        self.weights: list[TensorProto] = []
        self.random = np.random.default_rng(0)
        self.constant("heads", np.array([HEADS]))
        self.constant("size", np.array([SIZE]))
        self.constant("hidden", np.array([HIDDEN]))
        self.constant("eps", np.array(1e-5, np.float32))
        for index in range(2):
            self.constant(f"axis{index}", np.array(index))
        self.constant("at0", np.array([0]))
        self.constant("last", np.array([-1]))
        self.constant("root", np.array(SIZE**0.5, np.float32))

    def constant(self, name: str, value: npt.NDArray[np.generic]) -> str:
        """An initializer."""
        self.weights.append(numpy_helper.from_array(value, name))
        return name

    def add(self, op_type: str, name: str, *inputs: str, **attributes: object) -> str:
        """A node with one output of the same name."""
        node = helper.make_node(op_type, list(inputs), [name], name=name, **attributes)  # type: ignore[arg-type]
        self.nodes.append(node)
        return name

    def linear(self, name: str, source: str) -> str:
        """A projection with bias."""
        weight = self.constant(f"{name}.weight", self.random.normal(size=(HIDDEN, HIDDEN)).astype(np.float32))
        bias = self.constant(f"{name}.bias", self.random.normal(size=HIDDEN).astype(np.float32))
        return self.add("Add", f"{name}/Add", self.add("MatMul", f"{name}/MatMul", source, weight), bias)

    def norm(self, name: str, source: str) -> str:
        """A layer normalisation, spelled out."""
        centred = self.add(
            "Sub", f"{name}/Sub", source, self.add("ReduceMean", f"{name}/Mean", source, axes=[-1])
        )
        squared = self.add("Mul", f"{name}/Square", centred, centred)
        variance = self.add("ReduceMean", f"{name}/Var", squared, axes=[-1])
        deviation = self.add("Sqrt", f"{name}/Sqrt", self.add("Add", f"{name}/AddEps", variance, "eps"))
        return self.add("Div", f"{name}/Div", centred, deviation)

    def target(self, name: str, source: str, *rest: str) -> str:
        """`[batch, sequence, *rest]`, computed at run time."""
        shape = self.add("Shape", f"{name}/Shape", source)
        parts = []
        for index in range(2):
            element = self.add("Gather", f"{name}/Gather{index}", shape, f"axis{index}", axis=0)
            parts.append(self.add("Unsqueeze", f"{name}/Unsqueeze{index}", element, "at0"))
        return self.add("Concat", f"{name}/Concat", *parts, *rest, axis=0)

    def heads(self, name: str, source: str, order: list[int]) -> str:
        """One projection, split into heads."""
        projected = self.linear(name, source)
        split = self.add(
            "Reshape", f"{name}/Reshape", projected, self.target(name, projected, "heads", "size")
        )
        return self.add("Transpose", f"{name}/Transpose", split, perm=order)

    def layer(self, name: str, source: str, norms: bool = True) -> str:
        """One pre-norm attention layer, or one without a normalisation."""
        normed = self.norm(f"{name}.norm", source) if norms else source
        query, value = (self.heads(f"{name}.{part}", normed, [0, 2, 1, 3]) for part in ("query", "value"))
        key = self.heads(f"{name}.key", normed, [0, 2, 3, 1])
        scores = self.add("Div", f"{name}/Scale", self.add("MatMul", f"{name}/Scores", query, key), "root")
        weights = self.add("Softmax", f"{name}/Softmax", scores, axis=-1)
        context = self.add("MatMul", f"{name}/Context", weights, value)
        merged = self.add("Transpose", f"{name}/Merge", context, perm=[0, 2, 1, 3])
        flat = self.add("Reshape", f"{name}/Flat", merged, self.target(f"{name}.flat", merged, "hidden"))
        return self.add("Add", f"{name}/Residual", source, self.linear(f"{name}.out", flat))


def stack(layers: int, *, norms: bool = True, chain: int = 0) -> ModelProto:
    """A model of so many layers, and behind them a chain of so many small nodes."""
    graph, value = Stack(), "x"
    for index in range(layers):
        value = graph.layer(f"layers.{index}.attention", value, norms)
    for index in range(chain):
        value = graph.add(("Neg", "Abs")[index % 2], f"chain.{index}", value)
    info = helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", "sequence", HIDDEN])
    output = helper.make_tensor_value_info(value, TensorProto.FLOAT, ["batch", "sequence", HIDDEN])
    body = helper.make_graph(graph.nodes, "stack", [info], [output], graph.weights)
    return helper.make_model(body, opset_imports=[helper.make_opsetid("", 17)], ir_version=9)


@click.command()
@click.option("--layers", default="50,100,200", show_default=True, help="Sizes to try.")
def main(layers: str) -> None:
    """Print processor seconds of planning per graph size."""
    rows = []
    for count in (int(part) for part in layers.split(",")):
        model = stack(count)
        heads = {index: [index % HEADS] for index in range(count)}
        start = time.process_time()
        plan = plan_pruning(model, heads=heads)
        seconds = time.process_time() - start
        nodes = len(model.graph.node)
        rows.append(
            {
                "layers": count,
                "nodes": nodes,
                "processor_seconds": round(seconds, 2),
                "microseconds_per_node": round(1e6 * seconds / nodes),
                "edits": len(plan.edits),
                "edge_gathers": len(plan.edge_gathers),
            }
        )
    machine = f"{platform.machine()}, Python {platform.python_version()}, onnx {onnx.__version__}"
    click.echo(json.dumps({"date": date.today().isoformat(), "machine": machine, "rows": rows}, indent=2))


if __name__ == "__main__":
    main()
