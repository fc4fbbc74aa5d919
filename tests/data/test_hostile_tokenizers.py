"""JSON and tokenizers that were written by hand, or for harm: a sentence for each."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxheadprune import UsageError
from onnxheadprune.data.lines import Texts
from onnxheadprune.data.vocabulary import Vocabulary
from tests import toys
from tests.conftest import Command


@pytest.mark.parametrize("option", ["--heads", "--neurons"])
@pytest.mark.parametrize(
    ("text", "sentence"),
    [('{"0": [1], "0": [2]}', "'0' is given twice"), ("{bad", "is not JSON"), ('{"0": [1]', "is not JSON")],
)
def test_a_spec_that_is_no_json(
    option: str, text: str, sentence: str, tmp_path: Path, command: Command
) -> None:
    """Of a site that is named twice, the heads named first would stay."""
    model, file = tmp_path / "m.onnx", tmp_path / "spec.json"
    onnx.save(toys.attention(), model)
    file.write_text(text)
    for spec in (text, file):
        result = command("prune", model, option, spec, "-o", tmp_path / "o.onnx")
        assert result.exit_code == 2, result.stderr
        assert sentence in result.stderr and result.stderr.count("\n") == 1
    assert not (tmp_path / "o.onnx").exists()


def test_scores_of_a_site_that_is_there_twice(tmp_path: Path, command: Command) -> None:
    model, scores = tmp_path / "m.onnx", tmp_path / "s.json"
    onnx.save(toys.attention(), model)
    scores.write_text('{"0": [1, 2, 3, 4], "0": [4, 3, 2, 1]}')
    result = command("prune", model, "--ratio", "0.25", "--scores", scores, "-o", tmp_path / "o.onnx")
    assert result.exit_code == 2
    assert "'0' is given twice" in result.stderr


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


@pytest.mark.long
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


def test_half_a_character_is_no_text(tmp_path: Path) -> None:
    path = tmp_path / "t.jsonl"
    path.write_text('{"text": "\\ud800"}\n')
    with pytest.raises(UsageError, match=r"line 1 of .* holds half a character"):
        list(Texts(path))
