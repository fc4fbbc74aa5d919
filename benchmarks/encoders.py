"""BERT encoders to measure: whole, pruned, and exported small from the start.

"Exported small" is what a user of PyTorch gets who removes the heads before the export, as transformers 4 did with
`prune_heads`: narrower projections and a smaller head count in the module, then an ordinary export. It has the
weights of the kept heads, so the pruned model must give the same numbers.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx

from onnxheadprune import prune
from onnxheadprune.runtime import CPU, Provider, Session

HIDDEN, HEADS, INTERMEDIATE, VOCABULARY, POSITIONS = 768, 12, 3072, 1000, 512
REMOVED = tuple(range(0, HEADS, 2))
"""Every other head: nothing that stays lies side by side in the original."""


@dataclass(frozen=True)
class Encoders:
    """Paths of one set of models.

    Attributes:
        original: all heads.
        pruned: half of them, removed from the ONNX file.
        small: the same half, removed in PyTorch before the export.
    """

    original: Path
    pruned: Path
    small: Path


def encoders(folder: Path, layers: int, *, attention: str = "eager") -> Encoders:
    """The three models in a folder; what is there already is used again.

    Args:
        folder: where to keep them.
        layers: encoder layers; the widths are those of BERT-base.
        attention: transformers' attention implementation.
    """
    folder.mkdir(parents=True, exist_ok=True)
    made = Encoders(
        *(folder / f"bert{layers}-{attention}-{kind}.onnx" for kind in ("original", "pruned", "small"))
    )
    if not made.original.exists():
        _export(made.original, layers, attention, ())
    if not made.small.exists():
        _export(made.small, layers, attention, REMOVED)
    if not made.pruned.exists():
        heads = {layer: list(REMOVED) for layer in range(layers)}
        prune(made.original, made.pruned, heads=heads, provider="cpu")
    _check_equal(made)
    return made


def _export(path: Path, layers: int, attention: str, removed: tuple[int, ...]) -> None:
    import torch
    from transformers import BertConfig, BertModel

    torch.manual_seed(0)
    config = BertConfig(
        vocab_size=VOCABULARY,
        hidden_size=HIDDEN,
        num_hidden_layers=layers,
        num_attention_heads=HEADS,
        intermediate_size=INTERMEDIATE,
        max_position_embeddings=POSITIONS,
        attn_implementation=attention,
    )
    model = BertModel(config, add_pooling_layer=False).eval()
    for layer in model.encoder.layer if removed else ():
        _remove_heads(layer.attention, removed)
    ids = torch.randint(0, VOCABULARY, (2, 16))

    class Hidden(torch.nn.Module):
        """Takes two tensors and gives one, as the tracing exporter wants it."""

        def __init__(self) -> None:
            super().__init__()
            self.bert = model

        def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
            hidden = self.bert(input_ids=input_ids, attention_mask=attention_mask).last_hidden_state
            assert isinstance(hidden, torch.Tensor)
            return hidden

    axes = {0: "batch", 1: "sequence"}
    torch.onnx.export(
        Hidden().eval(),
        (ids, torch.ones_like(ids)),
        str(path),
        dynamo=False,
        opset_version=17,
        input_names=["input_ids", "attention_mask"],
        output_names=["last_hidden_state"],
        dynamic_axes={"input_ids": axes, "attention_mask": axes, "last_hidden_state": axes},
    )


def _remove_heads(attention: object, removed: tuple[int, ...]) -> None:
    """What `prune_heads` of transformers 4 did to one layer."""
    import torch

    own, out = attention.self, attention.output  # type: ignore[attr-defined]
    size = own.attention_head_size
    kept = [head for head in range(own.num_attention_heads) if head not in removed]
    index = torch.cat([torch.arange(head * size, (head + 1) * size) for head in kept])
    for name in ("query", "key", "value"):
        linear = getattr(own, name)
        narrow = torch.nn.Linear(linear.in_features, len(index))
        narrow.weight.data, narrow.bias.data = linear.weight.data[index], linear.bias.data[index]
        setattr(own, name, narrow)
    narrow = torch.nn.Linear(len(index), out.dense.out_features)
    narrow.weight.data, narrow.bias.data = out.dense.weight.data[:, index], out.dense.bias.data
    out.dense = narrow
    own.num_attention_heads, own.all_head_size = len(kept), len(index)


def _check_equal(made: Encoders) -> None:
    """Whether the pruned model computes what the small export does: else a comparison of speed means nothing."""
    ids = np.random.default_rng(0).integers(0, VOCABULARY, (2, 24))
    feed = {"input_ids": ids, "attention_mask": np.ones_like(ids)}
    provider = Provider(CPU, "check")
    pruned, small = (
        Session(onnx.load(path), provider).run(feed)["last_hidden_state"]
        for path in (made.pruned, made.small)
    )
    np.testing.assert_allclose(pruned, small, rtol=0, atol=2e-4)


def to_float16(source: Path, target: Path) -> Path:
    """A float16 copy of a model, by ONNX Runtime's own converter."""
    from onnxruntime.transformers.float16 import convert_float_to_float16

    if not target.exists():
        onnx.save(convert_float_to_float16(onnx.load(source)), target)
    return target
