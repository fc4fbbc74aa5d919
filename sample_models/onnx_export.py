"""One call for PyTorch's two ONNX exporters, shared by the scripts of this folder."""

from __future__ import annotations

from pathlib import Path

import onnx
import torch

Feed = dict[str, torch.Tensor]

# The opsets the exporters speak best: the tracing one stops at 17-20, the other starts at 18.
OPSETS = {"torchscript": 17, "dynamo": 18}


def export(
    model: torch.nn.Module,
    feed: Feed,
    output: str,
    axes: dict[int, str],
    exporter: str,
    path: Path,
) -> None:
    """Writes `model` to `path`, weights included.

    Args:
        model: in `eval` mode; its `forward` takes the inputs in the order of `feed`.
        feed: input names and the values to trace with.
        output: name of the only output.
        axes: the dynamic axes, the same ones for every input.
        exporter: `torchscript` (traces, `dynamo=False`) or `dynamo` (on `torch.export`).
        path: where to write.

    Raises:
        ValueError: on another exporter.
        RuntimeError: when the exporter gives nothing.
    """
    args, inputs = tuple(feed.values()), list(feed)
    if exporter == "torchscript":
        torch.onnx.export(
            model, args, str(path), dynamo=False, opset_version=OPSETS[exporter],
            input_names=inputs, output_names=[output],
            dynamic_axes=dict.fromkeys((*inputs, output), axes),
        )  # fmt: skip
        return
    if exporter != "dynamo":
        raise ValueError(f"unknown exporter {exporter!r}")
    dims = {axis: torch.export.Dim(name) for axis, name in axes.items()}
    program = torch.onnx.export(
        model, args, dynamo=True, opset_version=OPSETS[exporter], verbose=False,
        input_names=inputs, output_names=[output], dynamic_shapes=tuple(dims for _ in inputs),
    )  # fmt: skip
    if program is None:
        raise RuntimeError(f"the exporter gave no program for {path.name}")
    proto: onnx.ModelProto = program.model_proto
    drop_stack_traces(proto)
    onnx.save(proto, path)


def drop_stack_traces(proto: onnx.ModelProto) -> None:
    """Drops the Python stack traces, which name folders of the machine that exported."""
    for node in proto.graph.node:
        kept = [entry for entry in node.metadata_props if not entry.key.endswith("stack_trace")]
        del node.metadata_props[:]
        node.metadata_props.extend(kept)


def name_weights(path: Path) -> None:
    """Names the weights of MatMul nodes after their module.

    The tracing exporter stores a linear layer's weight transposed, as `onnx::MatMul_<number>`;
    the node `/blocks.0/attn/qkv/MatMul` still tells that it is `blocks.0.attn.qkv.weight`.
    """
    proto = onnx.load(path)
    initializers = {initializer.name: initializer for initializer in proto.graph.initializer}
    for node in proto.graph.node:
        if node.op_type == "MatMul" and node.input[1].startswith("onnx::MatMul_"):
            weight = initializers[node.input[1]]
            weight.name = ".".join([*node.name.strip("/").split("/")[:-1], "weight"])
            node.input[1] = weight.name
    onnx.save(proto, path)
