"""The results of one graph of the zoo."""

from __future__ import annotations

import enum
import json
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from fnmatch import fnmatchcase
from typing import Any

from onnxheadprune import AttentionSite, Sites

HEADS, NEURONS, LAYERS, EXPERTS, TOKENS = KINDS = ("heads", "neurons", "layers", "experts", "tokens")

KNOWN = {
    "levit.*": "its containers number attention and network one after the other; a layer is one of each",
    "timm-levit.*": "the attention that halves a stage lies in no container of layers",
    "granite-moe*": "the state in front of the first layer is what its normalization casts",
    "timm-davit.*": "a block of the container is a spatial and a channel block, each with attention and network",
    "torchvision-mvit-v1.ts17": "TorchScript writes no shapes behind the pooling, so its heads cannot be told",
    "torchvision-mvit-v2.*": "queries are added to the context and stay when a head goes; or shapes are unknown",
}
"""Rows that may be as they are, by shell patterns, and the reason, which the page prints. All others are failures."""


class Outcome(enum.StrEnum):
    """How the cuts of one kind ended; the last three are failures."""

    EXACT = "exact"
    GATHERS = "exact with edge gathers"
    REFUSED = "refused"
    NO_SITE = "no site"
    UNEXPECTED = "unexpected"
    WRONG = "WRONG"
    ERROR = "error"

    @property
    def is_exact(self) -> bool:
        """Whether units were removed and nothing else changed."""
        return self in (Outcome.EXACT, Outcome.GATHERS)

    @property
    def is_failure(self) -> bool:
        """Whether the engine did something that it must not do."""
        return self in (Outcome.UNEXPECTED, Outcome.WRONG, Outcome.ERROR)


@dataclass(frozen=True)
class Verdict:
    """The results of the cuts of one kind.

    Attributes:
        outcome: the worst of all cuts; `NO_SITE` where there is nothing of this kind.
        found: sites of the graph.
        compared: cuts that were compared.
        equal: how many of them are equal.
        torch: how many of the equal ones were compared with PyTorch, the others with the masked reference alone.
        second: how many were also compared with the mask at another place than the cut's.
        refusals: why units cannot go.
        wrong: what is not as it must be.
        error: largest error of any output of an equal cut, relative to its scale.
        steps: whether a decode through the narrowed cache was compared too.
    """

    outcome: Outcome
    found: int = 0
    compared: int = 0
    equal: int = 0
    torch: int = 0
    second: int = 0
    refusals: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    error: float = 0.0
    steps: bool = False

    @property
    def words(self) -> str:
        """What there is to say about the outcome."""
        return "; ".join((*self.wrong, *self.refusals))


@dataclass(frozen=True)
class Counts:
    """Heads, KV heads, layers and MLPs, of a module or as they are found.

    Attributes:
        heads: query heads of each attention, in order; None where one is no site.
        kv: key/value heads of each attention; None where nothing shows which heads share them.
        layers: layers of each stack with attention, ascending; None where the module has no container of layers.
        blocks: MLPs; None where the module's attributes name none, or run for some of the tokens.
    """

    heads: tuple[int | None, ...] = ()
    kv: tuple[int | None, ...] = ()
    layers: tuple[int, ...] | None = None
    blocks: int | None = None


