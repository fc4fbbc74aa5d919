"""What a small file or a small input may cost: seconds and megabytes that are bounded, and a sentence beyond them."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxheadprune import ModelError, UsageError, inspect, plan_pruning, read_scores
from onnxheadprune.model.graph import dims, infer
from onnxheadprune.operators import view_of
from tests.conftest import SAMPLES
from tests.crashes import in_child
from tests.files.unreadable import FILES, IMPOSSIBLE
from tests.graphs import fused, toys
from tests.limits import bounded, limit_memory, limit_work, within

Change = Callable[[ModelProto], None]


def stored(model: ModelProto, name: str, value: Any) -> str:
    model.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
    return name


def chain(model: ModelProto, op_type: str, start: str, count: int, **attributes: Any) -> None:
    """A value joined with itself, again and again."""
    for step in range(count):
        model.graph.node.append(helper.make_node(op_type, [start, start], [f"step{step}"], **attributes))
        start = f"step{step}"


def squares(model: ModelProto) -> None:
    chain(model, "Mul", stored(model, "three", [3]), 60)


def joined_shapes(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("Shape", ["x"], ["shape"]))
    chain(model, "Concat", "shape", 40, axis=0)


def joined_activations(model: ModelProto) -> None:
    chain(model, "Concat", "x", 3000, axis=1)


def polynomials(model: ModelProto) -> None:
    """Every step squares a quotient of what came before: without bounds its name has 2**60 letters."""
    model.graph.node.append(helper.make_node("Size", ["x"], ["start"]))
    stored(model, "seven", np.int64(7))
    value = "start"
    for step in range(60):
        names = [f"{letter}{step}" for letter in "qsa"]
        model.graph.node.append(helper.make_node("Div", [value, "seven"], names[:1]))
        model.graph.node.append(helper.make_node("Mul", [names[0], names[0]], names[1:2]))
        model.graph.node.append(helper.make_node("Add", [names[1], value], names[2:]))
        value = names[2]


def outer_sums(model: ModelProto) -> None:
    column, line = stored(model, "column", [-1, 1]), stored(model, "line", [1, -1])
    value = stored(model, "numbers", np.arange(60))
    for step in range(5):
        model.graph.node.append(helper.make_node("Reshape", [value, column], [f"c{step}"]))
        model.graph.node.append(helper.make_node("Reshape", [value, line], [f"l{step}"]))
        model.graph.node.append(helper.make_node("Add", [f"c{step}", f"l{step}"], [f"t{step}"]))
        value = f"t{step}"


def wide_maximum(model: ModelProto) -> None:
    names = []
    for axis in range(10):
        shape = [60 if axis == other else 1 for other in range(10)]
        names.append(stored(model, f"side{axis}", np.ones(shape, np.float32)))
    model.graph.node.append(helper.make_node("Max", names, ["boom"]))


def wide_einsum(model: ModelProto) -> None:
    names = [stored(model, f"side{index}", np.ones(60, np.float32)) for index in range(8)]
    node = helper.make_node("Einsum", names, ["boom"], equation="a,b,c,d,e,f,g,h->")
    model.graph.node.append(node)


def huge_random(model: ModelProto) -> None:
    model.graph.node.append(helper.make_node("RandomNormal", [], ["boom"], shape=[2**20, 2**20]))


def endless_range(model: ModelProto) -> None:
    names = [stored(model, name, np.float32(value)) for name, value in (("a", 0), ("b", np.inf), ("c", 1))]
    model.graph.node.append(helper.make_node("Range", names, ["boom"]))


GROWING: dict[str, Change] = {
    function.__name__: function
    for function in (
        squares,
        joined_shapes,
        joined_activations,
        polynomials,
        outer_sums,
        wide_maximum,
        wide_einsum,
        huge_random,
        endless_range,
    )
}


@pytest.mark.parametrize("name", GROWING)
def test_values_that_grow_while_they_are_followed(name: str) -> None:
    """Within a gigabyte and 20 seconds of work; what cannot be followed stays unknown, and the site is found."""
    model = toys.attention()
    GROWING[name](model)

    def inspected() -> None:
        limit_memory(2**30)
        limit_work(20)
        assert len(inspect(model)) == 1

    _, status = os.waitpid(in_child(inspected), 0)
    assert os.waitstatus_to_exitcode(status) == 0


def test_numbers_and_polynomials_stay_short() -> None:
    n, m = dims.symbol("n"), dims.symbol("m")
    value: dims.Dim = dims.add(n, m)
    for _ in range(200):
        value = dims.add(dims.multiply(value, value), 1)
    assert len(str(value)) < 10_000
    assert isinstance(dims.multiply(2**62, 4), dims.Symbolic)
    # Equal expressions stay equal, others stay different, and what may be negative is not taken for a size.
    long = [
        dims.product([dims.add(n, dims.symbol(f"s{step}")) for step in range(count)])
        for count in (12, 12, 13)
    ]
    assert long[0] == long[1] != long[2]
    assert not dims.never_negative(dims.floor_divide(dims.subtract(long[0], n), 7))


# Functions


def calling(depth: int, times: int, *, recursive: bool = False) -> ModelProto:
    """`f0` calls `f1` `times` times, and so on."""
    model = toys.attention()
    model.opset_import.append(helper.make_opsetid("local", 1))
    opsets = [helper.make_opsetid("", 17), helper.make_opsetid("local", 1)]
    for level in range(depth):
        values = ["a", *(f"b{step}" for step in range(times))]
        nodes = [
            helper.make_node(f"f{level + 1}", [values[step]], [values[step + 1]], domain="local")
            for step in range(times)
        ]
        model.functions.append(helper.make_function("local", f"f{level}", ["a"], values[-1:], nodes, opsets))
    last = helper.make_node("f0" if recursive else "Relu", ["a"], ["b"], domain="local" if recursive else "")
    model.functions.append(helper.make_function("local", f"f{depth}", ["a"], ["b"], [last], opsets))
    model.graph.node.append(helper.make_node("f0", ["y"], ["z"], domain="local"))
    return model


def test_functions_that_double(tmp_path: Path) -> None:
    path = tmp_path / "m.onnx"
    onnx.save(calling(30, 2), path)
    assert path.stat().st_size < 10_000
    result = bounded("inspect", path)
    assert result.exit_code == 3
    assert "would have 1,073,741,8" in result.stderr
    assert "reads up to 2,000,000" in result.stderr


def test_functions_in_circles_and_very_deep() -> None:
    with within(10), pytest.raises(ModelError, match="calls itself"):
        inspect(calling(3, 1, recursive=True))
    with within(10), pytest.raises(ModelError, match="more than 64 deep"):
        inspect(calling(2000, 1))
    assert len(inspect(calling(20, 1))) == 1


# Large graphs


LARGE = {
    "plain": toys.attention,
    "cache": lambda: toys.attention(cache=True),
    "ids": lambda: toys.attention(ids=True),
    "genai": fused.decoder,
    "repeated": lambda: fused.decoder(repeated=True),
    "digits": lambda: onnx.load(SAMPLES / "digits_vit.onnx"),
    "gpt": lambda: onnx.load(SAMPLES / "char_gpt.onnx"),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", LARGE)
def test_large_graphs_have_the_sites_that_small_ones_have(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without onnx's inference of the whole graph: types from schemas, shapes node by node."""
    model = LARGE[name]()
    known = inspect(model)
    monkeypatch.setattr(infer, "MAX_WHOLE", 0)
    found = inspect(model)
    assert found.to_dict() == known.to_dict()
    assert len(found) > 0


