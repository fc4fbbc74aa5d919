"""Small models of transformers with random weights, their exports, and the same models with heads silenced."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import IO, Any

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers

WORDS = 90
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
    """A model with weights of some size, on disk with a tokenizer of whole words."""
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
    return model


def silence(model: Any, heads: Mapping[str, tuple[int, ...]], size: int) -> None:
    """Silences heads in PyTorch: the rows of their output projections become zero.

    Args:
        model: is changed.
        heads: per name of an output projection.
        size: of a head.
    """
    modules = dict(model.named_modules())
    with torch.no_grad():
        for name, gone in heads.items():
            weight = modules[name].weight
            # transformers' Conv1D stores the transposed matrix.
            rows = weight if type(modules[name]).__name__ == "Conv1D" else weight.T
            for head in gone:
                rows[head * size : (head + 1) * size] = 0


def whisper() -> Any:
    """An encoder of sound and a decoder."""
    config = transformers.WhisperConfig(
        d_model=32,
        encoder_layers=2,
        decoder_layers=2,
        encoder_attention_heads=4,
        decoder_attention_heads=4,
        encoder_ffn_dim=48,
        decoder_ffn_dim=48,
        num_mel_bins=12,
        max_target_positions=64,
        pad_token_id=0,
        bos_token_id=2,
        eos_token_id=3,
        decoder_start_token_id=3,
        **SIZES,
    )
    return transformers.WhisperForConditionalGeneration(config)


def prune(*arguments: object, stdout: IO[str] | None = None) -> None:
    """Runs the command line.

    Args:
        arguments: of `prune`.
        stdout: where its output goes, None for the terminal.

    Raises:
        CalledProcessError: if it fails.
    """
    command = [sys.executable, "-m", "onnxheadprune", "prune", *map(str, arguments)]
    subprocess.run(command, check=True, stdout=stdout)
