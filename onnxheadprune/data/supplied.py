"""The user's data for a decoder, completed by other models of its folder: encoder states, embedded tokens."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from onnxheadprune.data.beside import Beside, Maker
from onnxheadprune.data.rows import Lazily
from onnxheadprune.errors import UsageError
from onnxheadprune.runtime import Array
from onnxheadprune.runtime.feeds.data import DataSource, Sample, load_data, parts_of, require_all
from onnxheadprune.runtime.feeds.inputs import Input, Role
from onnxheadprune.runtime.feeds.prefill import EMBEDDED, encoder_states, is_of_encoder

TARGET_IDS = "decoder_input_ids"
"""The name of the decoder's tokens in data for an encoder and a decoder; the decoder's file calls them input_ids."""
_ENCODER = "encoder_"


def needs_others(names: Iterable[str]) -> bool:
    """Return whether a model with inputs of these names may read outputs of another model."""
    return any(name == EMBEDDED or is_of_encoder(name) for name in names)


def supplied(source: DataSource, inputs: Sequence[Input], beside: Beside) -> DataSource:
    """Complete data for the models of a folder with the inputs of a decoder.

    Returns:
        The data unchanged for a model that reads neither encoder states nor embedded tokens.
    """
    states = encoder_states(inputs)
    embedded = next((item for item in inputs if item.name == EMBEDDED), None)
    if states is None and embedded is None:
        return source
    ids = next((item for item in inputs if item.role is Role.IDS and len(item.dims) == 2), None)
    supply = _Supply(tuple(inputs), beside, states, embedded, ids)
    count, read = parts_of(source, supply.known)
    # Encoder states are many times the size of their tokens.
    return Lazily(count, lambda number: supply.completed(read(number)))


@dataclass(frozen=True)
class _Supply:
    """The inputs of a decoder."""

    inputs: tuple[Input, ...]  # the graph inputs
    beside: Beside  # the other models in its folder
    states: Input | None  # the input that takes states of an encoder
    embedded: Input | None  # the input that takes embedded tokens
    ids: Input | None  # the input that takes token ids

    @property
    def known(self) -> tuple[Input, ...]:
        """The inputs of all models that the data may be for."""
        makers = [maker for maker in (self.beside.encoder, self.beside.embedding) if maker is not None]
        found = {item.name: item for maker in makers for item in maker.inputs}
        found |= {item.name: item for item in self.inputs}
        if self.ids is not None:
            found[TARGET_IDS] = replace(self.ids, name=TARGET_IDS)
        return tuple(found.values())

    def completed(self, sample: Sample) -> Sample:
        """A sample, completed by the other models of the folder."""
        feed = dict(sample.feed)
        encoder, embedding = self.beside.encoder, self.beside.embedding
        if self.embedded is not None and embedding is not None and self.embedded.name not in feed:
            feed[self.embedded.name] = _made(sample, self.embedded, embedding)
        if self.states is not None:
            if encoder is not None and self.states.name not in feed:
                self._require_target(sample, encoder)
                feed[self.states.name] = _made(sample, self.states, encoder)
            for item in self.inputs:
                plain = item.name.removeprefix(_ENCODER)
                if item.name not in feed and plain != item.name and plain in sample.feed:
                    # The mask of the encoder's tokens, which has another name there.
                    feed[item.name] = sample.feed[plain]
            if self.ids is not None and TARGET_IDS in feed:
                feed[self.ids.name] = feed[TARGET_IDS]
        return replace(sample, feed=feed)

    def _require_target(self, sample: Sample, encoder: Maker) -> None:
        """Check that tokens of the decoder are distinguished from those of the encoder."""
        shared = self.ids is not None and any(item.name == self.ids.name for item in encoder.inputs)
        if self.ids is not None and shared and self.ids.name != TARGET_IDS and TARGET_IDS not in sample.feed:
            raise UsageError(
                f"{sample.source} lacks {TARGET_IDS} ({self.ids.describe()}), the tokens of the decoder; its"
                f" {self.ids.name} are for {encoder.name}"
            )


def _made(sample: Sample, wanted: Input, maker: Maker) -> Array:
    """Run another model of the folder on a sample."""
    source = f"{sample.source}, for {maker.name},"
    require_all(sample.feed, maker.inputs, source)
    (checked,) = load_data([replace(sample, source=source)], maker.inputs)
    return maker.made(checked.feed).astype(wanted.dtype)
