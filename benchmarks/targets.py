"""What the tool promises about speed, each as one row of a Markdown table: the figure, the target, kept or not."""

from __future__ import annotations

import platform
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import date
from typing import Any

from onnxheadprune import Benchmark
from onnxheadprune.benchmarking.measure import Ratio

WITHIN = 0.03
REACHED = 0.90
SATURATING = 8
"""Batch size from which a cut must pay."""


@dataclass(frozen=True)
class Row:
    """One promise at one size."""

    what: str
    size: str
    figure: str
    target: str
    kept: bool | None

    def markdown(self) -> str:
        """The row of a table."""
        mark = {True: "kept", False: "**missed**", None: ""}[self.kept]
        return f"| {self.what} | {self.size} | {self.figure} | {self.target} | {mark} |"


def spell(ratio: Ratio) -> str:
    """A ratio with its interval."""
    return f"{ratio.value:.3f} [{ratio.low:.3f}, {ratio.high:.3f}]"


def same_speed(what: str, result: Benchmark) -> list[Row]:
    """The second model must take as long as the first one, within 3 %."""
    rows = []
    for cell in result.cells_of(1):
        assert cell.comparison is not None
        ratio = cell.comparison.ratio
        # An interval wider than the target itself proves neither side.
        telling = ratio.high - ratio.low <= 2 * WITHIN or ratio.low > 1 + WITHIN
        figure = f"latency ratio {spell(ratio)}" + ("" if telling else ", too noisy to tell")
        kept = ratio.value <= 1 + WITHIN if telling else None
        rows.append(Row(what, cell.point.label, figure, "at most 1.03", kept))
    return rows


def bound_reached(what: str, result: Benchmark) -> list[Row]:
    """The second model must reach 90 % of the speed-up that its operations allow, from batch 8 on."""
    rows = []
    for cell in result.cells_of(1):
        compared = cell.comparison
        assert compared is not None and compared.bound is not None and compared.reached is not None
        saved = "" if compared.saved is None else f"; {compared.saved:.0%} of the time that can be saved"
        figure = f"{compared.speedup:.3f}x of {compared.bound:.3f}x = {compared.reached:.1%}{saved}"
        counts = cell.point.batch >= SATURATING
        rows.append(
            Row(
                what,
                cell.point.label,
                figure,
                "at least 90 %" if counts else "none below batch 8",
                compared.reached >= REACHED if counts else None,
            )
        )
    return rows


def faster(what: str, result: Benchmark) -> list[Row]:
    """The second model must be faster than the first one wherever attention is not noise."""
    rows = []
    for cell in result.cells_of(1):
        assert cell.comparison is not None
        ratio, verdict = cell.comparison.ratio, cell.comparison.verdict
        rows.append(
            Row(what, cell.point.label, f"{1 / ratio.value:.3f}x, {verdict}", "faster", verdict == "faster")
        )
    return rows


def markdown(title: str, result: Benchmark, rows: Sequence[Row], budget: float) -> str:
    """The whole page."""
    lines = [f"## {title}", "", about(result.machine, result.versions, result.provider.label, budget), ""]
    lines += ["| what | size | figure | target | |", "|---|---|---|---|---|"]
    return "\n".join([*lines, *(row.markdown() for row in rows)]) + "\n"


def about(machine: dict[str, Any] | Any, versions: dict[str, str] | Any, provider: str, budget: float) -> str:
    """Machine, versions and date in one sentence."""
    cards = ", ".join(card["name"] for card in machine["cards"]) or "no GPU"
    load = machine["load_average"]
    busy = "" if load is None else f", load average before the start {load:.1f}"
    return (
        f"{machine['processor']}, {machine['cores']} cores, {cards}{busy}; Python {platform.python_version()}, onnx"
        f" {versions['onnx']}, {versions['onnxruntime_package']} {versions['onnxruntime']} on {provider};"
        f" {budget:.0f} s per size; {date.today():%d %B %Y}."
    )
