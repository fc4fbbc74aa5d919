"""A model of transformers behind the inputs and outputs of a file that an exporter has already written."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import onnx
import torch
from torch import nn
from transformers.cache_utils import DynamicCache, EncoderDecoderCache

from tests.zoo import feeds
from tests.zoo.case import Cache, Feed
from tests.zoo.families.row import VOCAB

PAST = re.compile(r"(past_key_values|present)\.(\d+)\.(?:(decoder|encoder)\.)?(key|value)")
# (batch, past, new, source); the last two are a decode step and, where a cache may be empty, a prefill.
SIZES = ((3, 6, 2, 7), (2, 4, 1, 5), (1, 0, 5, 4))


class Face(nn.Module):
    """Takes the inputs of a graph positionally and returns its outputs.

    The wrapped model is the submodule ``model``. Past keys and values become a cache; a decoder that
    stands alone gets the hidden states of its encoder.
    """

    def __init__(
        self, model: nn.Module, inputs: Sequence[str], outputs: Sequence[str], part: str = ""
    ) -> None:
        super().__init__()
        self.model = model
        self._inputs = tuple(inputs)
        self._outputs = tuple(outputs)
        self._part = part

    def forward(self, *inputs: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs the model."""
        given = dict(zip(self._inputs, inputs, strict=True))
        out = self._run(given)
        return tuple(_output(out, name) for name in self._outputs)

    def _run(self, given: dict[str, torch.Tensor]) -> Any:
        pasts = {name: value for name, value in given.items() if PAST.fullmatch(name)}
        rest = {name: value for name, value in given.items() if name not in pasts}
        branch = rest.pop("use_cache_branch", None)
        if branch is not None and not bool(branch):
            pasts = {}
        if self._part == "encoder":
            encoder = self.model.get_encoder()
            encoder.config.use_cache = False
            return encoder(**rest)
        caching = any(PAST.fullmatch(name) for name in self._outputs)
        if caching:
            rest |= {"past_key_values": _cache(pasts) if pasts else None, "use_cache": True}
        if self._part == "decoder":
            rest = self._decoder_arguments(rest, pasts)
        return self.model(**rest)

    def _decoder_arguments(self, rest: dict[str, Any], pasts: Mapping[str, torch.Tensor]) -> dict[str, Any]:
        states = rest.pop("encoder_hidden_states", None)
        if states is None or pasts:
            crossed = next(value for name, value in pasts.items() if ".encoder." in name)
            states = torch.zeros(crossed.shape[0], crossed.shape[2], self.model.config.d_model)
        mask = rest.pop("encoder_attention_mask", None)
        moved = {
            f"decoder_{name}": rest.pop(name) for name in ("input_ids", "attention_mask") if name in rest
        }
        return rest | moved | {"encoder_outputs": (states,), "attention_mask": mask}


def _cache(pasts: Mapping[str, torch.Tensor]) -> Any:
    def filled(part: str) -> DynamicCache:
        cache = DynamicCache()
        middle = f".{part}" if part else ""
        for layer in range(sum(name.endswith(f"{middle}.key") for name in pasts)):
            pair = (pasts[f"past_key_values.{layer}{middle}.{what}"] for what in ("key", "value"))
            cache.update(*pair, layer)
        return cache

    if not any(".encoder." in name for name in pasts):
        return filled("")
    both = EncoderDecoderCache(filled("decoder"), filled("encoder"))
    both.is_updated = dict.fromkeys(range(len(both.cross_attention_cache)), True)
    return both


def _output(out: Any, name: str) -> torch.Tensor:
    found = PAST.fullmatch(name)
    if not found:
        value: torch.Tensor = out[name]
        return value
    _, layer, part, what = found.groups()
    cache = out.past_key_values
    if part is not None:
        cache = cache.self_attention_cache if part == "decoder" else cache.cross_attention_cache
    stored: torch.Tensor = getattr(cache.layers[int(layer)], f"{what}s")
    return stored


