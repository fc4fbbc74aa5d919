"""The proof of a tokenizer: texts of kept tokens are given to the old one and to the new one."""

from __future__ import annotations

import json
import random
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from onnxheadprune.data.vocabulary import tokenizer_of
from onnxheadprune.errors import RefusedError
from onnxheadprune.runtime.foreign import users_code
from onnxheadprune.workflow.vocabulary.tokenizer import TokenizerFile

TEXTS = 2000
"""Of each kind."""
LONGEST = 8
"""Tokens of a text."""


def require_same_spelling(old: TokenizerFile, document: Mapping[str, Any], kept: Sequence[int]) -> int:
    """Check a smaller tokenizer: its ids, and what it makes of texts whose tokens are all kept.

    Args:
        old: the tokenizer before.
        document: the smaller one.
        kept: the old id of each new one.

    Returns:
        How many texts were compared.

    Raises:
        RefusedError: if the two differ.
    """
    place = {token: position for position, token in enumerate(kept)}
    before, after = (tokenizer_of(old.place, json.dumps(one)) for one in (old.document, document))
    ids: dict[str, int] = after.get_vocab(with_added_tokens=True)
    if ids != {token: place[number] for token, number in old.ids.items() if number in place}:
        raise RefusedError(
            f"{old.place} cannot lose these tokens: the ids of its added tokens would not follow"
        )
    for tokenizer in (before, after):
        tokenizer.no_padding()
        tokenizer.no_truncation()
    compared = 0
    with users_code(f"the tokenizer {old.place}"):
        for text in _texts(old, [number for number in kept if number in old.tokens]):
            wanted = before.encode(text).ids
            if place.keys() >= set(wanted):
                compared += 1
                if after.encode(text).ids != [place[number] for number in wanted]:
                    raise RefusedError(
                        f"{old.place} cannot lose these tokens: {text!r:.80} would be spelled otherwise, and all of"
                        " its tokens are kept"
                    )
    return compared


def _texts(old: TokenizerFile, kept: Sequence[int]) -> Iterator[str]:
    """Yield texts of kept tokens, and words glued of any, which may be unknown; the same ones each time."""
    chooser, every = random.Random(0), sorted(old.tokens)

    def text_of(ids: Sequence[int]) -> str:
        return str(old.library.decode(ids, skip_special_tokens=False))

    for _ in range(TEXTS):
        yield text_of(chooser.choices(kept, k=chooser.randint(1, LONGEST)))
        some = chooser.choices(every, k=chooser.randint(2, LONGEST))
        yield "".join(old.bare(text_of([number])).strip() for number in some)
