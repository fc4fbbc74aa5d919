"""The reports of `prune` and `recover`: the answer on one screen, then what to type; the line of a batch."""

from __future__ import annotations

import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.display.facts import Facts
from onnxheadprune.display.spelling import escaped
from onnxheadprune.reporting.console import NEXT, STYLES, Row, is_asked, next_call, rows_of
from onnxheadprune.settings.units import SCORED

if TYPE_CHECKING:
    from onnxheadprune.attention.sites.all_sites import Sites
    from onnxheadprune.deploying.batch import BatchFile


def answer_report(facts: Facts, then: str = "", report: Path | None = None) -> Iterator[RenderableType]:
    """The answer on one screen: the sentence, the figures, what to know, and what to do next.

    Args:
        then: the command to type next, empty for none.
        report: a page that has the rest; None if none was asked for.
    """
    yield from rows_of(facts)
    yield ""
    if then:
        yield next_call(then)
    if not is_asked("verbose"):
        page = "; --report page.html" if report is None else ""
        yield Row("more", f"--verbose shows each site, the plan and the proof{page}", indent=NEXT)


def item_line(item: BatchFile) -> Text:
    """One line about one model."""
    line = Text(f"{item.status:8}", style=STYLES[item.word.state])
    return line.append(f" {escaped(item.file)} ({item.seconds:.1f} s)", style="default")


def first_call(sites: Sites, output: str, *, has_text: bool) -> Iterator[Row]:
    """Yield the command that removes a quarter of a model, if more than one head can be removed from it."""
    if sum(site.num_heads - len(site.removed) for site in sites if site.removable) < 2:
        return
    kinds = (kind for kind, find in sites.others.items() if any(site.removable for site in find().sites))
    others = [kind.units for kind in kinds if kind.units in SCORED]
    units = f" --units {','.join(('heads', *others))}" if others else ""
    data = "YOURS.txt" if has_text else "YOURS.npz"
    model = shlex.quote(sites.model)
    yield next_call(f"onnxheadprune prune {model} --ratio 0.25{units} --data {data} -o {output}")
