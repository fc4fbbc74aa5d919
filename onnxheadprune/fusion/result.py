"""The outcome of fusion for each site of a model, as immutable data."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Annotated, Literal, TypeAlias

from onnxheadprune.edit.records import FusedSite
from onnxheadprune.model.one_line import one_line
from onnxheadprune.model.typed_json import OR_NULL, JsonObject, written
from onnxheadprune.settings.units import called

FuseMode: TypeAlias = Literal["auto", "onnx", "contrib", "none"]


@one_line()
@dataclass(frozen=True)
class SiteFusion(JsonObject):
    """One site.

    Attributes:
        index, name: of the site.
        operator: the fused operator it runs in, "" if it was left unchanged.
        before: whether it was fused already.
        reason: why it was left unchanged, "" if it was not.
    """

    index: int
    name: str
    operator: Annotated[str, OR_NULL] = ""
    before: bool = False
    reason: Annotated[str, OR_NULL] = ""

    @written()
    def fused(self) -> bool:
        """True if it runs in a fused operator."""
        return bool(self.operator)


@dataclass(frozen=True)
class Trial(JsonObject):
    """One candidate of "auto"."""

    mode: FuseMode  # its operators
    obstacle: Annotated[str, OR_NULL] = ""  # why it was not measured, "" if it was
    # its latency over the unfused model's, per measured size
    ratios: Mapping[str, float] = field(default_factory=dict)

    def __str__(self) -> str:
        found = ", ".join(f"{ratio:.2f} at {label}" for label, ratio in self.ratios.items())
        return f"{self.mode}: {self.obstacle or found or 'not measured'}"


@one_line("mode chosen sites opset")
@dataclass(frozen=True)
class Fusion(JsonObject):
    """All sites of a model.

    Attributes:
        mode: which operators were asked for.
        sites: what became of each.
        opset: the model's opset afterwards.
        opset_before: and before.
        chosen: what "auto" kept ("contrib", "onnx" or "none"); the mode itself otherwise.
        trials: what "auto" tried.
    """

    mode: FuseMode
    sites: tuple[SiteFusion, ...]
    opset: int
    opset_before: int
    chosen: FuseMode = "none"
    trials: tuple[Trial, ...] = ()

    @property
    def made(self) -> tuple[SiteFusion, ...]:
        """The sites that were fused now."""
        return tuple(site for site in self.sites if site.operator and not site.before)

    @written("fused")
    def _count(self) -> int:
        return len(self.made)

    @written()
    def operators(self) -> dict[str, int]:
        """Fused sites per operator."""
        return dict(Counter(site.operator for site in self.sites if site.operator))

    @property
    def summary(self) -> str:
        """One line without the reasons."""
        fused = [site for site in self.sites if site.operator]
        kinds = ", ".join(f"{count} {name}" for name, count in self.operators().items())
        head = f"fused {len(self.made)} of {len(self.sites)} sites" + (f" ({kinds})" if kinds else "")
        already = sum(1 for site in fused if site.before)
        if already:
            head += f", {already} of them fused before"
        if self.opset != self.opset_before:
            head += f"; opset {self.opset_before} -> {self.opset}"
        return head

    def __str__(self) -> str:
        return "; ".join([self.summary, *spell_reasons(self.sites), *map(str, self.trials)])

    def record(self) -> tuple[FusedSite, ...]:
        """The fused sites, for the model's record."""
        return tuple(FusedSite(site.index, site.operator) for site in self.sites if site.operator)


def spell_reasons(sites: Sequence[SiteFusion]) -> list[str]:
    """One sentence per reason, with the sites it applies to."""
    grouped: dict[str, list[int]] = {}
    for site in sites:
        if site.reason:
            grouped.setdefault(site.reason, []).append(site.index)
    return [f"{', '.join(map(called, indices))}: {reason}" for reason, indices in grouped.items()]
