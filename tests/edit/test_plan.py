"""Plans: deterministic bytes, only for their model, and nothing touched beyond them."""

from __future__ import annotations

from dataclasses import fields, replace
from typing import get_args

import pytest
from onnx import ModelProto

from onnxheadprune import (
    PlannedEdit,
    PrunePlan,
    RefusedError,
    SiteCut,
    apply_plan,
    plan_pruning,
)
from onnxheadprune.edit.edits import (
    AddConstant,
    DropBranchOutput,
    DropInputs,
    DropIo,
    DropNode,
    DropOutputs,
    DropTensor,
    EdgeGather,
    Edit,
    InsertNode,
    Rename,
    SetAttribute,
    SetDim,
    SetInput,
    SetOutput,
    SetRecord,
    SliceTensor,
)
from onnxheadprune.edit.plan import (
    ExitCut,
    IoChange,
    LeftOutNode,
    RenamedIo,
    VocabularyCut,
    counts_in,
    totals,
)
from onnxheadprune.edit.records import RecordedContract, RecordedUnits, RecordedVocabulary
from onnxheadprune.model.tensors import Selection
from tests.graphs.blueprint import PLAIN
from tests.graphs.composed import build

GROUPED = replace(PLAIN, K=2, G=2, rotary="written", past=3, mask="batch", target="zero", opset=21)
MODELS = {
    "plain": (PLAIN, [1, 2]),
    "packed": (replace(PLAIN, packing="packed", gemm=True, target="minus"), [0]),
    "interleaved": (replace(PLAIN, packing="interleaved", unpack="gather", layout="merged"), [3]),
    "grouped": (GROUPED, [0, 1]),
    "one per group": (GROUPED, [0, 3]),
}


@pytest.fixture(params=MODELS)
def case(request: pytest.FixtureRequest) -> tuple[ModelProto, PrunePlan]:
    blueprint, heads = MODELS[request.param]
    model = build(blueprint).model
    return model, plan_pruning(model, heads={"*": heads})


def test_plan_is_refused_on_another_model(case: tuple[ModelProto, PrunePlan]) -> None:
    model, plan = case
    other = ModelProto.FromString(model.SerializeToString())
    other.graph.node[0].output[0] += "_renamed"
    with pytest.raises(RefusedError, match="another model"):
        apply_plan(plan, other)
    with pytest.raises(RefusedError, match="another model"):
        apply_plan(plan, apply_plan(plan, model))


def test_seldom_edits_say_what_they_do() -> None:
    assert str(SetOutput("main[1]", 0, "shape/raw")) == "output 0 of main[1] = shape/raw"
    assert str(DropInputs("main[2]", (1, 3))) == "drop inputs [1, 3] of main[2]"


EVERYTHING: tuple[Edit, ...] = (
    SliceTensor("main", "w", Selection((0,), (4,), (2,), "0-1"), "w"),
    AddConstant("main", "c", ((1, 2), (3, 4))),
    SetInput("main[1]", 0, "x"),
    SetOutput("main[1]", 0, "x"),
    DropInputs("main[1]", (1,)),
    DropOutputs("main[1]", (1,)),
    SetAttribute("main[1]", "split", (1, 2)),
    SetDim("main", "x", 1, None),
    InsertNode("main[1]", "Gather", ("x", "i"), ("y",), (("axis", 1), ("alpha", 0.5))),
    EdgeGather("main[1]", 0, "x", "a reason", 3),
    DropNode("main[1]", "Add"),
    DropTensor("main", "w"),
    DropBranchOutput("main[1]", 0),
    DropIo("main", "x", "input"),
    Rename("main", "x", "y"),
    SetRecord((("heads", (RecordedUnits(0, "a", 4, (1,), ("out",), 4),)),), RecordedContract()),
)
WHOLE = PrunePlan(
    model="m.onnx",
    fingerprint="0" * 16,
    cuts=(
        SiteCut(
            number=0, key="0", name="attn", num_units=4, removed=(1,), removed_before=(0,), kv_num_heads=2
        ),
    ),
    blocks=(
        SiteCut(number=0, name="mlp", num_units=8, removed=(1, 2), key="ffn.0", kind=("neurons", "block")),
    ),
    exit=ExitCut((1,), ("c",), 2, 3, 12, 100),
    vocabulary=VocabularyCut(
        outputs=("logits",),
        tables=("t",),
        elements=9,
        tokens=RecordedVocabulary(9, (0, 8), ("ids",), ("logits",)),
    ),
    elements_removed=100,
    io_changes=("input x: 4 -> 3 on axis 1",),
    interface=(IoChange("input", "x", 1, 4, 3), IoChange("output", "y", None, "[4]", "gone")),
    renamed=(RenamedIo("input", "x", None),),
    left_out=(LeftOutNode("main[3]", "a reason"),),
    notes=("a note",),
    edits=tuple(PlannedEdit(edit, ("0",)) for edit in EVERYTHING),
)


def test_every_field_of_a_plan_is_written() -> None:
    assert [type(edit) for edit in EVERYTHING] == list(get_args(Edit))
    assert not [item.name for item in fields(PrunePlan) if not getattr(WHOLE, item.name)]
    document = WHOLE.to_dict()
    assert {item.name for item in fields(PrunePlan)} - {"blocks"} <= set(document)
    assert document["kinds"] == ["neurons"] and document["neurons"][0]["removed"] == "1-2"
    assert (document["neurons"][0]["num_neurons"], document["neurons"][0]["neurons_left"]) == (8, 6)
    assert (document["cuts"][0]["removed"], document["cuts"][0]["heads_left"]) == ([1], 2)
    for edit, written in zip(EVERYTHING, document["edits"], strict=True):
        assert written["edit"] == edit.kind and written["text"] == str(edit) and written["sites"] == ["0"]
        assert {item.name for item in fields(edit)} <= set(written)
    assert WHOLE.others() == totals(counts_in(document)) == [("neurons", 2, 6)]
    assert totals([*counts_in(document), *counts_in(document)]) == [("neurons", 4, 12)]
