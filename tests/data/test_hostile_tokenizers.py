"""JSON and tokenizers that were written by hand, or for harm: a sentence for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from onnxheadprune import UsageError
from onnxheadprune.data.tokenizing import Tokenizer
from onnxheadprune.data.vocabulary import Vocabulary
from tests.limits import within


def tokenizer(path: Path, **changes: Any) -> Path:
    model = {"type": "WordLevel", "vocab": {"a": 0, "b": 1}, "unk_token": "a"}
    content = {"version": "1.0", "model": model, "pre_tokenizer": {"type": "Whitespace"}} | changes
    path.write_text(json.dumps(content))
    return path


def test_a_tokenizer_that_knows_no_such_word(tmp_path: Path) -> None:
    """Its library raises a bare Exception."""
    lacks = {"type": "WordLevel", "vocab": {"zz": 0}, "unk_token": "q"}
    path = tokenizer(tmp_path / "t.json", model=lacks)
    with pytest.raises(UsageError, match=r"t.json failed: .*Missing \[UNK\] token"):
        Vocabulary(path, 16).tokens(["a b"])


@pytest.mark.slow
def test_a_tokenizer_that_makes_its_library_panic(tmp_path: Path) -> None:
    """What the library raises then is no Exception, and would end the program with a traceback."""
    path = tokenizer(tmp_path / "t.json", model={"type": "BPE", "vocab": {"a": 0}, "merges": ["a a"]})
    with pytest.raises(UsageError, match=r"t.json is no tokenizer of the tokenizers library"):
        Vocabulary(path, 16)
    endless = {
        "type": "Split",
        "pattern": {"Regex": "(a+)+$"},
        "behavior": "Isolated",
        "invert": False,
    }
    vocabulary = Vocabulary(tokenizer(tmp_path / "t.json", pre_tokenizer=endless), 16)
    with pytest.raises(UsageError, match=r"t.json failed: .*Regex"):
        vocabulary.tokens(["a" * 28 + "!"])


GROWS = {"type": "Replace", "pattern": {"String": "a"}, "content": "a" * 10}
TWICE = {"type": "TemplateProcessing", "single": [{"Sequence": {"id": "A", "type_id": 0}}] * 16}
TWICE |= {"pair": TWICE["single"], "special_tokens": {}}
HOSTILE: dict[str, dict[str, Any]] = {
    "nested replacements": {"normalizer": {"type": "Sequence", "normalizers": [GROWS] * 12}},
    "few replacements": {"normalizer": {"type": "Sequence", "normalizers": [GROWS] * 7}},
    "one replacement": {"normalizer": {**GROWS, "content": "a " * 2**20}},
    "nested templates": {"post_processor": {"type": "Sequence", "processors": [TWICE] * 8}},
    "nested decoders": {"decoder": {"type": "Sequence", "decoders": [GROWS] * 12}},
}


@pytest.mark.first_case
@pytest.mark.parametrize("name", HOSTILE)
def test_what_a_tokenizer_makes_of_a_text_is_bounded(name: str, tmp_path: Path) -> None:
    """In memory, time and tokens."""
    path = tokenizer(tmp_path / "t.json", **HOSTILE[name])
    told = r"t.json (failed: |ended its process, which may take 1.0 GiB)"
    with within(10), pytest.raises(UsageError, match=told):
        forth_and_back(path)


def forth_and_back(path: Path) -> list[str]:
    made = Tokenizer(str(path), path.read_text())
    return made.decode([item.ids for item in made.encode(["a b a"])])


def test_a_process_ends_with_its_tokenizer(tmp_path: Path) -> None:
    made = Tokenizer("t.json", tokenizer(tmp_path / "t.json").read_text())
    process = made._process
    assert process.poll() is None
    del made
    assert process.poll() is not None
