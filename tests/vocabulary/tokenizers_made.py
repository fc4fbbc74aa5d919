"""Small tokenizers, one for each way in which texts become tokens, and texts for them.

The library's trainers order ties anew in each process, except for plain BPE: the other vocabularies are counted here.
"""

from __future__ import annotations

import json
import math
import random
from collections import Counter
from collections.abc import Callable
from itertools import pairwise

from tokenizers import (
    AddedToken,
    Regex,
    Tokenizer,
    decoders,
    models,
    normalizers,
    pre_tokenizers,
    processors,
    trainers,
)

WORDS = (
    "the cat sat on a mat while other cats were sitting nearby and the dogs barked at walking talkers who walked and"
    " talked about unbelievable things believing that things believed are thinkable thoughts of thoughtful thinkers"
).split()
SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]


def texts(count: int, seed: int = 0) -> list[str]:
    chooser = random.Random(seed)
    made = []
    for _ in range(count):
        words = chooser.choices(WORDS, k=chooser.randint(2, 7))
        # Words that nobody has seen, and characters that no vocabulary has.
        words += ["".join(chooser.choices("abcdehknt", k=chooser.randint(1, 6)))] * (chooser.random() < 0.3)
        made.append(
            " ".join(words) + chooser.choice(["", ".", " é", " 字", " </s> on", " The</s>", " 😀 ok"])
        )
    return made


def counted(made: Tokenizer) -> Counter[str]:
    """The words that a tokenizer makes of the texts before it looks for tokens."""
    normalized = [made.normalizer.normalize_str(text) if made.normalizer else text for text in texts(400)]
    return Counter(word for text in normalized for word, _ in made.pre_tokenizer.pre_tokenize_str(text))


def merged(
    words: Counter[str], count: int, prefix: str = "", suffix: str = ""
) -> tuple[dict[str, int], list[tuple[str, str]]]:
    """The characters of words and what their most frequent pairs become, numbered, and so many pairs.

    Args:
        words: and how often they occur.
        count: of pairs.
        prefix: of all characters but the first of a word.
        suffix: of the last one.
    """
    spelled = {
        word: [
            prefix * (place > 0) + character + suffix * (place == len(word) - 1)
            for place, character in enumerate(word)
        ]
        for word in words
    }
    pieces = dict.fromkeys(sorted({piece for word in spelled.values() for piece in word}))
    merges = []
    for _ in range(count):
        pairs = Counter[tuple[str, str]]()
        for word, parts in spelled.items():
            for pair in pairwise(parts):
                pairs[pair] += words[word]
        first, second = max(pairs, key=lambda pair: (pairs[pair], pair))
        product = first + second.removeprefix(prefix)
        merges.append((first, second))
        pieces[product] = None
        for parts in spelled.values():
            for place in range(len(parts) - 1, 0, -1):
                if parts[place - 1 : place + 1] == [first, second]:
                    parts[place - 1 : place + 1] = [product]
    return {piece: place for place, piece in enumerate(pieces)}, merges


def word_piece() -> Tokenizer:
    made = Tokenizer(models.WordPiece(unk_token="[UNK]"))
    made.normalizer = normalizers.BertNormalizer()
    made.pre_tokenizer = pre_tokenizers.BertPreTokenizer()
    pieces, _ = merged(counted(made), 100, prefix="##")
    vocab = {piece: place for place, piece in enumerate(dict.fromkeys([*SPECIAL, *pieces]))}
    made.model = models.WordPiece(vocab, unk_token="[UNK]")
    made.add_special_tokens(SPECIAL)
    ids = [(token, made.token_to_id(token)) for token in ("[SEP]", "[CLS]")]
    made.post_processor = processors.BertProcessing(*ids)
    made.enable_padding(pad_id=made.token_to_id("[PAD]"), pad_token="[PAD]")
    made.decoder = decoders.WordPiece()
    return made


def byte_pairs() -> Tokenizer:
    made = Tokenizer(models.BPE())
    made.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    made.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=420, special_tokens=["<s>", "</s>"], initial_alphabet=pre_tokenizers.ByteLevel.alphabet()
    )
    made.train_from_iterator(texts(400), trainer)
    made.post_processor = processors.TemplateProcessing(
        single="<s> $A </s>", special_tokens=[(token, made.token_to_id(token)) for token in ("<s>", "</s>")]
    )
    return made


def byte_fallback() -> Tokenizer:
    """As Llama has it: pieces with ▁ for spaces, bytes for what no piece spells."""
    first = Tokenizer(models.BPE(unk_token="<unk>", fuse_unk=True))
    first.normalizer = normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")])
    plain = trainers.BpeTrainer(vocab_size=200, special_tokens=["<unk>", "<s>", "</s>"])
    first.train_from_iterator(texts(400), plain)
    document = json.loads(first.to_str())
    vocab = document["model"]["vocab"]
    for byte in range(256):
        vocab[f"<0x{byte:02X}>"] = len(vocab)
    document["model"]["byte_fallback"] = True
    return Tokenizer.from_str(json.dumps(document))


