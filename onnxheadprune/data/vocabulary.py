"""The tokenizer of a model, from its file or from the folder that holds it."""

from __future__ import annotations

import os
import pickle
import stat
import subprocess
import sys
import weakref
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from onnxheadprune.errors import UsageError
from onnxheadprune.model.documents import kind_of, read_object, read_text

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


TOKENIZER = "tokenizer.json"
SETTINGS = "tokenizer_config.json"
CONFIG = "config.json"
NESTED = ("text_config", "decoder", "encoder")
"""Fields with the configurations of models that read text, where there are several models."""
SAVE_ONE = (
    "save one with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers; where that writes"
    " none (as of Marian and M2M100), "
)
MAX_TOKENIZER = 2**27
TEXTS_AT_ONCE, CHARACTERS_AT_ONCE = 64, 2**20
ENDS = ("<|endoftext|>", "</s>", "<eos>")
"""The tokens that end a text in GPT-2, Llama and Gemma, and in most of their kin."""

Tokens = list[int]


class Vocabulary:
    """A tokenizer.

    Attributes:
        place: where it was read.
        max_length: tokens after which a text is cut off.
    """

    def __init__(self, path: str | os.PathLike[str], max_length: int) -> None:
        """Read a tokenizer.

        Args:
            path: a `tokenizer.json`, or a folder with one.
        """
        self.place, file = str(path), Path(path)
        if stat.S_ISDIR(kind_of(path) or 0):
            if not has_tokenizer(file):
                raise UsageError(
                    f"the folder {file} holds no {TOKENIZER}; {SAVE_ONE}give token ids as an .npz file"
                )
            file /= TOKENIZER
        self._tokenizer = Tokenizer(self.place, read_text(file, "the tokenizer", MAX_TOKENIZER))
        self.max_length = max_length

    def tokens(self, texts: Sequence[str], *, whole: bool = False) -> list[Tokens]:
        """The tokens of each text, special ones included."""
        longest = None if whole else self.max_length
        found: list[Tokens] = []
        batch: list[str] = []
        for number, text in enumerate(texts, 1):
            batch.append(text)
            # The library keeps several lists for each text, long ones included, until its batch is done.
            full = len(batch) == TEXTS_AT_ONCE or sum(map(len, batch)) >= CHARACTERS_AT_ONCE
            if full or number == len(texts):
                found += [item.ids for item in self._tokenizer.encode(batch, longest)]
                batch = []
        return found

    def frame(self, text: str) -> tuple[Tokens, Tokens]:
        """The special tokens before and after every text."""
        (made,) = self._tokenizer.encode([text], self.max_length)
        own = [place for place, is_special in enumerate(made.special) if not is_special]
        if not own:
            return [], []
        return made.ids[: own[0]], made.ids[own[-1] + 1 :]

    def end(self) -> int | None:
        """The token that ends a text, by its usual names; None without."""
        found = self._tokenizer.ids_of(ENDS)
        return next((token for token in found if token is not None), None)


def has_tokenizer(folder: Path) -> bool:
    """Return whether a folder holds a tokenizer."""
    return (folder / TOKENIZER).is_file()


def longest_text(tokenizer: Path) -> int | None:
    """Return the tokens of the longest text that the configuration beside a tokenizer allows; None without a limit."""
    try:
        folder = tokenizer if tokenizer.is_dir() else tokenizer.parent
    except OSError:
        return None
    settings, config = _document(folder / SETTINGS), _document(folder / CONFIG)
    parts = (config, *(config[name] for name in NESTED if isinstance(config.get(name), dict)))
    found = [part.get("max_position_embeddings", part.get("n_positions")) for part in parts]
    found.append(settings.get("model_max_length"))
    # transformers writes 1e30 where a tokenizer knows no limit.
    return min((number for number in found if type(number) is int and 1 < number < 1e29), default=None)


def _document(path: Path) -> Mapping[str, Any]:
    """The content of a JSON file; empty where it is none, since whoever needs it says what is wrong with it."""
    try:
        return read_object(path, "the tokenizer", MAX_TOKENIZER) if path.is_file() else {}
    except (UsageError, OSError):
        return {}
