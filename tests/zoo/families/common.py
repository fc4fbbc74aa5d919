"""What the families share: projection lists, text inputs, and eager/SDPA twins."""

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
from tests.zoo.case import Case, Feed, Projection
from tests.zoo.init import spread
from tests.zoo.wrap import Positional

VOCAB = 61
TEXT_AXES = {0: "batch", 1: "sequence"}
TEXT = ("input_ids", "attention_mask")
HIDDEN = ("last_hidden_state",)
ONE_KIND = ("eager",)
NOTHING: Mapping[str, Any] = MappingProxyType({})

Options = dict[str, Any]
Make = Callable[[str], nn.Module]
"""Builds a model for an attention implementation ("eager" or "sdpa")."""

_MODEL = re.compile(r"(EncoderModel|BaseModel|ForCausalLM|LMHeadModel|Model)$")


def maker(
    model: str,
    *,
    config: str = "",
    part: str = "",
    keywords: Mapping[str, Any] = NOTHING,
    **options: Any,
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
        built: nn.Module = getattr(transformers, model)(settings, **keywords)
        return built.get_submodule(part)

    return make


def layers(
    template: str, count: int, num_heads: int, head_size: int, kv_num_heads: int | None = None
) -> tuple[Projection, ...]:
    """Returns one projection per layer; ``{}`` in ``template`` is the layer's number."""
    kv = kv_num_heads or num_heads
    return tuple(Projection(template.format(i), num_heads, head_size, kv) for i in range(count))


def text_feeds(
    inputs: Sequence[str] = TEXT, sizes: Sequence[tuple[int, int]] = feeds.SIZES
) -> tuple[Feed, ...]:
    """Returns token ids, and a padding mask where the model takes one, for each size."""
    made: list[Feed] = []
    for batch, length in sizes:
        feed = {"input_ids": feeds.ids(batch, length, VOCAB)}
        if "attention_mask" in inputs:
            feed["attention_mask"] = feeds.mask(batch, length)
        if "position_ids" in inputs:
            feed["position_ids"] = torch.arange(length).expand(batch, length).contiguous()
        made.append(feed)
    return tuple(made)


def _build(
    make: Make,
    attention: str,
    inputs: tuple[str, ...],
    fields: tuple[str, ...],
    fixed: Mapping[str, Any],
) -> nn.Module:
    return spread(Positional(make(attention), inputs, fields, **fixed))


def twins(
    name: str,
    family: str,
    make: Make,
    *,
    feeds: tuple[Feed, ...],
    inputs: tuple[str, ...],
    dynamic_axes: dict[str, dict[int, str]],
    projections: tuple[Projection, ...],
    fields: tuple[str, ...] = HIDDEN,
    kinds: Sequence[str] = ("eager", "sdpa"),
    fixed: Mapping[str, Any] = NOTHING,
    **rest: Any,
) -> list[Case]:
    """Returns one case per attention implementation of a transformers model.

    Args:
        name: The eager case's name; the others get ``-<kind>`` appended.
        family: The family.
        make: Takes the attention implementation and returns the model.
        feeds: As in ``Case``.
        inputs: As in ``Case``; also the keywords of the model's ``forward``.
        dynamic_axes: As in ``Case``; outputs that are not named get the first input's axes.
        projections: As in ``Case``, without the ``model.`` of the wrapper.
        fields: Fields of the model's output; also the graph's output names.
        kinds: The attention implementations.
        fixed: More keywords for ``forward``.
        **rest: More fields of ``Case``.
    """
    axes = {name: dynamic_axes.get(name, dynamic_axes.get(inputs[0], {})) for name in fields}
    return [
        Case(
            name=name if kind == "eager" else f"{name}-{kind}",
            family=family,
            builder=partial(_build, make, kind, inputs, fields, fixed),
            feeds=feeds,
            inputs=inputs,
            outputs=fields,
            dynamic_axes={**dynamic_axes, **axes},
            projections=wrapped(projections),
            **rest,
        )
        for kind in kinds
    ]


def wrapped(projections: Sequence[Projection]) -> tuple[Projection, ...]:
    """Returns the projections as seen from a ``Positional`` around their model."""
    return tuple(
        Projection(
            f"model.{p.module_path}",
            p.num_heads,
            p.head_size,
            p.kv_num_heads,
            p.tied_to,
            p.head_minor,
        )
        for p in projections
    )


def text_model(
    name: str,
    family: str,
    make: Make,
    projections: tuple[Projection, ...],
    *,
    inputs: tuple[str, ...] = TEXT,
    sizes: Sequence[tuple[int, int]] = feeds.SIZES,
    **rest: Any,
) -> list[Case]:
    """Returns the twins of a model that reads token ids."""
    return twins(
        name,
        family,
        make,
        feeds=text_feeds(inputs, sizes),
        inputs=inputs,
        dynamic_axes={name: dict(TEXT_AXES) for name in inputs},
        projections=projections,
        **rest,
    )
