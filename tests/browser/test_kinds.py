"""A page of every kind, from a real call: nothing sticks out, and no barrier for assistive technology."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import onnx
import pytest

from onnxheadprune.cli.program import group
from tests.conftest import Command
from tests.deploying import exports
from tests.graphs import toys
from tests.graphs.experts import TOYS
from tests.vocabulary.graphs import GRAPHS

pytestmark = pytest.mark.browser
TIMED = "--batch 1 --repeats 7"
CUT = "prune model.onnx --heads 0:1 -o {name}.onnx"
JOB = """
model: model.onnx
output: {name}
data: {{path: random}}
prune: {{ratio: 0.5}}
validate: {{}}
gate: {{max_drift: {limit}}}
"""
KINDS = {
    "prune": f"{CUT} --report prune.html",
    "choice": "prune model.onnx --ratio 0.5 --data random -o choice.onnx --report choice.html",
    "folder": "prune folder --heads 0:1 -o pruned --report folder.html",
    "experts": "prune experts.onnx --experts 0:1,4 -o experts-cut.onnx --report experts.html",
    "vocabulary": "prune words.onnx --vocab keep.txt -o words-cut.onnx --report vocabulary.html",
    "fuse": "prune model.onnx --fuse contrib -o fused.onnx --report fuse.html",
    "recover": f"{CUT}; recover model.onnx recover.onnx -o better.onnx --data random --budget 1"
    " --report recover.html",
    "validate": f"{CUT}; validate model.onnx validate.onnx --json > validate.json;"
    " report validate.json -o validate.html",
    "bench": f"{CUT}; bench model.onnx bench.onnx {TIMED} --json > bench.json; report bench.json -o bench.html",
    "sweep": "sweep model.onnx 0:0.5:0.5 --data random -o sweep.json; report sweep.json -o sweep.html",
    "several": f"{CUT} --json > several.json; report several.json several.json -o several.html",
    "accepted": "run accepted.yaml",
    "rejected": "run rejected.yaml",
}
AXE = {"light": 390, "dark": 1280}
"""Widths of the window, by theme."""


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Models of every kind."""
    made = tmp_path_factory.mktemp("kinds")
    onnx.save(toys.attention(), made / "model.onnx")
    onnx.save(next(iter(TOYS.values())).model(), made / "experts.onnx")
    onnx.save(GRAPHS["plain"](), made / "words.onnx")
    (made / "keep.txt").write_text("0\n1\n3\n5\n7\n10\n", encoding="utf-8")
    exports.encoder(made / "folder")
    for name, limit in (("accepted", 100), ("rejected", 1e-9)):
        (made / f"{name}.yaml").write_text(JOB.format(name=name, limit=limit), encoding="utf-8")
    return made


def test_every_command_with_a_report_has_a_page() -> None:
    reporting = {
        name for name, item in group.commands.items() if any("--report" in o.opts for o in item.params)
    }
    assert {call.split()[0] for line in KINDS.values() for call in line.split("; ")} >= reporting | {
        "run",
        "report",
    }


def heard(page: Any) -> list[str]:
    """What a page will write to its console."""
    complaints: list[str] = []
    page.on("console", lambda message: complaints.append(message.text))
    page.on("pageerror", lambda error: complaints.append(str(error)))
    return complaints


@pytest.mark.parametrize("kind", KINDS)
def test_a_page_is_read_everywhere(
    kind: str,
    folder: Path,
    command: Command,
    monkeypatch: pytest.MonkeyPatch,
    browser: Any,
) -> None:
    axe = pytest.importorskip("axe_playwright_python.sync_playwright")
    monkeypatch.chdir(folder)
    for line in KINDS[kind].format(name=kind).split("; "):
        call, _, into = line.partition(" > ")
        outcome = command(*shlex.split(call))
        assert outcome.exit_code == (kind == "rejected"), outcome
        if into:
            Path(into).write_text(outcome.stdout, encoding="utf-8")
    page = folder / kind / "report.html" if line.startswith("run") else folder / f"{kind}.html"
    for theme, width in AXE.items():
        context = browser.new_context(color_scheme=theme, viewport={"width": width, "height": 800})
        opened = context.new_page()
        complaints = heard(opened)
        opened.goto(page.as_uri())
        found = axe.Axe().run(opened).response["violations"]
        assert [(item["id"], [node["target"] for node in item["nodes"]]) for item in found] == []
        beyond = opened.evaluate(
            "document.documentElement.scrollWidth - document.documentElement.clientWidth"
        )
        assert beyond <= 0 and complaints == [], (width, complaints)
        assert ("the limit is broken" in opened.locator("body").inner_text()) == (kind == "rejected")
        context.close()
