"""What identifies a row is whole at every width of a terminal, and nothing else is lost."""

from __future__ import annotations

import re
import shlex
from pathlib import Path

import pytest

from onnxheadprune.display.facts import Facts, Figure, Figures, Strip, UnitMap
from onnxheadprune.reporting.console import Console, next_call, rows_of
from tests.conftest import SAMPLES, Command

WIDTHS = (40, 60, 80, 100, 120)
NAMES = ("one", "encoder.layer.3.attention", "model.text_encoder.layers.11.self_attn")
MODEL = SAMPLES / "tiny" / "bert-torchscript-sdpa.onnx"


def printed(width: int, *rows: object) -> list[str]:
    console = Console(width=width, highlight=False, markup=False, emoji=False)
    with console.capture() as captured:
        console.print(*rows, sep="\n")
    return captured.get().splitlines()


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("heads", [1, 8, 16, 40, 130])
def test_a_strip_of_heads_has_numbers_and_a_legend(width: int, heads: int) -> None:
    scores: list[tuple[float | None, ...]] = [tuple(0.1 * head for head in range(heads)) for _ in NAMES]
    scores.append((None, *([0.5] * (heads - 1))))
    names = (*NAMES, "partly")
    strips = [
        Strip(f"attn.{site}", name, scores[site], (heads - 1,) * (site == 1))
        for site, name in enumerate(names)
    ]
    lines = printed(width, *rows_of(Facts("m", parts=(UnitMap("heads", tuple(strips), "kept, in no cut"),))))
    assert all(len(line.rstrip()) <= width for line in lines)
    text = "\n".join(lines[1:])
    for part in (*names, *(strip.key for strip in strips)):
        assert part in text
        text = text.replace(part, "")
    symbols = re.sub(r"[^░▒▓█x·]", "", text.partition("░▒▓█ low")[0])
    assert symbols.count("x") == 1 and symbols.count("·") == 1
    assert sum(map(symbols.count, "░▒▓█")) == 4 * heads - 2
    assert f"heads 0 to {heads - 1}" in text
    for words in ("low to high score", "x removed", "kept, in no cut"):
        assert words in " ".join(text.split())


@pytest.mark.parametrize("asked", ["1", "39", "40", "41"])
def test_narrow_terminals_are_believed(
    asked: str, command: Command, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("COLUMNS", asked)
    lines = command("score", MODEL, "--method", "weight").stdout.splitlines()
    assert max(len(line.rstrip()) for line in lines if "/" not in line) <= max(int(asked), 40)


@pytest.mark.parametrize("width", WIDTHS)
def test_no_figure_is_wider_than_the_terminal(width: int) -> None:
    rows = (
        Figure("weights in int8-dynamic", "479 kB", "140 kB", "-71 %"),
        Figure("operations", "9.52 M", "8.26 M", "-13 %", "at 2 x 1 x 8 x 8"),
        Figure("accuracy", "98.7 %", "98.9 %", "+0.2 points", "450 labels"),
        Figure("speed", "0.97x", note="at least, at every size"),
        Figure("drift", note="not measured: give data"),
    )
    lines = printed(width, *rows_of(Facts("job", "accepted", parts=(Figures(rows),))))
    assert all(len(line) <= width for line in lines)
    flat = " ".join(" ".join(lines).split())
    for row in rows:
        change = f"{row.before} -> {row.after} {row.change}" if row.after else row.before
        assert all(" ".join(text.split()) in flat for text in (row.name, change, row.note))


@pytest.mark.parametrize("width", WIDTHS)
def test_a_command_that_is_wrapped_is_the_same_command(width: int) -> None:
    words = [
        "onnxheadprune",
        "prune",
        "a model.onnx",
        f"{'folder/' * 12}model.onnx",
        "--heads",
        "0:1 1:2",
        "-o",
        'it\'s "it".onnx',
    ]
    lines = printed(width, next_call(shlex.join(words)))
    # A shell takes a backslash at the end of a line away, with the end.
    assert shlex.split("\n".join(lines).removeprefix("next").replace("\\\n", "")) == words
    assert all(
        len(line) <= width or len(line.removeprefix("next").rstrip("\\").split()) == 1 for line in lines
    )
