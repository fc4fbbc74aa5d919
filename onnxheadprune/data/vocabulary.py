"""The tokenizer of a model, from its file or from the folder that holds it."""

from __future__ import annotations

import contextlib
import os
import stat
from collections.abc import Callable, Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from onnxheadprune.data.tokenizing import Tokenizer
from onnxheadprune.errors import UsageError, heed
from onnxheadprune.model.documents import NotJsonError, kind_of, parse_json, read_text
from onnxheadprune.model.storage.file_magic import in_place_of

TOKENIZER = "tokenizer.json"
WORD_PIECES = "vocab.txt"
BYTE_PAIRS = ("vocab.json", "merges.txt")
SETTINGS = "tokenizer_config.json"
NAMES = "special_tokens_map.json"
ADDED = "added_tokens.json"
CONFIG = "config.json"
NESTED = ("text_config", "decoder", "encoder")
"""Fields with the configurations of models that read text, where there are several models."""
SPECIAL = ("unk_token", "sep_token", "cls_token", "pad_token", "mask_token")
GPTS_OWN = ("<|endoftext|>", "<s>", "</s>", "<unk>", "<pad>", "<mask>")
SAVE_ONE = "save one with AutoTokenizer.from_pretrained(FOLDER).save_pretrained(FOLDER) of transformers"
NOTHING: Mapping[str, bytes] = {}
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
            path: a `tokenizer.json`, or a folder with that or with the vocabulary of BERT or GPT-2 and their kin.
        """
        self.place = str(path)
        file = Path(path)
        if stat.S_ISDIR(kind_of(path) or 0):
            content = content_in(file)
        else:
            content = read_text(file, "the tokenizer", MAX_TOKENIZER)
        self._tokenizer = Tokenizer(self.place, content)
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
    """Return whether a folder holds a tokenizer that `Vocabulary` reads."""
    forms = ((TOKENIZER,), (WORD_PIECES,), BYTE_PAIRS)
    return any(all((folder / name).is_file() for name in form) for form in forms)


def longest_text(tokenizer: Path) -> int | None:
    """Return the tokens of the longest text that the configuration beside a tokenizer allows; None without a limit."""
    try:
        files = _Files(tokenizer if tokenizer.is_dir() else tokenizer.parent, NOTHING)
    except OSError:
        return None
    settings: dict[str, Any] = {}
    config: dict[str, Any] = {}
    with contextlib.suppress(UsageError):  # whoever needs the file says what is wrong with it
        settings = files.document(SETTINGS)
    with contextlib.suppress(UsageError):
        config = files.document(CONFIG)
    parts = (config, *(config[name] for name in NESTED if isinstance(config.get(name), dict)))
    found = [part.get("max_position_embeddings", part.get("n_positions")) for part in parts]
    found.append(settings.get("model_max_length"))
    # transformers writes 1e30 where a tokenizer knows no limit.
    return min((number for number in found if type(number) is int and 1 < number < 1e29), default=None)


def content_in(folder: Path, replaced: Mapping[str, bytes] = NOTHING) -> str:
    """The tokenizer in the files of a folder, as the content of a tokenizer.json.

    Args:
        folder: with a tokenizer.json, or with the vocabulary of BERT or GPT-2 and their kin.
    """
    if (folder / TOKENIZER).is_file():
        return read_text(folder / TOKENIZER, "the tokenizer", MAX_TOKENIZER)
    files = _Files(folder, replaced)
    settings = files.document(NAMES) | files.document(SETTINGS)
    kind = str(settings.get("tokenizer_class", "")).removesuffix("Fast").removesuffix("Tokenizer")
    if (folder / WORD_PIECES).is_file() and kind in ("", "Bert", "DistilBert", "Electra", "MobileBert"):
        return _word_pieces(files, settings)
    pairs = all((folder / name).is_file() for name in BYTE_PAIRS)
    if (
        pairs
        and kind in ("", "GPT2", "Roberta", "Bart", "Longformer", "LED")
        and not settings.get("add_bos_token")
    ):
        return _byte_pairs(files, settings, kind)
    of = (
        f", and its {settings['tokenizer_class']} is none that can be made from its other files"
        if kind
        else ""
    )
    raise UsageError(f"the folder {folder} holds no {TOKENIZER}{of}; {SAVE_ONE}")


class _Files:
    """The files of a tokenizer in a folder."""

    def __init__(self, folder: Path, replaced: Mapping[str, bytes]) -> None:
        self.folder, self.replaced = folder, replaced

    def text(self, name: str) -> str:
        """The content of a file, with Unix line ends."""
        if name in self.replaced:
            return self.replaced[name].decode()
        return read_text(self.folder / name, "the tokenizer", MAX_TOKENIZER).replace("\r\n", "\n")

    def document(self, name: str) -> dict[str, Any]:
        """The content of a JSON file, empty where there is none."""
        path = self.folder / name
        if not path.is_file():
            return {}
        try:
            found = parse_json(self.text(name))
        except NotJsonError as error:
            raise UsageError(f"{path} is {error}{in_place_of(path)}") from error
        if not isinstance(found, dict):
            raise UsageError(f"{path} is no JSON object")
        return found

    def require_added(self, tokens: Collection[str], name: str) -> None:
        """Check that there are no tokens beside a vocabulary."""
        listed = self.document(SETTINGS).get("added_tokens_decoder")
        decoded = listed.values() if isinstance(listed, dict) else ()
        added = [*self.document(ADDED), *(_token(item) for item in decoded)]
        missing = next((token for token in added if token not in tokens), None)
        if missing is not None:
            raise UsageError(
                f"the tokenizer in {self.folder} adds {missing!r:.80} to the tokens of {name}; {SAVE_ONE}"
            )


def _word_pieces(files: _Files, settings: Mapping[str, object]) -> str:
    """BERT's tokenizer from its list of words."""
    from tokenizers import BertWordPieceTokenizer

    words = {word: row for row, word in enumerate(files.text(WORD_PIECES).split("\n")) if word}
    files.require_added(words, WORD_PIECES)
    lowers, strips = settings.get("do_lower_case", True), settings.get("strip_accents")
    chinese = settings.get("tokenize_chinese_chars", True)
    named = {name: _token(settings[name]) for name in SPECIAL if settings.get(name) is not None}
    return _built(
        files.folder / WORD_PIECES,
        lambda: BertWordPieceTokenizer(
            words,
            lowercase=bool(lowers),
            strip_accents=None if strips is None else bool(strips),
            handle_chinese_chars=bool(chinese),
            **named,
        ),
    )


