"""The check of a wild folder: a wrong count, a wrong head, an overlooked attention and a traceback are each found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from tests.toys import HEAD_SIZE, HEADS, HIDDEN, attention, get_initializer, no_attention, set_initializer
from tests.zoo.runs import Runner
from tests.zoo.wild.check import check

SETS = [[[1]], [[0, 2]], [[0, 1, 2, 3]]]


def silenced(model: ModelProto, heads: list[int]) -> ModelProto:
    """The model with rows of the output projection zeroed."""
    copy = ModelProto()
    copy.CopyFrom(model)
    weight = get_initializer(copy, "attn.out.weight").copy()
    for head in heads:
        weight[head * HEAD_SIZE : (head + 1) * HEAD_SIZE] = 0
    set_initializer(copy, "attn.out.weight", weight)
    return copy


@pytest.fixture
def folder(tmp_path: Path) -> Callable[..., Path]:
    """Writes a folder as `tests.zoo.wild.build` does, from a hand-made model."""

    def write(model: ModelProto | None = None, **changes: Any) -> Path:
        path = tmp_path / "hand-made.ts17"
        path.mkdir()
        true = attention()
        feed = {"x": np.random.default_rng(0).standard_normal((2, 5, HIDDEN)).astype(np.float32)}
        arrays = {"weight/0": get_initializer(true, "attn.out.weight").T, "feed0/x": feed["x"]}
        arrays["full/feed0/y"] = Runner(true)(feed)["y"]
        for index, heads in enumerate(SETS):
            arrays[f"set{index}/feed0/y"] = Runner(silenced(true, heads[0]))(feed)["y"]
        projection = {
            "module_path": "attn",
            "num_heads": HEADS,
            "head_size": HEAD_SIZE,
            "kv_num_heads": HEADS,
            "tied_to": None,
            "head_minor": False,
        }
        case = {
            "name": "hand-made",
            "family": "hand",
            "variant": "ts17",
            "expect": "exact",
            "tolerance": 1e-5,
            "inputs": ["x"],
            "outputs": ["y"],
            "caches": [],
            "projections": [projection],
            "head_set_names": ["one", "two", "all"],
            "head_sets": SETS,
        }
        onnx.save(true if model is None else model, path / "model.onnx")
        np.savez(path / "reference.npz", **arrays)
        (path / "case.json").write_text(json.dumps(case | changes))
        return path

    return write


def projection(**changes: Any) -> list[dict[str, Any]]:
    whole = {"num_heads": HEADS, "head_size": HEAD_SIZE, "kv_num_heads": HEADS}
    return [{"module_path": "attn", "tied_to": None, "head_minor": False, **whole, **changes}]


def test_a_right_one_is_right(folder: Callable[..., Path]) -> None:
    row = check(folder())
    assert not row.is_short, row.words
    assert (row.found, row.heads, row.compared, row.equal) == (1, (HEADS,), 3, 3)


def test_another_number_of_heads_is_found(folder: Callable[..., Path]) -> None:
    row = check(folder(projections=projection(num_heads=2, head_size=2 * HEAD_SIZE, kv_num_heads=2)))
    assert row.wrong_heads and row.is_wrong


def test_another_head_is_found(folder: Callable[..., Path]) -> None:
    row = check(folder(head_sets=[[[2]], [[1, 3]], [[0, 1, 2, 3]]]))
    assert (row.compared, row.equal) == (3, 1)
    assert row.is_wrong and "off by" in row.detail


def test_another_weight_is_found(folder: Callable[..., Path]) -> None:
    model = attention()
    keys = get_initializer(model, "attn.k.weight").copy()
    keys[:, -1] += 1
    set_initializer(model, "attn.k.weight", keys)
    row = check(folder(model))
    assert row.equal < row.compared


def test_an_attention_without_a_word_is_found(folder: Callable[..., Path]) -> None:
    row = check(folder(no_attention()))
    assert (row.found, row.silent) == (0, 1)
    assert row.is_wrong


def test_a_site_that_is_no_attention_is_found(folder: Callable[..., Path]) -> None:
    row = check(folder(projections=[], expect="no-site", head_sets=[], head_set_names=[]))
    assert row.extra == 1
    assert row.wrong_heads


def test_a_traceback_is_found(folder: Callable[..., Path]) -> None:
    path = folder()
    (path / "model.onnx").write_bytes(b"no model")
    row = check(path)
    assert row.is_wrong and row.detail


def test_what_was_not_built_says_why(tmp_path: Path) -> None:
    path = tmp_path / "hand-made.dyn18"
    path.mkdir()
    (path / "failed.txt").write_text("TypeError: no\n")
    (path / "package.txt").write_text("hand\n")
    row = check(path)
    assert (row.failed, row.package, row.is_short) == ("TypeError: no", "hand", False)
