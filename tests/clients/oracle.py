"""What a decoder gives for whole sequences: ONNX Runtime on the pruned file, with an empty past and no cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime


class WholeSequences:
    """A decoder with a cache that is never used.

    Args:
        model: the file.
        head_size: of caches whose inputs do not say it.
    """

    def __init__(self, model: Path, head_size: int = 0) -> None:
        self.session = onnxruntime.InferenceSession(str(model), providers=["CPUExecutionProvider"])
        self.head_size = head_size

    def logits(self, ids: Any) -> Any:
        """Of every position.

        Args:
            ids: [batch, sequence].
        """
        feed = {}
        for item in self.session.get_inputs():
            if item.name == "input_ids":
                feed[item.name] = ids
            elif item.name == "attention_mask":
                feed[item.name] = np.ones_like(ids)
            elif item.name == "position_ids":
                feed[item.name] = np.broadcast_to(np.arange(ids.shape[1]), ids.shape).astype(np.int64)
            else:
                heads, size = item.shape[1], item.shape[3]
                width = size if isinstance(size, int) else self.head_size
                feed[item.name] = np.zeros((len(ids), heads, 0, width), np.float32)
        return self.session.run(["logits"], feed)[0]

    def generated(self, prompt: Sequence[int], new: int) -> list[int]:
        """The likeliest next token, so many times."""
        ids = list(prompt)
        for _ in range(new):
            ids.append(int(self.logits(np.array([ids], np.int64))[0, -1].argmax()))
        return ids
