"""Each product behind a softmax is accounted for once: told by a walk of its own, over all sample models and toys."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import pytest
from onnx import GraphProto, ModelProto, NodeProto

from onnxheadprune import inspect
from onnxheadprune.model.load import load_model
from tests import toys, toys_genai, toys_scores
from tests.attention.one_head_parts import WIDTH, B, S, linear, of_channels, of_tokens
from tests.graphs.blueprint import PLAIN
from tests.graphs.net import Net
from tests.tiny_samples import NAMES, TINY

PRODUCTS = ("MatMul", "Einsum", "Gemm")


def behind_softmax(graph: GraphProto) -> Iterator[NodeProto]:
    """The first products of two computed values that read a softmax."""
    computed = {name for node in graph.node if node.op_type != "Constant" for name in node.output}
    computed |= {info.name for info in graph.input} - {tensor.name for tensor in graph.initializer}
    maps: set[str] = set()
    for node in graph.node:
        reads = maps & set(node.input)
        if node.op_type in PRODUCTS and node.domain == "":
            if reads and len(computed & set(node.input)) > 1:
                yield node
        elif reads or node.op_type == "Softmax":
            maps |= set(node.output)


def parts_of(graph: GraphProto, cores: set[str]) -> set[str]:
    """Outputs that are read, in the end, by cores of sites alone."""
    readers: dict[str, list[NodeProto]] = {}
    for node in graph.node:
        for name in node.input:
            readers.setdefault(name, []).append(node)
    found: set[str] = set()
    for node in reversed(graph.node):
        below = [other for name in node.output for other in readers.get(name, [])]
        if below and all(set(other.output) & cores or set(other.output) & found for other in below):
            found |= set(node.output)
    return found


def check(model: ModelProto) -> int:
    """Every product behind a softmax is in one list, or an operand of a site's core alone; returns how many."""
    sites = inspect(model)
    cores = [node.out.name for site in sites for node in site.cores]
    listed = [*cores, *(miss.reason.value for miss in (*sites.near_misses, *sites.no_heads))]
    products, parts = list(behind_softmax(model.graph)), parts_of(model.graph, set(cores))
    for node in products:
        expected = node.output[0] in cores or node.output[0] not in parts
        assert listed.count(node.output[0]) == expected, node.name
    return len(products)


@pytest.mark.parametrize("name", NAMES)
def test_samples(name: str) -> None:
    check(load_model(TINY / f"{name}.onnx"))


@pytest.mark.parametrize(
    ("make", "count"),
    [(toys.attention, 1), (toys.no_attention, 0), (toys_genai.decoder, 0), (toys_scores.stack, 2)],
)
def test_toys(make: Callable[[], ModelProto], count: int) -> None:
    assert check(make()) == count


def unprojected(net: Net) -> ModelProto:
    """The graph up to what the last projection reads."""
    return net.export([net.nodes.pop().input[0]])


@pytest.mark.parametrize("heads", [1, 2])
@pytest.mark.parametrize(("attend", "count"), [(of_channels, 1), (of_tokens, 1), (linear, 2)])
@pytest.mark.parametrize("summed", [True, False])
def test_small_graphs(attend: Callable[[Net, Any, int], Any], count: int, heads: int, summed: bool) -> None:
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    made = attend(net, x, heads)
    assert check(net.export([made]) if summed else unprojected(net)) == count


def test_what_is_in_no_list_shows(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(
        "onnxheadprune.attention.sites.attention_near_misses.attention_products", lambda view: []
    )
    net = Net(PLAIN)
    x = net.input("x", (B, S, WIDTH), "bs-")
    of_tokens(net, x, 2)
    model = unprojected(net)
    with pytest.raises(AssertionError, match="MatMul"):
        check(model)
