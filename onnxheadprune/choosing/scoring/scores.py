"""Scores of units as data: what every head, and every neuron, is worth."""

from __future__ import annotations

from bisect import bisect_left
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, get_args

from onnxheadprune.attention.heads import listed, parse_heads
from onnxheadprune.attention.sites.kinds import called, every_kind, key_of, kind_at
from onnxheadprune.attention.sites.site import Site
from onnxheadprune.errors import UsageError
from onnxheadprune.model.notebook import Html, card, line, squares, table
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.spelling import file_name, many
from onnxheadprune.settings.cutting import Method

METHODS: tuple[Method, ...] = get_args(Method)
SHARES: tuple[Method, ...] = (
    "weight",
    "activation",
    "fluctuation",
    "reconstruction",
    "reap",
    "frequency",
    "random",
)
"""Those whose scores are shares of a site, which order its units and do not compare across sites."""
WITHOUT_DATA: Method = "weight"
"""The one that needs no data, and knows of the model."""
RANDOM: Method = "random"
DATA_FREE = (WITHOUT_DATA, RANDOM)
FISHER: Method = "fisher"
TAYLOR: Method = "taylor"


FORMAT = 1
"""Of the file; see `score_files`."""
MAX_SCORES = 2**26
"""Bytes of a file of scores; those of half a million units take half of it."""


@one_line("index name scores")
@dataclass(frozen=True)
class SiteScores:
    """Scores of one site's units: heads, or neurons.

    Attributes:
        index: of the site.
        name: of the site.
        scores: one per unit of the original model, None for a unit that is gone; larger is worth more.
    """

    index: int
    name: str
    scores: tuple[float | None, ...]

    @property
    def key(self) -> str:
        """How a spec names the site: "3", or "ffn.3" for a feed-forward block."""
        return key_of(self.index)

    @property
    def kind(self) -> type[Site]:
        """Of its units."""
        return kind_at(self.index)


@one_line("model method unit sites data samples")
@dataclass(frozen=True)
class HeadScores:
    """The scores of all heads and, where requested, of all neurons.

    Attributes:
        method: how the scores came about.
        unit: what a score means; scores of one unit add up and compare across sites.
        model: the model's name.
        sites: scores per site, attention sites first.
        data: fingerprint of the calibration data, None where none was used.
        samples: how many samples that were.
        source: where they came from.
        constant: of methods that take gradients: what was held constant on the way, with the reason, by the name of
            the value.
    """

    method: str
    unit: str
    model: str
    sites: tuple[SiteScores, ...]
    data: str | None = None
    samples: int = 0
    source: str | None = None
    constant: Mapping[str, str] = field(default_factory=dict)
    _by_index: Mapping[int, SiteScores] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_by_index", {site.index: site for site in self.sites})

    def of(self, site: Site) -> tuple[float, ...]:
        """Scores of a site's present units, in their order.

        Raises:
            UsageError: if the scores are not of this model, or of no units of this kind.
        """
        found = self._by_index.get(site.index)
        kind = kind_at(site.index)
        if self.sites and not any(kind.owns(other.index) for other in self.sites):
            raise UsageError(
                f"the scores have none for the {site.UNITS} of {site.label}; score them too, with"
                f" --units {','.join(each.UNITS for each in every_kind())}"
            )
        if found is None or len(found.scores) != site.original_num_units:
            has = "no scores" if found is None else f"{len(found.scores)} scores"
            raise UsageError(
                f"the scores have {has} for {site.label}, which has"
                f" {site.original_num_units} {site.UNIT}s; they are of another model"
            )
        values = [found.scores[unit] for unit in site.original_units]
        if any(value is None for value in values):
            raise UsageError(f"the scores lack a {site.UNIT} of {site.label}")
        return tuple(float(value) for value in values if value is not None)

    @property
    def heads(self) -> tuple[SiteScores, ...]:
        """Those of sites with few units, each of which is worth a look: heads, experts."""
        return tuple(site for site in self.sites if not site.kind.WIDE)

    @property
    def blocks(self) -> tuple[SiteScores, ...]:
        """Those of feed-forward blocks: of sites with hundreds of units."""
        return tuple(site for site in self.sites if site.kind.WIDE)

    @property
    def kinds(self) -> str:
        """What is scored, in words: "heads", "neurons" or "heads and neurons"."""
        return " and ".join(dict.fromkeys(site.kind.UNITS for site in self.sites))

    @property
    def are_shares(self) -> bool:
        """True if scores are shares of a site, so that they order its heads but do not compare across sites."""
        return self.unit.startswith("share of the site")

    def by_site(self) -> dict[str, tuple[float | None, ...]]:
        """Scores of heads per site, under "index name"."""
        return {f"{called(site.index)} {site.name}".strip(): site.scores for site in self.heads}

    def _repr_html_(self) -> str:
        known = sorted(value for site in self.heads for value in site.scores if value is not None)
        last = max(len(known) - 1, 1)

        def drawn(site: SiteScores) -> Html:
            # Ranks, so that a few huge scores do not hide the rest.
            ranks = [None if value is None else bisect_left(known, value) / last for value in site.scores]
            told = [
                "gone" if value is None else f"{site.kind.UNIT} {unit}: {value:.3g}"
                for unit, value in enumerate(site.scores)
            ]
            return squares(ranks, words=told)

        return card(
            f"{file_name(self.model)}: {self.kinds} scored by {self.method}",
            table(
                ("#", "site", "the bluer, the higher the score, by rank"),
                ((called(site.index), site.name, drawn(site)) for site in self.heads),
            )
            if self.heads
            else None,
            *(
                line(kind.UNITS, f"of {many(count, kind.BLOCK)}")
                for kind, count in Counter(site.kind for site in self.blocks).items()
            ),
            line("unit", self.unit),
            line("data", f"{many(self.samples, 'sample')} of {self.source}")
            if self.source is not None
            else None,
        )

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready data: the file format."""
        return {
            "format": FORMAT,
            "method": self.method,
            "unit": self.unit,
            "model": self.model,
            "data": {"source": self.source, "fingerprint": self.data, "samples": self.samples},
            "constant": dict(self.constant),
            "sites": [
                {"index": site.index, "key": site.key, "name": site.name, "scores": list(site.scores)}
                for site in self.sites
            ],
        }


def equal_scores(sites: Sequence[Site]) -> HeadScores:
    """Scores by which all units of some sites are worth the same."""
    entries = (SiteScores(site.index, site.name, (1.0,) * site.original_num_units) for site in sites)
    return HeadScores("none", "", "", tuple(entries))


def is_protected(protected: str | None, sites: Sequence[Site]) -> dict[int, frozenset[int]]:
    """Heads that must stay, per site index (indices of the original model), from a head spec.

    A bare site ("3" or a name) protects all of its heads.

    Raises:
        UsageError: if the spec does not fit the model.
    """
    found: dict[int, frozenset[int]] = {}
    for token in (protected or "").split():
        spec = token if ":" in token else None
        key = token if spec is None else token.rpartition(":")[0]
        matching = [site for site in sites if key in ("*", site.key, site.name)]
        if not matching:
            raise UsageError(f"there is no {key!r} to protect; this model has {listed(sites)}")
        for site in matching:
            heads = range(site.original_num_units) if spec is None else parse_heads(spec)[key]
            if any(head >= site.original_num_units for head in heads):
                raise UsageError(
                    f"{site.label} has {site.original_num_units} {site.UNIT}s, so {token!r} protects none"
                )
            found[site.index] = found.get(site.index, frozenset()) | frozenset(heads)
    return found
