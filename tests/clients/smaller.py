"""Vocabularies that get smaller: tokenizers that spell the words of `lines.py` in parts, and cuts of their tokens."""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass
from pathlib import Path

import cuts
from lines import LINES
from tokenizers import Tokenizer, decoders, models, normalizers, pre_tokenizers, processors

SPECIAL = ("[PAD]", "[UNK]", "[CLS]", "[SEP]")
DIGITS = "0123456789"
CHOSEN = LINES[:6]
"""Texts whose tokens are kept."""


def word_pieces() -> Tokenizer:
    """BERT's: "w17" is "w1" and "##7"."""
    tokens = [*SPECIAL, "w", *(f"##{digit}" for digit in DIGITS), *(f"w{digit}" for digit in DIGITS)]
    made = Tokenizer(models.WordPiece(_numbered(tokens), unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    made.decoder = decoders.WordPiece()
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = processors.TemplateProcessing(
        "[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    return made


def byte_pairs() -> Tokenizer:
    """As Llama has it: "▁w1" and "7", by two merges."""
    longer = [f"▁w{digit}" for digit in DIGITS]
    vocab = _numbered([*SPECIAL, "▁", "w", *DIGITS, "▁w", *longer])
    merges = [("▁", "w"), *(("▁w", digit) for digit in DIGITS)]
    made = Tokenizer(models.BPE(vocab, merges, unk_token="[UNK]", fuse_unk=True))
    made.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = processors.TemplateProcessing("[CLS] $A", special_tokens=[("[CLS]", 2)])
    return made


def unigram() -> Tokenizer:
    """As T5 has it."""
    pieces = [(token, 0.0) for token in SPECIAL]
    pieces += [(token, -9.0) for token in ("▁", "w", *DIGITS)]
    pieces += [(f"▁w{digit}", -3.0 - int(digit) / 10) for digit in DIGITS]
    made = Tokenizer(models.Unigram(pieces, unk_id=1))
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    made.add_special_tokens(list(SPECIAL))
    made.post_processor = processors.TemplateProcessing("$A [SEP]", special_tokens=[("[SEP]", 3)])
    return made


def _numbered(tokens: list[str]) -> dict[str, int]:
    return {token: place for place, token in enumerate(tokens)}


@dataclass(frozen=True)
class Smaller:
    """A folder before and after a cut of its vocabulary.

    Attributes:
        before: the folder, with a tokenizer of this module.
        after: the pruned one.
        lines: texts whose tokens are all kept.
        told: how many tokens are left of how many.
        followed: what has changed in the configuration.
    """

    before: Path
    after: Path
    lines: list[str]
    told: str
    followed: list[str]


def prune_vocabulary(folder: Path, made: Tokenizer, client: str, *more: int) -> Smaller:
    """Prune a folder to the tokens of some texts.

    Args:
        folder: an export; it is not changed.
        made: its tokenizer is this one.
        client: as `--runtime` takes it.
        more: further ids that are kept.
    """
    before, after = (folder.with_name(name) for name in ("all_tokens", "some_tokens"))
    shutil.copytree(folder, before)
    made.save(str(before / "tokenizer.json"))
    kept = {*range(len(SPECIAL)), *more} | {number for line in CHOSEN for number in made.encode(line).ids}
    listed = folder.with_name("keep.txt")
    listed.write_text("\n".join(map(str, sorted(kept))))
    cuts.prune(before, "-o", after, "--vocab", listed, "--runtime", client)
    left = Tokenizer.from_file(str(after / "tokenizer.json")).get_vocab()
    lines = [line for line in LINES if left.keys() >= set(made.encode(line).tokens)]
    assert lines[: len(CHOSEN)] == CHOSEN and len(left) < made.get_vocab_size(), "the wrong tokens are kept"
    sizes = [_sizes(place) for place in (before, after)]
    followed = [f"vocab_size {old} -> {new}" for old, new in zip(*sizes, strict=True) if old != new]
    assert followed, "the configuration is what it was"
    return Smaller(before, after, lines, f"{len(left)} of {made.get_vocab_size()} tokens", followed)


def _sizes(folder: Path) -> list[int]:
    """The numbers of tokens that configurations of a folder give."""
    documents = [json.loads(path.read_text()) for path in sorted(folder.glob("*config.json"))]
    found = [document.get("model", document) for document in documents if isinstance(document, dict)]
    return [item["vocab_size"] for item in found if isinstance(item, dict) and "vocab_size" in item]
