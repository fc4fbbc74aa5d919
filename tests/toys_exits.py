"""Small encoders that may end early, in the forms that exporters write, and in some that are no exits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto, helper

from tests.graph_builder import GraphBuilder

B, S, WIDTH, HEADS, SIZE, INNER, CLASSES = 2, 3, 7, 4, 2, 12, 3
HIDDEN: tuple[int | str, ...] = ("batch", "seq", WIDTH)
ANSWER: tuple[int | str, ...] = ("batch", CLASSES)


def floats(name: str, shape: Sequence[int | str]) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, list(shape))


def flag(name: str) -> ValueInfoProto:
    return helper.make_tensor_value_info(name, TensorProto.BOOL, [])


class Layers:
    """Writes layers and exits into bodies.

    Attributes:
        rng: where weights come from.
        own_weights: whether bodies store their own weights, or the main graph all of them.
    """

    def __init__(self, *, own_weights: bool = True) -> None:
        self.rng = np.random.default_rng(5)
        self.main = GraphBuilder()
        self.own_weights = own_weights

    def weight(self, body: GraphBuilder, name: str, array: npt.NDArray[np.generic]) -> str:
        return (body if self.own_weights else self.main).constant(name, array)

    def random(self, body: GraphBuilder, name: str, *shape: int) -> str:
        return self.weight(body, name, self.rng.uniform(-1, 1, shape).astype(np.float32))

    def op(self, body: GraphBuilder, op: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        return body.node(op, inputs, output, name=f"{output}/{op}", **attributes)

    def layer(self, body: GraphBuilder, x: str, tag: str) -> str:
        """An attention block and a feed-forward block, each with a residual stream."""

        def split(name: str, *order: int) -> str:
            weight = self.random(body, f"{tag}.{name}", WIDTH, HEADS * SIZE)
            flat = self.op(body, "MatMul", [x, weight], f"{tag}/{name}")
            shape = self.weight(body, f"{tag}.{name}_shape", np.array([0, 0, HEADS, SIZE]))
            apart = self.op(body, "Reshape", [flat, shape], f"{tag}/{name}_apart")
            return self.op(body, "Transpose", [apart], f"{tag}/{name}_heads", perm=list(order))

        scores = self.op(body, "MatMul", [split("q", 0, 2, 1, 3), split("k", 0, 2, 3, 1)], f"{tag}/scores")
        weights = self.op(body, "Softmax", [scores], f"{tag}/weights", axis=-1)
        context = self.op(body, "MatMul", [weights, split("v", 0, 2, 1, 3)], f"{tag}/context")
        turned = self.op(body, "Transpose", [context], f"{tag}/turned", perm=[0, 2, 1, 3])
        shape = self.weight(body, f"{tag}.o_shape", np.array([0, 0, HEADS * SIZE]))
        merged = self.op(body, "Reshape", [turned, shape], f"{tag}/merged")
        out = self.op(
            body, "MatMul", [merged, self.random(body, f"{tag}.o", HEADS * SIZE, WIDTH)], f"{tag}/o"
        )
        x = self.op(body, "Add", [x, out], f"{tag}/attended")
        inner = self.op(body, "MatMul", [x, self.random(body, f"{tag}.fc1", WIDTH, INNER)], f"{tag}/fc1")
        active = self.op(body, "Relu", [inner], f"{tag}/active")
        out = self.op(body, "MatMul", [active, self.random(body, f"{tag}.fc2", INNER, WIDTH)], f"{tag}/fc2")
        return self.op(body, "Add", [x, out], f"{tag}/made")

    def head(self, body: GraphBuilder, x: str, tag: str) -> str:
        """What the model answers by a hidden state."""
        axes = self.weight(body, f"{tag}.axes", np.array([1]))
        pooled = self.op(body, "ReduceMean", [x, axes], f"{tag}/pooled", keepdims=0)
        return self.op(
            body, "MatMul", [pooled, self.random(body, f"{tag}.head", WIDTH, CLASSES)], f"{tag}/answer"
        )

    def unsure(self, body: GraphBuilder, answer: str, tag: str, sure: str = "sure") -> str:
        """Whether to go on: no answer is as sure as was asked for."""
        shares = self.op(body, "Softmax", [answer], f"{tag}/shares", axis=-1)
        surest = self.op(body, "ReduceMax", [shares], f"{tag}/surest", keepdims=0)
        return self.op(body, "Less", [surest, sure], f"{tag}/unsure")

    def choose(
        self, body: GraphBuilder, condition: str, outputs: Sequence[str], then: GraphProto, other: GraphProto
    ) -> None:
        body.nodes.append(
            helper.make_node(
                "If", [condition], list(outputs), name=f"{outputs[0]}/If", then_branch=then, else_branch=other
            )
        )

    def same(self, value: str, name: str, shape: Sequence[int | str]) -> GraphProto:
        """A body that gives what is there already."""
        body = GraphBuilder()
        self.op(body, "Identity", [value], name)
        return body.graph([floats(name, shape)])

    def model(self, inputs: Sequence[ValueInfoProto], outputs: Sequence[ValueInfoProto]) -> ModelProto:
        return self.main.model(inputs, outputs, opset=18)


INPUTS = (floats("x", ["batch", "seq", WIDTH]), floats("sure", []))


def telling() -> ModelProto:
    """Two exits, the second inside of a branch of the first, which also gives out how it decides."""
    net = Layers()
    x = net.layer(net.main, "x", "l0")
    answer = net.head(net.main, x, "l0")
    going = net.unsure(net.main, answer, "l0")
    onward, other, inner = GraphBuilder(), GraphBuilder(), GraphBuilder()
    x = net.layer(onward, x, "l1")
    second = net.head(onward, x, "l1")
    more = net.unsure(onward, second, "l1")
    last = net.head(inner, net.layer(inner, x, "l2"), "l2")
    net.choose(
        onward, more, ["late"], inner.graph([floats(last, ANSWER)]), net.same(second, "middle", ANSWER)
    )
    net.op(other, "Identity", [answer], "early")
    net.op(other, "Identity", [going], "stopped")
    then = onward.graph([floats("late", ANSWER), flag(more)])
    net.choose(
        net.main, going, ["out", "went_on"], then, other.graph([floats("early", ANSWER), flag("stopped")])
    )
    return net.model(INPUTS, [floats("out", ANSWER), flag("went_on")])


def nested(depth: int = 3, *, own_weights: bool = True, negated: bool = False) -> ModelProto:
    """An exit behind every layer but the last, each in the body of the one before it."""
    net = Layers(own_weights=own_weights)

    def deeper(body: GraphBuilder, x: str, level: int) -> str:
        tag = f"l{level}"
        made = net.layer(body, x, tag)
        answer = net.head(body, made, tag)
        if level == depth - 1:
            return answer
        going = net.unsure(body, answer, tag)
        onward = GraphBuilder()
        last = deeper(onward, made, level + 1)
        out = f"out{level}"
        more, early = onward.graph([floats(last, ANSWER)]), net.same(answer, f"early{level}", ANSWER)
        if negated:
            stop = net.op(body, "Not", [going], f"{tag}/stop")
            net.choose(body, stop, [out], early, more)
        else:
            net.choose(body, going, [out], more, early)
        return out

    last = deeper(net.main, "x", 0)
    return net.model(INPUTS, [floats(last, ANSWER)])


def chain(depth: int = 3, *, tells: bool = False, tagged: bool = True) -> ModelProto:
    """Choices one after the other, as a loop over layers is exported: each hands on what it did not compute.

    Args:
        depth: layers.
        tells: whether the model says, too, if the last layer was reached.
        tagged: whether bodies use names of their own; else all of them use the same ones.
    """
    net = Layers()
    main = net.main
    x = net.layer(main, "x", "l0")
    answer = net.head(main, x, "l0")
    going = net.unsure(main, answer, "l0")
    for level in range(1, depth):
        onward, other = GraphBuilder(), GraphBuilder()
        tag = f"l{level}" if tagged else "inner"
        made = net.layer(onward, x, tag)
        new = net.head(onward, made, tag)
        more = net.unsure(onward, new, tag)
        declared = [floats(made, HIDDEN), floats(new, ANSWER), flag(more)]
        for value in (x, answer, going):
            net.op(other, "Identity", [value], f"kept{level}/{value}")
        kept = [
            floats(f"kept{level}/{x}", HIDDEN),
            floats(f"kept{level}/{answer}", ANSWER),
            flag(f"kept{level}/{going}"),
        ]
        names = [f"x{level}", f"answer{level}", f"going{level}"]
        net.choose(main, going, names, onward.graph(declared), other.graph(kept))
        x, answer, going = names
    outputs = [floats(answer, ANSWER)]
    return net.model(INPUTS, [*outputs, flag(f"going{depth - 2}")] if tells else outputs)


def shared_head(depth: int = 3) -> ModelProto:
    """Exits give hidden states, and one head behind them answers."""
    net = Layers()

    def deeper(body: GraphBuilder, x: str, level: int) -> str:
        made = net.layer(body, x, f"l{level}")
        if level == depth - 1:
            return made
        going = net.unsure(body, net.head(body, made, f"l{level}"), f"l{level}")
        onward = GraphBuilder()
        last = deeper(onward, made, level + 1)
        early = net.same(made, f"early{level}", HIDDEN)
        net.choose(body, going, [f"out{level}"], onward.graph([floats(last, HIDDEN)]), early)
        return f"out{level}"

    answer = net.head(net.main, deeper(net.main, "x", 0), "shared")
    return net.model(INPUTS, [floats(answer, ANSWER)])


def towers() -> ModelProto:
    """Two networks beside each other, each with an exit of its own."""
    net = Layers()
    answers = []
    for name in ("x", "y"):
        made = net.layer(net.main, name, f"{name}0")
        answer = net.head(net.main, made, f"{name}0")
        going = net.unsure(net.main, answer, f"{name}0", f"sure_{name}")
        onward = GraphBuilder()
        last = net.head(onward, net.layer(onward, made, f"{name}1"), f"{name}1")
        early = net.same(answer, f"early_{name}", ANSWER)
        net.choose(net.main, going, [f"out_{name}"], onward.graph([floats(last, ANSWER)]), early)
        answers.append(floats(f"out_{name}", ANSWER))
    inputs = [floats(name, ["batch", "seq", WIDTH]) for name in "xy"]
    return net.model([*inputs, *(floats(f"sure_{name}", []) for name in "xy")], answers)


def skipping() -> ModelProto:
    """Layers that may be skipped one by one: behind each but the last, others run all the same."""
    net = Layers()
    x = "x"
    for level in range(2):
        going = net.unsure(net.main, net.head(net.main, x, f"g{level}"), f"g{level}")
        onward = GraphBuilder()
        made = net.layer(onward, x, f"l{level}")
        early = net.same(x, f"early{level}", HIDDEN)
        net.choose(net.main, going, [f"out{level}"], onward.graph([floats(made, HIDDEN)]), early)
        x = f"out{level}"
    answer = net.head(net.main, net.layer(net.main, x, "last"), "last")
    return net.model(INPUTS, [floats(answer, ANSWER)])


def loop(limit: int | str | None = 4, *, counted: bool = False, reads_decision: bool = False) -> ModelProto:
    """One layer, over and over until it is sure.

    Args:
        limit: how often at most; None for no limit, a name for an input that says it.
        counted: whether it also counts its turns, and stops by that.
        reads_decision: whether the body uses the decision for something else.
    """
    net = Layers(own_weights=False)
    first = net.head(net.main, "x", "first")
    body = GraphBuilder()
    made = net.layer(body, "state", "l")
    answer = net.head(body, made, "l")
    more = net.unsure(body, answer, "l")
    states = [floats("state", HIDDEN), floats("last", ANSWER)]
    outputs = [floats(made, HIDDEN), floats(answer, ANSWER)]
    carried = ["x", first]
    if counted:
        one, most = (net.weight(body, name, np.array(number)) for name, number in (("one", 1), ("most", 3)))
        count = net.op(body, "Add", ["count", one], "counted")
        more = net.op(body, "And", [more, net.op(body, "Less", [count, most], "few")], "more")
        states.append(helper.make_tensor_value_info("count", TensorProto.INT64, []))
        outputs.append(helper.make_tensor_value_info(count, TensorProto.INT64, []))
        carried.append(net.weight(net.main, "none", np.array(0)))
    if reads_decision:
        outputs[1] = floats(net.op(body, "Where", [more, answer, "last"], "picked"), ANSWER)
    turn = helper.make_tensor_value_info("turn", TensorProto.INT64, [])
    graph = body.graph([flag(more), *outputs], [turn, flag("told"), *states])
    inputs = list(INPUTS)
    most = ""
    if isinstance(limit, str):
        inputs.append(helper.make_tensor_value_info(limit, TensorProto.INT64, []))
        most = limit
    elif limit is not None:
        most = net.weight(net.main, "limit", np.array(limit))
    names = ["hidden", "answer", *(["turns"] if counted else [])]
    net.main.nodes.append(
        helper.make_node("Loop", [most, "", *carried], names, name="until_sure", body=graph)
    )
    return net.model(inputs, [floats("answer", ANSWER)])


def feed(sure: float = 0.5, seed: int = 0) -> dict[str, npt.NDArray[np.float32]]:
    """Inputs of all of these models but the towers."""
    x = np.random.default_rng(seed).uniform(-1, 1, (B, S, WIDTH)).astype(np.float32)
    return {"x": x, "sure": np.array(sure, dtype=np.float32)}


def samples(count: int = 8) -> dict[str, npt.NDArray[np.float32]]:
    """Calibration data: sequences, and how sure to be about all of them."""
    x = np.random.default_rng(1).uniform(-1, 1, (count, 6, WIDTH)).astype(np.float32)
    return {"x": x, "sure": np.array(0.5, dtype=np.float32)}


FORMS: dict[str, Callable[[], ModelProto]] = {
    "nested": nested,
    "negated": lambda: nested(negated=True),
    "weights outside": lambda: nested(own_weights=False),
    "chain": chain,
    "telling chain": lambda: chain(tells=True),
    "shared head": shared_head,
    "loop": loop,
    "counting loop": lambda: loop(counted=True),
}
"""Models with exits 1 and 2, by how they are written."""
