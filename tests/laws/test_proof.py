"""The proof says yes of the right cut of every row, and no of each of a fixed list of damages."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator, Mapping
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, TensorProto, helper, numpy_helper

from onnxheadprune import HeadPruneError, Validation, validate
from tests import attacks
from tests.graphs.table import Row
from tests.laws.cutting import LEGAL, ROWS, assert_equal, copied, feeds, one_of, pruned
from tests.liveness.one_node import run
from tests.recording import recorded, rewritten

PROVEN = LEGAL[::3]
SAMPLED = [row for row in PROVEN if row.graph.expected is None][::4]
Damage = Callable[[ModelProto], bool]
"""Damages a model, and says whether there was anything to damage."""


def verdict(row: Row, model: ModelProto) -> Validation:
    """By random inputs, or the row's own where these do not fit it."""
    found = validate(row.model, model, provider="cpu")
    if found.exact == "not shown":
        arrays = {name: np.asarray(array) for name, array in feeds(row.name)[0].items()}
        return validate(row.model, model, provider="cpu", data=[arrays])
    return found


@one_of(3, PROVEN)
def test_yes_of_the_right_cut(row: Row) -> None:
    found = verdict(row, pruned(row.name))
    assert (found.exact, found.verdict) == ("yes", "passed"), found.reason


def _floats(model: ModelProto, rank: int) -> list[TensorProto]:
    """Weights of so many axes that nodes of the main graph read."""
    read = {name for node in model.graph.node for name in node.input}
    return [
        item
        for item in model.graph.initializer
        if item.data_type == TensorProto.FLOAT and len(item.dims) == rank and item.name in read
    ]


def _changed(tensor: TensorProto, change: Callable[[np.ndarray], np.ndarray]) -> bool:
    array = numpy_helper.to_array(tensor).copy()
    made = change(array)
    tensor.CopyFrom(numpy_helper.from_array(np.ascontiguousarray(made), tensor.name))
    return not np.array_equal(made, array)


def bias_dropped(model: ModelProto) -> bool:
    return any(_changed(tensor, np.zeros_like) for tensor in _floats(model, 1)[-1:])


