"""Makes a model with early exits of the digits ViT: `python sample_models/make_early_exits.py OUT.onnx`.

Behind each layer but the last the classifier is asked; if it is sure of every picture of the batch, its answer is the
model's. The further layers lie in the branches of `If` nodes, one inside the other, as exporters write such networks.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
from onnx import GraphProto, ModelProto, NodeProto, TensorProto, helper, numpy_helper

HERE = Path(__file__).parent
MODEL = HERE / "digits_vit.onnx"
LAYERS, CLASSES = 4, 10
SURE = 0.9
"""The least probability of an answer that is taken for sure."""


def behind(layer: int) -> str:
    """What a layer gives."""
    return f"/blocks.{layer}/Add_1_output_0"


def between(model: ModelProto, start: str | None, end: str) -> list[NodeProto]:
    """The nodes that make one value of another, in order; of all that they need if there is no start."""
    wanted, found = {end}, []
    for node in reversed(model.graph.node):
        if wanted.intersection(node.output):
            found.append(node)
            wanted |= {name for name in node.input if name != start}
    return found[::-1]


def renamed(nodes: Iterable[NodeProto], names: dict[str, str], tag: str) -> list[NodeProto]:
    """Copies of nodes that give values of their own."""
    copies = []
    for node in nodes:
        copy = NodeProto()
        copy.CopyFrom(node)
        copy.name = f"{tag}{node.name}"
        names |= {name: f"{tag}{name}" for name in node.output}
        copy.input[:] = [names.get(name, name) for name in node.input]
        copy.output[:] = [names[name] for name in node.output]
        copies.append(copy)
    return copies


def asked(model: ModelProto, layer: int) -> tuple[list[NodeProto], str, str]:
    """Nodes that answer behind a layer; the answer, and whether to go on."""
    tag = f"exit{layer}"
    last = behind(LAYERS - 1)
    classifier = [node for node in between(model, last, "logits") if node.op_type != "Constant"]
    nodes = renamed(classifier, {last: behind(layer)}, tag)
    answer = nodes[-1].output[0]
    steps: tuple[tuple[str, list[str], dict[str, Any]], ...] = (
        ("Softmax", [answer], {"axis": -1}),
        ("ReduceMax", [f"{tag}/Softmax"], {"axes": [-1], "keepdims": 0}),
        ("ReduceMin", [f"{tag}/ReduceMax"], {"keepdims": 0}),
        ("Less", [f"{tag}/ReduceMin", "sure"], {}),
    )
    nodes += [helper.make_node(op, given, [f"{tag}/{op}"], f"{tag}/{op}", **how) for op, given, how in steps]
    return nodes, answer, f"{tag}/Less"


def answer_of(name: str) -> onnx.ValueInfoProto:
    """Declares an answer of the model."""
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["batch", CLASSES])


def further(model: ModelProto, layer: int, known: set[str]) -> GraphProto:
    """The body that runs a layer and all behind it."""
    nodes = [node for node in between(model, behind(layer - 1), behind(layer)) if node.output[0] not in known]
    if layer < LAYERS - 1:
        answer = f"behind{layer}"
        nodes += choice(model, layer, answer, known | {node.output[0] for node in nodes})
    else:
        classifier = [node for node in between(model, behind(layer), "logits") if node.output[0] not in known]
        nodes += renamed(classifier, {}, "last")
        answer = nodes[-1].output[0]
    return helper.make_graph(nodes, f"layer{layer}", [], [answer_of(answer)])


def choice(model: ModelProto, layer: int, output: str, known: set[str]) -> list[NodeProto]:
    """Nodes that ask the classifier behind a layer, and go on where it is not sure."""
    nodes, answer, more = asked(model, layer)
    early = helper.make_graph(
        [helper.make_node("Identity", [answer], [f"early{layer}"])],
        f"exit{layer}",
        [],
        [answer_of(f"early{layer}")],
    )
    onward = further(model, layer + 1, known)
    chosen = helper.make_node("If", [more], [output], f"exit{layer}", then_branch=onward, else_branch=early)
    return [*nodes, chosen]


def made(model: ModelProto) -> ModelProto:
    """The model with an exit behind every layer but the last."""
    constants = [node for node in model.graph.node if node.op_type == "Constant"]
    first = [node for node in between(model, None, behind(0)) if node.op_type != "Constant"]
    known = {name for node in (*constants, *first) for name in node.output}
    nodes = [*constants, *first, *choice(model, 0, "logits", known)]
    stored = [*model.graph.initializer, numpy_helper.from_array(np.array(SURE, dtype=np.float32), "sure")]
    graph = helper.make_graph(nodes, "early_exits", list(model.graph.input), list(model.graph.output), stored)
    return helper.make_model(graph, opset_imports=model.opset_import, ir_version=model.ir_version)


def main() -> None:
    """Writes the model."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    written = made(onnx.load(MODEL))
    onnx.checker.check_model(written, full_check=True)
    onnx.save(written, parser.parse_args().out)


if __name__ == "__main__":
    main()
