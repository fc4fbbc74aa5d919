"""Records are claims: every field of each is read strictly, and what it says is compared with the original."""

from __future__ import annotations

import contextlib
import copy
import dataclasses
import functools
import json
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from onnx import ModelProto

from onnxheadprune import HeadPruneError, ModelError, inspect, prune, validate
from onnxheadprune.edit import model_records, records
from onnxheadprune.edit.model_records import (
    EXITS_ENTRY,
    NO_UNITS,
    VOCABULARY_ENTRY,
    RecordedExit,
    RecordedVocabulary,
    require_known,
)
from onnxheadprune.edit.records import (
    CACHES_ENTRY,
    CACHES_KEY,
    COMPENSATED_KEY,
    FUSED_ENTRY,
    FUSED_KEY,
    HEADS,
    LAYERS,
    QUANTIZED_ENTRY,
    REFIT_ENTRY,
    VALIDATION_KEY,
    VERSION,
    VOCABULARY_KEY,
    Entry,
    FusedSite,
    QuantizedRecord,
    RecordedUnits,
    RefitRecord,
    units_entry,
)
from onnxheadprune.settings.units import KINDS
from tests.graphs import toys
from tests.wrong_documents import wrong_documents

UNITS = KINDS[1].units
SITES = (
    RecordedUnits(0, "encoder.0", 4, (1, 3), ("a", "b"), 2),
    RecordedUnits(1, "encoder.1", 4, (), ("c",), 4),
)
BLOCKS = (
    RecordedUnits(0, "mlp.0", 8, (0, 1, 2, 5), ("d",)),
    RecordedUnits(1, "layer.1", 1, (), (), states=(("f", "g"),)),
)
REFIT = RefitRecord(("a", "b"), "0123", 64, {"a": "0123456789abcdef", "b": "0" * 16}, steps=3)
EXITS = (RecordedExit(1, "if", None, "taken"), RecordedExit(2, "loop", 3, "behind"))
TOKENS = RecordedVocabulary(20, (0, 1, 5, 19), ("ids",), ("logits",))
HEADS_KEY, LAYERS_KEY = units_entry(HEADS).key, units_entry(LAYERS).key
QUANTIZED = QuantizedRecord("int8-qdq", {"per_channel": True, "bits": 8}, "01", 5, REFIT)
FUSED = (FusedSite(1, "Attention"), FusedSite(2, "MultiHeadAttention"))
EXAMPLES: tuple[tuple[Entry[Any], object], ...] = (
    (units_entry(HEADS), SITES),
    *((units_entry(kind.units), BLOCKS) for kind in KINDS[1:]),
    (REFIT_ENTRY, REFIT),
    (FUSED_ENTRY, FUSED),
    (CACHES_ENTRY, (0, 2)),
    (QUANTIZED_ENTRY, QUANTIZED),
    (EXITS_ENTRY, EXITS),
    (VOCABULARY_ENTRY, TOKENS),
)
RECORDS: dict[str, tuple[str, object, Entry[Any]]] = {
    entry.key: (entry.text(record), record, entry) for entry, record in EXAMPLES
}
LONG = "9" * 5000
DEEP = "[" * 100_000


def model_with(*texts: str, key: str) -> ModelProto:
    model = toys.attention()
    for text in texts:
        model.metadata_props.add(key=key, value=text)
    return model


def inside(content: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[tuple[Any, ...], Any]]:
    """Every value of a document, with where it is."""
    yield path, content
    if isinstance(content, (dict, list)):
        for key, item in content.items() if isinstance(content, dict) else enumerate(content):
            yield from inside(item, (*path, key))


def changed(content: Any, path: tuple[Any, ...], change: Callable[[Any, Any], None]) -> str:
    """The document with `change` done to what holds the value at a path; NaN and infinities as Python spells them."""
    made = {"": copy.deepcopy(content)}
    *way, last = ("", *path)
    place: Any = made
    for key in way:
        place = place[key]
    change(place, last)
    return json.dumps(made[""])


def test_all_records_are_here() -> None:
    keys = {
        value
        for module in (records, model_records)
        for name, value in vars(module).items()
        if name.endswith("_KEY")
    }
    units = {units_entry(kind.units).key for kind in KINDS}
    assert keys | units == RECORDS.keys() | {VALIDATION_KEY}
    assert keys == NO_UNITS


def test_an_entry_of_another_version_is_refused() -> None:
    """It may say what was removed: a model whose record nobody reads would pass for a whole one."""
    known = {kind.units for kind in KINDS}
    for key in (*RECORDS, VALIDATION_KEY, "someone.elses", "onnxheadprune"):
        require_known(model_with("{}", key=key), known)
    for call in (inspect, functools.partial(prune, heads="0:1")):
        with pytest.raises(ModelError, match=r"entry onnxheadprune\.removed is unknown to this version"):
            call(model_with("{}", key="onnxheadprune.removed"))