def unigram() -> Tokenizer:
    made = Tokenizer(models.Unigram())
    made.pre_tokenizer = pre_tokenizers.Metaspace()
    words = counted(made)
    pieces = Counter[str]()
    for word, times in words.items():
        for start in range(len(word)):
            for end in range(start + 1, min(start + 7, len(word) + 1)):
                pieces[word[start:end]] += times
    best = sorted(pieces, key=lambda piece: (len(piece) > 1, -pieces[piece] * len(piece), piece))[:150]
    total = sum(pieces[piece] for piece in best)
    special = ["<pad>", "</s>", "<unk>"]
    scores = [(piece, math.log(pieces[piece] / total)) for piece in best if piece not in special]
    made.model = models.Unigram([*((token, 0.0) for token in special), *scores], 2, False)
    made.add_special_tokens([*special, "<extra_id_0>"])
    made.post_processor = processors.TemplateProcessing(
        single="$A </s>", special_tokens=[("</s>", made.token_to_id("</s>"))]
    )
    return made


def words_only() -> Tokenizer:
    made = Tokenizer(
        models.WordLevel(
            {word: place for place, word in enumerate(["[UNK]", *dict.fromkeys(WORDS)])}, "[UNK]"
        )
    )
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    return made


def word_piece_with_gaps() -> Tokenizer:
    """Some characters are in no vocabulary alone, so that words with them may be unknown."""
    made = word_piece()
    document = json.loads(made.to_str())
    vocab = document["model"]["vocab"]
    gone = random.Random(0).sample(
        [token for token in vocab if len(token) == 3 and token.startswith("##")], 6
    )
    left = {token: place for place, token in enumerate(token for token in vocab if token not in gone)}
    document["model"]["vocab"] = left
    return Tokenizer.from_str(json.dumps(document))


def whole_words_first() -> Tokenizer:
    """As tiktoken has it: a word of the vocabulary is one token, whether or not merges lead to it."""
    document = json.loads(byte_pairs().to_str())
    model = document["model"]
    model["ignore_merges"] = True
    for word in ("unbelievable", "Ġnearby", "Ġtalkers"):
        model["vocab"].setdefault(word, len(model["vocab"]))
    made = Tokenizer.from_str(json.dumps(document))
    # In front of what is special, within the text, and with the blanks around it.
    made.add_special_tokens(["<|end|>", AddedToken("<mask>", lstrip=True)])
    made.add_tokens(["believing", "  "])
    return made


def with_ends_of_words() -> Tokenizer:
    """As CLIP has it."""
    made = Tokenizer(models.BPE(unk_token="</s>", end_of_word_suffix="</w>"))
    made.normalizer = normalizers.Sequence([normalizers.NFC(), normalizers.Lowercase()])
    split = pre_tokenizers.Split(Regex(r"\p{L}+|\p{N}|[^\s\p{L}\p{N}]+"), "removed", invert=True)
    made.pre_tokenizer = pre_tokenizers.Sequence([split, pre_tokenizers.ByteLevel(add_prefix_space=False)])
    pieces, merges = merged(counted(made), 120, suffix="</w>")
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    known = ["<s>", "</s>", *alphabet, *(character + "</w>" for character in alphabet), *pieces]
    vocab = {piece: place for place, piece in enumerate(dict.fromkeys(known))}
    made.model = models.BPE(vocab, merges, unk_token="</s>", end_of_word_suffix="</w>")
    made.add_special_tokens(["<s>", "</s>"])
    ids = [(token, made.token_to_id(token)) for token in ("</s>", "<s>")]
    made.post_processor = processors.RobertaProcessing(*ids)
    return made


def with_parts_of_words() -> Tokenizer:
    made = Tokenizer(models.BPE(unk_token="<unk>", continuing_subword_prefix="##"))
    made.pre_tokenizer = pre_tokenizers.Whitespace()
    pieces, merges = merged(counted(made), 120, prefix="##")
    vocab = {piece: place for place, piece in enumerate(dict.fromkeys(["<unk>", *pieces]))}
    made.model = models.BPE(vocab, merges, unk_token="<unk>", continuing_subword_prefix="##")
    made.add_special_tokens(["<unk>"])
    return made


def unigram_with_bytes() -> Tokenizer:
    document = json.loads(unigram().to_str())
    vocab = document["model"]["vocab"]
    document["model"]["byte_fallback"] = True
    vocab[3:3] = [[f"<0x{byte:02X}>", 0.0] for byte in range(256)]
    for item in document["added_tokens"]:
        item["id"] += 256 * (item["id"] > 2)
    return Tokenizer.from_str(json.dumps(document))


KINDS: list[Callable[[], Tokenizer]] = [
    word_piece,
    word_piece_with_gaps,
    byte_pairs,
    whole_words_first,
    with_ends_of_words,
    with_parts_of_words,
    byte_fallback,
    unigram,
    unigram_with_bytes,
    words_only,
]
