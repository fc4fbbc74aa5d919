"""What came of checking one folder of the zoo."""

from __future__ import annotations

import enum
import json
import re
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.model.graph.view import GraphView


class Outcome(enum.StrEnum):
    """How a folder ended; the last three are failures."""

    EXACT = "exact"
    GATHERS = "exact with edge gathers"
    REFUSED = "refused"
    NO_SITE = "no site"
    UNEXPECTED = "unexpected"
    WRONG = "WRONG"
    ERROR = "error"

    @property
    def is_exact(self) -> bool:
        """Whether heads were removed and nothing else changed."""
        return self in (Outcome.EXACT, Outcome.GATHERS)

    @property
    def is_failure(self) -> bool:
        """Whether the engine did something that it must not do."""
        return self in (Outcome.UNEXPECTED, Outcome.WRONG, Outcome.ERROR)


@dataclass(frozen=True)
class Row:
    """One folder.

    Attributes:
        case: the architecture.
        variant: the exporter and the steps after it.
        family: the module that defines the case.
        outcome: the worst of all head sets.
        gathers: why edge gathers are needed, without names of nodes and values.
        refusals: why head sets were legally refused, likewise.
        detail: what is wrong, for people.
        error: largest error of any output, relative to its scale.
        steps: whether a decode through the narrowed cache was compared too.
    """

    case: str
    variant: str
    family: str
    outcome: Outcome
    gathers: tuple[str, ...] = ()
    refusals: tuple[str, ...] = ()
    detail: str = ""
    error: float = 0.0
    steps: bool = False

    @property
    def words(self) -> str:
        """What there is to say about the outcome."""
        return "; ".join(filter(None, (self.detail, *self.gathers, *self.refusals)))

    def __str__(self) -> str:
        return f"{self.case}.{self.variant}: {self.outcome}{': ' + self.words if self.words else ''}"

    def to_json(self) -> str:
        """The row in one line."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Row:
        """The inverse of `to_json`."""
        data: dict[str, Any] = json.loads(line)
        data["outcome"] = Outcome(data["outcome"])
        tuples = {name: tuple(data[name]) for name in ("gathers", "refusals")}
        return cls(**(data | tuples))


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
