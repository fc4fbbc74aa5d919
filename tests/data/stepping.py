"""A client of split decoders: token by token, through the cache; and lines for it to read."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from onnxheadprune.model.load import load_model
from onnxheadprune.runtime import CPU, Array, Provider, Session
from onnxheadprune.runtime.feeds.generate import Feed

PROVIDER = Provider(CPU, "test")


def run(model: Path, feed: Feed) -> dict[str, Array]:
    """The outputs of a file."""
    return Session(load_model(model), PROVIDER).run(feed)


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
