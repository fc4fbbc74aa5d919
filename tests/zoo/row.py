"""The results of one folder of the zoo."""

from __future__ import annotations

import enum
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any

from onnxheadprune import AttentionSite, Sites
from onnxheadprune.attention.sites.layers import LayerSite
from onnxheadprune.model.graph.view import GraphView

HEADS, NEURONS, LAYERS, EXPERTS, TOKENS = KINDS = ("heads", "neurons", "layers", "experts", "tokens")


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
        gathers: why edge gathers are needed, without names of nodes and values.
        refusals: why units cannot go, likewise.
        wrong: what is not as it must be, for people.
        error: largest error of any output of an equal cut, relative to its scale.
        steps: whether a decode through the narrowed cache was compared too.
    """

    outcome: Outcome
    found: int = 0
    compared: int = 0
    equal: int = 0
    torch: int = 0
    second: int = 0
    gathers: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    wrong: tuple[str, ...] = ()
    error: float = 0.0
    steps: bool = False

    @property
    def words(self) -> str:
        """What there is to say about the outcome."""
        return "; ".join((*self.wrong, *self.gathers, *self.refusals))


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
    """One folder.

    Attributes:
        case: the architecture.
        variant: the exporter and the steps after it.
        family: what the architecture is one of: a family of the zoo, or a package.
        package: whether it is a package's.
        expect: what pruning should answer: "exact", "refused" or "no-site".
        failed: why there is no graph.
        true: what the module has.
        found: what is found in the graph.
        kinds: blocks by their kind.
        extra: removable sites that are no attention of the module.
        misses: reasons of near misses, without names of nodes and values.
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
    kinds: Mapping[str, int] = field(default_factory=dict)
    extra: tuple[str, ...] = ()
    misses: tuple[str, ...] = ()
    silent: int = 0
    verdicts: Mapping[str, Verdict] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """The folder."""
        return f"{self.case}.{self.variant}"

    @property
    def sites(self) -> int:
        """Attentions that are found."""
        return sum(heads is not None for heads in self.found.heads)

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
        found = {kind: f"{verdict.outcome}: {verdict.words}" for kind, verdict in self.failures.items()}
        found |= dict.fromkeys(self.miscounted, f"{self.found} for {self.true}")
        if self.extra:
            found["extra"] = f"{', '.join(self.extra)}: no attention of the module"
        if self.gap:
            found.setdefault(HEADS, self.gap)
        return found

    @property
    def is_short(self) -> bool:
        """Whether an attention is no site."""
        return self.sites < len(self.true.heads)

    @property
    def gap(self) -> str:
        """How a graph got less than it should, or more, without a wrong model."""
        if self.failed or HEADS not in self.verdicts:
            return ""
        if self.silent:
            return f"{self.silent} attentions without a word"
        verdict = self.verdicts[HEADS]
        compared = verdict.compared
        is_less = self.expect == "exact" and bool(self.true.heads) and (self.is_short or not compared)
        is_more = self.expect != "exact" and (verdict.outcome.is_exact or (self.package and compared))
        return f"{self.sites} sites, {compared} cuts" if is_less or is_more else ""

    @property
    def failures(self) -> dict[str, Verdict]:
        """The verdicts that are failures."""
        return {kind: verdict for kind, verdict in self.verdicts.items() if verdict.outcome.is_failure}

    def __str__(self) -> str:
        told = (
            f"{kind} {verdict.outcome} {verdict.words}".strip() for kind, verdict in self.verdicts.items()
        )
        return f"{self.name}: {'; '.join((*told, *map(str, self.problems.items())))}"

    def to_json(self) -> str:
        """The row in one line, without what is as by default; errors to three figures."""
        return json.dumps(_told(asdict(self)))

    @classmethod
    def from_json(cls, line: str) -> Row:
        """The inverse of `to_json`."""
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


def found_counts(sites: Sites, attention: Iterable[AttentionSite | None]) -> tuple[Counts, dict[str, int]]:
    """The sites of a graph, and its blocks by kind.

    Args:
        sites: of the graph.
        attention: the site of each attention of the module.
    """
    own = list(attention)
    stacks = Counter(
        layer.key.rpartition(".")[0]
        for layer in sites.of(LAYERS)
        if isinstance(layer, LayerSite) and any(site.KIND.begins_layers for site in layer.parts)
    )
    kinds = Counter(block.kind for block in sites.neurons)
    counts = Counts(
        heads=tuple(None if site is None else site.num_heads for site in own),
        kv=tuple(None if site is None or not site.kv_known else site.kv_num_heads for site in own),
        layers=tuple(sorted(stacks.values())),
        blocks=kinds["feed-forward"],
    )
    return counts, dict(sorted(kinds.items()))


_NODE = re.compile(r" \((?:at|in) [^()]*(?:\([^()]*\))?\)|; leave at least one (?:head|neuron)$")
_ORDINARY = frozenset(("", *"a attention axis bias context head heads input model node output".split()))
_ORDINARY |= frozenset("scale shape site value values weights".split())
_SETS = re.compile(
    r"(?<=^heads )[\d,]+ of attn\.\d+ \(.*?\) "
    r"|(?<=^neurons )[-\d,]+ of ffn\.\d+ \(.*?\) "
    r"|: [\d, and]+ only go together.*$"
)
_SITE = re.compile(r"^(attn|ffn)\.\d+ \(.*?\) (?=can)")
_CALLED = {"attn": "the site ", "ffn": "the block "}


def general(sentences: Iterable[str], view: GraphView, sites: Sites) -> tuple[str, ...]:
    """Reasons without the names of this one graph, sorted and each once."""
    names = {node.proto.name: "a node" for node in view.nodes} | {node.ref: "a node" for node in view.nodes}
    names |= {value.name: "a value" for value in view.values()}
    names |= {site.name: "a site" for site in sites}
    found = {_general(sentence, names) for sentence in sentences}
    return tuple(sorted(found))


def _general(sentence: str, names: dict[str, str]) -> str:
    sentence = _NODE.sub("", _SITE.sub(lambda found: _CALLED[found[1]], _SETS.sub("", sentence)))
    return " ".join(_word(word, names) for word in sentence.split(" "))


def _word(word: str, names: dict[str, str]) -> str:
    bare = word.strip(",;:'\"")
    # A graph may call a value "x" or a site "model": words of our own sentences are not names.
    return word.replace(bare, names[bare]) if bare in names and bare not in _ORDINARY else word
