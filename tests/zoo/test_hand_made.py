"""The check of a folder that needs no torch: what is wrong with heads, counts or the folder is found."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import pytest
from onnx import ModelProto

from tests.graphs.toys import HEAD_SIZE, HIDDEN, attention, get_initializer, no_attention, set_initializer
from tests.graphs.toys import HEADS as COUNT
from tests.zoo.check import check
from tests.zoo.row import HEADS, Outcome, Row
from tests.zoo.runs import Runner

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
    """Writes a folder of a package's model as `tests.zoo.build` does, from a hand-made model."""

    def write(model: ModelProto | None = None, **changes: Any) -> Path:
        path = tmp_path / "hand-made.ts17"
        path.mkdir()
        true = attention()
        feed = {"x": np.random.default_rng(0).standard_normal((2, 5, HIDDEN)).astype(np.float32)}
        arrays = {"weight/0": get_initializer(true, "attn.out.weight").T, "feed0/x": feed["x"]}
        arrays["full/feed0/y"] = Runner(true)(feed)["y"]
        for index, heads in enumerate(SETS):
            arrays[f"set{index}/feed0/y"] = Runner(silenced(true, heads[0]))(feed)["y"]
        case = {
            "name": "hand-made",
            "family": "hand",
            "package": "hand",
            "variant": "ts17",
            "expect": "exact",
            "tolerance": 1e-5,
            "inputs": ["x"],
            "outputs": ["y"],
            "caches": [],
            "projections": projection(),
            "head_set_names": ["one", "two", "all"],
            "head_sets": SETS,
            "effect": [0.1, 0.1, 0.1],
        }
        onnx.save(true if model is None else model, path / "model.onnx")
        np.savez(path / "reference.npz", **arrays)
        (path / "case.json").write_text(json.dumps(case | changes))
        return path

    return write


def projection(**changes: Any) -> list[dict[str, Any]]:
    whole = {"num_heads": COUNT, "head_size": HEAD_SIZE, "kv_num_heads": COUNT}
    return [{"module_path": "attn", "tied_to": None, "head_minor": False, **whole, **changes}]


def checked(path: Path) -> Row:
    return check(path, kinds=[HEADS])


def test_a_right_one_is_right(folder: Callable[..., Path]) -> None:
    row = checked(folder())
    assert not row.problems, str(row)
    assert (row.sites, row.found.heads) == (1, (COUNT,))
    verdict = row.verdicts[HEADS]
    assert (verdict.outcome, verdict.compared, verdict.equal) == (Outcome.EXACT, 3, 3)


def test_another_number_of_heads_is_found(folder: Callable[..., Path]) -> None:
    row = checked(folder(projections=projection(num_heads=2, head_size=2 * HEAD_SIZE, kv_num_heads=2)))
    assert {"heads", "kv"} <= row.problems.keys()


def test_another_count_of_layers_is_found(folder: Callable[..., Path]) -> None:
    row = checked(folder(counts={"layers": [7], "blocks": 7}))
    assert row.problems.keys() == {"layers", "blocks"}


def test_another_head_is_found(folder: Callable[..., Path]) -> None:
    row = checked(folder(head_sets=[[[2]], [[1, 3]], [[0, 1, 2, 3]]]))
    verdict = row.verdicts[HEADS]
    assert (verdict.outcome, verdict.compared, verdict.equal) == (Outcome.WRONG, 3, 1)
    assert "off by" in row.problems[HEADS]


def test_another_weight_is_found(folder: Callable[..., Path]) -> None:
    model = attention()
    keys = get_initializer(model, "attn.k.weight").copy()
    keys[:, -1] += 1
    set_initializer(model, "attn.k.weight", keys)
    assert checked(folder(model)).verdicts[HEADS].outcome is Outcome.WRONG


def test_an_attention_without_a_word_is_found(folder: Callable[..., Path]) -> None:
    row = checked(folder(no_attention()))
    assert (row.sites, row.silent) == (0, 1)
    assert row.problems


def test_a_site_that_is_no_attention_is_found(folder: Callable[..., Path]) -> None:
    row = checked(folder(projections=[], expect="no-site", head_sets=[], head_set_names=[]))
    assert len(row.extra) == 1
    assert row.problems


def test_a_refusal_is_expected_or_a_problem(folder: Callable[..., Path]) -> None:
    assert checked(folder(expect="refused")).problems


def test_a_traceback_is_found(folder: Callable[..., Path]) -> None:
    path = folder()
    (path / "model.onnx").write_bytes(b"no model")
    assert checked(path).verdicts[HEADS].outcome is Outcome.ERROR


def test_what_was_not_built_says_why(folder: Callable[..., Path]) -> None:
    path = folder(failed="TypeError: no")
    (path / "model.onnx").unlink()
    row = checked(path)
    assert (row.failed, row.family, row.problems) == ("TypeError: no", "hand", {})
