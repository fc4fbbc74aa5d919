"""`inspect --json` names the columns that each unit owns: a cut takes these from the file, and no others."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np
import pytest
from onnx import ModelProto, numpy_helper

from onnxheadprune.attention.planning import analyse
from onnxheadprune.attention.sites.find import inspect
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.edit.apply import apply_plan
from tests import toys
from tests.attention.columns import positions
from tests.graph_text import text_model
from tests.graphs.blocks import SPELLINGS, N
from tests.graphs.table import table
from tests.liveness.one_node import run
from tests.toys_mixture import RUNNABLE, UNRUNNABLE

CONCATENATED = (
    "u = MatMul (x, up) r = MatMul (u, down) c = Concat <axis = -1> (x, r) v = MatMul (c, both) h = Relu (v)"
    " y = MatMul (h, down)"
)
FLATTENED = (
    "t = Transpose <perm = [0, 2, 1]> (x) u = Conv (t, up_conv) h = Relu (u) f = Flatten (h) w = MatMul (f, all)"
    " y = Unsqueeze (w, last)"
)
GROUPED = (
    "ql = MatMul (x, wq) qs = Reshape (ql, four) q = Transpose <perm = [0, 2, 1, 3]> (qs) kl = MatMul (x, wk)"
    " ks = Reshape (kl, two_of) kt = Transpose <perm = [0, 2, 3, 1]> (ks) ku = Unsqueeze (kt, place)"
    " ke = Expand (ku, keys) k = Reshape (ke, flat_keys) vl = MatMul (x, wv) vs = Reshape (vl, two_of)"
    " vt = Transpose <perm = [0, 2, 1, 3]> (vs) vu = Unsqueeze (vt, place) ve = Expand (vu, values)"
    " v = Reshape (ve, flat_values) s = MatMul (q, k) p = Softmax (s) c = MatMul (p, v)"
    " ct = Transpose <perm = [0, 2, 1, 3]> (c) j = Reshape (ct, joined) y = MatMul (j, wo)"
)
GROUPED_WEIGHTS = """
  float[8, 16] wq, float[8, 8] wk, float[8, 8] wv, float[16, 8] wo, int64[4] four = {0, 0, 4, 4},
  int64[4] two_of = {0, 0, 2, 4}, int64[1] place = {2}, int64[5] keys = {2, 2, 2, 4, 3},
  int64[4] flat_keys = {2, 4, 4, 3},
  int64[5] values = {2, 2, 2, 3, 4}, int64[4] flat_values = {2, 4, 3, 4}, int64[3] joined = {0, 0, 16}
"""


def _models() -> Iterator[tuple[str, ModelProto]]:
    for name in SPELLINGS:
        yield name, table()[f"block, {name}"].model
    yield "heads", toys.attention()
    for name, toy in {**RUNNABLE, **UNRUNNABLE}.items():
        yield f"mixture, {name}", toy.model()
    weights = "float[16, 12] both, float[12, 8] down, float[8, 12] up"
    down = CONCATENATED.replace("(u, down)", "(u, back)")
    yield "concatenated", text_model(down, "y", f"{weights}, float[12, 8] back")
    yield "flattened", _flattened()
    yield "grouped", text_model(GROUPED, "y", GROUPED_WEIGHTS)


def _flattened() -> ModelProto:
    weights = "float[12, 8, 1] up_conv, float[36, 8] all, int64[1] last = {-1}"
    return text_model(FLATTENED, "y", weights)


def _owners(site: Site, word: str) -> Sequence[Sequence[int]]:
    return [[unit] for unit in range(site.num_units)] if word == site.UNIT else site.shares()[0]


def _told(
    site: Site, entries: Sequence[Mapping[str, Any]], gone: Sequence[int]
) -> dict[str, dict[int, set[int]]]:
    """Columns to take, by tensor and axis."""
    found: dict[str, dict[int, set[int]]] = {}
    for entry in entries:
        for number, units in enumerate(_owners(site, entry["owner"])):
            if set(units) <= set(gone):
                axis = found.setdefault(entry["tensor"], {}).setdefault(entry["axis"], set())
                axis.update(positions(entry, number))
    return found


@pytest.mark.parametrize(("name", "model"), [pytest.param(*item, id=item[0]) for item in _models()])
def test_a_cut_takes_these_columns_and_no_others(name: str, model: ModelProto) -> None:
    sites = inspect(model)
    listed = sites.to_dict()
    for site, document in zip(
        [site for site in sites.every if not site.states],
        [*listed["sites"], *listed["feed_forward"], *listed["mixtures"]],
        strict=True,
    ):
        sets = site.shares()[0]
        gone = sorted(unit for units in sets[: max(1, len(sets) // 3)] for unit in units)
        key = site.key
        cut = apply_plan(analyse(model, {key: gone}, "the model").plan, model)
        told = _told(site, document["tensors"], gone)
        before, after = (
            {tensor.name: numpy_helper.to_array(tensor) for tensor in item.graph.initializer}
            for item in (model, cut)
        )
        assert told
        for tensor, array in before.items():
            wanted = array
            for axis, columns in told.get(tensor, {}).items():
                wanted = np.delete(wanted, sorted(columns), axis)
            if array.dtype.kind == "f" or tensor in told:
                np.testing.assert_array_equal(after[tensor], wanted, err_msg=tensor)


def test_columns_are_told_where_they_are_not_the_neurons_own_number() -> None:
    models = dict(_models())
    first = inspect(models["concatenated"]).to_dict()["feed_forward"][1]["tensors"][0]
    assert (first["tensor"], first["axis"], first["offset"], first["size"]) == ("both", 0, 8, 1)
    flat = inspect(models["flattened"]).to_dict()["feed_forward"][0]["tensors"][0]
    assert (flat["tensor"], flat["offset"], flat["size"], flat["step"]) == ("all", 0, 3, 3)
    packed = inspect(models["gated in one"]).to_dict()["feed_forward"][0]["tensors"]
    assert sorted(entry["offset"] for entry in packed if entry["tensor"].startswith("up")) == [0, N]
    grouped = inspect(models["grouped"]).to_dict()["sites"][0]["tensors"]
    assert {entry["tensor"]: (entry["owner"], entry["count"]) for entry in grouped} == {
        "wo": ("head", 4),
        "wq": ("head", 4),
        "wk": ("kv_head", 2),
        "wv": ("kv_head", 2),
    }


def test_zeros_in_its_columns_silence_a_unit() -> None:
    """The oracle knows nothing of sites: zeros where the layer that sums up reads neuron 3 of a concatenation."""
    model = dict(_models())["concatenated"]
    site = inspect(model).to_dict()["feed_forward"][1]
    (entry,) = [item for item in site["tensors"] if item["tensor"] == "both"]
    zeroed = ModelProto()
    zeroed.CopyFrom(model)
    for tensor in zeroed.graph.initializer:
        if tensor.name == "both":
            array = numpy_helper.to_array(tensor).copy()
            array[positions(entry, 3)] = 0
            tensor.CopyFrom(numpy_helper.from_array(array, tensor.name))
    cut = apply_plan(analyse(model, {"ffn.1": [3]}, "the model").plan, model)
    feed = {"x": np.random.default_rng(0).standard_normal((2, 3, 8)).astype(np.float32)}
    np.testing.assert_allclose(run(cut, feed)["y"], run(zeroed, feed)["y"], atol=1e-5)
    assert np.abs(run(model, feed)["y"] - run(zeroed, feed)["y"]).max() > 1e-3
