"""Other models in a model's folder that compute its inputs (encoder states, embedded tokens), and special tokens."""

from __future__ import annotations

import functools
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

from onnxheadprune.data.rows import Lazily
from onnxheadprune.data.vocabulary import has_tokenizer
from onnxheadprune.errors import ModelError, UsageError
from onnxheadprune.model.documents import CONFIGURATION, read_object
from onnxheadprune.model.load import LoadedModel, open_structure
from onnxheadprune.operators import view_of
from onnxheadprune.runtime import Array, Provider, Session
from onnxheadprune.runtime.feeds.data import DataSource, Sample, load_data, parts_of, require_all
from onnxheadprune.runtime.feeds.generate import Feed
from onnxheadprune.runtime.feeds.inputs import Input, Role, graph_inputs
from onnxheadprune.runtime.feeds.prefill import EMBEDDED, encoder_states, is_of_encoder

SHELF = "onnx"
"""The subfolder in which model repositories keep their ONNX files."""
CONFIGS = ("generation_config.json", "config.json")
START, END = "decoder_start_token_id", "eos_token_id"
STATES = ("encoder_hidden_states", "last_hidden_state")
"""Exporters' names of an encoder's output."""
_DECODER = re.compile(r"^(.*)decoder(?:_with_past)?(?:_model)?(?:_merged)?(.*)$")
_EMBEDDINGS = ("embed_tokens", "embeddings", "embedding")


class Maker:
    """A model that computes an input of another model.

    Attributes:
        path: its file.
        provider: where it runs.
    """

    def __init__(self, path: Path, provider: Provider) -> None:
        self.path, self.provider = path, provider

    @property
    def name(self) -> str:
        """The name of its file."""
        return self.path.name

    @functools.cached_property
    def inputs(self) -> tuple[Input, ...]:
        """Its inputs."""
        loaded = self._loaded
        return graph_inputs(view_of(loaded))

    def made(self, feed: Mapping[str, Array]) -> Array:
        """The states or the embedded tokens, [samples, length, width]."""
        outputs = self._session.run(feed)
        named = [outputs[name] for name in STATES if name in outputs]
        wide = [array for array in outputs.values() if array.ndim == 3 and array.dtype.kind in "fV"]
        found = next(iter(named + wide), None)
        if found is None:
            raise ModelError(
                f"{self.path} gives no states [samples, length, width], but {', '.join(outputs) or 'nothing'}"
            )
        return found

    @functools.cached_property
    def _loaded(self) -> LoadedModel:
        # Whoever reads the one through a link, as in a hub's cache, reads the other through it.
        return open_structure(self.path, follow_links=self.path.is_symlink())

    @functools.cached_property
    def _session(self) -> Session:
        return Session(self._loaded, self.provider, name=self.name)


@dataclass(frozen=True)
class Beside:
    """The other models in a model's folder."""

    name: str = "the model"  # of the model, for errors
    start: int | None = None  # the token that its decoder starts with, None if no configuration has it
    end: int | None = None  # the token that ends a text, None if no configuration has it
    encoder: Maker | None = None  # computes the states that a decoder reads, None without
    embedding: Maker | None = None  # computes embedded tokens, None without

    def states(self, feed: Feed, wanted: Input) -> Array:
        """Run the encoder on its inputs."""
        return self.require_encoder(wanted).made(feed).astype(wanted.dtype)

    def embedded(self, feed: Feed, wanted: Input) -> Array:
        """Run the model that embeds tokens."""
        return self.require_embedding(wanted).made(feed).astype(wanted.dtype)

    def require_encoder(self, wanted: Input) -> Maker:
        """The encoder."""
        if self.encoder is None:
            raise UsageError(
                f"the input {wanted.name} ({wanted.describe()}) comes from an encoder, and none lies beside"
                f" {self.name}; put encoder_model.onnx there, or give all inputs with `data`"
            )
        return self.encoder

    def require_embedding(self, wanted: Input) -> Maker:
        """The model that embeds tokens."""
        if self.embedding is None:
            raise UsageError(
                f"the input {wanted.name} ({wanted.describe()}) holds embedded tokens, and no model that makes them"
                f" ({', '.join(_EMBEDDINGS)}) lies beside {self.name}; give all inputs with `data`"
            )
        return self.embedding


ALONE = Beside()


def beside(model: Path | None, provider: Provider) -> Beside:
    """Find the other models in a model's folder."""
    if model is None:
        return ALONE
    encoder = next((path for path in _encoders(model) if path.is_file()), None)
    rest = _rest(model)
    names = [f"{name}{ending}.onnx" for ending in dict.fromkeys((rest, "")) for name in _EMBEDDINGS]
    embedding = next((path for path in map(model.with_name, names) if path.is_file()), None)
    return Beside(
        model.name,
        _token(model.parent, START),
        _token(model.parent, END),
        None if encoder is None else Maker(encoder, provider),
        None if embedding is None else Maker(embedding, provider),
    )


def home_of(folder: Path) -> Sequence[Path]:
    """Return the folders that may hold files of a folder's models: itself, or the repository around it."""
    return (folder, folder.parent) if folder.name == SHELF else (folder,)


def tokenizer_of(model: Path) -> Path | None:
    """The folder that holds a model's tokenizer, None without."""
    return next((place for place in home_of(model.parent.resolve()) if has_tokenizer(place)), None)


def has_decoder(model: Path) -> bool:
    """Return whether a model's folder holds a decoder, whose encoder the model may be."""
    return any(_DECODER.match(path.stem) is not None for path in model.parent.glob("*.onnx"))


def _encoders(model: Path) -> Iterator[Path]:
    """Yield possible paths of a decoder's encoder: in the same precision, or in the default one."""
    found = _DECODER.match(model.stem)
    if found is None:
        return
    front, rest = found.groups()
    for ending in dict.fromkeys((rest, "")):
        for name in ("encoder_model", "encoder"):
            yield model.with_name(f"{front}{name}{ending}.onnx")


def _rest(model: Path) -> str:
    """Return the suffix of a file name that specifies the precision."""
    found = _DECODER.match(model.stem)
    return "" if found is None else found[2]


def _token(folder: Path, name: str) -> int | None:
    """A token from a model's configuration, the first one of several."""
    for place in home_of(folder.resolve()):
        for file in CONFIGS:
            path = place / file
            if not path.is_file():
                continue
            token = read_object(path, CONFIGURATION).get(name)
            token = token[0] if isinstance(token, list) and token else token
            if isinstance(token, int):
                return token
    return None


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