def test_onnx_is_asked_about_single_nodes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(infer, "MAX_WHOLE", 0)
    model = toys.attention()
    model.graph.node.append(helper.make_node("DepthToSpace", ["image"], ["deep"], blocksize=2))
    model.graph.node.append(helper.make_node("Equal", ["deep", "deep"], ["same"]))
    model.graph.input.append(helper.make_tensor_value_info("image", 1, ["batch", 8, "h", 6]))
    values = view_of(model).main.values
    shape = values["deep"].shape
    assert shape is not None
    assert (shape[0], shape[1], shape[3]) == (dims.symbol("batch"), 2, 12)
    assert (values["deep"].elem_type, values["same"].elem_type) == (1, 9)


@pytest.mark.slow
def test_fifteen_thousand_nodes_take_a_second() -> None:
    """Three seconds per 100,000 nodes: SECURITY.md has the figure.

    Processor time is what counts. The limit is for slow machines, and far below what looking at pairs of nodes costs.
    """
    model = toys.attention()
    names = ["y", *(f"v{step}" for step in range(15_000))]
    model.graph.node.extend(
        helper.make_node("Relu", [one], [other]) for one, other in itertools.pairwise(names)
    )
    before = os.times()
    assert len(inspect(model)) == 1
    assert os.times().user - before.user < 12


# Inputs


@pytest.mark.parametrize("name", FILES)
def test_files_that_are_no_text(name: str, tmp_path: Path) -> None:
    make, sentence = FILES[name]
    path = make(tmp_path / "x.json")
    for read in (lambda: read_scores(path), lambda: plan_pruning(toys.attention(), heads=path)):
        with within(10), pytest.raises(UsageError, match=sentence):
            read()


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("[" * 100_000, "nested too deeply"),
        ('{"0": ' * 100_000, "nested too deeply"),
        ('{"0": [' + "9" * 5000 + "]}", "too many digits"),
        ('{"0": [99999999999]}', "numbers from 0 to 1048575|no number|another model|imported"),
        ('{"0": [true]}', "list of numbers|imported"),
        ("[1, 2", "not JSON"),
        ("[]", "object like|format of"),
    ],
)
def test_json_that_nobody_means(text: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "x.json"
    path.write_text(text)
    with pytest.raises(UsageError, match=sentence):
        plan_pruning(toys.attention(), heads=path)
    if "99999999999]" not in text and "true" not in text:
        with pytest.raises(UsageError, match=sentence):
            read_scores(path)


@pytest.mark.parametrize("path", IMPOSSIBLE.values(), ids=IMPOSSIBLE)
def test_paths_that_cannot_be(path: str) -> None:
    for read in (
        lambda: inspect(path),
        lambda: read_scores(path),
        lambda: plan_pruning(toys.attention(), heads=f"{path}.json"),
    ):
        with pytest.raises(UsageError, match=r"does not exist|cannot be read"):
            read()


# The API


def test_strings_that_are_no_text() -> None:
    model = toys.attention()
    strings = onnx.TensorProto(name="strings", data_type=onnx.TensorProto.STRING, dims=[2])
    strings.string_data.extend([b"\xff\xfe", b"a"])
    model.graph.initializer.append(strings)
    model.graph.node.append(helper.make_node("Identity", ["strings"], ["again"]))
    model.graph.node.append(helper.make_node("Constant", [], ["one"], value_string=b"\xff"))
    model.graph.node.append(helper.make_node("Einsum", ["y"], ["sum"], equation=b"\xffbs->bs"))
    assert len(inspect(model)) == 1
