"""The vocabulary of a folder: decided once for all of its models, and followed by its tokenizers and configurations."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path, PurePosixPath
from typing import Any

from onnxheadprune.attention.vocabulary.find import vocabularies, vocabulary_of
from onnxheadprune.attention.vocabulary.logits import Vocabulary
from onnxheadprune.data.respelled import lines_of
from onnxheadprune.data.vocabulary import SAVE_ONE, SETTINGS, TOKENIZER
from onnxheadprune.deploying.clients.contract import ConfigChange
from onnxheadprune.deploying.folders.export import Export, ModelFile
from onnxheadprune.deploying.folders.network import FolderTokens, data_for
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.model.documents import CONFIGURATION, read_object
from onnxheadprune.model.typed_json import json_text
from onnxheadprune.runtime.feeds.data import load_data
from onnxheadprune.runtime.feeds.inputs import graph_inputs
from onnxheadprune.workflow.requests import Request, Tokens
from onnxheadprune.workflow.vocabulary.keep import MAX_LIST, Counts, counted, kept_ids
from onnxheadprune.workflow.vocabulary.tokenizer import TokenizerFile, require_same_spelling

CONFIGS = (
    "config.json",
    "generation_config.json",
    "genai_config.json",
    "processor_config.json",
    "preprocessor_config.json",
)
COUNT = re.compile(r"(?:.*_)?vocab_size(?:_per_layer_input)?|n_words|n_vocab")
NAMED = re.compile(r".*(?:token_ids?|token_index)|(?:lang|task)_to_id|(?:bos|eos|pad|unk|sep|cls|mask)_index")
"""Fields whose tokens mean something to the program that reads them, so that they must be kept."""
SUPPRESSED = re.compile(r"(?:begin_)?suppress_tokens")
SEQUENCES = re.compile(r"bad_words_ids|force_words_ids")
BIASED = "sequence_bias"
"""Pairs of tokens and a number; a mapping from tuples of tokens cannot be written as JSON."""
FORCED = "forced_decoder_ids"
SPEAKS = re.compile(
    r"LMHead|CausalLM|MaskedLM|ConditionalGeneration|Seq2SeqLM|PreTraining|MTModel|SpeechSeq2Seq"
)
"""Architectures whose outputs are logits of tokens."""
CLASSIFIES = re.compile(r"For\w*(?:Classification|QuestionAnswering|MultipleChoice|Regression)$")
"""Architectures whose outputs are classes."""
Keys = tuple[str, ...]


def named_ids(document: Any, rows: int) -> set[int]:
    """Token ids that a configuration names and that must be kept."""
    ids: set[int] = set()
    for path, value in _fields(document):
        if NAMED.fullmatch(path[-1]):
            ids |= {item for item in _numbers(value) if 0 <= item < rows}
        elif path[-1] == FORCED and isinstance(value, list):
            ids |= {item for pair in value for item in _numbers(pair[1:]) if 0 <= item < rows}
    return ids


def changes(
    name: str, document: Any, new: Mapping[int, int], counts: Mapping[int, int]
) -> list[ConfigChange]:
    """The fields of a configuration that follow."""
    changed = []
    for path, value in _fields(document):
        after = _after(path[-1], value, new, counts)
        if after != value:
            changed.append(ConfigChange(name, path, value, after))
    return changed


def _fields(document: Any, path: Keys = ()) -> Iterator[tuple[Keys, Any]]:
    """Yield each field, and mappings from tokens to ids as a whole."""
    for key, value in document.items() if isinstance(document, dict) else ():
        if isinstance(value, dict) and not NAMED.fullmatch(key):
            yield from _fields(value, (*path, key))
        else:
            yield (*path, key), value


def _numbers(value: Any) -> Iterator[int]:
    if type(value) is int:
        yield value
    elif isinstance(value, (list, dict)):
        for item in value.values() if isinstance(value, dict) else value:
            yield from _numbers(item)


def _after(key: str, value: Any, new: Mapping[int, int], counts: Mapping[int, int]) -> Any:
    if COUNT.fullmatch(key) and type(value) is int:
        return counts.get(value, value)
    if NAMED.fullmatch(key):
        return _renumbered(value, new)
    if SUPPRESSED.fullmatch(key) and isinstance(value, list):
        return [new[item] for item in value if item in new]
    if SEQUENCES.fullmatch(key) and isinstance(value, list):
        return [_renumbered(item, new) for item in value if set(_numbers(item)) <= new.keys()]
    if key == BIASED and isinstance(value, list):
        return [[_renumbered(ids, new), bias] for ids, bias in value if set(_numbers(ids)) <= new.keys()]
    if key == FORCED and isinstance(value, list):
        return [[pair[0], *_renumbered(pair[1:], new)] for pair in value]
    return value


def _renumbered(value: Any, new: Mapping[int, int]) -> Any:
    if type(value) is int:
        return new.get(value, value)
    if isinstance(value, list):
        return [_renumbered(item, new) for item in value]
    if isinstance(value, dict):
        return {key: _renumbered(item, new) for key, item in value.items()}
    return value


OTHER_FORMS = tuple(
    "vocab.txt vocab.json merges.txt added_tokens.json .model .spm .tiktoken tekken.json bpe.codes dict.txt"
    " tokenizer.onnx openvino_tokenizer.bin tokenizer.bin".split()
)
"""Endings of files that hold a tokenizer in another form than tokenizer.json; a smaller vocabulary leaves them out."""


def tokens_of_folder(export: Export, request: Request) -> FolderTokens:
    """Decide which tokens the models of a folder keep."""
    tokens = request.tokens
    if tokens is None:
        return FolderTokens()
    leader, vocabulary = _leader(export, tokens)
    rows = vocabulary.rows
    tokenizers = {name: TokenizerFile(export.root / name) for name in _tokenizers(export)}
    tokenizer = next(iter(tokenizers.values()), None)
    _require_readable(export, tokenizers)
    documents = {
        name: read_object(export.root / name, CONFIGURATION, MAX_LIST)
        for name in export.others
        if PurePosixPath(name).name in CONFIGS
    }
    holding = dict(_holding(export, rows, documents, tokens))
    special = set().union(
        *(own.stored for own, _ in holding.values()),
        *(named_ids(document, rows) for document in documents.values()),
    )
    counts = _counts(export, leader, vocabulary, request) if tokens.keep is None else None
    kept = kept_ids(tokens, rows, tokenizer, counts, special)
    new = {old: place for place, old in enumerate(kept)}
    sizes = {} if tokenizer is None else {len(tokenizer.ids): len(kept)}
    for own, _ in holding.values():
        for output in own.logits:
            sizes[output.width] = sum(place < output.width for place in kept)
    sizes[rows] = len(kept)
    changed = (
        change for name, document in documents.items() for change in changes(name, document, new, sizes)
    )
    contents = {}
    for name, item in tokenizers.items():
        smaller = item.trimmed(kept)
        require_same_spelling(item, smaller, kept)
        contents[name] = _text(smaller)
    others = export.others if tokenizers else ()
    contents |= {
        name: _settings(export.root / name, new) for name in others if PurePosixPath(name).name == SETTINGS
    }
    left_out = tuple(name for name in others if name.endswith(OTHER_FORMS))
    each = {
        file.name: Tokens(kept, inputs=_named_in(file, tokens), rows=rows, logits=named)
        for file, (_, named) in holding.items()
    }
    return FolderTokens(each, tuple(changed), contents, left_out)


def _holding(
    export: Export, rows: int, documents: Mapping[str, Any], tokens: Tokens
) -> Iterator[tuple[ModelFile, tuple[Vocabulary, tuple[str, ...] | None]]]:
    """Yield the files with a vocabulary, with it and the names of its logits where these are decided."""
    known = {info.name for file in export.models for info in file.loaded.proto.graph.output}
    unknown = next((name for name in tokens.logits or () if name not in known), None)
    if unknown is not None:
        raise UsageError(f"no model of {export.root} has an output {unknown!r:.80} to be logits")
    for file in export.models:
        inputs = _named_in(file, tokens)
        vocabulary = vocabulary_of(file.view, file.name, inputs, rows)
        logits = _logits_of(file, vocabulary, documents, tokens.logits)
        vocabulary = vocabulary_of(file.view, file.name, inputs, rows, logits)
        if vocabulary.tables:
            yield file, (vocabulary, logits)


def _named_in(file: ModelFile, tokens: Tokens) -> tuple[str, ...]:
    """The inputs of a file with token ids, of those that are named."""
    known = {name for entry in vocabularies(file.view) for name in entry.inputs} if tokens.inputs else ()
    return tuple(name for name in tokens.inputs if name in known)


def _logits_of(
    file: ModelFile, vocabulary: Vocabulary, documents: Mapping[str, Any], named: Sequence[str] | None
) -> tuple[str, ...] | None:
    """Names of the outputs of a file that are logits of tokens, None where the model alone decides."""
    if named is not None:
        known = {info.name for info in file.loaded.proto.graph.output}
        return tuple(name for name in named if name in known)
    architectures = [name for document in documents.values() for name in _architectures(document)]
    speaks = any(map(SPEAKS.search, architectures)) or any(map(_is_genai, documents))
    if not speaks and architectures and all(map(CLASSIFIES.search, architectures)):
        # Those of a table of tokens are logits all the same.
        return vocabulary_of(file.view, file.name, vocabulary.inputs, vocabulary.rows, ()).outputs
    sizes = {value for document in documents.values() for value in _sizes(document)}
    if (
        vocabulary.open
        and speaks
        and all(item.width in (*sizes, vocabulary.rows) for item in vocabulary.open)
    ):
        return (*vocabulary.outputs, *(item.name for item in vocabulary.open))
    # Without token ids, as images have none, nothing but the configuration makes numbers to logits.
    return None if vocabulary.inputs else vocabulary.outputs


def _architectures(document: Mapping[str, Any]) -> list[str]:
    listed = document.get("architectures")
    return [str(name) for name in listed] if isinstance(listed, list) else []


def _is_genai(name: str) -> bool:
    return PurePosixPath(name).name == "genai_config.json"


def _sizes(document: Mapping[str, Any]) -> Iterator[int]:
    """Yield the sizes of vocabularies that a configuration names."""
    for path, value in _fields(document):
        if COUNT.fullmatch(path[-1]) and type(value) is int:
            yield value


def _tokenizers(export: Export) -> list[str]:
    """The names of the tokenizers, those of the outermost folder first."""
    found = (name for name in export.others if PurePosixPath(name).name == TOKENIZER)
    return sorted(found, key=lambda name: (name.count("/"), name))


def _leader(export: Export, tokens: Tokens) -> tuple[ModelFile, Vocabulary]:
    """The first model with token ids, which all others must agree with."""
    leaders: dict[int, tuple[ModelFile, Vocabulary]] = {}
    for file in export.models:
        inputs = _named_in(file, tokens)
        if tokens.inputs and not inputs:
            continue
        try:
            vocabulary = vocabulary_of(file.view, file.name, inputs)
        except RefusedError:
            continue
        leaders.setdefault(vocabulary.rows, (file, vocabulary))
    if len(leaders) > 1:
        listed = " and ".join(f"{file.name} ({rows:,})" for rows, (file, _) in leaders.items())
        raise UsageError(
            f"the models of {export.root} have different vocabularies: {listed}; name one with `token_ids`"
        )
    if not leaders:
        raise RefusedError(
            f"no model of {export.root} has a vocabulary: no integer input picks rows of a stored table"
        )
    return next(iter(leaders.values()))


def _require_readable(export: Export, tokenizers: Mapping[str, TokenizerFile]) -> None:
    """Check that what the folder says of its tokenizer can follow."""
    first, *others = tokenizers.values() or (None,)
    if first is None:
        stale = next((name for name in export.others if name.endswith(OTHER_FORMS)), None)
        if stale is not None:
            raise UsageError(
                f"{export.root} holds {stale} and no tokenizer.json, which the tokens are read from; {SAVE_ONE}"
                "its vocabulary cannot be reduced"
            )
        return
    for other in others:
        if other.ids != first.ids:
            raise UsageError(f"{first.place} and {other.place} are different tokenizers; remove one of them")


def _counts(export: Export, leader: ModelFile, vocabulary: Vocabulary, request: Request) -> Counts | None:
    data = data_for(export, leader, request)
    if data is None:
        return None
    inputs = graph_inputs(leader.view)
    return counted(list(load_data(lines_of(data), inputs)), inputs, vocabulary)


def _settings(path: Path, new: Mapping[int, int]) -> bytes:
    """The settings of a tokenizer under new ids."""
    settings = dict(read_object(path, CONFIGURATION, MAX_LIST))
    listed = settings.get("added_tokens_decoder")
    if isinstance(listed, dict):
        places = {str(old): str(place) for old, place in new.items()}
        settings["added_tokens_decoder"] = {
            places[place]: token for place, token in listed.items() if place in places
        }
    return _text(settings)


def _text(document: Mapping[str, Any]) -> bytes:
    return (json_text(document, indent=2, ascii_only=False, nan=True) + "\n").encode()
