"""A cut leaves nothing behind that nobody reads, and nothing that is there for its shape alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from typing import Any

import onnx
import pytest
from onnx import GraphProto, ModelProto, NodeProto

from onnxheadprune import HeadPruneError, apply_plan, inspect, plan_pruning
from tests.conftest import SAMPLES
from tests.graphs.models import EACH, MODELS
from tests.graphs.table import table

TINY = tuple(
    f"{name}.onnx"
    for name in ("gpt2-torchscript-eager", "gpt2-torchscript-sdpa", "gpt2-dynamo-sdpa", "bert-dynamo-eager")
)


def unread(graph: GraphProto) -> Iterator[str]:
    """Initializers, and nodes without a reader, of a graph without subgraphs."""
    read = {name for node in graph.node for name in node.input} | {output.name for output in graph.output}
    yield from (tensor.name for tensor in graph.initializer if tensor.name not in read)
    yield from (node.name for node in graph.node if not read & set(node.output))


@pytest.mark.each_choice
@pytest.mark.parametrize("name", TINY)
@pytest.mark.parametrize("whole", [False, True])
def test_everything_left_is_read(name: str, whole: bool) -> None:
    model = onnx.load(SAMPLES / "tiny" / name)
    assert not list(unread(model.graph))
    heads = {site.index: range(site.num_heads if whole else 1) for site in inspect(model)}
    assert not list(unread(apply_plan(plan_pruning(model, heads=heads), model).graph))


# What is there for its shape alone


def bodies_of(node: NodeProto) -> list[GraphProto]:
    return [attribute.g for attribute in node.attribute if attribute.HasField("g")]


def graphs_in(graph: GraphProto) -> Iterator[GraphProto]:
    """A graph and all bodies in it."""
    yield graph
    for node in graph.node:
        for body in bodies_of(node):
            yield from graphs_in(body)


Reads = Callable[[NodeProto], Iterable[str]]


def computed(graph: GraphProto, reads: Reads) -> set[str]:
    """Names of all that outputs need, in a graph and in its bodies, if each node needs what `reads` says of it."""
    made: dict[str, NodeProto] = {}
    wanted: list[str] = [item.name for item in graph.output]

    def enter(inner: GraphProto) -> None:
        for node in inner.node:
            made.update(dict.fromkeys(node.output, node))
            for body in bodies_of(node):
                enter(body)

    enter(graph)
    found: set[str] = set()
    while wanted:
        name = wanted.pop()
        if name in found or name not in made:
            continue
        found.add(name)
        wanted += reads(made[name])
        wanted += [item.name for body in bodies_of(made[name]) for item in body.output]
    return found


def contents(node: NodeProto) -> Iterable[str]:
    """What a node needs more of than its shape."""
    return () if node.op_type in {"Shape", "Size"} else node.input


def superfluous(model: ModelProto, cut: ModelProto, removed: Mapping[str, list[str]]) -> set[str]:
    """Return values of a pruned model that no output of the original needs with other inputs of its removed nodes.

    Values of which the original needs only the shape do not count.
    """

    def without(node: NodeProto) -> Iterable[str]:
        return next((removed[name] for name in node.output if name in removed), contents(node))

    shown = computed(model.graph, lambda node: node.input) - computed(model.graph, contents)
    known = computed(model.graph, lambda node: node.input)
    left = computed(cut.graph, lambda node: node.input) & known
    return left - computed(model.graph, without) - shown - removed.keys()


def going(model: ModelProto) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Everything that can go as a whole: sites with projections of their own, layers, and all but the first layer."""
    sites = inspect(model)
    owners = Counter(name for site in sites.every for name in site.projection_names)
    for site in sites.every:
        if site.removable and all(owners[name] == 1 for name in site.projection_names):
            yield site.key, (site,)
    rest = sites.of("layers")[1:]
    yield " ".join(layer.key for layer in rest), rest


def check(model: ModelProto) -> None:
    for spec, sites in going(model):
        try:
            cut = apply_plan(plan_pruning(model, heads=dict.fromkeys(spec.split(), "*")), model)
        except HeadPruneError:
            continue
        removed: dict[str, list[str]] = {name: [] for site in sites for name in site.projection_names}
        removed |= {state.behind.name: [state.front.name] for site in sites for state in site.states}
        assert not superfluous(model, cut, removed), spec
        kept = {info.name for graph in graphs_in(cut.graph) for info in graph.output}
        assert not removed.keys() & computed(cut.graph, contents) - kept, spec


@pytest.mark.slow
@pytest.mark.parametrize("name", EACH)
def test_nothing_of_a_site_that_goes_as_a_whole_is_left_for_its_shape(name: str) -> None:
    check(MODELS[name]())


@pytest.mark.parametrize("name", [name for name in table() if name.startswith("all heads go")])
def test_nothing_of_attention_that_goes_as_a_whole_is_left_for_its_shape(name: str) -> None:
    check(table()[name].model)