@dataclass(frozen=True)
class Row:
    """One graph.

    Attributes:
        case: the architecture.
        variant: the exporter and the steps after it.
        family: what the architecture is one of: a family of the zoo, or a package.
        package: whether it is a package's.
        expect: what pruning should answer: "exact", "refused" or "no-site".
        failed: why there is no graph.
        true: what the module has.
        found: what is found in the graph.
        extra: removable sites that are no attention of the module.
        silent: attentions that are neither a site nor a near miss.
        verdicts: by kind of unit.
    """

    case: str
    variant: str
    family: str
    package: bool = False
    expect: str = "exact"
    failed: str = ""
    true: Counts = Counts()
    found: Counts = Counts()
    extra: tuple[str, ...] = ()
    silent: int = 0
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The architecture and the variant."""
        return f"{self.case}.{self.variant}"

    @property
    def miscounted(self) -> tuple[str, ...]:
        """The counts that differ from the module's."""
        apart = {
            name: any(
                found not in (None, true)
                for true, found in zip(getattr(self.true, name), getattr(self.found, name), strict=False)
            )
            for name in ("heads", "kv")
        }
        if "+" not in self.variant:  # what a step fuses or quantizes may be no block, or no layer
            apart |= {
                name: getattr(self.true, name) not in (None, getattr(self.found, name))
                for name in ("layers", "blocks")
            }
        return tuple(name for name, is_wrong in apart.items() if is_wrong)

    @property
    def problems(self) -> dict[str, str]:
        """The failures, by kind of unit or by count."""
        failed = {kind: verdict for kind, verdict in self.verdicts.items() if verdict.outcome.is_failure}
        found = {kind: f"{verdict.outcome}: {verdict.words}" for kind, verdict in failed.items()}
        found |= dict.fromkeys(self.miscounted, f"{self.found} for {self.true}")
        if self.extra:
            found["extra"] = f"{', '.join(self.extra)}: no attention of the module"
        if self.gap:
            found.setdefault(HEADS, self.gap)
        return found

    @property
    def reason(self) -> str | None:
        """Why the row may be as it is, None if nobody said so, or it is wrong."""
        if any(verdict.outcome in (Outcome.WRONG, Outcome.ERROR) for verdict in self.verdicts.values()):
            return None
        return next((reason for pattern, reason in KNOWN.items() if fnmatchcase(self.name, pattern)), None)

    @property
    def gap(self) -> str:
        """How a graph got less than it should, or more, without a wrong model."""
        if self.failed or HEADS not in self.verdicts:
            return ""
        if self.silent:
            return f"{self.silent} attentions without a word"
        outcome, compared = self.verdicts[HEADS].outcome, self.verdicts[HEADS].compared
        sites = sum(heads is not None for heads in self.found.heads)
        is_less = (
            self.expect == "exact"
            and bool(self.true.heads)
            and (sites < len(self.true.heads) or not compared)
        )
        is_more = self.expect != "exact" and (outcome.is_exact or (self.package and compared))
        return f"{sites} sites, {compared} cuts" if is_less or is_more else ""

    def __str__(self) -> str:
        told = (
            f"{kind} {verdict.outcome} {verdict.words}".strip() for kind, verdict in self.verdicts.items()
        )
        return f"{self.name}: {'; '.join((*told, *map(str, self.problems.items())))}"

    def to_json(self) -> str:
        """Return the row in one line, without what is as by default; errors to three figures."""
        return json.dumps(_told(asdict(self)))

    @classmethod
    def from_json(cls, line: str) -> Row:
        """Return the inverse of `to_json`."""
        data: dict[str, Any] = json.loads(line, object_hook=_tuples)
        verdicts = {
            kind: Verdict(Outcome(said.pop("outcome")), **said)
            for kind, said in data.pop("verdicts", {}).items()
        }
        counts = {side: Counts(**data.pop(side, {})) for side in ("true", "found")}
        return cls(**data, **counts, verdicts=verdicts)


def _told(item: Any) -> Any:
    if isinstance(item, float):
        return float(f"{item:.2e}")
    if not isinstance(item, dict):
        return item
    left_out: tuple[Any, ...] = ("", False, 0, (), {}, None)
    told = {name: _told(value) for name, value in item.items() if (name, value) != ("expect", "exact")}
    # No block, and no layer, is a count.
    counted = (("blocks", 0), ("layers", ()))
    return {name: value for name, value in told.items() if value not in left_out or (name, value) in counted}


def _tuples(data: dict[str, Any]) -> dict[str, Any]:
    return {name: tuple(value) if isinstance(value, list) else value for name, value in data.items()}


def found_counts(sites: Sites, attention: Iterable[AttentionSite | None]) -> Counts:
    """Return what is found in a graph.

    Args:
        sites: of the graph.
        attention: the site of each attention of the module.
    """
    own = list(attention)
    attending = (layer for layer in sites.of(LAYERS) if any(part.KIND.begins_layers for part in layer.parts))
    stacks = Counter(layer.key.rpartition(".")[0] for layer in attending)
    return Counts(
        heads=tuple(None if site is None else site.num_heads for site in own),
        kv=tuple(None if site is None or not site.kv_known else site.kv_num_heads for site in own),
        layers=tuple(sorted(stacks.values())),
        blocks=sum(block.kind == "feed-forward" for block in sites.neurons),
    )
