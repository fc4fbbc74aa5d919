"""What float16 does to products, on a provider that has none."""

from __future__ import annotations

from dataclasses import replace

from onnx import ModelProto, NodeProto, TensorProto, helper

from onnxheadprune.training.precision import Candidate


def rounded(candidate: Candidate) -> Candidate:
    """The candidate with products in float32 between pairs of casts.

    The CPU provider multiplies float16 in float32 and drops the casts around that, so nothing would be rounded. It
    keeps two casts in a row.
    """
    made = ModelProto()
    made.CopyFrom(candidate.model)
    narrow = {node.output[0] for node in made.graph.node if _cast_to(node, TensorProto.FLOAT16)}
    nodes: list[NodeProto] = []
    for node in candidate.model.graph.node:
        proto = NodeProto.FromString(node.SerializeToString())
        nodes.append(proto)
        if proto.op_type == "Cast" or not narrow.intersection(proto.input):
            continue
        assert narrow.issuperset(name for name in proto.input if name), "a product has operands of two types"
        nodes.pop()
        for index, name in enumerate(node.input):
            if name:
                proto.input[index] = f"{name}/{proto.output[0]}"
                nodes.append(helper.make_node("Cast", [name], [proto.input[index]], to=TensorProto.FLOAT))
        out = proto.output[0]
        proto.output[0] = f"{out}/wide"
        nodes += [proto, helper.make_node("Cast", [f"{out}/wide"], [out], to=TensorProto.FLOAT16)]
    del made.graph.node[:]
    made.graph.node.extend(nodes)
    return replace(candidate, model=made)


def _cast_to(node: NodeProto, elem_type: int) -> bool:
    return node.op_type == "Cast" and node.attribute[0].i == elem_type
