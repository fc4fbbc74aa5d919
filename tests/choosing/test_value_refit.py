"""The refit of value weights: which map makes the values, and that the algebra says what the model then computes."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper, parser

from onnxheadprune import prune
from onnxheadprune.choosing.activations.moments import Moments
from onnxheadprune.choosing.compensation import fit
from onnxheadprune.choosing.compensation.fit import Layout, fit_values
from tests.graphs import toys


def packed(core: str, width: int = 12, heads: int = 3, seed: int = 1) -> ModelProto:
    """Attention behind one map that makes queries, keys and values of every head, [head, 3, size].

    Args:
        core: lines that make `c` [batch, head, position, size] of `q`, `k` and `v` of that shape.
        width: of the stream.
        heads: of the attention.
        seed: of the weights.
    """
    size, random = width // heads, np.random.default_rng(seed)
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17]> g (float[b,s,{width}] x) => (float[b,s,{width}] out) {{
            packed = MatMul (x, w)
            split = Reshape (packed, shape)
            turned = Transpose <perm = [3, 0, 2, 1, 4]> (split)
            q = Gather <axis = 0> (turned, zero)
            k = Gather <axis = 0> (turned, one)
            v = Gather <axis = 0> (turned, two)
            {core}
            back = Transpose <perm = [0, 2, 1, 3]> (c)
            merged = Reshape (back, whole)
            projected = MatMul (merged, o)
            out = Add (x, projected)
        }}"""
    )
    arrays: dict[str, Any] = {
        "w": random.standard_normal((width, 3 * width)).astype(np.float32) / 2,
        "o": random.standard_normal((width, width)).astype(np.float32) / 2,
        "shape": np.array([0, 0, heads, 3, size]),
        "whole": np.array([0, 0, width]),
        "zero": np.array(0),
        "one": np.array(1),
        "two": np.array(2),
        "axes": np.array([2]),
        "gains": random.uniform(0.5, 2, (1, heads, 1, size)).astype(np.float32),
    }
    used = model.SerializeToString().decode("latin1")
    for name, array in arrays.items():
        if name in used:
            model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


SOFTMAX = """
    kt = Transpose <perm = [0, 1, 3, 2]> (k)
    scores = MatMul (q, kt)
    p = Softmax <axis = -1> (scores)
    """
CORES = {
    "softmax": SOFTMAX + "c = MatMul (p, v)",
    "linear": """
        fq = Sigmoid (q)
        fk = Sigmoid (k)
        kt = Transpose <perm = [0, 1, 3, 2]> (fk)
        kv = MatMul (kt, v)
        c = MatMul (fq, kv)
        """,
}


def inside(keys: int = 12) -> ModelProto:
    """Attention that projects its queries, keys and values itself."""
    random = np.random.default_rng(9)
    model = parser.parse_model(
        f"""<ir_version: 8, opset_import: ["" : 17, "com.microsoft" : 1]>
        g (float[b,s,12] x) => (float[b,s,12] out) {{
            c = com.microsoft.Attention <num_heads = 3, qkv_hidden_sizes = [{keys}, {keys}, 12]> (x, w, b)
            projected = MatMul (c, o)
            out = Add (x, projected)
        }}"""
    )
    arrays = {"w": (12, 2 * keys + 12), "b": (2 * keys + 12,), "o": (12, 12)}
    for name, shape in arrays.items():
        array = random.standard_normal(shape).astype(np.float32) / 2
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def feeds(count: int = 12, width: int = 12) -> list[dict[str, Any]]:
    random = np.random.default_rng(5)
    return [{"x": random.standard_normal((4, 6, width)).astype(np.float32)} for _ in range(count)]


FORMS: dict[str, tuple[Any, Any, str, list[int]]] = {
    "separate": (
        lambda: toys.stack(),
        toys.ids,
        "layer0.attn.v.weight",
        [0, 1, 2, 3, *range(8, 16)],
    ),
    "grouped": (
        lambda: toys.stack(heads=6, kv_heads=2),
        toys.ids,
        "layer0.attn.v.weight",
        [0, 1, 2, 3],
    ),
    "packed": (lambda: packed(CORES["softmax"]), feeds, "w", [8, 9, 10, 11, 32, 33, 34, 35]),
    "linear attention": (lambda: packed(CORES["linear"]), feeds, "w", [8, 9, 10, 11, 32, 33, 34, 35]),
    "inside": (lambda: inside(), feeds, "w", [24, 25, 26, 27, 32, 33, 34, 35]),
    "inside, narrow keys": (lambda: inside(keys=6), feeds, "w", [12, 13, 14, 15, 20, 21, 22, 23]),
}


