"""The loss of a recovery, as nodes after the student's graph, and what the original gives for its inputs.

The loss of a batch is the sum of

* of the main output: one minus the cosine, or where it is a distribution the Kullback-Leibler divergence from the
  original's (Hinton et al. 2015), the measures that drift is reported in;
* of hidden states: the mean square difference to the original's, as a share of their variance, of the last one and on
  average over all of them (Romero et al. 2015; Jiao et al. 2020).

What the original gives comes in as inputs, and so do the weights of the positions: which are padding, and by what a
difference is divided, is known where the data is. The nodes are of the oldest kinds: they mean the same in every opset.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from onnx import ModelProto, TensorProto, ValueInfoProto, helper

from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.parts import run_feed
from onnxheadprune.data.calibration import Calibration
from onnxheadprune.data.drift import counted
from onnxheadprune.edit.nodes import nodes_of_text
from onnxheadprune.errors import UsageError
from onnxheadprune.model.graph.main_output import MainOutput
from onnxheadprune.model.graph.operator import ADDS_AND_NORMALIZES, is_a
from onnxheadprune.model.graph.view import GraphView, Node, Value
from onnxheadprune.model.messages import copied
from onnxheadprune.runtime import Array, Session
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input

PREFIX = "onnxheadprune.recovery."
LOSS = f"{PREFIX}loss"
SQUARE = """
value = Cast<to=1>(student)
apart = Sub(value, target)
square = Mul(apart, apart)
weighted = Mul(square, weight)
part = ReduceSum<keepdims=0>(weighted)
"""
POOL = """
tokens = Cast<to=1>(student)
value = MatMul(weights, tokens)
"""
ALONE = "value = Cast<to=1>(student)"
COSINE = """
product = Mul(value, target)
dot = MatMul(product, ones)
own = Mul(value, value)
length = MatMul(own, ones)
safe = Add(length, tiny)
norm = Sqrt(safe)
cosine = Div(dot, norm)
weighted = Mul(cosine, weight)
near = ReduceSum<keepdims=0>(weighted)
part = Sub(one, near)
"""
LOGITS = """
value = Cast<to=1>(student)
known = LogSoftmax<axis=-1>(value)
"""
PROBABILITIES = """
value = Cast<to=1>(student)
safe = Add(value, tiny)
known = Log(safe)
"""
DIVERGENCE = """
shared = Mul(known, target)
near = ReduceSum<keepdims=0>(shared)
part = Sub(one, near)
"""


@dataclass(frozen=True)
class Part:
    """One part of the loss."""

    name: str  # of its inputs, after a prefix
    nodes: str  # ONNX text; `student` is the student's value, `target` and the like are inputs
    student: str  # the value that it is about
    inputs: Mapping[str, int]  # names of its inputs, as in the text, with their ranks

    def spelled(self, local: str) -> str:
        """The name in the model for one of the text."""
        return self.student if local == "student" else f"{PREFIX}{self.name}.{local}"


def with_loss(student: ModelProto, parts: Sequence[Part]) -> ModelProto:
    """The model with the sum of the parts as its only output."""
    made = copied(student)
    del made.graph.output[:]
    names = []
    for part in parts:
        made.graph.node.extend(nodes_of_text(part.nodes, part.spelled))
        made.graph.input.extend(_input(part.spelled(name), rank) for name, rank in part.inputs.items())
        names.append(part.spelled("part"))
    made.graph.node.append(helper.make_node("Sum", names, [LOSS]))
    made.graph.output.append(helper.make_tensor_value_info(LOSS, TensorProto.FLOAT, []))
    return made


def _input(name: str, rank: int) -> ValueInfoProto:
    dims = [f"{name}.{axis}" for axis in range(rank)]
    return helper.make_tensor_value_info(name, TensorProto.FLOAT, dims)


STREAM_OUTPUT = 3
"""Of a fused addition and normalisation: the sum, before it is normalised."""


@dataclass(frozen=True, eq=False)
class Hidden:
    """One state of the residual stream."""

    value: Value  # the state
    axes: tuple[int, ...]  # its axes that hold features


def hidden_states(view: GraphView) -> tuple[Hidden, ...]:
    """The stream after each addition, in graph order.

    Where a normalisation alone reads the sum, as in BERT, its output is the stream.
    """
    found: dict[Value, Hidden] = {}
    for node in view.main.nodes:
        linear = Linear.at(node)
        stream = None if linear is None or linear.joint is None else _stream(linear.joint)
        if (
            linear is not None
            and stream is not None
            and len(stream.shape or ()) == len(linear.out.shape or ())
        ):
            found.setdefault(stream, Hidden(stream, linear.out_axes))
    return tuple(found.values())


def _stream(node: Node) -> Value:
    if node in ADDS_AND_NORMALIZES:
        total = node.outputs[STREAM_OUTPUT] if len(node.outputs) > STREAM_OUTPUT else None
        return total if total is not None and total.consumers else node.out
    if is_a(node, "Add"):
        readers = [use.node for use in node.out.consumers]
        if len(readers) == 1 and readers[0].roles.learned and not node.out.is_graph_output:
            return readers[0].out
    return node.out


LEAST_VARIANCE = 0.1
"""A position counts as if its features varied by this share of what they do on average, if they vary by less."""
TINY = 1e-12


@dataclass(frozen=True, eq=False)
class Aim:
    """The aim of a student."""

    main: MainOutput  # the main output
    rank: int
    pooled: bool  # whether its positions are averaged first, as those who use embeddings of tokens do
    hidden: Sequence[Hidden]  # states of the stream
    inputs: Sequence[Input]  # of the model

    @property
    def parts(self) -> list[Part]:
        """The parts of the loss, in the order of `inputs_of`."""
        found = [self._main()]
        for number, state in enumerate(self.hidden):
            rank = len(state.value.shape or ())
            found.append(Part(f"hidden{number}", SQUARE, state.value.name, {"target": rank, "weight": rank}))
        return found

    def _main(self) -> Part:
        name, rank = self.main.name, self.rank
        if self.main.is_logits:
            given = PROBABILITIES if self.main.is_probabilities else LOGITS
            more = {"tiny": 0} if self.main.is_probabilities else {}
            return Part("main", given + DIVERGENCE, name, {"target": rank, "one": 0, **more})
        inputs = {"target": rank, "weight": rank, "ones": 2, "tiny": 0, "one": 0}
        if not self.pooled:
            return Part("main", ALONE + COSINE, name, inputs)
        return Part("main", POOL + COSINE, name, {**inputs, "weights": 3})

    def inputs_of(self, outputs: Mapping[str, Array], feed: Feed) -> Feed:
        """The inputs of the loss for one batch."""
        made: Feed = {}
        for part, numbers in zip(self.parts, self._numbers(outputs, feed), strict=True):
            made |= {part.spelled(name): np.asarray(array, np.float32) for name, array in numbers.items()}
        return made

    def _numbers(self, outputs: Mapping[str, Array], feed: Feed) -> list[dict[str, Array]]:
        main = outputs[self.main.name].astype(np.float32)
        found = [self._distribution(main, feed) if self.main.is_logits else self._direction(main, feed)]
        for number, state in enumerate(self.hidden):
            target = outputs[state.value.name].astype(np.float32)
            share = 1 / len(self.hidden)
            if number == len(self.hidden) - 1:
                # The last state counts for itself, too.
                share += 1
            found.append({"target": target, "weight": share * self._weights(target, state, feed)})
        return found

    def _distribution(self, main: Array, feed: Feed) -> dict[str, Array]:
        if self.main.is_probabilities:
            likely = np.maximum(main, 0)
        else:
            likely = np.exp(main - main.max(axis=-1, keepdims=True))
            likely /= likely.sum(axis=-1, keepdims=True)
        weighted = likely * self._shares(main.shape[:-1], feed)[..., None]
        entropy = np.asarray(np.sum(weighted * np.log(np.maximum(likely, 1e-30)), dtype=np.float64))
        return {"target": weighted, "one": entropy, "tiny": np.array(1e-30)}

    def _direction(self, main: Array, feed: Feed) -> dict[str, Array]:
        numbers: dict[str, Array] = {"tiny": np.array(TINY), "one": np.array(1.0)}
        shares = self._shares(main.shape[:-1], feed)
        if self.pooled:
            weights = shares / np.maximum(shares.sum(axis=1, keepdims=True), TINY)
            numbers["weights"] = weights[:, None]
            main = weights[:, None].astype(np.float32) @ main
            shares = np.full(main.shape[:-1], 1 / len(main))
        length = np.linalg.norm(main, axis=-1, keepdims=True)
        numbers["target"] = main / np.maximum(length, np.sqrt(TINY))
        numbers["weight"] = shares[..., None]
        numbers["ones"] = np.ones((main.shape[-1], 1))
        return numbers

    def _weights(self, target: Array, state: Hidden, feed: Feed) -> Array:
        """Per position one over its features, their variance, and the number of positions.

        Otherwise a few positions with huge activations (separators, sinks) decide alone.
        """
        features = tuple(state.axes)
        count = int(np.prod([target.shape[axis] for axis in features]))
        variance = target.var(axis=features)
        shares = self._shares(variance.shape, feed)
        mean = float((variance * shares).sum())
        floored = np.maximum(variance, LEAST_VARIANCE * mean + 1e-20)
        return np.expand_dims(shares / floored / count, features)

    def _shares(self, shape: tuple[int, ...], feed: Feed) -> Array:
        """Equal weights of the positions that are no padding, 1 in sum."""
        known = counted(shape, feed, self.inputs)
        known = np.ones(shape) if known is None else known.astype(np.float64)
        return np.asarray(known / max(known.sum(), 1))


class Teacher:
    """The original, asked for its main output and hidden states."""

    def __init__(self, session: Session, aim: Aim, source: str) -> None:
        """Take a session that puts these out."""
        self.session, self.aim, self.source = session, aim, source

    def targets(self, feed: Feed) -> Feed:
        """The inputs of the loss for one batch."""
        outputs = run_feed(self.session, feed, self.source)
        made = self.aim.inputs_of(outputs, feed)
        if not all(np.isfinite(array).all() for array in made.values()):
            raise UsageError(
                f"the original computes NaN or infinite values on {self.source}, so there is nothing to learn from"
            )
        return made


KEPT_BYTES = 2**28
"""Outputs of the original that are held in memory for all measurements of a training."""


class Taught:
    """Batches with the inputs of the loss: made once where the outputs are small, else each time they are read."""

    def __init__(self, teacher: Teacher, data: Calibration) -> None:
        self._teacher, self._feeds = teacher, data.feeds
        self._is_kept = len(data.samples) * (data.widest or 0) <= KEPT_BYTES
        self._kept: list[Feed] = []

    def __iter__(self) -> Iterator[Feed]:
        made = ({**feed, **self._teacher.targets(feed)} for feed in self._feeds)
        if not self._is_kept:
            yield from made
            return
        self._kept = self._kept or list(made)
        yield from self._kept
