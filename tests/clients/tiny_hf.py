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


def bert() -> Any:
    """An encoder."""
    return transformers.BertModel(_bert(layers=3))


def classifier() -> Any:
    """An encoder with classes."""
    return transformers.BertForSequenceClassification(_bert(layers=2))


def _bert(layers: int) -> Any:
    return transformers.BertConfig(
        hidden_size=32, num_hidden_layers=layers, num_attention_heads=4, intermediate_size=48, **SIZES
    )


def llama() -> Any:
    """A decoder with grouped queries."""
    return _llama(head_size=8)


def llama_of_64() -> Any:
    """The same with heads of the size that onnxruntime-genai's blocks of four bits want."""
    return _llama(GENAI_HEAD)


def _llama(head_size: int) -> Any:
    config = transformers.LlamaConfig(
        hidden_size=8 * head_size,
        num_hidden_layers=3,
        num_attention_heads=8,
        num_key_value_heads=4,
        intermediate_size=96,
        max_position_embeddings=128,
        bos_token_id=2,
        eos_token_id=3,
        **SIZES,
    )
    return transformers.LlamaForCausalLM(config)


_WINDOWED = {
    "hidden_size": 128,
    "num_hidden_layers": 3,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "intermediate_size": 64,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    **SIZES,
}


def mistral() -> Any:
    """A decoder whose layers all have a sliding window, longer than what is generated."""
    return transformers.MistralForCausalLM(transformers.MistralConfig(sliding_window=64, **_WINDOWED))


def phi3() -> Any:
    """The same, with one layer for queries, keys and values."""
    config = transformers.Phi3Config(sliding_window=64, original_max_position_embeddings=128, **_WINDOWED)
    return transformers.Phi3ForCausalLM(config)


def gemma2() -> Any:
    """A decoder with a short window in every other layer."""
    return transformers.Gemma2ForCausalLM(
        transformers.Gemma2Config(sliding_window=8, head_dim=GENAI_HEAD, **_WINDOWED)
    )


def gpt_oss() -> Any:
    """The same, with experts and sinks."""
    config = transformers.GptOssConfig(
        head_dim=GENAI_HEAD, num_local_experts=4, num_experts_per_tok=2, sliding_window=8, **_WINDOWED
    )
    return transformers.GptOssForCausalLM(config)


def lfm2() -> Any:
    """A decoder whose first layer is a convolution."""
    config = transformers.Lfm2Config(
        layer_types=["conv", "full_attention", "full_attention"], conv_L_cache=3, **_WINDOWED
    )
    return transformers.Lfm2ForCausalLM(config)


def loaded(folder: Path) -> Any:
    """A decoder as `saved` has left it."""
    return transformers.AutoModelForCausalLM.from_pretrained(folder).eval()


def gpt2() -> Any:
    """A decoder whose configuration counts heads once."""
    config = transformers.GPT2Config(
        n_embd=32, n_layer=3, n_head=4, n_positions=128, bos_token_id=2, eos_token_id=3, **SIZES
    )
    return transformers.GPT2LMHeadModel(config)


def t5() -> Any:
    """An encoder and a decoder."""
    config = transformers.T5Config(
        d_model=32,
        d_kv=8,
        d_ff=48,
        num_layers=2,
        num_heads=4,
        decoder_start_token_id=0,
        feed_forward_proj="gated-gelu",
        eos_token_id=3,
        **SIZES,
    )
    return transformers.T5ForConditionalGeneration(config)


def bart() -> Any:
    """An encoder and a decoder, whose configuration counts their heads apart."""
    config = transformers.BartConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        max_position_embeddings=128,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
        forced_eos_token_id=None,
        **SIZES,
    )
    return transformers.BartForConditionalGeneration(config)


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


_STACKS = {
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 2,
    "eos_token_id": 3,
    "decoder_start_token_id": 3,
    "forced_eos_token_id": None,
    **SIZES,
}
_PICTURED = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 32,
    "patch_size": 8,
}


def pegasus() -> Any:
    """An encoder and a decoder with sinusoidal positions, and norms before layers."""
    return transformers.PegasusForConditionalGeneration(transformers.PegasusConfig(**_STACKS))


def marian() -> Any:
    """The same, with norms after layers."""
    return transformers.MarianMTModel(transformers.MarianConfig(**_STACKS))


def vit() -> Any:
    """A classifier of images."""
    return transformers.ViTForImageClassification(transformers.ViTConfig(num_labels=5, **_PICTURED))


def clip() -> Any:
    """Towers of text and of images."""
    text = {name: value for name, value in _PICTURED.items() if name not in {"image_size", "patch_size"}}
    text |= {"max_position_embeddings": 32, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0, **SIZES}
    return transformers.CLIPModel(
        transformers.CLIPConfig(text_config=text, vision_config=_PICTURED, projection_dim=16)
    )


def whisper() -> Any:
    """An encoder of sound and a decoder."""
    return _whisper(head_size=8)


def whisper_of_128() -> Any:
    """The same with heads of the size that onnxruntime-genai's blocks of four bits want."""
    return _whisper(GENAI_HEAD)


def _whisper(head_size: int) -> Any:
    config = transformers.WhisperConfig(
        d_model=4 * head_size,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=6 * head_size,
        decoder_ffn_dim=6 * head_size,
        num_mel_bins=12,
        max_target_positions=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
        **SIZES,
    )
    return transformers.WhisperForConditionalGeneration(config)