def two_heads_swapped(model: ModelProto) -> bool:
    """Columns of the first matrix are turned by half of them: other heads ask than answer."""
    return any(_changed(item, lambda a: np.roll(a, a.shape[1] // 2, 1)) for item in _floats(model, 2)[:1])


def weight_off(model: ModelProto) -> bool:
    def change(array: np.ndarray) -> np.ndarray:
        made = array.copy()
        made.reshape(-1)[-1] += 0.25
        return made

    return any(_changed(item, change) for item in _floats(model, 2)[-1:])


def _behind(
    model: ModelProto, op_type: str, constant: np.ndarray | None = None, **attributes: object
) -> bool:
    """One more node behind the first output, if that is a float."""
    info = model.graph.output[0]
    if info.type.tensor_type.elem_type != TensorProto.FLOAT:
        return False
    inputs = [f"{info.name}/raw"]
    if constant is not None:
        attacks.add_constant(model, "evil", constant)
        inputs.append("evil")
    attacks.behind(model, info.name, helper.make_node(op_type, inputs, [info.name], **attributes))
    return True


def scale_off(model: ModelProto) -> bool:
    return _behind(model, "Mul", np.array(1.01, np.float32))


def not_a_number(model: ModelProto) -> bool:
    return _behind(model, "Mul", np.array(np.nan, np.float32))


def not_a_number_in_one_feature(model: ModelProto) -> bool:
    """All other numbers of the output are right."""
    width = model.graph.output[0].type.tensor_type.shape.dim
    if not width or not width[-1].dim_value:
        return False
    none = np.zeros(width[-1].dim_value, np.float32)
    none[-1] = np.nan
    return _behind(model, "Add", none)


def not_a_number_somewhere(model: ModelProto) -> bool:
    """In a weight: most of what is output stays what it was, or nothing does."""

    def change(array: np.ndarray) -> np.ndarray:
        made = array.copy()
        made.reshape(-1)[0] = np.nan
        return made

    return any(_changed(item, change) for item in _floats(model, 2)[-1:])


def another_type(model: ModelProto) -> bool:
    done = _behind(model, "Cast", to=TensorProto.DOUBLE)
    model.graph.output[0].type.tensor_type.elem_type = TensorProto.DOUBLE
    return done


def another_type_inside(model: ModelProto) -> bool:
    """A value between two nodes is declared as a type that it has not."""
    made = [node.output[0] for node in model.graph.node if node.op_type in ("MatMul", "Softmax", "Gemm")]
    model.graph.value_info.append(helper.make_tensor_value_info(made[0], TensorProto.INT64, None))
    return made[0] not in {info.name for info in model.graph.output}


def stale_literal(model: ModelProto) -> bool:
    """The last list of numbers has its largest entry one off."""
    lists = [item for item in model.graph.initializer if item.data_type == TensorProto.INT64 and item.dims]

    def change(array: np.ndarray) -> np.ndarray:
        made = array.copy()
        made[np.unravel_index(array.argmax(), array.shape)] += 1
        return made

    return any(_changed(item, change) for item in lists[-1:])


def output_missing(model: ModelProto) -> bool:
    del model.graph.output[-1]
    return True


def output_twice(model: ModelProto) -> bool:
    model.graph.output.append(model.graph.output[0])
    return True


def noise_added(model: ModelProto) -> bool:
    """Far below what rounding is."""
    info = model.graph.output[0]
    if info.type.tensor_type.elem_type != TensorProto.FLOAT:
        return False
    draw = helper.make_node("RandomNormalLike", [f"{info.name}/raw"], ["evil/noise"], scale=1e-12)
    add = helper.make_node("Add", [f"{info.name}/raw", "evil/noise"], [info.name])
    attacks.behind(model, info.name, draw, add)
    return True


def another_at_three_samples(model: ModelProto) -> bool:
    """A literal of which only a batch of three tells."""
    read = model.graph.input[0].name
    shape = model.graph.input[0].type.tensor_type.shape.dim
    info = model.graph.output[0]
    if not shape or not shape[0].dim_param or info.type.tensor_type.elem_type != TensorProto.FLOAT:
        return False
    for name, value in (
        ("start", [0]),
        ("stop", [1]),
        ("three", [3]),
        ("two", np.float32(2)),
        ("one", np.float32(1)),
    ):
        attacks.add_constant(model, f"evil/{name}", np.array(value))
    attacks.behind(
        model,
        info.name,
        helper.make_node("Shape", [read], ["evil/shape"]),
        helper.make_node("Slice", ["evil/shape", "evil/start", "evil/stop"], ["evil/batch"]),
        helper.make_node("Equal", ["evil/batch", "evil/three"], ["evil/is"]),
        helper.make_node("Where", ["evil/is", "evil/two", "evil/one"], ["evil/factor"]),
        helper.make_node("Mul", [f"{info.name}/raw", "evil/factor"], [info.name]),
    )
    return True


def record_of_another(model: ModelProto) -> bool:
    """The record of a stack with more sites, and neurons among them."""
    before = [entry.value for entry in model.metadata_props]
    del model.metadata_props[:]
    model.metadata_props.extend(pruned("stack, grouped").metadata_props)
    return before != [entry.value for entry in model.metadata_props]


def forged_record(model: ModelProto) -> bool:
    """The record says that other units are removed."""
    for entry in model.metadata_props:
        for old, new in (('"removed": [0', '"removed": [1'), ('"removed": "0', '"removed": "1')):
            if old in entry.value:
                entry.value = entry.value.replace(old, new, 1)
                return True
    return False


def attribute_changed(model: ModelProto) -> bool:
    for node in model.graph.node:
        for attribute in node.attribute:
            if node.op_type == "Softmax" and attribute.name == "axis":
                attribute.i = 1
                return True
    return False


DAMAGES: Mapping[str, Damage] = {
    damage.__name__: damage
    for damage in (
        bias_dropped, two_heads_swapped, weight_off, scale_off, not_a_number, not_a_number_in_one_feature,
        not_a_number_somewhere,
        another_type, another_type_inside, stale_literal, output_missing, output_twice, forged_record,
        attribute_changed, another_at_three_samples, record_of_another, noise_added,
    )
}  # fmt: skip


def _is_no(row: Row, damage: Damage) -> bool:
    """Apply a damage and assert that the verdict is no; return False if it changes no output."""
    model = copied(pruned(row.name))
    if not damage(model):
        return False
    try:
        found = verdict(row, model)
    except HeadPruneError:
        return True
    if found.exact == "tried":
        # A bias of what nothing reads: all numbers are what they were.
        for feed in feeds(row.name):
            narrowed = row.graph.narrowed(feed, row.legal[0])
            assert_equal(run(model, narrowed), run(pruned(row.name), narrowed))
        return False
    assert (found.exact, found.verdict, found.passed) == ("no", "failed", False), found.reason
    assert found.reason == found.problems[0]
    return True


@pytest.mark.parametrize("damage", DAMAGES)
def test_no_of_each_damage(damage: str) -> None:
    """Each is done to three models: a plain block, a decoder with caches, and a stack with neurons."""
    rows = [ROWS[name] for name in ("ids into one block", "one block with a cache", "stack, grouped")]
    assert any(_is_no(row, DAMAGES[damage]) for row in rows)


def _altered(document: Any) -> Iterator[Any]:
    """Copies of a JSON document, each with one number, text or list changed."""
    if isinstance(document, (dict, list)):
        for key in document if isinstance(document, dict) else range(len(document)):
            for changed in _altered(document[key]):
                made = copy.copy(document)
                made[key] = changed
                yield made
        if isinstance(document, list) and document:
            yield document[:-1]
    elif isinstance(document, str):
        yield f"{document}1"
    elif isinstance(document, (bool, int)):
        yield not document if isinstance(document, bool) else document + 1


@pytest.mark.parametrize("name", ["one block with a cache", "a layer between two blocks", "mixture, picked"])
def test_no_of_any_other_record(name: str) -> None:
    """Later cuts rely on every field; another number of a site, which is found by its projections, is a note."""
    row, model = ROWS[name], pruned(name)
    for changed in _altered(recorded(model)):
        forged = copied(model)
        with rewritten(forged) as record:
            record.clear()
            record |= changed
        try:
            found = verdict(row, forged)
            renumbered = any(note.startswith("the record of") for note in found.notes)
            assert found.exact == "no" or renumbered, changed
        except HeadPruneError:
            continue


@one_of(2, SAMPLED)
def test_no_of_a_damage_to_any_row(row: Row) -> None:
    """By turns, so that all damages are done to rows of all kinds."""
    names, number = list(DAMAGES), SAMPLED.index(row) // 2
    assert any(_is_no(row, DAMAGES[names[(number + turn) % len(names)]]) for turn in range(len(names)))
