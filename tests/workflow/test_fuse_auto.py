"""`--fuse auto`: candidates are proven, measured beside the unfused model on real clocks, and the fastest is kept.

No attention is faster in fused form by so much that a busy machine could not hide it. So there are models that have
much to gain (their scores are scaled again and again, which a fused operator does once), and candidates made slow.
"""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto, helper, numpy_helper

from onnxheadprune import Fusion, ProviderError, bench, prune
from onnxheadprune.model.load import LoadedModel, open_structure
from onnxheadprune.runtime import CPU, Provider
from onnxheadprune.settings.calls import PruneCall
from onnxheadprune.workflow.fuse import Form, fused
from tests.clocks import patient
from tests.fusion.blocks import EAGER, HIDDEN, block

BATCH, LENGTH = 2, 64
DATA = [{"x": np.random.default_rng(0).standard_normal((BATCH, LENGTH, HIDDEN)).astype(np.float32)}]
NUMBERS = {"two": np.array(2, np.float32), "half": np.array(0.5, np.float32)}


@pytest.fixture(autouse=True)
def shorter(short_clocks: None) -> None:
    """The same clocks for less long."""


def kept(model: ModelProto, form: Form) -> tuple[ModelProto, Fusion]:
    """The model without a head, in the form that is kept of those that `form` makes; the same clocks for less long."""
    cut = prune(model, heads={0: [1]}, validate=False).pruned
    made, fusion = fused(
        open_structure(model),
        cut,
        PruneCall(fuse="auto"),
        Provider(CPU, "test"),
        DATA,
        form=form,
        seconds=0.3,
    )
    return made.proto, fusion


def in_form(model: ModelProto, mode: Any, name: str) -> tuple[ModelProto, Fusion]:
    """The candidate of a mode."""
    loaded = LoadedModel(model, name)
    made, fusion = fused(loaded, loaded, PruneCall(fuse=mode), None, None)
    return made.proto, fusion


def sized(model: ModelProto) -> ModelProto:
    """The model for one size of inputs: one grid point to measure."""
    for info in (*model.graph.input, *model.graph.output):
        for dim, size in zip(info.type.tensor_type.shape.dim, (BATCH, LENGTH), strict=False):
            dim.dim_value = size
    return model


def slow(times: int = 40) -> ModelProto:
    """An attention whose scores are scaled again and again, by two and by a half."""
    chain = "\n".join(f"s{at + 1} = Mul(s{at}, {'two' if at % 2 else 'half'})" for at in range(times))
    core = f"""
        kt = Transpose<perm=[0, 1, 3, 2]>(k)
        raw = MatMul(q, kt)
        s0 = Mul(raw, scale)
        {chain}
        p = Softmax<axis=-1>(s{times})
        context = MatMul(p, v)
    """
    return sized(block(core, numbers=NUMBERS))


def slowed(model: ModelProto, inner: int = 512) -> ModelProto:
    """The model with work behind it whose result is added to its output as nothing."""
    made = ModelProto()
    made.CopyFrom(model)
    graph = made.graph
    for node in graph.node:
        for position, name in enumerate(node.output):
            if name == "y":
                node.output[position] = "fast"
    for name, shape in (("widen", (HIDDEN, inner)), ("narrow", (inner, HIDDEN))):
        graph.initializer.append(numpy_helper.from_array(np.ones(shape, np.float32), name))
    graph.initializer.append(numpy_helper.from_array(np.array(0, np.float32), "nothing"))
    graph.node.extend(
        [
            helper.make_node("MatMul", ["fast", "widen"], ["wide"]),
            helper.make_node("MatMul", ["wide", "narrow"], ["back"]),
            helper.make_node("Mul", ["back", "nothing"], ["none"]),
            helper.make_node("Add", ["fast", "none"], ["y"]),
        ]
    )
    return made


def slow_form(*modes: str) -> Form:
    """Candidates of which some are slow."""

    def made(model: ModelProto, mode: Any, name: str) -> tuple[ModelProto, Fusion]:
        candidate, fusion = in_form(model, mode, name)
        return (slowed(candidate) if mode in modes and fusion.made else candidate), fusion

    return made


def kinds(model: ModelProto) -> set[str]:
    return {node.op_type for node in model.graph.node} & {"MultiHeadAttention", "Attention", "Softmax"}


@pytest.mark.slow
@patient
def test_what_is_kept_is_faster(tmp_path: Path) -> None:
    # From a path, as on the command line: the candidates are measured, not the file that they came from.
    onnx.save(slow(), tmp_path / "m.onnx")
    result = prune(tmp_path / "m.onnx", heads={0: [1]}, fuse="auto", provider="cpu", data=DATA)
    assert result.fusion is not None and result.fusion.mode == "auto"
    assert result.fusion.chosen in ("contrib", "onnx")
    assert {trial.mode for trial in result.fusion.trials} == {"contrib", "onnx"}
    assert all(ratio < 0.9 for trial in result.fusion.trials for ratio in trial.ratios.values())
    assert list(result.to_dict()["fusion"]["trials"][0]["ratios"]) == ["batch 2"]
    assert result.validation is not None and result.validation.verdict == "passed"
    assert result.pruned.path is None
    unfused = prune(slow(), heads={0: [1]}, validate=False).model
    measured = bench(unfused, result.model, provider="cpu", repeats=10, memory=False, threads=1)
    assert measured.guaranteed(1) > 1.1


@patient
def test_nothing_faster_leaves_the_model() -> None:
    whole, form = sized(block(EAGER)), slow_form("contrib", "onnx")
    model, fusion = kept(whole, form)
    assert fusion.chosen == "none" and kinds(model) == {"Softmax"}
    assert all(ratio > 1.2 for trial in fusion.trials for ratio in trial.ratios.values())
    assert re.search(r"no fused form is measurably faster.*contrib: \d+\.\d\d at batch 2", str(fusion))


@patient
def test_a_candidate_that_is_not_exact_is_not_measured() -> None:
    def broken(model: ModelProto, mode: Any, name: str) -> tuple[ModelProto, Fusion]:
        made, fusion = in_form(model, mode, name)
        if mode == "contrib":
            for node in made.graph.node:
                for attribute in node.attribute:
                    if attribute.name == "scale":
                        attribute.f = 3.0
        return made, fusion

    _, fusion = kept(slow(), broken)
    assert fusion.chosen == "onnx"
    wrong, right = fusion.trials
    assert "differs from the masked reference" in wrong.obstacle and wrong.ratios == {}
    assert right.obstacle == "" and len(right.ratios) == 1


@pytest.mark.slow
def test_a_provider_that_was_asked_for_must_run_without_a_validation_too() -> None:
    with pytest.raises(ProviderError):
        prune(slow(200), heads={0: [1]}, fuse="auto", provider="nowhere", validate=False)
