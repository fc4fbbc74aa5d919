"""Encoders that may end early, in the forms that exporters write, and in some that are no exits."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt
from onnx import GraphProto, ModelProto, TensorProto, ValueInfoProto

from tests.graphs.toys import I64, Stack

B, S, WIDTH, CLASSES = 2, 3, 7, 3
HIDDEN: Sequence[int | str] = ("batch", "seq", WIDTH)
ANSWER: Sequence[int | str] = ("batch", CLASSES)
Write = Callable[[], Sequence[ValueInfoProto]]
"""Adds nodes, and returns the outputs that they make."""


class Exits(Stack):
    """Layers and exits; the bodies store their own weights, or (`outside`) the main graph all of them."""

    def __init__(self, *, outside: bool = False) -> None:
        super().__init__(hidden=WIDTH, size=2, inner=12, activation="Relu", biases=(), seed=5)
        self.outside = outside

    def random(self, *shape: int) -> Any:
        return self.rng.uniform(-1, 1, shape).astype(np.float32)

    def constant(self, name: str, value: Any) -> str:
        return self.once(name, value) if self.outside else super().constant(name, value)

    def node(self, op_type: str, inputs: Sequence[str], output: str, **attributes: Any) -> str:
        return super().node(op_type, inputs, output, **{"name": f"{output}/{op_type}"} | attributes)

    def made(self, x: str, tag: str) -> str:
        return self.layer(x, f"{tag}/")

    def head(self, x: str, tag: str) -> str:
        """What the model answers by a hidden state."""
        pooled = self.node("ReduceMean", [x, self.once("second", [1])], f"{tag}/pooled", keepdims=0)
        return self.linear_layer(pooled, f"{tag}.head", WIDTH, CLASSES, f"{tag}/answer")

    def unsure(self, answer: str, tag: str, sure: str = "sure") -> str:
        """Whether to go on: no answer is as sure as was asked for."""
        shares = self.node("Softmax", [answer], f"{tag}/shares", axis=-1)
        surest = self.node("ReduceMax", [shares], f"{tag}/surest", keepdims=0)
        return self.node("Less", [surest, sure], f"{tag}/unsure")

    def choose(self, condition: str, name: str, then: GraphProto, other: GraphProto, *more: str) -> str:
        made = self.node("If", [condition], name, name=f"{name}/If", then_branch=then, else_branch=other)
        self.nodes[-1].output.extend(more)
        return made

    def same(self, **values: str) -> GraphProto:
        """A body that gives what is there already."""
        infos = {"x": HIDDEN, "answer": ANSWER}

        def write() -> list[ValueInfoProto]:
            names = {kind: self.node("Identity", [value], f"kept/{value}") for kind, value in values.items()}
            return [
                self.info(name, infos[kind]) if kind in infos else self.flag(name)
                for kind, name in names.items()
            ]

        return self.body(write)

    def flag(self, name: str) -> ValueInfoProto:
        return self.info(name, [], TensorProto.BOOL)

    def answering(self, *outputs: ValueInfoProto | str, inputs: Sequence[ValueInfoProto] = ()) -> ModelProto:
        """The model; outputs without a declaration are answers."""
        given = inputs or [self.info("x", HIDDEN), self.info("sure", [])]
        ends = [self.info(item, ANSWER) if isinstance(item, str) else item for item in outputs]
        return self.model(given, ends, opset=18)

    def onward(self, x: str, tag: str) -> GraphProto:
        """A body with one more layer and its answer."""
        return self.body(lambda: [self.info(self.head(self.made(x, tag), tag), ANSWER)])


def telling() -> ModelProto:
    """Two exits, the second inside of a branch of the first, which also gives out how it decides."""
    net = Exits()
    x = net.made("x", "l0")
    answer = net.head(x, "l0")
    going = net.unsure(answer, "l0")

    def more() -> list[ValueInfoProto]:
        inner = net.made(x, "l1")
        second = net.head(inner, "l1")
        again = net.unsure(second, "l1")
        late = net.choose(again, "late", net.onward(inner, "l2"), net.same(answer=second))
        return [net.info(late, ANSWER), net.flag(again)]

    net.choose(going, "out", net.body(more), net.same(answer=answer, flag=going), "went_on")
    return net.answering("out", net.flag("went_on"))


def nested(
    depth: int = 3, *, outside: bool = False, negated: bool = False, shared: bool = False
) -> ModelProto:
    """An exit behind every layer but the last, each in the body of the one before it; `shared`: one head answers."""
    net = Exits(outside=outside)
    what = "x" if shared else "answer"

    def deeper(x: str, level: int) -> str:
        tag = f"l{level}"
        made = net.made(x, tag)
        if level == depth - 1:
            return made if shared else net.head(made, tag)
        answer = net.head(made, tag)
        going = net.unsure(answer, tag)
        more = net.body(lambda: [net.info(deeper(made, level + 1), HIDDEN if shared else ANSWER)])
        early = net.same(**{what: made if shared else answer})
        if negated:
            going, more, early = net.node("Not", [going], f"{tag}/stop"), early, more
        return net.choose(going, f"out{level}", more, early)

    last = deeper("x", 0)
    return net.answering(net.head(last, "shared") if shared else last)


def chain(depth: int = 3, *, tells: bool = False, tagged: bool = True) -> ModelProto:
    """Choices one after the other, as a loop over layers is exported: each hands on what it did not compute.

    Args:
        depth: layers.
        tells: whether the model says, too, if the last layer was reached.
        tagged: whether bodies use names of their own; else all of them use the same ones.
    """
    net = Exits()
    x = net.made("x", "l0")
    answer = net.head(x, "l0")
    going = net.unsure(answer, "l0")
    for level in range(1, depth):
        tag = f"l{level}" if tagged else "inner"

        def onward(x: str = x, tag: str = tag) -> list[ValueInfoProto]:
            made = net.made(x, tag)
            new = net.head(made, tag)
            return [net.info(made, HIDDEN), net.info(new, ANSWER), net.flag(net.unsure(new, tag))]

        other = net.same(x=x, answer=answer, flag=going)
        x, answer, new = f"x{level}", f"answer{level}", f"going{level}"
        net.choose(going, x, net.body(onward), other, answer, new)
        going = new
    return net.answering(answer, *[net.flag(f"going{depth - 2}")] * tells)


def towers() -> ModelProto:
    """Two networks beside each other, each with an exit of its own."""
    net, answers = Exits(), []
    for name in "xy":
        made = net.made(name, f"{name}0")
        answer = net.head(made, f"{name}0")
        going = net.unsure(answer, f"{name}0", f"sure_{name}")
        answers.append(
            net.choose(going, f"out_{name}", net.onward(made, f"{name}1"), net.same(answer=answer))
        )
    inputs = [net.info(name, HIDDEN) for name in "xy"] + [net.info(f"sure_{name}", []) for name in "xy"]
    return net.answering(*answers, inputs=inputs)


def skipping() -> ModelProto:
    """Layers that may be skipped one by one: behind each but the last, others run all the same."""
    net, x = Exits(), "x"
    for level in range(2):
        going = net.unsure(net.head(x, f"g{level}"), f"g{level}")
        made = net.body(lambda x=x, level=level: [net.info(net.made(x, f"l{level}"), HIDDEN)])
        x = net.choose(going, f"out{level}", made, net.same(x=x))
    return net.answering(net.head(net.made(x, "last"), "last"))


def loop() -> ModelProto:
    """One layer, over and over until it is sure."""
    net = Exits(outside=True)
    states = [net.info("state", HIDDEN), net.info("last", ANSWER)]

    def turn() -> list[ValueInfoProto]:
        made = net.made("state", "l")
        answer = net.head(made, "l")
        return [net.flag(net.unsure(answer, "l")), net.info(made, HIDDEN), net.info(answer, ANSWER)]

    body = net.body(turn, [net.info("turn", [], I64), net.flag("told"), *states])
    carried = [net.once("limit", 4), "", "x", net.head("x", "first")]
    net.node("Loop", carried, "hidden", name="until_sure", body=body)
    net.nodes[-1].output.append("answer")
    return net.answering("answer")


def feed(
    sure: float = 0.5, seed: int = 0, rows: int = B, length: int = S
) -> dict[str, npt.NDArray[np.float32]]:
    """Inputs of all of these models but the towers."""
    x = np.random.default_rng(seed).uniform(-1, 1, (rows, length, WIDTH)).astype(np.float32)
    return {"x": x, "sure": np.array(sure, dtype=np.float32)}


def samples(count: int = 8) -> dict[str, npt.NDArray[np.float32]]:
    """Calibration data: sequences, and how sure to be about all of them."""
    return feed(seed=1, rows=count, length=6)


FORMS: dict[str, Callable[[], ModelProto]] = {
    "nested": nested,
    "negated": lambda: nested(negated=True),
    "weights outside": lambda: nested(outside=True),
    "chain": chain,
    "telling chain": lambda: chain(tells=True),
    "shared head": lambda: nested(shared=True),
}
"""Models with exits 1 and 2, by how they are written."""
