"""A golden file: a graph as text, the heads that go, the plan, and the graph without them.

What this file tells, in words.

heads: 0:1
weights: seed 0
== before
== plan           (or "== refused", and then nothing after it)
== after
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnx import ModelProto

from onnxheadprune import RefusedError, apply_plan, plan_pruning
from onnxheadprune.edit.edits import SetRecord
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.operators import view_of
from tests.graph_text import model_of, text_of

REFERENCE = re.compile(r"\bmain\[\d+\](?:\.\w+\[\d+\])*")
SETTING = re.compile(r"(heads|weights|options): (.*)")
OPTIONS: dict[str, dict[str, Any]] = {
    "cache=keep": {"cache": "keep"},
    "allow-io-change": {"allow_io_change": True},
}


@dataclass(frozen=True)
class Golden:
    """What the upper part of a golden file asks for.

    Attributes:
        header: everything above the graph, as it stands.
        model: the graph, its weights filled in.
        heads: a head spec.
        options: flags of `prune`, without dashes in front.
    """

    header: str
    model: ModelProto
    heads: str
    options: tuple[str, ...]

    @property
    def flags(self) -> dict[str, Any]:
        """The options as arguments of the planner."""
        return {name: value for option in self.options for name, value in OPTIONS[option].items()}


def read(path: Path) -> Golden:
    """The question of a golden file; its answers are not looked at."""
    header, _, rest = path.read_text(encoding="utf-8").partition("== before\n")
    settings = dict(match.groups() for line in header.splitlines() if (match := SETTING.fullmatch(line)))
    options = tuple(settings.get("options", "").split())
    assert set(options) <= set(OPTIONS), f"{path.name}: {options}"
    seed = int(settings["weights"].removeprefix("seed "))
    return Golden(header, model_of(rest.partition("\n== ")[0], seed), settings["heads"], options)


def answered(golden: Golden) -> tuple[str, ModelProto | None]:
    """The whole golden file as it should be, and the pruned model, None if the heads are refused."""
    sections = {"before": text_of(golden.model)}
    pruned = None
    try:
        plan = plan_pruning(golden.model, heads=golden.heads, **golden.flags)
    except RefusedError as error:
        sections["refused"] = f"{error}\n"
    else:
        view = view_of(golden.model)
        changes = [f"interface: {sentence}" for sentence in plan.io_changes]
        edits = [str(item.edit) for item in plan.edits if not isinstance(item.edit, SetRecord)]
        cuts = [line for line in str(plan).splitlines()[1:] if not line.startswith(" ")]
        removed = f"{plan.elements_removed} elements of weights removed"
        lines = [*cuts, *changes, *(f"  {_named(edit, view)}" for edit in edits), removed]
        pruned = apply_plan(plan, golden.model)
        sections |= {"plan": "\n".join(lines) + "\n", "after": text_of(pruned)}
    return golden.header + _joined(sections), pruned


def _joined(sections: Mapping[str, str]) -> str:
    return "\n".join(f"== {title}\n{text}" for title, text in sections.items())


def _named(line: str, view: GraphView) -> str:
    """A line with every reference to a node replaced by what a reader of the text finds: operator and output."""

    def words(match: re.Match[str]) -> str:
        node = view.by_ref.get(match[0])
        if node is None:
            return match[0]
        return f"{node.op_type}({', '.join(value.name for value in node.outputs if value is not None)})"

    named = REFERENCE.sub(words, line)
    return re.sub(r"^drop (\w+) (?=\1\()", "drop ", named)
