"""`quantize`, and targets on what ONNX Runtime's quantizer has made."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune import RefusedError, inspect, prune, quantize, validate
from tests.graphs import toys
from tests.recording import VALIDATION, recorded

DATA = toys.ids(12, 8)


def keys(model: onnx.ModelProto) -> dict[str, str]:
    return {entry.key: entry.value for entry in model.metadata_props}


@pytest.fixture(scope="module")
def toy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("quantize") / "toy.onnx"
    onnx.save(toys.stack(), path)
    return path


@pytest.fixture(scope="module", params=["int8-dynamic", "int8-qdq"])
def rounded(request: pytest.FixtureRequest, toy: Path) -> onnx.ModelProto:
    return quantize(toy, to=request.param, data=DATA, provider="cpu").model


def test_the_root_logger_is_left_alone(toy: Path) -> None:
    before = list(logging.getLogger().handlers)
    quantize(toy, to="int8-qdq", data=DATA)
    assert logging.getLogger().handlers == before and logging.root.manager.disable == 0


def test_nothing_is_quantized_twice_or_where_nothing_is_stored(rounded: onnx.ModelProto) -> None:
    alone = toys.no_attention()
    alone.graph.node[0].name = "product"
    with pytest.raises(RefusedError, match="is quantized to int8"):
        quantize(rounded, to="int8-dynamic")
    with pytest.raises(RefusedError, match="finds nothing"):
        quantize(alone, to="int8-dynamic", exclude=("product",))


@pytest.mark.slow
def test_the_record_of_a_cut_is_kept_and_later_cuts_count_from_it(toy: Path) -> None:
    cut = prune(toy, heads={0: [1]}, data=DATA, refit=True, provider="cpu")
    both = quantize(cut.model, to="int8-dynamic").model
    assert VALIDATION not in keys(both) and recorded(both)["quantized"]["refit"]
    assert inspect(both)[0].removed == (1,)
    again = prune(both, heads={0: [2]}, provider="cpu")
    assert again.validation is not None and again.validation.verdict == "passed"
    assert inspect(again.model)[0].removed == (1, 2) and recorded(again.model)["quantized"]


@pytest.mark.slow
def test_a_target_on_a_quantized_model_refits_its_levels(rounded: onnx.ModelProto) -> None:
    result = prune(rounded, ratio=0.25, data=DATA, provider="cpu")
    bare = prune(rounded, ratio=0.25, data=DATA, provider="cpu", refit=False)
    chosen = result.chosen
    assert result.validation is not None and result.validation.verdict == "passed"
    assert chosen is not None and bare.chosen is not None
    assert chosen.given_up is not None or chosen.compensation is not None
    assert chosen.drift is not None and bare.chosen.drift is not None and chosen.drift <= bare.chosen.drift
    assert chosen.compensation is not None
    types = {item.name: item.data_type for item in rounded.graph.initializer}
    assert any(types[name] == onnx.TensorProto.INT8 for name in chosen.compensation.stored)
    assert validate(rounded, result.model).verdict == "passed"


@pytest.mark.slow
def test_a_refit_that_does_harm_is_given_up(
    rounded: onnx.ModelProto, monkeypatch: pytest.MonkeyPatch
) -> None:
    from onnxheadprune.workflow.choice import cutting

    real = cutting.compensate

    def harmful(*args: Any, **settings: Any) -> Any:
        found = real(*args, **settings)
        for name, array in list(found.stored.items()):
            if array.dtype == np.int8:
                found.stored[name] = np.ascontiguousarray(array[..., ::-1])
        return found

    monkeypatch.setattr(cutting, "compensate", harmful)
    chosen = prune(rounded, heads={0: [1]}, data=DATA, refit=True, provider="cpu").chosen
    assert chosen is not None and chosen.compensation is None
    assert chosen.given_up is not None and chosen.drift is not None and chosen.given_up > chosen.drift


def test_the_memory_for_a_large_model_is_said_before_it_is_taken(tmp_path: Path) -> None:
    width = 9000
    weight = onnx.TensorProto(name="w", data_type=1, dims=(width, width), data_location=1)
    for key, value in (("location", "w.bin"), ("length", str(4 * width**2))):
        weight.external_data.add(key=key, value=value)
    with (tmp_path / "w.bin").open("wb") as file:
        file.truncate(4 * width**2)
    x, y = (onnx.helper.make_tensor_value_info(name, 1, ["b", width]) for name in "xy")
    graph = onnx.helper.make_graph(
        [onnx.helper.make_node("MatMul", ["x", "w"], ["y"])], "g", [x], [y], [weight]
    )
    opsets = [onnx.helper.make_opsetid("", 17)]
    onnx.save(onnx.helper.make_model(graph, opset_imports=opsets, ir_version=9), tmp_path / "m.onnx")

    def told(what: str, _done: int, _of: int) -> None:
        raise InterruptedError(what)

    with pytest.raises(InterruptedError, match=r"^ONNX Runtime quantizes in memory.* about 972.00 MB here"):
        quantize(tmp_path / "m.onnx", to="int4", progress=told)