def names_of(path: Any) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """Input and output names of a model file."""
    graph = onnx.load(path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    return tuple(i.name for i in graph.input if i.name not in stored), tuple(o.name for o in graph.output)


def feeds_of(
    path: Any,
    shapes: Mapping[str, Sequence[int]] | None = None,
    sizes: Sequence[tuple[int, int, int, int]] = SIZES,
    padded: bool = True,
    width: int = 0,
) -> tuple[Feed, ...]:
    """Feeds for the inputs of a model file, made up by their names.

    Args:
        path: the file.
        shapes: shapes without the batch axis, by input name, where the name does not say them.
        sizes: `(batch, past, new, source)` of each feed.
        padded: whether rows have padding on the left.
        width: of a cached head, where the file does not say it.
    """
    graph = onnx.load(path, load_external_data=False).graph
    stored = {tensor.name for tensor in graph.initializer}
    inputs = {i.name: i for i in graph.input if i.name not in stored}
    branches = (True, False) if "use_cache_branch" in inputs else (True,)
    cached = any(PAST.fullmatch(name) for name in inputs)
    crossed = any(".encoder." in name for name in inputs)
    made = []
    for batch, past, new, source in sizes:
        for branch in branches:
            # The branch without a cache reads none, and a cross-attention cache is never empty.
            if past or not branch or not crossed:
                lengths = (past, new) if cached else (0, new + 4)
                size = _Size(batch, *lengths, source, branch, padded, width)
                made.append({name: size.tensor(info, shapes or {}) for name, info in inputs.items()})
    return tuple(made)


@dataclass(frozen=True)
class _Size:
    batch: int
    past: int
    new: int
    source: int
    branch: bool
    padded: bool
    width: int

    def tensor(self, info: onnx.ValueInfoProto, shapes: Mapping[str, Sequence[int]]) -> torch.Tensor:
        name, batch, new = info.name, self.batch, self.new
        dims = [dim.dim_value for dim in info.type.tensor_type.shape.dim]
        found = PAST.fullmatch(name)
        if found:
            length = self.source if found[3] == "encoder" else self.past
            length = length if self.branch else max(length, 1)
            return feeds.floats(batch, dims[1], length, dims[3] or self.width, seed=int(found[2]))
        if name in shapes:
            return feeds.floats(batch, *shapes[name])
        match name:
            case "input_ids" | "decoder_input_ids":
                return feeds.ids(batch, new, VOCAB)
            case "attention_mask":
                return self._mask()
            case "position_ids":
                return (self._mask().cumsum(-1) - 1).clamp(min=0)[:, -new:]
            case "token_type_ids":
                return feeds.ids(batch, new, 5) % 2
            case "use_cache_branch":
                return torch.tensor([self.branch])
            case "encoder_hidden_states":
                return feeds.floats(batch, self.source, dims[2])
            case "encoder_attention_mask":
                return feeds.mask(batch, self.source)
        raise ValueError(f"nothing is known about the input {name}")

    def _mask(self) -> torch.Tensor:
        total = self.past + self.new if self.branch else self.new
        if not self.padded:
            return torch.ones(self.batch, total, dtype=torch.int64)
        return feeds.mask(self.batch, total, left=True)


def caches_of(inputs: Sequence[str], outputs: Sequence[str]) -> tuple[Cache, ...]:
    """The past/present pairs (one of them "" where it is missing); a layer with cross-attention has two projections."""
    cached = [found for name in (*inputs, *outputs) if (found := PAST.fullmatch(name))]
    crossed = any(found[3] == "encoder" for found in cached)
    pairs = []
    for end in dict.fromkeys(found[0].partition(".")[2] for found in cached):
        past, present = (
            name if name in names else ""
            for name, names in ((f"past_key_values.{end}", inputs), (f"present.{end}", outputs))
        )
        layer = int(end.split(".")[0])
        index = 2 * layer + ("encoder" in end) if crossed else layer
        pairs.append(Cache(past, present, 1, index))
    return tuple(pairs)
