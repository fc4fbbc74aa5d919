"""Fields of configuration files that hold token ids or count tokens."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath
from typing import Any

from onnxheadprune.deploying.clients.contract import ConfigChange

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
Path = tuple[str, ...]


def is_config(name: str) -> bool:
    """Return True if a file of a folder is such a configuration."""
    return PurePosixPath(name).name in CONFIGS


def named_ids(document: Any, rows: int) -> set[int]:
    """Token ids that a configuration names and that must be kept."""
    found: set[int] = set()
    for path, value in _fields(document):
        if NAMED.fullmatch(path[-1]):
            found |= {item for item in _numbers(value) if 0 <= item < rows}
        elif path[-1] == FORCED and isinstance(value, list):
            found |= {item for pair in value for item in _numbers(pair[1:]) if 0 <= item < rows}
    return found


def changes(
    name: str, document: Any, new: Mapping[int, int], counts: Mapping[int, int]
) -> list[ConfigChange]:
    """The fields of a configuration that follow."""
    made = []
    for path, value in _fields(document):
        after = _after(path[-1], value, new, counts)
        if after != value:
            made.append(ConfigChange(name, path, value, after))
    return made


def _fields(document: Any, path: Path = ()) -> Iterator[tuple[Path, Any]]:
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
