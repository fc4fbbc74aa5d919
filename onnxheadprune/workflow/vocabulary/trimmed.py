"""One model with the tokens that are kept, and what a run reads then: data under new ids."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.attention.vocabulary.find import vocabulary_of
from onnxheadprune.attention.vocabulary.trim import Trimming, trimming
from onnxheadprune.data.more import Feeds
from onnxheadprune.data.respelled import Spelling, as_data, lines_of, respelled
from onnxheadprune.edit.plan import PrunePlan
from onnxheadprune.errors import UsageError
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.runtime.feeds.data import load_data
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.runtime.feeds.samples import Sample
from onnxheadprune.workflow.requests import Request
from onnxheadprune.workflow.vocabulary.keep import counted, kept_ids
from onnxheadprune.workflow.vocabulary.tokenizer import TokenizerFile, tokenizer_path


@dataclass(frozen=True, eq=False)
class Trimmed:
    """A model with fewer tokens, as a run goes on with it.

    Attributes:
        trimming: the model, and what was done.
        request: what is asked for, with data under new ids.
        spelling: of the data, None without.
    """

    trimming: Trimming
    request: Request
    spelling: Spelling | None

    @property
    def model(self) -> LoadedModel:
        """The model with the tokens that are kept."""
        return self.trimming.model

    def on(self, plan: PrunePlan) -> PrunePlan:
        """A plan that was made for this model, as one for the model before."""
        return self.trimming.on(plan)


def trimmed(subject: LoadedModel, request: Request) -> Trimmed:
    """The model with the tokens that a request keeps.

    Args:
        subject: the model; with its exit, where one is made permanent.
        request: what is asked for.

    Raises:
        HeadPruneError: if the tokens cannot be chosen or removed.
    """
    tokens, data = request.choice.tokens, request.run.data
    assert tokens is not None
    data = None if data is None else lines_of(data)
    view = view_of(subject)
    vocabulary = vocabulary_of(view, subject.name, tokens.inputs, tokens.rows)
    inputs = tuple(graph_inputs(view))
    samples = None if data is None else list(load_data(data, inputs))
    if tokens.rows is None:
        # A rare token may be in no sample that is held in memory.
        every = (Sample(feed, None, "") for feed in data.every()) if isinstance(data, Feeds) else samples
        counts = None if every is None else counted(every, inputs, vocabulary)
        place = _tokenizer_beside(subject)
        tokenizer = None if place is None else TokenizerFile(place)
        kept = kept_ids(tokens, vocabulary.rows, tokenizer, counts, vocabulary.stored)
    else:
        # Decided for all files of a folder.
        kept = [int(place) for place in tokens.keep or ()]  # type: ignore[union-attr]
    made = trimming(subject, kept, vocabulary.inputs, vocabulary.rows)
    if samples is None or not vocabulary.inputs:
        return Trimmed(made, request, None)
    spelling, left = respelled(samples, inputs, made)
    assert data is not None
    run = replace(request.run, data=as_data(left, data) if left else None)
    if not left and _needs_data(request):
        raise UsageError("no sample of the data has tokens that are kept only; keep more tokens")
    return Trimmed(made, replace(request, run=run), spelling)


def _needs_data(request: Request) -> bool:
    choice = request.choice
    return choice.wish is not None or bool(choice.refit) or choice.recover is not None


def _tokenizer_beside(model: LoadedModel) -> Path | None:
    """The tokenizer beside a model, or in the folder above."""
    if model.path is None:
        return None
    places = (tokenizer_path(place) for place in (model.path.parent, model.path.parent.parent))
    return next(filter(None, places), None)
