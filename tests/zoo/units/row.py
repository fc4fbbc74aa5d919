"""What came of cutting neurons and layers of one folder of the zoo."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tests.zoo.row import Outcome


@dataclass(frozen=True)
class Verdict:
    """What came of the cuts of one kind.

    Attributes:
        outcome: the worst of all cuts; `NO_SITE` where there is nothing of this kind.
        found: blocks, or layers, of the graph.
        cuts: how many cuts were compared and equal.
        torch: how many of them with PyTorch, the others with the masked reference.
        gathers: why edge gathers are needed, without names of nodes and values.
        refusals: why units cannot go, likewise.
        detail: what is wrong, for people.
        error: largest error of any output, relative to its scale.
    """

    outcome: Outcome
    found: int = 0
    cuts: int = 0
    torch: int = 0
    gathers: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    detail: str = ""
    error: float = 0.0

    @property
    def words(self) -> str:
        """What there is to say about the outcome."""
        return "; ".join(filter(None, (self.detail, *self.gathers, *self.refusals)))


@dataclass(frozen=True)
class UnitRow:
    """One folder.

    Attributes:
        case: the architecture.
        variant: the exporter and the steps after it.
        family: the module that defines the case.
        verdicts: by kind of unit.
    """

    case: str
    variant: str
    family: str
    verdicts: Mapping[str, Verdict]

    @property
    def name(self) -> str:
        """The folder."""
        return f"{self.case}.{self.variant}"

    @property
    def failures(self) -> Mapping[str, Verdict]:
        """What is not as it must be, by kind."""
        return {kind: verdict for kind, verdict in self.verdicts.items() if verdict.outcome.is_failure}

    def __str__(self) -> str:
        told = (
            f"{kind} {verdict.outcome} {verdict.words}".strip() for kind, verdict in self.verdicts.items()
        )
        return f"{self.name}: {'; '.join(told)}"

    def to_json(self) -> str:
        """The row in one line."""
        verdicts = {kind: _told(verdict) for kind, verdict in self.verdicts.items()}
        return json.dumps(asdict(self) | {"verdicts": verdicts})

    @classmethod
    def from_json(cls, line: str) -> UnitRow:
        """The inverse of `to_json`."""
        data: dict[str, Any] = json.loads(line)
        verdicts = {kind: _verdict(found) for kind, found in data["verdicts"].items()}
        return cls(**(data | {"verdicts": verdicts}))


def _told(verdict: Verdict) -> dict[str, Any]:
    """What a verdict has beyond nothing; errors to three figures."""
    found = {name: value for name, value in asdict(verdict).items() if value}
    return found | ({"error": float(f"{verdict.error:.2e}")} if verdict.error else {})


def _verdict(data: dict[str, Any]) -> Verdict:
    tuples = {name: tuple(data.get(name, ())) for name in ("gathers", "refusals")}
    return Verdict(**(data | {"outcome": Outcome(data["outcome"])} | tuples))
