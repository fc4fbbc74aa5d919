"""onnxruntime-genai's model builder: see `tests.zoo.measure`.

The builder writes GroupQueryAttention with packed or separate
projections and rotary angles inside, fused residual norms and, as int4, MatMulNBits.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import torch
import transformers
from tokenizers import Tokenizer, models, pre_tokenizers
from torch import nn

from tests.zoo import steps
from tests.zoo.attributes import at
from tests.zoo.case import Case
from tests.zoo.families.row import VOCAB, Options, maker
from tests.zoo.foreign.exported import Exported
from tests.zoo.foreign.face import Face, caches_of, feeds_of, names_of
from tests.zoo.init import spread

FAMILY = "genai"
VARIANTS = tuple(
    f"genai-{precision}-{device}" for device in ("cpu", "cuda") for precision in ("fp32", "fp16", "int4")
)
# (batch, past, new, source): GroupQueryAttention reads no padding, and several new tokens only without a past.
SIZES = ((3, 0, 6, 0), (2, 4, 1, 0), (1, 0, 5, 0))
LLAMA: Options = {
    "vocab_size": VOCAB,
    "hidden_size": 96,
    "num_hidden_layers": 2,
    "num_attention_heads": 6,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "intermediate_size": 64,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
WIDE: Options = LLAMA | {"hidden_size": 128, "num_attention_heads": 4, "head_dim": 32}
HEADS: Options = LLAMA | {"num_key_value_heads": 6}
WINDOW: Options = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
GEMMA: Options = LLAMA | WINDOW | {"query_pre_attn_scalar": 16}


@dataclass(frozen=True)
class Recipe:
    """One model for the builder: its class, configuration, and the end of the paths of its output projections."""

    name: str
    model: str
    options: Options
    config: str = ""
    out: str = "self_attn.o_proj"


def _tokenizer(folder: Path) -> None:
    vocabulary = {"<pad>": 0, "<s>": 1, "</s>": 2, **{f"w{i}": i for i in range(3, VOCAB)}}
    tokenizer = Tokenizer(models.WordLevel(vocabulary, unk_token="<pad>"))
    tokenizer.pre_tokenizer = pre_tokenizers.Whitespace()
    transformers.PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="<pad>", bos_token="<s>", eos_token="</s>"
    ).save_pretrained(folder)


def _built(model: nn.Module, variant: str, folder: Path) -> Path:
    from onnxruntime_genai.models.builder import create_model, parse_extra_options

    _, precision, device = variant.split("-")
    source, target = folder / "source", folder / variant
    if not source.exists():
        model.save_pretrained(source)
        _tokenizer(source)
    cache = str(folder / "cache")
    extra = parse_extra_options("", str(source), str(target), precision, device, cache, [])
    create_model("", str(source), str(target), precision, device, cache, **extra)
    return target / "model.onnx"


def case_of(recipe: Recipe, variant: str, folder: Path) -> tuple[Case, Path]:
    """Builds one variant of a recipe's model into `folder`; the case, and the file that was written."""
    torch.manual_seed(7)
    config = recipe.config or getattr(transformers, recipe.model).config_class.__name__
    model = spread(maker(recipe.model, config=config, **recipe.options)("eager"))
    path = _built(model, variant, folder)
    inputs, outputs = names_of(path)
    case = Case(
        name=recipe.name,
        family=FAMILY,
        builder=partial(Face, model, inputs, outputs),
        feeds=feeds_of(path, sizes=SIZES, padded=False, width=recipe.options.get("head_dim", 16)),
        outputs=outputs,
        dynamic_axes={},
        rules=at(recipe.out),
        caches=caches_of(inputs, outputs),
        note="onnxruntime-genai",
    )
    return case, path


def recipes() -> list[Recipe]:
    """The models."""
    phi = {key: value for key, value in LLAMA.items() if key not in ("head_dim", "num_key_value_heads")}
    return [
        Recipe("genai-llama-gqa", "LlamaForCausalLM", LLAMA),
        Recipe("genai-llama-mha", "LlamaForCausalLM", HEADS),
        Recipe("genai-llama-wide", "LlamaForCausalLM", WIDE),
        Recipe("genai-llama-bias", "LlamaForCausalLM", LLAMA | {"attention_bias": True}),
        Recipe("genai-mistral", "MistralForCausalLM", LLAMA | {"sliding_window": None}),
        Recipe("genai-qwen2", "Qwen2ForCausalLM", LLAMA),
        Recipe("genai-qwen3", "Qwen3ForCausalLM", LLAMA),
        Recipe("genai-gemma", "GemmaForCausalLM", LLAMA),
        Recipe("genai-gemma2", "Gemma2ForCausalLM", GEMMA),
        Recipe("genai-gemma3", "Gemma3ForCausalLM", GEMMA, "Gemma3TextConfig"),
        Recipe("genai-phi3", "Phi3ForCausalLM", LLAMA | {"original_max_position_embeddings": 64}),
        Recipe("genai-phi", "PhiForCausalLM", phi, out="self_attn.dense"),
        Recipe("genai-granite", "GraniteForCausalLM", LLAMA),
        Recipe("genai-olmo", "OlmoForCausalLM", LLAMA),
        Recipe("genai-smollm3", "SmolLM3ForCausalLM", LLAMA | {"no_rope_layers": [1, 0]}),
        Recipe("genai-nemotron", "NemotronForCausalLM", LLAMA),
        Recipe("genai-ernie", "Ernie4_5ForCausalLM", LLAMA),
    ]


steps.TOLERANCES |= {variant: 2e-2 for variant in VARIANTS if "fp16" in variant}
steps.TOLERANCES |= dict.fromkeys(variant for variant in VARIANTS if "int4" in variant)


def rows() -> dict[str, Exported]:
    """Return the rows of the table."""
    return {
        recipe.name: Exported(
            *(recipe.name, FAMILY), {variant: partial(case_of, recipe, variant) for variant in VARIANTS}
        )
        for recipe in recipes()
    }
