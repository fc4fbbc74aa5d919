"""Small models of transformers with random weights, their exports, and the same models with heads silenced."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
import transformers
from cuts import Cut
from lines import WORDS
from tokenizers import Tokenizer, models, pre_tokenizers

SIZES = {"vocab_size": 100}
GENAI_HEAD = 32
"""The size of a head there: a block of four bits."""


@dataclass(frozen=True, eq=False)
class Maker:
    """Makes a model of transformers: its class, and the arguments of its configuration."""

    model: str
    options: Mapping[str, Any]

    def __call__(self) -> Any:
        """The model with random weights."""
        made = getattr(transformers, self.model)
        return made(made.config_class(**self.options))


# fmt: off
ENDS = {"bos_token_id": 2, "eos_token_id": 3}
LAYERS = {"num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48}
BERTS = SIZES | LAYERS | {"hidden_size": 32}
LLAMAS = SIZES | ENDS | {"num_hidden_layers": 3, "num_attention_heads": 8, "num_key_value_heads": 4,
    "intermediate_size": 96, "max_position_embeddings": 128}
WINDOWED = SIZES | ENDS | {"hidden_size": 128, "num_hidden_layers": 3, "num_attention_heads": 4,
    "num_key_value_heads": 2, "intermediate_size": 64, "max_position_embeddings": 128, "pad_token_id": 0}
STACKS = {"encoder_layers": 2, "decoder_layers": 2, "encoder_attention_heads": 4, "decoder_attention_heads": 4,
    "pad_token_id": 0, "decoder_start_token_id": 3, **ENDS, **SIZES}
PAIRS = STACKS | {"d_model": 32, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48, "max_position_embeddings": 128,
    "forced_eos_token_id": None}
SPEECH = STACKS | {"num_mel_bins": 12, "max_target_positions": 64}
PICTURES = LAYERS | {"hidden_size": 32, "image_size": 32, "patch_size": 8}
TOWER = LAYERS | ENDS | SIZES | {"hidden_size": 32, "max_position_embeddings": 32, "pad_token_id": 0}

bert = Maker("BertModel", BERTS | {"num_hidden_layers": 3})
classifier = Maker("BertForSequenceClassification", BERTS)
llama = Maker("LlamaForCausalLM", LLAMAS | {"hidden_size": 64})
llama_of_64 = Maker("LlamaForCausalLM", LLAMAS | {"hidden_size": 8 * GENAI_HEAD})
mistral = Maker("MistralForCausalLM", WINDOWED | {"sliding_window": 64})
phi3 = Maker("Phi3ForCausalLM", WINDOWED | {"sliding_window": 64, "original_max_position_embeddings": 128})
gemma2 = Maker("Gemma2ForCausalLM", WINDOWED | {"sliding_window": 8, "head_dim": GENAI_HEAD})
gpt_oss = Maker("GptOssForCausalLM", WINDOWED | {"head_dim": GENAI_HEAD, "num_local_experts": 4,
    "num_experts_per_tok": 2, "sliding_window": 8})
lfm2 = Maker("Lfm2ForCausalLM", WINDOWED | {"layer_types": ["conv", "full_attention", "full_attention"],
    "conv_L_cache": 3})
gpt2 = Maker("GPT2LMHeadModel", SIZES | ENDS | {"n_embd": 32, "n_layer": 3, "n_head": 4, "n_positions": 128})
t5 = Maker("T5ForConditionalGeneration", SIZES | {"d_model": 32, "d_kv": 8, "d_ff": 48, "num_layers": 2,
    "num_heads": 4, "decoder_start_token_id": 0, "feed_forward_proj": "gated-gelu", "eos_token_id": 3})
bart = Maker("BartForConditionalGeneration", PAIRS)
pegasus = Maker("PegasusForConditionalGeneration", PAIRS)
marian = Maker("MarianMTModel", PAIRS)
vit = Maker("ViTForImageClassification", PICTURES | {"num_labels": 5})
clip = Maker("CLIPModel", {"text_config": TOWER, "vision_config": PICTURES, "projection_dim": 16})
whisper = Maker("WhisperForConditionalGeneration", SPEECH | {"d_model": 32, "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48})
whisper_of_128 = Maker("WhisperForConditionalGeneration", SPEECH | {"d_model": 4 * GENAI_HEAD,
    "encoder_ffn_dim": 6 * GENAI_HEAD, "decoder_ffn_dim": 6 * GENAI_HEAD})
# fmt: on


def loaded(folder: Path) -> Any:
    """A decoder as `saved` has left it."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def saved(make: Callable[[], Any], folder: Path) -> Any:
    """A model with weights of some size as it is on disk (Marian stores no positions), with a tokenizer."""
    torch.manual_seed(0)
    model = make().eval()
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.ndim == 2:
                parameter.mul_(3.0)
    model.save_pretrained(folder)
    special = {"[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3}
    vocabulary = special | {f"w{number}": number + len(special) for number in range(WORDS)}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer,
        pad_token="[PAD]",
        unk_token="[UNK]",
        cls_token="[CLS]",
        sep_token="[SEP]",
        model_max_length=64,
    ).save_pretrained(folder)
    return type(model).from_pretrained(folder).eval()


@dataclass(frozen=True)
class Projections:
    """The modules of a model that sum up heads and neurons; "{}" stands for the layer.

    Attributes:
        attention: the output projections.
        feed_forward: the last maps of feed-forward blocks.
        head_size: of its heads.
    """

    attention: str
    feed_forward: str
    head_size: int = 8


BERT = Projections("encoder.layer.{}.attention.output.dense", "encoder.layer.{}.output.dense")
LLAMA = Projections("model.layers.{}.self_attn.o_proj", "model.layers.{}.mlp.down_proj")
GPT2 = Projections("transformer.h.{}.attn.c_proj", "transformer.h.{}.mlp.c_proj")


def silence_cut(model: Any, cut: Cut, where: Projections) -> None:
    """Silences in PyTorch what a cut removes. Of a layer the biases of both projections stay.

    Args:
        model: is changed.
        cut: what goes.
        where: the model's projections.
    """
    silence(
        model, {where.attention.format(layer): gone for layer, gone in cut.heads.items()}, where.head_size
    )
    silence(model, {where.feed_forward.format(layer): gone for layer, gone in cut.neurons.items()}, 1)
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name in (where.attention, where.feed_forward):
            for layer in cut.layers:
                modules[name.format(layer)].weight.zero_()


def silence(model: Any, units: Mapping[str, Sequence[int]], size: int) -> None:
    """Silences heads or neurons in PyTorch: the rows of the maps that sum them up become zero.

    Args:
        model: is changed.
        units: per name of a map.
        size: rows of a unit: the size of a head, 1 of a neuron.
    """
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, gone in units.items():
            weight = modules[name].weight
            # transformers' Conv1D stores the transposed matrix.
            rows = weight if type(modules[name]).__name__ == "Conv1D" else weight.T
            for unit in gone:
                rows[unit * size : (unit + 1) * size] = 0
