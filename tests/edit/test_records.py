"""The record is a claim: every field of it is read strictly, and what it says is compared with the original."""

from __future__ import annotations

import contextlib
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from onnx import ModelProto

from onnxheadprune import HeadPruneError, ModelError, inspect, prune, validate
from onnxheadprune.edit.records import (
    RECORD_KEY,
    VERSION,
    FusedSite,
    QuantizedRecord,
    Record,
    RecordedContract,
    RecordedExit,
    RecordedUnits,
    RecordedVocabulary,
    RefitRecord,
    record_of,
    write_record,
)
from onnxheadprune.settings.units import KINDS
from tests.graphs import toys
from tests.recording import rewritten
from tests.wrong_documents import wrong_documents

UNITS = KINDS[1].units
REFIT = RefitRecord(("a", "b"), "0123", 64, {"a": "0123456789abcdef", "b": "0" * 16}, steps=3)
HEADS = (
    RecordedUnits(0, "encoder.0", 4, (1, 3), ("a", "b"), 2),
    RecordedUnits(1, "encoder.1", 4, (), ("c",), 4),
)
BLOCKS = (
    RecordedUnits(0, "mlp.0", 8, (0, 1, 2, 5), ("d",)),
    RecordedUnits(1, "layer.1", 1, (), (), states=(("f", "g"),)),
)
EXAMPLE = Record(
    {"heads": HEADS, **{kind.units: BLOCKS for kind in KINDS[1:]}},
    RecordedContract((0, 1), (2,), ("maps",)),
    (FusedSite(1, "Attention"), FusedSite(2, "MultiHeadAttention")),
    REFIT,
    QuantizedRecord("int8-qdq", {"per_channel": True, "bits": 8}, "01", 5, REFIT),
    (RecordedExit(1, "if", "taken"), RecordedExit(2, "inner", "gone")),
    RecordedVocabulary(20, (0, 1, 5, 19), ("ids",), ("logits",)),
)
LONG = "9" * 5000
DEEP = "[" * 100_000


def model_with(*texts: str, key: str = RECORD_KEY) -> ModelProto:
    model = toys.attention()
    for text in texts:
        model.metadata_props.add(key=key, value=text)
    return model


def written(record: Record) -> str:
    model = ModelProto()
    write_record(model, record)
    return model.metadata_props[0].value


TEXT = written(EXAMPLE)


