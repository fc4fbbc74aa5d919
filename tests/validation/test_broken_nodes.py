"""Whatever a node lacks, doubles or has of a wrong type, `validate` ends in a verdict or in one sentence."""

from __future__ import annotations

import contextlib

import numpy as np
import pytest
from onnx import ModelProto, NodeProto, TensorProto, helper, numpy_helper

from onnxheadprune import HeadPruneError, inspect, validate
from onnxheadprune.model.graph.operator import OPERATORS as RECORDS
from tests import attacks
from tests.broken_nodes import PLACES, broken, operators_with_rules, with_broken
from tests.graphs import toys

OPERATORS = operators_with_rules()


def _file(key: tuple[str, str]) -> str:
    record = RECORDS[".".join(key).strip(".")]
    law = record.axes or record.rule
    return getattr(law, "func", law).__module__


FAMILIES = {_file(key): key for key in reversed(OPERATORS)}
"""The first operator of each file of rules."""
EACH, MANY = 1, 24
"""Broken nodes of an operator: one of each family, another for each, and many of every operator."""


def ended(original: ModelProto, smaller: ModelProto) -> str:
    """The verdict or the sentence of the error; anything else is raised."""
    try:
        return validate(original, smaller, provider="cpu").reason
    except HeadPruneError as error:
        return str(error)


def nodes_of(key: tuple[str, str], each: int) -> list[tuple[str, str, NodeProto]]:
    """Some of the broken nodes of an operator, and where they are put: by turns, so that all together are tried."""
    known = [(what, place, node) for place in PLACES for what, node in broken(*key, f"{place}/raw", place)]
    start = OPERATORS.index(key) * 7
    step = max(1, len(known) // each)
    return [known[(start + index * step) % len(known)] for index in range(each)]


@pytest.mark.parametrize(
    ("key", "each"),
    [
        *((key, EACH) for key in FAMILIES.values()),
        *(pytest.param(key, MANY, marks=pytest.mark.slow) for key in OPERATORS),
    ],
    ids=lambda item: ".".join(filter(None, item)) if isinstance(item, tuple) else str(item),
)
def test_a_broken_node_ends_in_a_verdict_or_a_sentence(key: tuple[str, str], each: int) -> None:
    model = toys.attention()
    smaller = attacks.pruned(model)
    for what, place, node in nodes_of(key, each):
        bad, bad_too = with_broken(smaller, place, node), with_broken(model, place, node)
        for pair in ((model, bad), (bad_too, smaller), (bad_too, bad)):
            assert ended(*pair).strip(), what
        with contextlib.suppress(HeadPruneError):
            inspect(bad_too)


def test_a_value_that_is_its_own_source_ends_in_a_verdict_or_a_sentence() -> None:
    model = toys.attention()
    smaller = attacks.pruned(model)
    for index, node in enumerate(smaller.graph.node):
        bad = ModelProto.FromString(smaller.SerializeToString())
        bad.graph.node[index].CopyFrom(helper.make_node("Identity", node.output[:1], node.output[:1]))
        assert ended(model, bad).strip() and ended(bad, smaller).strip()


@pytest.mark.parametrize("what", ["no inputs", "an output twice", "no outputs", "axis as TENSOR"])
def test_an_invalid_original_is_named(what: str) -> None:
    model = toys.attention()
    smaller = attacks.pruned(model)
    model.graph.name, smaller.graph.name = "theirs", "smaller"
    node = dict(broken("", "Softmax", "y/raw", "y"))[what]
    assert "theirs" in ended(with_broken(model, "y", node), smaller) or "the original" in ended(
        with_broken(model, "y", node), smaller
    )


def text_behind(model: ModelProto, stored: bytes) -> ModelProto:
    """A model whose output is multiplied by the number of elements, one, of a stored text, which need not be UTF-8."""
    copy = ModelProto.FromString(model.SerializeToString())
    copy.graph.initializer.append(numpy_helper.from_array(np.array([stored], dtype=object), "text"))
    attacks.behind(
        copy,
        "y",
        helper.make_node("Size", ["text"], ["count"]),
        helper.make_node("Cast", ["count"], ["one"], to=TensorProto.FLOAT),
        helper.make_node("Mul", ["y/raw", "one"], ["y"]),
    )
    return copy


def test_text_that_is_not_utf8_is_compared_byte_by_byte() -> None:
    model = toys.attention()
    smaller = attacks.pruned(model)
    found = validate(text_behind(model, b"\xff\x01"), text_behind(smaller, b"\xff\x01"), provider="cpu")
    assert found.exact == "yes", found.reason
    other = validate(text_behind(model, b"\xff\x01"), text_behind(smaller, b"\xff\x02"), provider="cpu")
    assert other.verdict == "failed" and "text" in other.reason
