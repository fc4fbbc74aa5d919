"""Weights as matrices and activations as moments: what all linear algebra of scores and refits rests on."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import onnx.parser
import pytest
from onnx import ModelProto, numpy_helper

from onnxheadprune.choosing.activations.contexts import context_moments, projection_matrix
from onnxheadprune.choosing.activations.linear import Linear
from onnxheadprune.choosing.activations.moments import Moments, Ridge
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import CPU, Provider, Session
from tests.graphs import toys

HERE = Provider(CPU, "test")

# Weights as matrices

FORMS = {
    "plain": ("y = MatMul (x, w)", (6, 4)),
    "transposed": ("wt = Transpose <perm = [1, 0]> (w)\n y = MatMul (x, wt)", (4, 6)),
    "gemm": ("y = Gemm <transB = 1> (x, w, b)", (4, 6)),
    "qdq": ("wf = DequantizeLinear (w, s, z)\n y = MatMul (x, wf)", (6, 4)),
    "qdq per column": ("wf = DequantizeLinear <axis = 1> (w, s, z)\n y = MatMul (x, wf)", (6, 4)),
    "fp16": ("y = MatMul (x, w)", (6, 4)),
}


def linear(form: str) -> tuple[ModelProto, Linear]:
    dtype = "float16" if form == "fp16" else "float"
    model = onnx.parser.parse_model(
        f"""<ir_version: 9, opset_import: ["": 17]>
        form ({dtype}[n, 6] x, {dtype}[n, 4] r) => ({dtype}[n, 4] out) {{
            {FORMS[form][0]}
            out = Add (r, y)
        }}"""
    )
    random, shape = np.random.default_rng(2), FORMS[form][1]
    arrays: dict[str, Any] = {"w": random.standard_normal(shape).astype(np.float32)}
    if form == "gemm":
        arrays["b"] = random.standard_normal(4).astype(np.float32)
    if form == "fp16":
        arrays["w"] = arrays["w"].astype(np.float16)
    if form.startswith("qdq"):
        many = form.endswith("column")
        arrays["w"] = random.integers(-100, 100, shape).astype(np.int8)
        arrays["s"] = np.float32([0.01, 0.02, 0.5, 0.1] if many else 0.02)
        arrays["z"] = np.int8([3, 0, -5, 1] if many else 7)
    model.graph.initializer.extend(numpy_helper.from_array(np.asarray(a), n) for n, a in arrays.items())
    (found,) = filter(None, map(Linear.at, view_of(model).main.nodes))
    return model, found


# Moments and ridge


def sample_rows(rows: int = 200) -> tuple[Any, Any, Any]:
    random = np.random.default_rng(5)
    x = random.standard_normal((rows, 5)) @ random.standard_normal((5, 5)) + 0.5
    return (
        x,
        x @ random.standard_normal((5, 3)) + random.standard_normal((rows, 3)),
        random.random(rows) + 0.1,
    )


@pytest.mark.parametrize("weighted", [False, True])
def test_streamed_moments_are_those_of_numpy(weighted: bool) -> None:
    x, y, weights = sample_rows()
    each = weights if weighted else np.ones(len(x))
    moments = Moments(5, 3)
    for part in (slice(0, 70), slice(70, 71), slice(71, 200)):
        moments.add(x[part], y[part], weights[part] if weighted else None)
    centred = moments.centred()
    joint = np.cov(x.T, y.T, aweights=each, ddof=0)
    np.testing.assert_allclose(centred.covariance, joint[:5, :5], atol=1e-10)
    np.testing.assert_allclose(centred.cross, joint[:5, 5:], atol=1e-10)
    assert np.isclose(moments.variance(), np.trace(joint[5:, 5:]))
    weight = np.random.default_rng(6).standard_normal((5, 3))
    left, expected = moments.less(weight), y - x @ weight
    np.testing.assert_allclose(left.y_square / left.total, np.average(expected**2, axis=0, weights=each))
    np.testing.assert_allclose(left.y_sum / left.total, np.average(expected, axis=0, weights=each))
    direct = Moments(5, 3)
    direct.add(x, expected, each)
    np.testing.assert_allclose(left.cross, direct.cross, atol=1e-9)
    split = [Moments(5, 3), Moments(5, 3)]
    for moment, part in zip(split, (slice(0, 9), slice(9, 200)), strict=True):
        moment.add(x[part], y[part], each[part])
    np.testing.assert_allclose(split[0].merged(split[1]).gram, moments.gram)


def test_ridge_runs_from_least_squares_to_the_old_weights() -> None:
    x, y, _ = sample_rows()
    moments, start = Moments(5, 3), np.ones((5, 3))
    moments.add(x, y)
    squares = np.linalg.lstsq(np.c_[x, np.ones(len(x))], y, rcond=None)[0][:5]
    ridge = Ridge(moments.less(start).centred())
    np.testing.assert_allclose(start + ridge.solved(0.0), squares, atol=1e-6)
    np.testing.assert_allclose(start + ridge.solved(0.0, roughly=True), squares, atol=1e-4)
    np.testing.assert_allclose(ridge.solved(1e12), np.zeros((5, 3)), atol=1e-6)


def test_context_moments_are_those_of_the_real_context() -> None:
    model = toys.stack(layers=2)
    view, sites, data = toys.parts(model)
    moments = context_moments(view, sites.sites, data, HERE)
    watched = ModelProto()
    watched.CopyFrom(model)
    watched.graph.output.extend(
        onnx.helper.make_tensor_value_info(f"layer{layer}.attn.merged", 1, None) for layer in (0, 1)
    )
    runs = [Session(watched, HERE).run(feed) for feed in data.feeds]
    for layer, site in enumerate(sites):
        rows = np.concatenate([run[f"layer{layer}.attn.merged"].reshape(-1, 16) for run in runs]).astype(
            float
        )
        np.testing.assert_allclose(moments[layer][0].gram, rows.T @ rows, rtol=1e-5, atol=1e-5)
        weight = next(t for t in model.graph.initializer if t.name == f"layer{layer}.attn.out.weight")
        np.testing.assert_array_equal(projection_matrix(site.projections[0]), numpy_helper.to_array(weight))
