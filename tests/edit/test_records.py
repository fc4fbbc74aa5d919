"""Records are claims: every field of each is read strictly, and what it says is compared with the original."""

from __future__ import annotations

import copy
import dataclasses
import json
import math
from collections.abc import Callable, Iterator
from typing import Any

import pytest
from onnx import ModelProto

from onnxheadprune import HeadPruneError, ModelError, prune, validate
from onnxheadprune.attention.sites.kinds import KINDS
from onnxheadprune.edit import model_records, records
from onnxheadprune.edit.model_records import (
    EXITS_ENTRY,
    EXITS_KEY,
    LAYERS_ENTRY,
    LAYERS_KEY,
    VOCABULARY_ENTRY,
    RecordedExit,
    RecordedVocabulary,
)
from onnxheadprune.edit.records import (
    CACHES_ENTRY,
    CACHES_KEY,
    COMPENSATED_KEY,
    FUSED_ENTRY,
    FUSED_KEY,
    HEADS,
    QUANTIZED_ENTRY,
    QUANTIZED_KEY,
    REFIT_ENTRY,
    REMOVED_KEY,
    VALIDATION_KEY,
    VOCABULARY_KEY,
    QuantizedRecord,
    RecordedUnits,
    RefitRecord,
    units_entry,
)
from tests import toys, toys_layers

UNITS = KINDS[0].UNITS
SITES = (
    RecordedUnits(0, "encoder.0", 4, (1, 3), ("a", "b"), 2),
    RecordedUnits(1, "encoder.1", 4, (), ("c",), 4),
)
BLOCKS = (RecordedUnits(0, "mlp.0", 8, (0, 1, 2, 5), ("d",)), RecordedUnits(1, "mlp.1", 8, (), ("e",)))
REFIT = RefitRecord(("a", "b"), "0123", 64, {"a": "0123456789abcdef", "b": "0" * 16}, steps=3)
EXITS = (RecordedExit(1, "if", None, "taken"), RecordedExit(2, "loop", 3, "behind"))
TOKENS = RecordedVocabulary(20, (0, 1, 5, 19), ("ids",), ("logits",))
LAYERS = {"layer.0": ("0", "ffn.0"), "layer.1": ("1",)}
RECORDS: dict[str, tuple[str, object, Callable[[ModelProto], object]]] = {
    REMOVED_KEY: (units_entry(HEADS).text(SITES), SITES, units_entry(HEADS).read),
    **{
        units_entry(kind.UNITS).key: (
            units_entry(kind.UNITS).text(BLOCKS),
            BLOCKS,
            units_entry(kind.UNITS).read,
        )
        for kind in KINDS
    },
    COMPENSATED_KEY: (REFIT_ENTRY.text(REFIT), REFIT, REFIT_ENTRY.read),
    FUSED_KEY: (FUSED_ENTRY.text({0: "Attention", 2: "MultiHeadAttention"}), (0, 2), FUSED_ENTRY.read),
    CACHES_KEY: (CACHES_ENTRY.text((0, 2)), (0, 2), CACHES_ENTRY.read),
    QUANTIZED_KEY: (
        QUANTIZED_ENTRY.text(record := QuantizedRecord("int8-qdq", {"per_channel": True}, "01", 5, REFIT)),
        record,
        QUANTIZED_ENTRY.read,
    ),
    LAYERS_KEY: (LAYERS_ENTRY.text(LAYERS), LAYERS, LAYERS_ENTRY.read),
    EXITS_KEY: (EXITS_ENTRY.text(EXITS), EXITS, EXITS_ENTRY.read),
    VOCABULARY_KEY: (VOCABULARY_ENTRY.text(TOKENS), TOKENS, VOCABULARY_ENTRY.read),
}
MAY_BE_NONE = {"data of onnxheadprune.quantized", "refit", "turns"}
LONG = "9" * 5000
DEEP = "[" * 100_000
WRONG: dict[type, tuple[object, ...]] = {
    bool: (None, -1, 1.5, 2**40, "true", [], {}),
    int: (None, True, -1, 2**31 + 1, 2**80, 1.0, 1.5, math.nan, math.inf, "1", [], [1], {}),
    str: (None, True, 1, math.nan, [], ["a"], {}, {"a": 1}, "a" * (2**20 + 1)),
    list: (None, True, 1, math.nan, "", "a", {}, {"a": 1}, [[]], [{}], [None], [math.nan]),
    dict: (None, True, 1, math.nan, "a", [], ["a"], {"a": []}, {"a": None}),
    type(None): (True, -1, 2**80, 1.5, "1", [], {}),
}
"""For a value of each type: values of other types, and of that type beyond all bounds."""


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