def inside(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value of a document, with where it is."""
    yield path, content
    if isinstance(content, (dict, list)):
        for key, item in content.items() if isinstance(content, dict) else enumerate(content):
            yield from inside(item, (*path, key))


def changed(content: Any, path: tuple[Any, ...], value: Any) -> None:
    """Set the value at a path of a document."""
    *way, last = path
    for key in way:
        content = content[key]
    content[last] = value


@pytest.mark.parametrize("key", ["onnxheadprune.heads", "onnxheadprune.removed"])
def test_an_entry_of_another_version_is_refused(key: str) -> None:
    """It may say what was removed: a model whose record nobody reads would pass for a whole one."""
    model = model_with('{"version": 2, "sites": []}', key=key)
    whole = toys.attention()
    for call in (inspect, functools.partial(prune, heads="0:1"), functools.partial(validate, whole)):
        with pytest.raises(
            ModelError, match=rf"{key} was written by another version.*again from its original"
        ):
            call(model)


def forged_texts() -> Iterator[tuple[str, str]]:
    """Wrong values of all fields by their declarations, and texts that are no such record at all."""
    document = json.loads(TEXT)
    content = {key: value for key, value in document.items() if key != "version"}
    for what, forged in wrong_documents(Record, content):
        whole = {"version": VERSION} | forged if isinstance(forged, dict) else forged
        yield what, json.dumps(whole)
    for version in (None, True, VERSION + 1, 0, 1.0, str(VERSION), [VERSION]):
        yield f"version {version}", json.dumps(document | {"version": version})
    yield "no version", json.dumps(content)
    yield "another field", json.dumps(document | {"evil": 1})
    yield "another kind", json.dumps(document | {"units": {"wings": []}})
    yield "not JSON", TEXT[:-1]
    yield "a key twice", TEXT[:-1] + ", " + TEXT[1:]
    yield "nested", TEXT[:-1] + f', "evil": {DEEP}'
    yield "digits", TEXT[:-1] + f', "evil": {LONG}}}'
    yield from ((text, text) for text in (DEEP, "[]", '"text"', "nul", "{", ""))


def test_a_wrong_value_in_any_field_is_a_sentence() -> None:
    believed = []
    for what, forged in forged_texts():
        try:
            record_of(model_with(forged))
        except ModelError as error:
            told = str(error)
            assert RECORD_KEY in told and "\n" not in told and len(told) < 400, (what, told)
        else:
            believed.append(what)
    assert not believed
    with pytest.raises(ModelError, match="it is there 2 times"):
        record_of(model_with(TEXT, TEXT))


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        (lambda it: it["units"]["heads"][0].update(removed="0-4"), r"units\.heads\[0\]: more is removed"),
        (lambda it: it["units"]["heads"][0].update(kv_num_heads=5), "more is removed or shared"),
        (lambda it: it["units"]["heads"][1].update(kv_num_heads=0), "kv_num_heads is 0 for heads"),
        (lambda it: it["units"][UNITS][1].update(kv_num_heads=1), "kv_num_heads is 0 for heads"),
        (lambda it: it["units"]["heads"][0].update(removed="1,0"), r"\[0\]\.removed: '0' is no range"),
        (lambda it: it["refit"]["digests"].update(c="0" * 16), "'c' is not one of the tensors"),
        (lambda it: it["refit"]["digests"].update(a="0" * 15), r"digests\.a: .* is not a digest"),
        (lambda it: it["vocabulary"].update(rows=19), "token 19 is none of the 19"),
        (lambda it: it["vocabulary"].update(kept=it["vocabulary"]["kept"] + "AAAA"), "kept: "),
    ],
)
def test_fields_that_contradict_each_other_are_named(change: Any, sentence: str) -> None:
    content = json.loads(TEXT)
    change(content)
    with pytest.raises(ModelError, match=sentence):
        record_of(model_with(json.dumps(content)))


# What is well written and not true


def cut_in_every_way() -> tuple[ModelProto, ModelProto]:
    model = toys.decoder(3, cache=True)
    spec = {"0": [1], "ffn.0": [3], "layer.1": "*"}
    return model, prune(model, heads=spec, cache="renumber", fuse="contrib", provider="cpu").model


UNPROVEN = {"operator"}
"""Said for people; nothing is done by it."""


@pytest.mark.slow
def test_what_a_record_says_is_compared_with_the_original() -> None:
    model, smaller = cut_in_every_way()
    record = record_of(smaller)
    assert record.units.keys() == {"heads", UNITS, "layers"} and record.fused
    assert record.contract == RecordedContract(dropped_caches=(1,))
    assert says(model, smaller) == ""
    (text,) = (item.value for item in smaller.metadata_props if item.key == RECORD_KEY)
    believed = []
    for path, value in inside(json.loads(text)):
        if path in ((), ("version",)) or path[-1] in UNPROVEN or isinstance(value, dict):
            continue
        others: list[Any] = [f"{value}.evil", f"0-{value}"]
        if isinstance(value, int):
            others = [value + 1, value + 1000]
        elif isinstance(value, list):
            others = [[*value, *more] for more in ([0], [2], ["evil"])] if path[0] == "contract" else []
        for other in others:
            forged = ModelProto.FromString(smaller.SerializeToString())
            with rewritten(forged) as content:
                changed(content, path, other)
            if not says(model, forged):
                believed.append(f"{'.'.join(map(str, path))} = {other}")
    assert not believed


def says(model: ModelProto, smaller: ModelProto) -> str:
    """What speaks against a model: an error, a verdict, or a note on its record."""
    try:
        found = validate(model, smaller, provider="cpu")
    except HeadPruneError as error:
        return str(error)
    if found.verdict != "passed":
        return found.reason
    return next((note for note in found.notes if "record" in note), "")


FOREIGN: dict[str, Callable[[Any], Any]] = {
    "name": lambda name: f"{name}.evil",
    "projections": lambda names: [f"{name}.evil" for name in names],
    "kv_num_heads": lambda count: max(count - 1, 0),
}


@pytest.mark.parametrize("field", FOREIGN)
@pytest.mark.parametrize("at", [0, 1])
def test_a_record_of_foreign_sites_or_projections_is_refused(field: str, at: int) -> None:
    """Whether that site loses units in this cut or not."""
    model = toys.decoder(2)
    smaller = prune(model, heads="0:1", provider="cpu").model
    with rewritten(smaller) as record:
        sites = record["units"]["heads"]
        assert len(sites) == 2
        sites[at][field] = FOREIGN[field](sites[at][field])
    assert says(model, smaller).startswith("the record of")
    with contextlib.suppress(HeadPruneError):
        assert validate(model, smaller, provider="cpu").exact == "no"


@pytest.mark.parametrize("field", ["kept_caches", "narrowed"])
def test_a_contract_that_the_cut_made_no_use_of_is_no(field: str) -> None:
    model = toys.decoder(2, cache=True)
    smaller = prune(model, heads="0:1", validate=False).model
    with rewritten(smaller) as record:
        contract: dict[str, list[Any]] = {"kept_caches": [], "dropped_caches": [], "narrowed": []}
        record["contract"] = contract | {field: [1] if field == "kept_caches" else ["logits"]}
    found = validate(model, smaller, provider="cpu")
    assert found.exact == "no" and "claims other changes of inputs and outputs" in found.reason
