"""Tokenizers in a process of their own, which may take only so much memory and time.

A `tokenizer.json` is a program: ten replacements in a row make gigabytes of one letter, and a lack of memory in the
library ends the process. What it outputs is bounded, too.
"""

from __future__ import annotations

import os
import pickle
import subprocess
import sys
import weakref
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from onnxheadprune.errors import UsageError

MEMORY, MEMORY_PER_BYTE = 2**30, 32
"""Bytes that the process may take, and per byte of the tokenizer."""
SECONDS = 50
"""For one answer."""
LEAST, TOKENS_PER_CHARACTER, CHARACTERS_PER_TOKEN = 4096, 8, 64
"""Tokens, or characters, that each text may become, and each character or token on top of that."""
_CHILD = """
import pickle, signal, sys
stdin, stdout = sys.stdin.buffer, sys.stdout.buffer
content, memory, seconds, least, tokens, characters = pickle.load(stdin)
signal.signal(signal.SIGINT, signal.SIG_IGN)
try:
    import resource
    resource.setrlimit(resource.RLIMIT_DATA, (memory, memory))
except (ImportError, ValueError, OSError):
    pass

def bounded(made, given, each):
    found, most = sum(map(len, made)), each * sum(map(len, given)) + least * len(given)
    if found > most:
        raise ValueError("it makes %d tokens or characters where at most %d are read" % (found, most))
    return made

def encode(texts, longest):
    made.no_padding()
    made.no_truncation() if longest is None else made.enable_truncation(longest)
    found = made.encode_batch(texts)
    bounded([item.ids for item in found], texts, tokens)
    return [(item.ids, item.special_tokens_mask) for item in found]

def decode(ids, skip):
    return bounded([made.decode(item, skip_special_tokens=skip) for item in ids], ids, characters)

def pieces(texts):
    splitter = made.pre_tokenizer
    return [1 if splitter is None else len(splitter.pre_tokenize_str(text)) for text in texts]

def ids_of(names):
    return [made.token_to_id(name) for name in names]

def vocabulary():
    return made.get_vocab(with_added_tokens=True)

def answer(name, arguments):
    if hasattr(signal, "alarm"):
        signal.alarm(seconds)
    try:
        found = True, globals()[name](*arguments)
    except BaseException as error:
        found = False, "%.500r" % (error,)
    if hasattr(signal, "alarm"):
        signal.alarm(0)
    pickle.dump(found, stdout)
    stdout.flush()

def load():
    global made
    from tokenizers import Tokenizer
    made = Tokenizer.from_str(content)

answer("load", ())
while True:
    try:
        name, arguments = pickle.load(stdin)
    except EOFError:
        break
    answer(name, arguments)
"""


@dataclass(frozen=True)
class Encoded:
    """The tokens of a text."""

    ids: list[int]
    special: list[int]  # 1 for each token that stands for no part of the text


class Tokenizer:
    """A tokenizer of the tokenizers library.

    Attributes:
        place: where it was read.
    """

    def __init__(self, place: str, content: str) -> None:
        """Load the content of a tokenizer.json.

        Raises:
            UsageError: if it is none.
        """
        self.place = place
        self._memory = MEMORY + MEMORY_PER_BYTE * len(content)
        path = os.pathsep.join(item for item in sys.path if item)
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _CHILD],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": path},
        )
        weakref.finalize(self, _end, self._process)
        self._send((content, self._memory, SECONDS, LEAST, TOKENS_PER_CHARACTER, CHARACTERS_PER_TOKEN))
        self._receive("is no tokenizer of the tokenizers library: ")

    def encode(self, texts: Sequence[str], longest: int | None = None) -> list[Encoded]:
        """The tokens of each text, special ones included; no more than `longest`."""
        return [Encoded(*item) for item in self._ask("encode", list(texts), longest)]

    def decode(self, ids: Sequence[Sequence[int]], *, skip_special: bool = False) -> list[str]:
        """The text of each list of tokens."""
        found: list[str] = self._ask("decode", [list(item) for item in ids], skip_special)
        return found

    def pieces(self, texts: Sequence[str]) -> list[int]:
        """The number of parts that each text is split into before any vocabulary is looked at."""
        found: list[int] = self._ask("pieces", list(texts))
        return found

    def ids_of(self, names: Sequence[str]) -> list[int | None]:
        """The id of each token, None of what is none."""
        found: list[int | None] = self._ask("ids_of", list(names))
        return found

    def vocabulary(self) -> dict[str, int]:
        """The id of each token."""
        found: dict[str, int] = self._ask("vocabulary")
        return found

    def _ask(self, name: str, *arguments: object) -> Any:
        self._send((name, arguments))
        return self._receive("failed: ")

    def _send(self, message: object) -> None:
        assert self._process.stdin is not None
        try:
            pickle.dump(message, self._process.stdin)
            self._process.stdin.flush()
        except OSError:  # it has ended, which is heard when its answer is read
            pass

    def _receive(self, failed: str) -> Any:
        assert self._process.stdout is not None
        try:
            done, found = pickle.load(self._process.stdout)
        except (EOFError, pickle.UnpicklingError):
            raise UsageError(
                f"the tokenizer {self.place} ended its process, which may take {self._memory / 2**30:.1f} GiB of memory"
                f" and {SECONDS} seconds for an answer"
            ) from None
        if not done:
            raise UsageError(f"the tokenizer {self.place} {failed}{found}")
        return found


def _end(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.communicate()