def _byte_pairs(files: _Files, settings: Mapping[str, object], kind: str) -> str:
    """GPT-2's tokenizer from its byte pairs; RoBERTa's also puts texts between two special tokens."""
    from tokenizers import AddedToken, ByteLevelBPETokenizer
    from tokenizers.processors import RobertaProcessing

    vocabulary = files.document(BYTE_PAIRS[0])
    files.require_added(vocabulary, BYTE_PAIRS[0])
    rows = files.text(BYTE_PAIRS[1]).split("\n")
    pairs = (row.partition(" ") for row in rows if row and not row.startswith("#version"))
    merges = [(left, right) for left, _, right in pairs]
    spaced = bool(settings.get("add_prefix_space", False))

    named = {
        *GPTS_OWN,
        *(_token(settings[name]) for name in (*SPECIAL, "bos_token", "eos_token") if settings.get(name)),
    }
    special = sorted(named.intersection(vocabulary), key=lambda token: int(vocabulary[token]))

    def build() -> Any:
        made: Any = ByteLevelBPETokenizer(vocabulary, merges, add_prefix_space=spaced)
        # Blanks before a mask belong to it.
        made.add_special_tokens([AddedToken(token, lstrip=token == "<mask>") for token in special])
        if kind not in ("", "GPT2"):
            start, end = _token(settings.get("cls_token", "<s>")), _token(settings.get("sep_token", "</s>"))
            made._tokenizer.post_processor = RobertaProcessing(
                (end, vocabulary[end]), (start, vocabulary[start]), add_prefix_space=spaced
            )
        return made

    return _built(files.folder / BYTE_PAIRS[0], build)


def _token(value: object) -> str:
    """A special token, given in settings as text or as an object."""
    return str(value["content"] if isinstance(value, Mapping) else value)


def _built(path: Path, build: Callable[[], Any]) -> str:
    """Build a tokenizer with the tokenizers library; the content of its tokenizer.json."""
    try:
        return str(build().to_str())
    except BaseException as error:  # the library raises bare exceptions, and panics, which are no Exceptions
        heed(error)
        raise UsageError(f"{path} is no tokenizer of the tokenizers library: {error!s:.300}") from error
