"""What the names of the files of an export tell: which part of a model a file is, and in which precision."""

from __future__ import annotations

import re
from pathlib import PurePosixPath

SHELF = "onnx"
"""The subfolder in which model repositories keep their ONNX files; it says nothing about a file."""
_PRECISION = re.compile(
    r"[-_.](quantized|optimized|fp32|fp16|bf16|float32|float16|int8|uint8|int4|uint4|q4|q4f16|q8|bnb4"
    r"|quint8|qint8|qint4|quint4|avx2|avx512|avx512_vnni|arm64|vnni|o[1-4]|gpu|cpu)$",
    re.IGNORECASE,
)
_ROLES = frozenset(
    "encoder decoder text vision visual image audio speech embed embeds embeddings embedding unet vae transformer"
    " language lm head prompt mask prefill decode past projector projection vocoder postnet backbone connector"
    " controlnet generator joiner joint predictor adapter safety checker tokenizer detokenizer safetychecker".split()
)
"""Words that say what a part of a model is for."""


def part_of(name: str) -> str:
    """The part of a model that a file holds: its name without folder `onnx` and without what names a precision.

    Args:
        name: path of the file in the export, with slashes.

    >>> part_of("onnx/model_qint8_avx512_vnni.onnx"), part_of("unet/model_fp16.onnx")
    ('model', 'unet/model')
    """
    path = PurePosixPath(name)
    stem = path.stem
    while (shorter := _PRECISION.sub("", stem)) and shorter != stem:
        stem = shorter
    return "/".join([*(folder for folder in path.parts[:-1] if folder != SHELF), stem])


def says_its_part(part: str) -> bool:
    """Whether a part's name says what it is for, so that others may stand beside it.

    >>> says_its_part("model"), says_its_part("unet/model"), says_its_part("decoder_with_past_model")
    (True, True, True)
    >>> says_its_part("bert"), says_its_part("model_a")
    (False, False)
    """
    words = re.split(r"[^a-z]+", part.lower())
    return part == "model" or not _ROLES.isdisjoint(words)
