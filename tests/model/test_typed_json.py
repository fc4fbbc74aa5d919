"""Typed documents: each state on disk is read as it was written, and refused with any wrong value in any field."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Annotated, Any, Literal

import pytest

from onnxheadprune.deploying.ledger import Entry, Ledger
from onnxheadprune.model.typed_json import (
    HIDDEN,
    OPTIONAL,
    Between,
    Count,
    Distinct,
    FieldError,
    JsonObject,
    Key,
    Name,
    Spelled,
    document_of,
    parsed,
    read_document,
    written,
)
from onnxheadprune.training.checkpoint import Kept
from onnxheadprune.training.checkpoint import State as TrainingState
from onnxheadprune.training.result import Measured
from tests.wrong_documents import wrong_documents


@dataclass(frozen=True)
class Inner:
    """A document within another one."""

    kind: Literal["a", "b"]
    share: Annotated[float, Between(0, 1)]


@dataclass(frozen=True, kw_only=True)
class Outer(JsonObject):
    """A document with a field of every sort."""

    name: Name
    count: Annotated[Count, Key("number")]
    pairs: tuple[tuple[str, bool], ...]
    ids: Annotated[tuple[int, ...], Distinct()]
    by_name: Mapping[Name, Inner | None] = field(default_factory=dict)
    either: int | float | str | None = None
    address: Annotated[int, Spelled(str, hex, lambda text: int(text, 16))] = 0
    remark: Annotated[str, OPTIONAL] = ""
    memory: Annotated[Any, HIDDEN] = None

    @written("twice")
    def doubled(self) -> int:
        """A value that follows from others."""
        return 2 * self.count


OUTER = Outer(
    name="x",
    count=3,
    pairs=(("a", True),),
    ids=(1, 2),
    by_name={"7": Inner("b", 1.0), "8": None},
    either=1.5,
    address=255,
    remark="r",
)
EXAMPLES: Mapping[str, Any] = {
    "every sort": OUTER,
    "the steps of a job": Ledger(
        owned={"m.onnx"}, entries={"prune": Entry("key", {"m.onnx": "0123"}, 1.5), "bench": Entry("key")}
    ),
    "a checkpoint": Kept(
        "key",
        {"parameters": 2},
        TrainingState(1, 2, 3, 0.1, {0.1: 0.5}, 2, [Measured(1, 0.5)], left_out={"why": 1}),
    ),
}


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_document_is_read_as_it_was_written(name: str) -> None:
    example = EXAMPLES[name]
    assert parsed(type(example), json.dumps(example.to_dict())) == example


@pytest.mark.parametrize("name", EXAMPLES)
def test_a_wrong_value_in_any_field_is_refused(name: str) -> None:
    example = EXAMPLES[name]
    believed, sentences = [], []
    for what, forged in wrong_documents(type(example), example.to_dict()):
        try:
            read_document(type(example), forged)
            believed.append(what)
        except FieldError as error:
            sentences.append(str(error))
    assert not believed and max(map(len, sentences)) < 300


def test_keys_and_properties_are_declared() -> None:
    assert OUTER.to_dict() == {
        "name": "x",
        "number": 3,
        "pairs": [["a", True]],
        "ids": [1, 2],
        "by_name": {"7": {"kind": "b", "share": 1.0}, "8": None},
        "either": 1.5,
        "address": "0xff",
        "remark": "r",
        "twice": 6,
    }


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ({"by_name": {"7": {"kind": "c", "share": 1}}}, r"by_name\.7\.kind: 'c' is not one of 'a', 'b'"),
        ({"by_name": {"": None}}, "by_name: it is empty"),
        ({"pairs": [["a", 1]]}, r"pairs\[0\]\[1\]: 1 is not true or false"),
        ({"pairs": [["a"]]}, r"pairs\[0\]: it has 1 elements, not 2"),
        ({"ids": [1, 1]}, "ids: 1 is listed more than once"),
        ({"either": []}, "either: a list is not a whole number and a list is not a finite number"),
        (
            {"by_name": {"8": {"kind": "a", "share": 2}}},
            r"by_name\.8\.share: 2.0 is not a number from 0 to 1",
        ),
        ({"evil": 1}, "the field 'evil' is unknown"),
    ],
)
def test_a_message_has_the_path_and_the_reason(change: dict[str, Any], sentence: str) -> None:
    with pytest.raises(FieldError, match=sentence):
        read_document(Outer, OUTER.to_dict() | change)


@pytest.mark.parametrize("text", ["", "[]", '{"key": 1, "key": 1}', "[" * 100_000, "9" * 5000, "nul"])
def test_what_is_no_document_is_refused(text: str) -> None:
    with pytest.raises(ValueError, match=r"JSON|is not a"):
        parsed(Ledger, text)


def test_a_loss_that_is_no_number_survives() -> None:
    state = TrainingState(learned=math.nan, trials={0.1: math.inf})
    read = parsed(TrainingState, json.dumps(document_of(state)))
    assert read.learned == math.inf and read.trials == {0.1: math.inf}