@pytest.mark.parametrize("key", RECORDS)
def test_a_record_says_what_was_written(key: str) -> None:
    text, meant, entry = RECORDS[key]
    assert entry.read(model_with(text, key=key)) == meant
    for item in meant if isinstance(meant, tuple) else (meant,):
        if dataclasses.is_dataclass(item) and meant not in (BLOCKS, EXITS, SITES):
            empty = [field.name for field in dataclasses.fields(item) if not getattr(item, field.name)]
            assert not empty, "an example that leaves a field out tests nothing of it"


def forged_texts(entry: Entry[Any], text: str) -> Iterator[tuple[str, str]]:
    """Wrong values of all fields by their declarations, and texts that are no such record at all."""
    document = json.loads(text)
    content = document[entry.field] if entry.field else {k: v for k, v in document.items() if k != "version"}
    for what, forged in wrong_documents(entry.kind, content):
        whole = {entry.field: forged} if entry.field else forged
        yield what, json.dumps({"version": VERSION} | whole if isinstance(whole, dict) else whole)
    for version in (None, True, VERSION + 1, 0, 1.0, str(VERSION), [VERSION]):
        yield f"version {version}", json.dumps(document | {"version": version})
    for name in document:
        yield f"no {name}", json.dumps({key: value for key, value in document.items() if key != name})
    yield "another field", json.dumps(document | {"evil": 1})
    yield "not JSON", text[:-1]
    yield "a key twice", text[:-1] + ", " + text[1:]
    yield "nested", text[:-1] + f', "evil": {DEEP}'
    yield "digits", text[:-1] + f', "evil": {LONG}}}'


@pytest.mark.parametrize("key", RECORDS)
def test_a_wrong_value_in_any_field_is_a_sentence(key: str) -> None:
    text, _, entry = RECORDS[key]
    believed = []
    for what, forged in forged_texts(entry, text):
        try:
            entry.read(model_with(forged, key=key))
        except ModelError as error:
            told = str(error)
            assert key in told and "\n" not in told and len(told) < 400, (what, told)
        else:
            believed.append(what)
    assert not believed


@pytest.mark.parametrize(
    ("key", "change", "sentence"),
    [
        (HEADS_KEY, lambda it: it["sites"][0].update(removed="0-4"), r"sites\[0\]: more is removed"),
        (
            HEADS_KEY,
            lambda it: it["sites"][0].update(kv_num_heads=5),
            r"sites\[0\]: more is removed or shared",
        ),
        (HEADS_KEY, lambda it: it["sites"][1].update(kv_num_heads=0), "kv_num_heads is 0 for heads"),
        (HEADS_KEY, lambda it: it["sites"][0].update(removed="1,0"), r"sites\[0\]\.removed: '0' is no range"),
        (COMPENSATED_KEY, lambda it: it["digests"].update(c="0" * 16), "'c' is not one of the tensors"),
        (COMPENSATED_KEY, lambda it: it["digests"].update(a="0" * 15), r"digests\.a: .* is not a digest"),
        (VOCABULARY_KEY, lambda it: it.update(rows=19), "token 19 is none of the 19"),
        (VOCABULARY_KEY, lambda it: it.update(kept=it["kept"] + "AAAA"), "kept: "),
    ],
)
def test_fields_that_contradict_each_other_are_named(key: str, change: Any, sentence: str) -> None:
    text, _, entry = RECORDS[key]
    content = json.loads(text)
    change(content)
    with pytest.raises(ModelError, match=sentence):
        entry.read(model_with(json.dumps(content), key=key))


@pytest.mark.parametrize("key", RECORDS)
def test_a_record_that_is_there_twice_is_refused(key: str) -> None:
    text, _, entry = RECORDS[key]
    with pytest.raises(ModelError, match="it is there 2 times"):
        entry.read(model_with(text, text, key=key))


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
    texts = {item.key: item.value for item in smaller.metadata_props if item.key in RECORDS}
    assert texts.keys() == {HEADS_KEY, units_entry(UNITS).key, FUSED_KEY, CACHES_KEY, LAYERS_KEY}
    assert says(model, smaller) == ""
    believed = []
    for key, text in texts.items():
        content = json.loads(text)
        for path, value in inside(content):
            if not path or path[-1] in UNPROVEN or isinstance(value, (list, dict)) or path[-1] == "version":
                continue
            others = [value + 1, value + 1000] if isinstance(value, int) else [f"{value}.evil", f"0-{value}"]
            for other in others:
                forged = ModelProto.FromString(smaller.SerializeToString())
                entry = next(item for item in forged.metadata_props if item.key == key)
                entry.value = changed(content, path, lambda at, name, w=other: at.__setitem__(name, w))
                if not says(model, forged):
                    believed.append(f"{key} {'.'.join(map(str, path))} = {other}")
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
    entry = next(item for item in smaller.metadata_props if item.key == HEADS_KEY)
    content = json.loads(entry.value)
    assert len(content["sites"]) == 2
    content["sites"][at][field] = FOREIGN[field](content["sites"][at][field])
    entry.value = json.dumps(content)
    assert says(model, smaller).startswith("the record of")
    with contextlib.suppress(HeadPruneError):
        assert validate(model, smaller, provider="cpu").exact == "no"