def forgeries(text: str) -> Iterator[tuple[str, str]]:
    """One wrong value at a time, everywhere."""
    content = json.loads(text)
    for path, value in inside(content):
        for wrong in WRONG[type(value)]:
            where = ".".join(map(str, path))
            yield (
                f"{where} = {wrong!r:.40}",
                changed(content, path, lambda at, key, w=wrong: at.__setitem__(key, w)),
            )
        if path and isinstance(path[-1], str) and path[-1] != "version":
            yield f"{where} is missing", changed(content, path, lambda at, key: at.pop(key))
        if isinstance(value, dict):
            yield f"{where} has more", changed(content, path, lambda at, key: at[key].update(evil="evil"))
        # Both branches of a merged decoder may have the projection of a name, and earlier versions wrote it twice.
        if isinstance(value, list) and value and path[-1:] != ("projections",):
            yield (
                f"{where} has the first twice",
                changed(content, path, lambda at, key: at[key].append(at[key][0])),
            )
    yield "not JSON", text[:-1]
    yield "a key twice", text[:-1] + ", " + text[1:]
    yield "nested", text[:-1] + f', "evil": {DEEP}'
    yield "digits", text[:-1] + f', "evil": {LONG}}}'


def test_all_records_are_here() -> None:
    keys = {
        value
        for module in (records, model_records)
        for name, value in vars(module).items()
        if name.endswith("_KEY")
    }
    assert keys | {units_entry(kind.UNITS).key for kind in KINDS} == RECORDS.keys() | {VALIDATION_KEY}


@pytest.mark.parametrize("key", RECORDS)
def test_a_record_says_what_was_written(key: str) -> None:
    text, meant, read = RECORDS[key]
    assert read(model_with(text, key=key)) == meant
    for item in meant if isinstance(meant, tuple) else (meant,):
        if dataclasses.is_dataclass(item) and meant not in (BLOCKS, EXITS, SITES):
            empty = [field.name for field in dataclasses.fields(item) if not getattr(item, field.name)]
            assert not empty, "an example that leaves a field out tests nothing of it"


@pytest.mark.parametrize("key", RECORDS)
def test_a_wrong_value_in_any_field_is_a_sentence(key: str) -> None:
    text, _, read = RECORDS[key]
    believed = []
    for what, forged in forgeries(text):
        try:
            read(model_with(forged, key=key))
        except ModelError as error:
            told = str(error)
            assert key in told and "\n" not in told and len(told) < 400, (what, told)
        else:
            believed.append(what)
    assert not [what for what in believed if not may_be(what, key)]


def may_be(what: str, key: str) -> bool:
    """What is no forgery: null where nothing may be said, other versions that have all that they need."""
    field = what.split(" ")[0].split(".")[-1]
    if what.endswith("= None"):
        return field in MAY_BE_NONE or f"{field} of {key}" in MAY_BE_NONE
    # No sites are a record of nothing; settings have no fixed names; the proof asks for digests and layers.
    names_of_others = ("settings.", "digests.", "refit.digests.", "layers.")
    return what.endswith(("= []", "= {}")) or (what.startswith(names_of_others) and what.endswith("missing"))


@pytest.mark.parametrize("key", RECORDS)
def test_a_record_that_is_there_twice_is_refused(key: str) -> None:
    text, _, read = RECORDS[key]
    with pytest.raises(ModelError, match="it is there 2 times"):
        read(model_with(text, text, key=key))


# What is well written and not true


def cut_in_every_way() -> tuple[ModelProto, ModelProto]:
    model = toys_layers.decoder(3, cache=True)
    spec = {"0": [1], "ffn.0": [3], "layer.1": "*"}
    return model, prune(model, heads=spec, cache="renumber", fuse="contrib", provider="cpu").model


UNPROVEN = {"operator"}
"""Said for people; nothing is done by it."""


@pytest.mark.long
def test_what_a_record_says_is_compared_with_the_original() -> None:
    model, smaller = cut_in_every_way()
    texts = {item.key: item.value for item in smaller.metadata_props if item.key in RECORDS}
    assert texts.keys() == {REMOVED_KEY, units_entry(UNITS).key, FUSED_KEY, CACHES_KEY, LAYERS_KEY}
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
