"""The vocabulary of a model, as `inspect` shows it, and how much of the user's text it spells as before."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.console import RenderableType
from rich.text import Text

from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.reporting.layout import count, many, row, share, size, table

if TYPE_CHECKING:
    from onnxheadprune.data.respelled import Spelling
    from onnxheadprune.workflow.vocabulary.otherwise import Otherwise


def vocabulary_report(found: Sequence[Mapping[str, Any]]) -> Iterator[RenderableType]:
    """Table of the tensors with a row or a column per token, by the inputs that hold token ids."""
    if not found:
        return
    yield Text("\nvocabulary (--vocab, --vocab-size)", style="bold")
    made = table(
        "token ids", "tensor", "tokens", "size", "of weights", numeric=("tokens", "size", "of weights")
    )
    for entry in found:
        for held in entry["tables"]:
            made.add_row(
                ", ".join(entry["inputs"]),
                held["tensor"],
                count(entry["rows"]),
                size(held["bytes"]),
                share(held["share"]),
            )
    yield made


def vocabulary_rows(plan: PrunePlan, spelling: Spelling | None) -> Iterator[RenderableType]:
    """Yield how many tokens are left, in which tensors, and how much of the data they spell as before."""
    if plan.vocabulary is None:
        return
    found = plan.vocabulary
    yield row(
        "vocabulary",
        f"{count(found.left)} of {many(found.tokens.rows, 'token')} kept, in {', '.join(found.tables)}; ids are"
        f" renumbered in {', '.join((*found.tokens.inputs, *found.outputs))}",
    )
    yield from spelling_rows(spelling)


def spelling_rows(spelling: Spelling | None, otherwise: Otherwise | None = None) -> Iterator[RenderableType]:
    """Yield how much of the data is spelled as before, and how far outputs move on the rest of it."""
    if spelling is not None and spelling.tokens:
        same = share(spelling.unchanged / spelling.tokens)
        yield row(
            "spelling",
            f"{same} of {many(spelling.tokens, 'token')} of the data are kept; {count(spelling.whole)} of"
            f" {many(spelling.samples, 'sample')} are spelled as before",
        )
    if otherwise is not None and otherwise.reason:
        yield row("", f"the others are not compared: {otherwise.reason}")
    elif otherwise is not None:
        yield row(
            "",
            f"on {many(otherwise.texts, 'text')} spelled otherwise, each model with its own tokenizer: mean cosine to"
            f" the original {otherwise.cosine:.4f}, worst {otherwise.worst:.4f}",
        )
