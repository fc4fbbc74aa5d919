"""Names from a model are shown, never obeyed: no control character of one reaches a terminal or a page."""

from __future__ import annotations

import itertools
import re
from pathlib import Path

import onnx
import pytest
from onnx import AttributeProto, ModelProto

from onnxheadprune.display.spelling import escaped
from tests.conftest import Command
from tests.graphs import toys

EVIL = "\x1b[31m\x9b2J\u202eevil\u2066\r\nfaked\x00\x07\x7f\u200b<script>[bold]$\\frac{"
OBEYED = re.compile("[\x00-\x09\x0b-\x1f\x7f-\x9f\u061c\u200b-\u200f\u2028-\u202e\u2060-\u206f\ufeff]")


def evil(model: ModelProto) -> ModelProto:
    """The model with every name in it made hostile, whatever it is the name of."""
    graph = model.graph
    graph.name = model.producer_name = model.doc_string = EVIL
    for info in (*graph.input, *graph.output):
        info.name += EVIL
        for dim in info.type.tensor_type.shape.dim:
            if dim.dim_param:
                dim.dim_param += EVIL
    for tensor in graph.initializer:
        tensor.name += EVIL
    for node in graph.node:
        node.name = f"/layers.0{EVIL}/attn/{node.name}{EVIL}"
        for names in (node.input, node.output):
            names[:] = [name + EVIL for name in names]
        assert not any(item.type == AttributeProto.GRAPH for item in node.attribute)
    return model


@pytest.fixture
def model(tmp_path: Path) -> Path:
    path = tmp_path / "m.onnx"
    onnx.save(evil(toys.attention(cache=True)), path)
    return path


def harmless(text: str) -> bool:
    """Nothing to obey, and no line that a name began."""
    return not OBEYED.search(text) and not any(line.startswith("faked") for line in text.splitlines())


COMMANDS = {
    "inspect": ("inspect", "M"),
    "plan": ("prune", "M", "--heads", "0:1", "--dry-run"),
    "prune": ("prune", "M", "-o", "O", "--heads", "0:1", "--report", "R.html"),
    "keep": ("prune", "M", "-o", "O", "--heads", "0:1", "--cache", "keep"),
    "ratio": (
        "prune",
        "M",
        "-o",
        "O",
        "--ratio",
        "0.3",
        "--data",
        "random",
        "--report",
        "R.html",
        "--heatmap",
        "H.svg",
    ),
    "fuse": ("prune", "M", "--fuse", "contrib", "--dry-run"),
    "batch": ("batch", "DIR", "-o", "OUT", "--heads", "0:1"),
    "score": ("score", "M", "--method", "weight", "--heatmap", "H.svg"),
    "bench": ("bench", "M", "M", "--batch", "1", "--seq", "4", "--repeats", "5", "--no-memory"),
    "validate": ("validate", "M", "M", "--heads", "0:1"),
    "no such site": (
        "prune",
        "M",
        "--dry-run",
        "--heads",
        f"{EVIL.replace(chr(0), '')}:1".replace("\r\n", ""),
    ),
    "no such head": ("prune", "M", "--dry-run", "--heads", "0:77"),
    "no such option": ("inspect", "M", "--\x1b[31m\u202e"),
    "no such file": ("inspect", "no\x1b[31m\nfaked\u202e.onnx"),
    "missing input": ("score", "M", "--data", "D.npz"),
}


@pytest.mark.each_choice
@pytest.mark.parametrize("as_json", [False, True], ids=["text", "json"])
@pytest.mark.parametrize("name", COMMANDS)
def test_nothing_of_a_name_is_obeyed(
    name: str,
    as_json: bool,
    model: Path,
    command: Command,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    short_clocks: None,
    batch_in_process: None,
) -> None:
    import numpy as np

    monkeypatch.chdir(tmp_path)
    np.savez("D.npz", **{"\x1b[31mother\u202e": np.zeros(3)})
    places = {"M": str(model), "O": "o.onnx", "OUT": "out", "DIR": str(model.parent)}
    result = command(*[places.get(word, word) for word in COMMANDS[name]], *["--json"] * as_json)
    assert result.exit_code != 70, result.stderr
    assert harmless(result.stdout), result.stdout
    assert harmless(result.stderr), result.stderr
    if not as_json and name in ("inspect", "score"):
        assert result.exit_code == 0
        assert "\\x1b[31m" in result.stdout
    for page in tmp_path.glob("*.html"):
        content = page.read_text(encoding="utf-8")
        assert harmless(content)
        assert "<script" not in content
    for picture in tmp_path.glob("*.svg"):
        assert harmless(picture.read_text(encoding="utf-8"))


def test_bugs_are_printed_escaped_too(model: Path, command: Command, monkeypatch: pytest.MonkeyPatch) -> None:
    def stumbles(*_: object) -> None:
        raise KeyError(EVIL)

    monkeypatch.setattr("onnxheadprune.reporting.console.rows_of", stumbles)
    result = command("inspect", model)
    assert result.exit_code == 70
    assert "Traceback" in result.stderr
    assert harmless(result.stderr)


def test_every_character_is_either_shown_or_spelled() -> None:
    for number in itertools.chain(range(0x3000), range(0xFE00, 0x10000), (0xE0041, 0xD800)):
        shown = escaped(chr(number))
        assert not OBEYED.search(shown)
        assert "\n" not in shown
        assert shown == chr(number) or shown.startswith("\\")
    assert escaped("häd_0/注意.weight [x]") == "häd_0/注意.weight [x]"
    assert escaped("a\nb\x1b", lines=True) == "a\nb\\x1b"
