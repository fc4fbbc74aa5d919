"""Transformers as they come out of both exporters of PyTorch: a cut is proven on inputs made from the graph alone."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import onnx
import pytest

from tests.conftest import Command
from tests.feeding import renamed

torch = pytest.importorskip("torch")
transformers = pytest.importorskip("transformers")
pytestmark = pytest.mark.samples

VOCABULARY, LENGTH, TARGET = 99, 8, 6
BERT_SIZES = {"num_hidden_layers": 1, "num_attention_heads": 4, "hidden_size": 32, "intermediate_size": 48}
SEQ2SEQ_SIZES = {
    "d_model": 32,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
}


def tokens(length: int = LENGTH) -> Any:
    return torch.randint(3, VOCABULARY, (2, length))


def ones(length: int = LENGTH) -> Any:
    return torch.ones(2, length, dtype=torch.long)


def text() -> dict[str, Any]:
    return {"input_ids": tokens(), "attention_mask": ones()}


def two_texts() -> dict[str, Any]:
    return {**text(), "decoder_input_ids": tokens(TARGET), "decoder_attention_mask": ones(TARGET)}


def opt() -> tuple[Any, dict[str, Any]]:
    sizes = {"hidden_size": 32, "word_embed_proj_dim": 32, "ffn_dim": 48}
    config = transformers.OPTConfig(
        vocab_size=VOCABULARY, num_hidden_layers=1, num_attention_heads=4, use_cache=False, **sizes
    )
    return transformers.OPTForCausalLM(config), text()


def bert() -> tuple[Any, dict[str, Any]]:
    config = transformers.BertConfig(vocab_size=VOCABULARY, **BERT_SIZES)
    positions = torch.arange(LENGTH)[None].repeat(2, 1)
    return transformers.BertModel(config), {**text(), "token_type_ids": ones(), "position_ids": positions}


def xlnet() -> tuple[Any, dict[str, Any]]:
    config = transformers.XLNetConfig(
        vocab_size=VOCABULARY, d_model=32, n_layer=1, n_head=4, d_inner=48, use_mems_eval=False
    )
    return transformers.XLNetModel(config), {**text(), "token_type_ids": ones()}


def wav2vec() -> tuple[Any, dict[str, Any]]:
    convolutions = {"conv_dim": (16, 16), "conv_kernel": (10, 3), "conv_stride": (5, 2)}
    positions = {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4}
    config = transformers.Wav2Vec2Config(
        vocab_size=30, num_feat_extract_layers=2, **BERT_SIZES, **convolutions, **positions
    )
    return transformers.Wav2Vec2Model(config), {
        "input_values": torch.randn(2, 800),
        "attention_mask": ones(800),
    }


def t5() -> tuple[Any, dict[str, Any]]:
    config = transformers.T5Config(
        vocab_size=VOCABULARY, d_model=32, d_kv=8, d_ff=48, num_layers=1, num_heads=4, use_cache=False
    )
    return transformers.T5ForConditionalGeneration(config), two_texts()


def bart() -> tuple[Any, dict[str, Any]]:
    config = transformers.BartConfig(vocab_size=VOCABULARY, use_cache=False, **SEQ2SEQ_SIZES)
    return transformers.BartForConditionalGeneration(config), two_texts()


EXPORTS = [(make, "torchscript") for make in (opt, bert, xlnet, wav2vec, t5, bart)] + [(opt, "dynamo")]
"""torch.export takes ten seconds and more for each, and fails on XLNet and T5."""


def export(make: Callable[[], tuple[Any, dict[str, Any]]], exporter: str, path: Path) -> None:
    """Write a model with random weights, its batch and lengths open."""
    from tests.zoo.quiet import quiet

    torch.manual_seed(0)
    model, feed = make()

    class Positional(torch.nn.Module):  # type: ignore[name-defined,misc]
        def __init__(self) -> None:
            super().__init__()
            self.model = model.eval()

        def forward(self, *arrays: Any) -> Any:
            return self.model(**dict(zip(feed, arrays, strict=True)), return_dict=True)[0]

    dynamo = exporter == "dynamo"
    lengths = {name: "target" if name.startswith("decoder") else "length" for name in feed}
    axes: dict[str, Any] = (
        {"dynamic_shapes": (tuple(dict.fromkeys((0, 1), torch.export.Dim.AUTO) for _ in feed),)}
        if dynamo
        else {"dynamic_axes": {name: {0: "batch", 1: length} for name, length in lengths.items()}}
    )
    with quiet():
        torch.onnx.export(
            Positional(),
            tuple(feed.values()),
            path,
            input_names=list(feed),
            output_names=["output"],
            opset_version=18,
            dynamo=dynamo,
            external_data=False,
            **axes,
        )


@pytest.mark.parametrize(
    ("make", "exporter"), EXPORTS, ids=[f"{make.__name__}-{how}" for make, how in EXPORTS]
)
def test_a_cut_is_proven_without_data(
    make: Callable[[], tuple[Any, dict[str, Any]]], exporter: str, tmp_path: Path, command: Command
) -> None:
    path, unnamed = tmp_path / "model.onnx", tmp_path / "unnamed.onnx"
    export(make, exporter, path)
    onnx.save(renamed(onnx.load(path)), unnamed)
    for model in (path, unnamed):
        answer = command(
            "prune", str(model), "--heads", "0:1", "-o", str(model.with_suffix(".cut.onnx")), "--json"
        )
        assert answer.exit_code == 0, answer.stderr
        assert answer.document["validation"]["verdict"] == "passed"
