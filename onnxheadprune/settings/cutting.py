"""Settings of cuts: units to remove, their selection, and the adjustment of the remaining model."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, fields, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, Self, TypeAlias

from onnxheadprune.settings.registry import (
    METHODS,
    REMOVED,
    WITHOUT_DATA,
    default_method,
    for_each_kind,
    methods_of,
)
from onnxheadprune.settings.setting import (
    CHANGES,
    REMOVAL,
    SELECTION,
    Bounds,
    Count,
    Factors,
    Natural,
    Positive,
    Setting,
    Share,
    Text,
    excludes,
    requires,
)
from onnxheadprune.settings.units import SCORED, SELECTED

AMOUNT = "ratio keep target_size target_speedup max_drift"
"""Settings of which one specifies how much to remove."""
UNITS = " ".join(SELECTED)
"""Settings that name the units to remove."""
TOKENS = "vocab vocab_size"
"""Settings that specify the tokens to keep."""

Method: TypeAlias = Literal[tuple(METHODS)]  # type: ignore[valid-type]  # type checkers read api/typed.py
Unit: TypeAlias = Literal[SELECTED]  # type: ignore[valid-type]
ScoredUnits: TypeAlias = Literal[tuple(SCORED)]  # type: ignore[valid-type]
Fuse: TypeAlias = Literal["auto", "onnx", "contrib", "none"]
Spec: TypeAlias = Text | Mapping[str, tuple[int, ...] | Literal["*"]] | None
Cache: TypeAlias = Literal["narrow", "keep", "renumber"]

MULTIPLES: Mapping[str, int] = {units: kind.multiple for units, kind in SCORED.items()}
"""The default multiples of which the number of kept units is one."""


_MULTIPLES = ",".join(f"{units}={number}" for units, number in MULTIPLES.items())


def _multiples(text: str) -> dict[str, int]:
    """Numbers by kind of unit from "heads=2,neurons=8"."""
    parts = [item.partition("=") for item in text.split(",")]
    if not all(name in MULTIPLES and number.isdigit() and int(number) for name, _, number in parts):
        raise ValueError(f"{text!r} is not of the form {_MULTIPLES}")
    return {name: int(number) for name, _, number in parts}


def value_names(text: str) -> tuple[str, ...]:
    """Names of inputs or outputs from "logits,scores", none from "none"; each once."""
    named = dict.fromkeys(name for item in text.split(",") if (name := item.strip()))
    return () if list(named) == ["none"] else tuple(named)


def unit_kinds(text: str) -> tuple[str, ...]:
    """Kinds of units from "heads,neurons" or "all"; each once, in their order."""
    named = set(SELECTED) if text.strip() == "all" else {item.strip() for item in text.split(",")}
    if strange := sorted(named - set(SELECTED)):
        raise ValueError(f"there are {', '.join(SELECTED)} or all, not {', '.join(strange) or 'nothing'}")
    return tuple(kind for kind in SELECTED if kind in named)


def _listed(reads: str) -> str:
    *names, last = methods_of(reads)
    return f"{', '.join(names)} or {last}"


def with_methods(names: Iterable[str]) -> str:
    """Methods as rules name them."""
    return " ".join(f"method={name}" for name in names)


_QUOTED = ", ".join(f'"{units}"' for units in SELECTED)
_OTHER_KINDS = [requires("units target_size", value=units) for units in [*SCORED][1:]]
METHODS_HELP = for_each_kind(_listed, "; of")
DEFAULT_HELP = for_each_kind(lambda reads: default_method([reads]), ", of")
NO_DATA = excludes(with_methods(WITHOUT_DATA))
"""Of data, where units are scored alone."""
DRIFT_HELP = (
    "What drift is measured in: kl (divergence of distributions, nats per position), cosine (1 - cosine), auto (kl for"
    " logits, else cosine), or module:function of your own, called with (before, after, feed); larger is worse"
    " [default: auto]."
)
DRIFTS = "auto kl cosine"
Drift = Annotated[
    Text | None,
    Setting(
        DRIFT_HELP,
        metavar="M",
        rules=(excludes("dry_run validate=False", unless="data"),),
        section=SELECTION,
        offers=DRIFTS,
    ),
]
Units = Annotated[
    Annotated[tuple[Unit, ...], Bounds(min_length=1)],
    Setting(
        f'What may be removed: {_QUOTED} with commas between, or "all". With more than heads, ratios are shares of the'
        " operations of these blocks or layers; with experts, which save memory, of their bytes"
        " [default: heads; for a size of the file, with data, heads,neurons].",
        metavar="KIND,KIND",
        parse=unit_kinds,
        offers="all",
        rules=(requires(AMOUNT), requires("data")),
        section=SELECTION,
    ),
]
Recover = Annotated[
    Positive | Text | None,
    Setting(
        "Then train the remaining weights on the data to match the original's outputs: N epochs, or a time like 90s or"
        " 5m.",
        metavar="N|Ts",
        rules=(requires(f"{UNITS} {AMOUNT}"), requires("data"), excludes("dry_run")),
        section=SELECTION,
    ),
]
Time = Annotated[
    Text | None,
    Setting(
        "The time of the whole call, like 4m or 90s: what selecting, adjusting and the proof leave of it, the remaining"
        " weights are trained for. Several models or sizes share it.",
        metavar="T",
        rules=(
            requires(f"{UNITS} {AMOUNT}"),
            requires("data"),
            # How many workers another cluster has, and so what each may take, nobody knows.
            excludes("dask", unless="dask=local"),
            excludes("recover dry_run"),
        ),
        section=SELECTION,
    ),
]
Resume = Annotated[
    bool,
    Setting(
        "Continue an interrupted training from the file OUT.recovery.",
        # The state of one training is kept, beside the one output.
        rules=(requires("recover time"), excludes("max_drift")),
        section=SELECTION,
    ),
]


@dataclass(frozen=True, kw_only=True)
class Selecting:
    """The selection of units and the adjustment of the remaining weights."""

    SECTION: ClassVar[str] = SELECTION

    scores: Annotated[
        Path | None,
        Setting(
            "Scores of heads and other units: a file made by `score`, or CSV or JSON of your own.",
            metavar="FILE",
            rules=(requires(AMOUNT), excludes("method")),
        ),
    ] = None
    method: Annotated[
        Method | None,
        Setting(
            f"Score units by this method on the data, as `score` does, and select by these scores: {METHODS_HELP}.",
            metavar="M",
            rules=(requires(AMOUNT), requires(f"data {with_methods(WITHOUT_DATA)}")),
            removed=REMOVED,
        ),
    ] = None
    protect: Annotated[
        Text | None,
        Setting(
            'Heads to keep, a head spec; a bare site ("0 5:1,2") means all of its heads.',
            metavar="H",
            rules=(requires(AMOUNT),),
        ),
    ] = None
    units: Units = ()
    min_heads: Annotated[
        Natural,
        Setting(
            "Heads that every site keeps at least; with 0 whole sites may be removed.",
            metavar="N",
            also="floor",
            rules=(requires(AMOUNT),),
        ),
    ] = 1
    multiple_of: Annotated[
        Mapping[ScoredUnits, Count],
        Setting(
            "The number of heads that a site keeps, of neurons that a feed-forward block keeps, or of experts that a"
            " mixture keeps, is a multiple of N"
            f" [default: {_MULTIPLES}].",
            metavar="UNIT=N,UNIT=N",
            parse=_multiples,
            also="round-to neurons-multiple-of",
            rules=(
                requires(AMOUNT),
                *_OTHER_KINDS,
            ),
        ),
    ] = field(default_factory=dict)
    uniform: Annotated[
        bool,
        Setting(
            "Remove the same share of the heads of every site.", rules=(requires(AMOUNT), excludes("keep"))
        ),
    ] = False
    refit: Annotated[
        bool | None,
        Setting(
            "Adjust the remaining weights to match the original's activations [default: where units are selected on"
            " data].",
            rules=(
                requires(f"{UNITS} {AMOUNT}", value="True"),
                requires(f"{AMOUNT} recover time", value="False"),
                requires("data"),
            ),
            also="compensate",
        ),
    ] = None
    drift: Drift = None

    @property
    def takes_whole_groups(self) -> bool:
        """True if KV heads are removed with all their query heads."""
        return False

    def multiple(self, units: str) -> int:
        """Return the number of which a site keeps a multiple of units of a kind."""
        return self.multiple_of.get(units, MULTIPLES.get(units, 1))


@dataclass(frozen=True, kw_only=True)
class Cut(Selecting):
    """The units to remove, and the adjustment of the remaining model."""

    SECTION: ClassVar[str] = REMOVAL

    heads: Annotated[
        Spec,
        Setting(
            'Heads to remove: "0:1,3 5:0-3 *:7" (site index, name or *, then heads and ranges), or a JSON file'
            ' {"0": [1, 3]}.',
            metavar="H",
            rules=(excludes(AMOUNT),),
        ),
    ] = None
    neurons: Annotated[
        Spec,
        Setting(
            'Neurons to remove from feed-forward blocks: "0:0-511 ffn.4:7 *:3", or a JSON file like that of {heads}.',
            metavar="N",
            rules=(excludes(AMOUNT),),
            also="mlp ffn intermediate-size",
        ),
    ] = None
    experts: Annotated[
        Spec,
        Setting(
            'Experts to remove from mixtures: "0:3,7 moe.4:1 *:0", or a JSON file like that of {heads}. The router'
            " chooses among the others.",
            metavar="E",
            rules=(excludes(AMOUNT),),
            also="moe mixture num-experts",
        ),
    ] = None
    layers: Annotated[
        Text | None,
        Setting(
            'Layers, and whole attentions and feed-forward blocks, to remove: "3 5-7 attn.9 ffn.4". A removed layer is'
            " the identity; the last bias of a block is kept.",
            metavar="L",
            rules=(excludes(AMOUNT),),
        ),
    ] = None
    exit: Annotated[
        Count | None,
        Setting(
            "Make early exit N permanent first (`inspect` lists them): everything behind it is removed, and its"
            " condition.",
            metavar="N",
        ),
    ] = None
    vocab: Annotated[
        Path | None,
        Setting(
            "Tokens to keep, one a line, or their ids; with counts behind a tab where {vocab_size} selects among them."
            " Token ids are renumbered, and the tokenizer of a folder follows.",
            metavar="FILE",
        ),
    ] = None
    vocab_size: Annotated[
        Annotated[int, Bounds(ge=2)] | None,
        Setting(
            "Number of tokens to keep: the most frequent ones of the data or of {vocab}.",
            metavar="N",
            rules=(requires("vocab data"),),
        ),
    ] = None
    token_ids: Annotated[
        Text | None,
        Setting(
            "The inputs with token ids, with commas between, where several index tables: others keep theirs.",
            metavar="NAME,NAME",
            rules=(requires(TOKENS),),
        ),
    ] = None
    token_logits: Annotated[
        Text | None,
        Setting(
            "The outputs that are logits of tokens, with commas between, or none; where the model does not show it.",
            metavar="NAME,NAME",
            rules=(requires(TOKENS),),
        ),
    ] = None
    ratio: Annotated[
        Share | None,
        Setting(
            "Share of all heads to remove, 0.25 or 25%; of operations, where more than heads may be removed; of bytes,"
            " where experts may be.",
            metavar="R",
            also="sparsity amount pruning-ratio prune-ratio fraction percent",
            rules=(excludes("keep target_size target_speedup max_drift"),),
        ),
    ] = None
    keep: Annotated[
        Count | None,
        Setting(
            "Heads, or experts, that every site keeps, or layers that the model keeps.",
            metavar="N",
            rules=(excludes("target_size target_speedup max_drift"),),
        ),
    ] = None
    target_size: Annotated[
        Share | None,
        Setting(
            "The smallest cut whose file takes at most R of the original's bytes, 0.75 or 75%: by heads and, with"
            " {data}, neurons, or by {units}.",
            metavar="R",
            also="size file-size max-size size-ratio target-file-size compression smaller",
            rules=(excludes("target_speedup max_drift"),),
        ),
    ] = None
    target_speedup: Annotated[
        Annotated[float, Factors(gt=1, lt=100)] | None,
        Setting(
            "The smallest cut that is X times as fast at every size, measured on this machine as `bench` does.",
            metavar="X",
            rules=(excludes("max_drift"),),
        ),
    ] = None
    max_drift: Annotated[
        Positive | None,
        Setting(
            "The largest cut whose drift is at most X, on held-out data and on all of it; see {drift}.",
            metavar="X",
        ),
    ] = None
    fuse: Annotated[
        Fuse,
        Setting(
            "Also rewrite attention into fused operators: ONNX Runtime's own (contrib), the standard Attention (onnx),"
            " or the fastest on this machine (auto).",
            section=CHANGES,
        ),
    ] = "none"
    cache: Annotated[
        Cache,
        Setting(
            "What happens to past and present inputs and outputs: they lose the removed heads (narrow), keep their"
            " shapes (keep), or those of removed attention blocks are dropped too and the others renumbered"
            " (renumber).",
            rules=(
                requires(f"{UNITS} {AMOUNT}"),
                # Attention is removed as a whole where it, or all of its heads, are named or may be selected.
                requires(f"heads layers {AMOUNT}", value="renumber"),
            ),
            section=CHANGES,
            also="keep-cache-shape renumber-cache",
        ),
    ] = "narrow"
    allow_io_change: Annotated[
        bool,
        Setting(
            "Also narrow inputs and outputs other than caches, where they carry heads.",
            rules=(requires(f"{UNITS} {AMOUNT}"),),
            section=CHANGES,
        ),
    ] = False

    @property
    def has_target(self) -> bool:
        """True if it specifies how much to remove, and units are selected."""
        return any(getattr(self, name) is not None for name in AMOUNT.split())

    def naming(self, heads: Any) -> Self:
        """The same cut of these units and no others, which are not selected any more."""
        changed: dict[str, Any] = dict.fromkeys((*SELECTED, *AMOUNT.split())) | {"heads": heads}
        return replace(self, **changed)


if unnamed := SCORED.keys() - {item.name for item in fields(Cut)}:
    raise TypeError(f"Cut declares no option for units that may be selected: {', '.join(sorted(unnamed))}")


def units_of(selecting: Selecting, *, has_data: bool) -> tuple[Unit, ...]:
    """Kinds of units that may be removed: those that were asked for, or the default."""
    by_size = isinstance(selecting, Cut) and selecting.target_size is not None
    return selecting.units or (("heads", "neurons") if by_size and has_data else ("heads",))


@dataclass(frozen=True, kw_only=True)
class Scoring:
    """Scoring of units. Without it they are scored where they are selected."""

    SECTION: ClassVar[str] = SELECTION

    method: Annotated[
        Method | None,
        Setting(
            f"How units are scored: {METHODS_HELP} [default: {DEFAULT_HELP}, without data {WITHOUT_DATA[0]}].",
            metavar="M",
            removed=REMOVED,
        ),
    ] = None
    drift: Annotated[
        Text | None,
        Setting(
            f"For ablation: {DRIFT_HELP[0].lower()}{DRIFT_HELP[1:]}",
            metavar="M",
            rules=(requires("method=ablation"),),
            offers=DRIFTS,
        ),
    ] = None


@dataclass(frozen=True, kw_only=True)
class Recovering:
    """Training of the remaining weights to match the original's outputs."""

    SECTION: ClassVar[str] = SELECTION

    budget: Annotated[
        Positive | Text, Setting("How long to train: N epochs, or a time like 90s or 5m.", metavar="N|Ts")
    ] = 10
    time: Annotated[
        Text | None,
        Setting(
            "The time of the whole call in its place, like 4m or 90s.",
            metavar="T",
            rules=(excludes("budget"),),
        ),
    ] = None
    drift: Drift = None
