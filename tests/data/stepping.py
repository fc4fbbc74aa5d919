"""A client of split decoders: token by token, through the cache; and lines for it to read."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import numpy as np
import onnx
from onnx import ModelProto

from tests.liveness.masks import Array
from tests.liveness.one_node import running


def run(model: Path | ModelProto, feed: Mapping[str, Array]) -> dict[str, Array]:
    """The outputs of a model, of what it takes of some arrays."""
    loaded = onnx.load(model) if isinstance(model, Path) else model
    taken = {item.name for item in loaded.graph.input}
    return running(loaded)({name: array for name, array in feed.items() if name in taken})


def stepped(folder: Path, ids: Array, mask: Array, target: Array) -> Array:
    """The logits of a target as a client computes them: token by token, through the cache of the split decoders."""
    states = run(folder / "encoder_model.onnx", {"input_ids": ids, "attention_mask": mask})[
        "last_hidden_state"
    ]
    first = {"input_ids": target[:, :1], "encoder_hidden_states": states, "encoder_attention_mask": mask}
    outputs = run(folder / "decoder_model.onnx", first)
    cache = {name: array for name, array in outputs.items() if name != "logits"}
    logits = [outputs["logits"]]
    for at in range(1, target.shape[1]):
        past = {name.replace("present", "past_key_values"): array for name, array in cache.items()}
        feed = {"input_ids": target[:, at : at + 1], "encoder_attention_mask": mask, **past}
        outputs = run(folder / "decoder_with_past_model.onnx", feed)
        logits.append(outputs.pop("logits"))
        cache |= outputs
    return np.concatenate(logits, axis=1)


def texts(place: Path, count: int = 60, words: int = 18) -> Path:
    """A file of short lines of known words."""
    random = np.random.default_rng(0)
    lines = (
        " ".join(f"w{word}" for word in random.integers(0, words, random.integers(2, 8)))
        for _ in range(count)
    )
    place.write_text("\n".join(lines), encoding="utf-8")
    return place