NO_VALUES = {
    "a gate per channel": SOFTMAX + "pv = MatMul (p, v)\n c = Mul (pv, gains)",
    "a norm of the values": SOFTMAX
    + """
        square = Mul (v, v)
        mean = ReduceMean <axes = [-1]> (square)
        root = Sqrt (mean)
        even = Div (v, root)
        c = MatMul (p, even)
        """,
    "the same numbers as keys": SOFTMAX + "pk = MatMul (p, k)\n c = Add (pk, k)",
}


def stored(model: ModelProto, heads: Any, data: Any) -> Any:
    """The refit of a cut that is proven."""
    found = prune(model, heads=heads, data=data, refit=True, provider="cpu")
    assert found.chosen is not None and found.chosen.compensation is not None
    assert found.validation is not None and found.validation.verdict == "passed"
    return found.chosen.compensation


@pytest.mark.each_choice
@pytest.mark.parametrize("form", FORMS)
def test_the_columns_of_the_values_that_stay_are_refitted_and_lower_the_held_out_error(form: str) -> None:
    make, data, weight, columns = FORMS[form]
    model = make()
    found = stored(model, "0:3-5" if form == "grouped" else "0:1", data(30))
    moved = np.abs(found.stored[weight] - toys.get_initializer(model, weight)).max(axis=0) > 0
    assert np.flatnonzero(moved).tolist() == columns
    values, projection = (item for item in found.refits if item.site == 0)
    assert values.after < values.before <= projection.before and projection.after == values.after


@pytest.mark.parametrize("core", NO_VALUES)
def test_no_values_are_refitted_where_heads_do_not_treat_them_alike(core: str) -> None:
    assert set(stored(packed(NO_VALUES[core]), "0:1", feeds()).stored) == {"o"}


def problem(grouped: bool, rows: int = 4000, noise: float = 0.1) -> tuple[Any, Any, Any, Layout]:
    """Features, targets that other values would make, the weights, and the layout."""
    random = np.random.default_rng(7)
    columns = np.array([[0, 1], [0, 1], [2, 3]] if grouped else [[0, 1], [2, 3], [4, 5]])
    layout = Layout(np.arange(6).reshape(3, 2), columns, 4)
    weight = random.standard_normal((6, 5))
    x = random.standard_normal((rows, 6 + 12)) @ random.standard_normal((18, 18))
    truth = random.standard_normal((4, columns.max() + 1))
    y = x @ layout.mixing(truth) @ weight + noise * random.standard_normal((rows, 5))
    return x, y, weight, layout


def moments(x: Any, y: Any) -> Moments:
    made = Moments(x.shape[1], y.shape[1])
    made.add(x, y)
    return made


@pytest.mark.parametrize("grouped", [False, True])
def test_the_solver_finds_what_least_squares_finds(grouped: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(fit, "STEPS", 200)
    monkeypatch.setattr(fit, "PULLS", (1e-9,))
    x, y, weight, layout = problem(grouped)
    change = fit_values(moments(x[:3000], y[:3000]), moments(x[3000:], y[3000:]), weight, layout)
    assert change is not None
    size = change.shape
    basis = np.eye(size[0] * size[1]).reshape(-1, *size)
    centred = x - x.mean(axis=0)
    columns = np.stack([(centred[:, 6:] @ layout.spread(unit, weight)).reshape(-1) for unit in basis], axis=1)
    target = (y - y.mean(axis=0) - centred[:, :6] @ weight).reshape(-1)
    expected = np.linalg.lstsq(columns, target, rcond=None)[0].reshape(size)
    np.testing.assert_allclose(change, expected, atol=1e-6)


SECOND = """
    c = MatMul (p, v)
    qt = Transpose <perm = [0, 1, 3, 2]> (q)
    backwards = MatMul (k, qt)
    p2 = Softmax <axis = -1> (backwards)
    c2 = MatMul (p2, v)
    back2 = Transpose <perm = [0, 2, 1, 3]> (c2)
    merged2 = Reshape (back2, whole)
    projected2 = MatMul (merged2, o2)
    x2 = Add (x, projected2)
    """


def test_values_that_a_second_site_reads_stay() -> None:
    model = packed(SOFTMAX + SECOND)
    model.graph.node[-1].input[0] = "x2"
    weights = np.random.default_rng(4).standard_normal((12, 12)).astype(np.float32)
    model.graph.initializer.append(numpy_helper.from_array(weights, "o2"))
    assert set(stored(model, "0:1 1:0", feeds(30)).stored) == {"o", "o2"}
