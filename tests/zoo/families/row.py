"""A row of the table of transformers: a class, its arguments, what it reads, and where its heads are summed."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import MappingProxyType
from typing import Any

import torch
import transformers
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import at
from tests.zoo.case import Case, Feed
from tests.zoo.init import spread
from tests.zoo.wrap import Positional

VOCAB = 61
TEXT = ("input_ids", "attention_mask")
BATCH = {0: "batch"}
SEQUENCE = {0: "batch", 1: "sequence"}
ONE_KIND = ("eager",)
NOTHING: Mapping[str, Any] = MappingProxyType({})

Options = dict[str, Any]
Make = Callable[[str], nn.Module]
"""Builds a model for an attention implementation ("eager" or "sdpa")."""
Axes = Mapping[int, str]
Reads = Mapping[str, tuple[Axes, Callable[[int, int], torch.Tensor]]]
"""The dynamic axes of each input, and what makes it for a batch and a length."""

_MODEL = re.compile(r"(EncoderModel|BaseModel|ForCausalLM|LMHeadModel|Model)$")


def maker(
    model: str, *, config: str = "", part: str = "", keywords: Mapping[str, Any] = NOTHING, **options: Any
) -> Make:
    """Returns a function that builds a model of transformers.

    Args:
        model: The name of the model's class.
        config: The name of its configuration's class, where it does not follow from ``model``.
        part: The submodule to use instead of the whole.
        keywords: More arguments for the model's class.
        **options: Arguments for the configuration's class.
    """

    def make(attention: str) -> nn.Module:
        config_class = getattr(transformers, config or _MODEL.sub("Config", model))
        settings = config_class(**options, attn_implementation=attention)
        return getattr(transformers, model)(settings, **keywords).get_submodule(part)

    return make


def ids(batch: int, length: int) -> torch.Tensor:
    """Token ids."""
    return feeds.ids(batch, length, VOCAB)


def positions(batch: int, length: int) -> torch.Tensor:
    """Positions with a batch axis of their own."""
    return torch.arange(length).expand(batch, length).contiguous()


WORDS: Reads = {"input_ids": (SEQUENCE, ids), "attention_mask": (SEQUENCE, feeds.mask)}
PLACED: Reads = {**WORDS, "position_ids": (SEQUENCE, positions)}


def floats(name: str, axes: Axes, *shape: int) -> Reads:
    """One input of floats; without ``shape`` it is as long as a feed says."""
    return {name: (axes, lambda batch, length: feeds.floats(batch, *(shape or (length,))))}


def row(
    family: str,
    name: str,
    model: str,
    options: Options,
    *out: str,
    reads: Reads = WORDS,
    sizes: Sequence[tuple[int, int]] = feeds.SIZES,
    fields: Mapping[str, Axes] | None = None,
    kinds: Sequence[str] = ("eager", "sdpa"),
    fixed: Mapping[str, Any] = NOTHING,
    config: str = "",
    part: str = "",
    keywords: Mapping[str, Any] = NOTHING,
    **rest: Any,
) -> list[Case]:
    """Returns one case per attention implementation of a transformers model.

    Args:
        family: The family.
        name: The eager case's name; the others get ``-<kind>`` appended.
        model: As in `maker`, like ``options``, ``config``, ``part`` and ``keywords``.
        options: Of the configuration.
        *out: Ends of the paths of output projections; the modules around them say their heads.
        reads: The inputs, which are also keywords of the model's ``forward``.
        sizes: Batch and length of each feed.
        fields: Fields of the model's output, which are also the graph's outputs, and their dynamic axes.
        kinds: The attention implementations.
        fixed: More keywords for ``forward``.
        **rest: More fields of ``Case``.
    """
    make = maker(model, config=config, part=part, keywords=keywords, **options)
    inputs, first = tuple(reads), next(iter(reads.values()))[0]
    fields = fields or {"last_hidden_state": first}
    made: tuple[Feed, ...] = tuple(
        {name: draw(batch, length) for name, (_, draw) in reads.items()} for batch, length in sizes
    )
    return [
        Case(
            name=name if kind == "eager" else f"{name}-{kind}",
            family=family,
            builder=partial(_build, make, kind, inputs, tuple(fields), fixed),
            feeds=made,
            outputs=tuple(fields),
            dynamic_axes={**{name: dict(axes) for name, (axes, _) in reads.items()}, **fields},
            rules=at(*out),
            **rest,
        )
        for kind in kinds
    ]


def _build(
    make: Make, attention: str, inputs: tuple[str, ...], fields: tuple[str, ...], fixed: Mapping[str, Any]
) -> nn.Module:
    return spread(Positional(make(attention), inputs, fields, **fixed))
