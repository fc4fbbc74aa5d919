"""Tiny transformers with random weights: the five architectures the small samples come from.

Every size differs from every other one (3 layers, 4 heads, head_size 8, ...), so that a graph
rewrite which confuses two axes cannot pass by luck.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from onnx_export import Feed
from transformers import (
    BertConfig,
    BertModel,
    DistilBertConfig,
    DistilBertModel,
    GPT2Config,
    GPT2LMHeadModel,
    RobertaConfig,
    RobertaModel,
    ViTConfig,
    ViTForImageClassification,
)

LAYERS, NUM_HEADS, HEAD_SIZE = 3, 4, 8
HIDDEN, INTERMEDIATE, VOCABULARY, POSITIONS = NUM_HEADS * HEAD_SIZE, 48, 64, 24
CHANNELS, IMAGE, PATCH, CLASSES = 1, 12, 4, 7
SEED = 20
# Above the usual 0.02: activations and outputs stay O(1), and every head has its say.
MATRIX_STD, VECTOR_STD = 0.25, 0.2

Settings = dict[str, Any]


@dataclass(frozen=True)
class Architecture:
    """One sample architecture.

    Attributes:
        name: the first part of the file names.
        build: gives an untrained model for an attention implementation (`eager` or `sdpa`).
        inputs: names of the graph inputs, which are also the keywords of the model's `forward`.
        axes: the dynamic axes of inputs and output.
        output: name of the graph output.
        projection: path of an attention's output projection, with `{}` for the layer.
    """

    name: str
    build: Callable[[str], torch.nn.Module]
    inputs: tuple[str, ...]
    axes: dict[int, str]
    output: str
    projection: str


def _bert(attention: str) -> torch.nn.Module:
    settings: Settings = {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": NUM_HEADS, "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": POSITIONS, "attn_implementation": attention,
    }  # fmt: skip
    return BertModel(BertConfig(**settings), add_pooling_layer=False)


def _distilbert(attention: str) -> torch.nn.Module:
    settings: Settings = {
        "vocab_size": VOCABULARY, "dim": HIDDEN, "n_layers": LAYERS, "n_heads": NUM_HEADS,
        "hidden_dim": INTERMEDIATE, "max_position_embeddings": POSITIONS,
        "attn_implementation": attention,
    }  # fmt: skip
    return DistilBertModel(DistilBertConfig(**settings))


def _roberta(attention: str) -> torch.nn.Module:
    # RoBERTa counts positions from padding_idx + 1 = 2.
    settings: Settings = {
        "vocab_size": VOCABULARY, "hidden_size": HIDDEN, "num_hidden_layers": LAYERS,
        "num_attention_heads": NUM_HEADS, "intermediate_size": INTERMEDIATE,
        "max_position_embeddings": POSITIONS + 2, "type_vocab_size": 1,
        "attn_implementation": attention,
    }  # fmt: skip
    return RobertaModel(RobertaConfig(**settings), add_pooling_layer=False)


def _gpt2(attention: str) -> torch.nn.Module:
    settings: Settings = {
        "vocab_size": VOCABULARY, "n_embd": HIDDEN, "n_layer": LAYERS, "n_head": NUM_HEADS,
        "n_inner": INTERMEDIATE, "n_positions": POSITIONS, "use_cache": False,
        "bos_token_id": 0, "eos_token_id": 0, "attn_implementation": attention,
    }  # fmt: skip
    return GPT2LMHeadModel(GPT2Config(**settings))


def _vit(attention: str) -> torch.nn.Module:
    settings: Settings = {
        "hidden_size": HIDDEN, "num_hidden_layers": LAYERS, "num_attention_heads": NUM_HEADS,
        "intermediate_size": INTERMEDIATE, "image_size": IMAGE, "patch_size": PATCH,
        "num_channels": CHANNELS, "num_labels": CLASSES, "attn_implementation": attention,
    }  # fmt: skip
    return ViTForImageClassification(ViTConfig(**settings))


_TEXT = ("input_ids", "attention_mask")
_TEXT_AXES = {0: "batch", 1: "sequence"}
_ENCODER = "last_hidden_state"
ARCHITECTURES = (
    Architecture(
        "bert", _bert, _TEXT, _TEXT_AXES, _ENCODER, "encoder.layer.{}.attention.output.dense"
    ),
    Architecture(
        "distilbert", _distilbert, _TEXT, _TEXT_AXES, _ENCODER,
        "transformer.layer.{}.attention.out_lin",
    ),
    Architecture(
        "roberta", _roberta, _TEXT, _TEXT_AXES, _ENCODER, "encoder.layer.{}.attention.output.dense"
    ),
    Architecture("gpt2", _gpt2, _TEXT, _TEXT_AXES, "logits", "transformer.h.{}.attn.c_proj"),
    Architecture(
        "vit", _vit, ("pixel_values",), {0: "batch"}, "logits", "vit.layers.{}.attention.o_proj"
    ),
)  # fmt: skip


class TextModel(torch.nn.Module):
    """Narrows a model's `forward` to the graph's inputs and output."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, input_ids: torch.Tensor, attention_mask: torch.Tensor) -> torch.Tensor:
        """Gives the model's first output."""
        output: torch.Tensor = self.model(input_ids=input_ids, attention_mask=attention_mask)[0]
        return output


class ImageModel(torch.nn.Module):
    """The same for images."""

    def __init__(self, model: torch.nn.Module) -> None:
        super().__init__()
        self.model = model

    def forward(self, pixel_values: torch.Tensor) -> torch.Tensor:
        """Gives the model's first output."""
        output: torch.Tensor = self.model(pixel_values=pixel_values)[0]
        return output


def exportable(model: torch.nn.Module, architecture: Architecture) -> torch.nn.Module:
    """Wraps `model` for the exporters, which want plain tensors in and out."""
    text = "input_ids" in architecture.inputs
    return (TextModel(model) if text else ImageModel(model)).eval()


def build(architecture: Architecture, attention: str) -> torch.nn.Module:
    """Builds the model in `eval` mode; its weights do not depend on `attention`."""
    model = architecture.build(attention).eval()
    generator = torch.Generator().manual_seed(SEED)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            if parameter.ndim > 1:
                parameter.copy_(MATRIX_STD * noise)
            else:
                # The only vectors called "weight" belong to layer normalisations.
                parameter.copy_(VECTOR_STD * noise + float(name.endswith("weight")))
    return model


def make_feed(architecture: Architecture, batch: int, sequence: int, seed: int) -> Feed:
    """Draws inputs; the first sample of a text feed ends in padding (`sequence` > 2)."""
    generator = torch.Generator().manual_seed(seed)
    if "pixel_values" in architecture.inputs:
        return {"pixel_values": torch.randn(batch, CHANNELS, IMAGE, IMAGE, generator=generator)}
    # Identifiers 0 and 1 are the padding tokens of these architectures.
    ids = torch.randint(2, VOCABULARY, (batch, sequence), generator=generator)
    mask = torch.ones_like(ids)
    mask[0, -2:] = 0
    return {"input_ids": ids, "attention_mask": mask}
