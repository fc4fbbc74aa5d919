"""The text inputs of a model, and the inputs that depend on them (masks, positions, caches)."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from onnxheadprune.data.beside import ALONE, Beside, Maker
from onnxheadprune.data.vocabulary import Tokens
from onnxheadprune.display.spelling import first_few
from onnxheadprune.errors import UsageError
from onnxheadprune.runtime.feeds.data import Sample
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input, Role
from onnxheadprune.runtime.feeds.prefill import EMBEDDED, TokenMask, encoder_states, following, follows

_TARGET = "decoder"
_SOURCE = "encoder"


@dataclass(frozen=True)
class Pair:
    """The tokens of one text."""

    source: Tokens  # the input tokens
    target: Tokens


def takes_target(inputs: Sequence[Input]) -> bool:
    """Return whether a model takes the target text of its decoder, besides the input text or its states."""
    return encoder_states(inputs) is not None or any(
        item.role is Role.IDS and item.name.lower().startswith(_TARGET) for item in inputs
    )


class Prompts:
    """The text inputs of a model, and the inputs that depend on them.

    Attributes:
        inputs: the graph inputs.
        beside: the other models in its folder.
    """

    def __init__(self, inputs: Sequence[Input], beside: Beside) -> None:
        """Find the inputs."""
        self.inputs, self.beside = inputs, beside
        self._states = encoder_states(inputs)
        rows = [item for item in inputs if item.role is Role.IDS and len(item.dims) == 2]
        targets = [item for item in rows if self._is_target(item)]
        self._target = next(iter(targets), None)
        self._source = next((item for item in rows if item not in targets), None)
        self._embedded = next(
            (item for item in inputs if item.name == EMBEDDED and len(item.dims) == 3), None
        )
        ids = self._target or self._source or self._embedded
        if ids is None:
            raise UsageError(
                "the model has no input for token ids, so text is of no use; give its inputs with `data`"
            )
        if any(isinstance(dim, int) for dim in ids.dims[:2]):
            raise UsageError(
                f"the token ids have the fixed shape {ids.describe()}; give inputs of that shape with `data`"
            )
        missing = [f"{item.name} ({item.describe()})" for item in inputs if not self._follows(item)]
        if missing:
            raise UsageError(
                _not_from_text(missing, any(item.is_cache and not self._follows(item) for item in inputs))
            )
        if self.has_target and beside.start is None:
            raise UsageError(
                f"no config.json beside {beside.name} says which token its decoder starts with"
                f" (decoder_start_token_id); put it there, or give the model's inputs with `data`"
            )
        self._encoder = None if self._states is None else _prompts_of(beside.require_encoder(self._states))
        self._embedding = (
            None if self._embedded is None else _prompts_of(beside.require_embedding(self._embedded))
        )

    @property
    def has_target(self) -> bool:
        """True if the model is a decoder with another text than the encoder."""
        return self._target is not None

    def _is_target(self, item: Input) -> bool:
        """Return whether an input belongs to the target text of a decoder, not to the input text."""
        name = item.name.lower()
        return name.startswith(_TARGET) or (self._states is not None and not name.startswith(_SOURCE))

    def _follows(self, item: Input) -> bool:
        return (
            item in (self._source, self._target, self._embedded, self._states)
            or (len(item.dims) == 2 and item.role in (Role.MASK, Role.IDS))
            or follows(item, self.inputs)
        )

    def check(self, samples: Sequence[Pair], tokenizer: str) -> None:
        """Check that the model's vocabulary and positions cover the tokens."""
        sources = (token for sample in samples for token in sample.source)
        targets = (token for sample in samples for token in (*self._first, *sample.target))
        for item, tokens in ((self._source, sources), (self._target, targets)):
            largest = -1 if item is None else max(tokens)
            if item is not None and item.rows is not None and largest >= item.rows:
                raise UsageError(
                    f"{tokenizer} gives the token {largest}, but the model's vocabulary has {item.rows} entries; it is"
                    " the tokenizer of another model"
                )
        for pair in samples:
            most = self._too_long(pair)
            if most is not None:
                longest = max(len(pair.source), len(pair.target))
                raise UsageError(
                    f"a text has {longest} tokens, and the model knows {most} positions; cut texts off with"
                    f" `max_length={most}`"
                )
        for inner in (self._encoder, self._embedding):
            if inner is not None:
                inner.check(samples, tokenizer)

    @property
    def _first(self) -> Tokens:
        return [] if self.beside.start is None else [self.beside.start]

    def _too_long(self, pair: Pair) -> int | None:
        """The model's largest number of positions where a text has more tokens, else None."""
        for item in self.inputs:
            length = len(pair.target if self._is_target(item) else pair.source)
            if item.role is Role.POSITIONS and item.rows is not None and length > item.rows:
                return item.rows
        return None

    def misfit(self, pair: Pair) -> str | None:
        """Return the reason why `check` would refuse a text ("of more than 512 tokens"), None if it fits."""
        known = ((self._source, pair.source), (self._target, [*self._first, *pair.target]))
        if any(
            item is not None and item.rows is not None and max(tokens) >= item.rows for item, tokens in known
        ):
            return "with tokens that the model does not know"
        most = self._too_long(pair)
        if most is not None:
            return f"of more than {most} tokens"
        inner = (part.misfit(pair) for part in (self._encoder, self._embedding) if part is not None)
        return next((why for why in inner if why is not None), None)

    @property
    def pads(self) -> bool:
        """True if texts of different lengths can share a batch, because a mask hides padding.

        Decoders that read an encoder have no mask for their targets.
        """
        masked = any(item.role is Role.MASK for item in self.inputs)
        return masked and not self.has_target and self._states is None

    @property
    def longest(self) -> int | None:
        """The tokens of the longest text that tables of positions have rows for; None without any."""
        rows = [item.rows for item in self.inputs if item.role is Role.POSITIONS and item.rows is not None]
        inner = (part.longest for part in (self._encoder, self._embedding) if part is not None)
        return min([*rows, *(most for most in inner if most is not None)], default=None)

    def rows(self, texts: Iterable[Pair]) -> Iterator[Sample]:
        """Yield the inputs for each text; those of similar length follow each other."""
        for text in sorted(texts, key=lambda text: (self.has_target * len(text.target), len(text.source))):
            yield Sample(self.feed(text), None, "a text")

    def feed(self, text: Pair) -> Feed:
        """The inputs for one text."""
        ids = np.array([text.source], np.int64)
        target = np.array([[self.beside.start, *text.target[:-1]]], np.int64) if self.has_target else ids
        return self._filled(ids, target)

    def _filled(self, ids: TokenMask, target: TokenMask) -> Feed:
        made: Feed = {}
        for item in self.inputs:
            about = np.ones_like(target if self._is_target(item) else ids)
            if item is self._source:
                made[item.name] = ids.astype(item.dtype)
            elif item is self._target:
                made[item.name] = target.astype(item.dtype)
            elif item is self._states:
                assert self._encoder is not None
                made[item.name] = self.beside.states(self._encoder._filled(ids, target), item)
            elif item is self._embedded:
                assert self._embedding is not None
                made[item.name] = self.beside.embedded(self._embedding._filled(ids, target), item)
            elif item.role is Role.MASK:
                made[item.name] = about.astype(item.dtype)
            elif follows(item, self.inputs):
                made[item.name] = following(item, self.inputs, about, about.shape[1])
            else:
                made[item.name] = np.zeros(about.shape, item.dtype)
            if len(item.dims) == 2 and item.batch_axis == 1:
                made[item.name] = np.ascontiguousarray(made[item.name].T)
        return made


def _not_from_text(missing: Sequence[str], in_cache: bool) -> str:
    several = len(missing) > 1
    first = ""
    if in_cache:
        first = "prune the folder, whose heads are chosen on the model of the first tokens, or "
    return (
        f"the input{'s' * several} {first_few(missing)} {'do' if several else 'does'} not follow from text;"
        f" {first}give the model's inputs with `data`"
    )


def _prompts_of(maker: Maker) -> Prompts:
    """The same for another model in the folder."""
    try:
        return Prompts(maker.inputs, ALONE)
    except UsageError as error:
        held = first_few([f"{item.name} ({item.describe()})" for item in maker.inputs])
        raise UsageError(
            f"{maker.name}, which lies beside the model, does not run on text alone: it takes {held}; give these, and"
            f" the tokens of the decoder as decoder_input_ids, with `data`"
        ) from error
