"""Optimum's exports."""

from __future__ import annotations

import shutil
import tempfile
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
import transformers
from torch import nn

from tests.zoo import steps
from tests.zoo.attributes import at
from tests.zoo.build import Original
from tests.zoo.case import Case
from tests.zoo.families.row import VOCAB, Options, maker
from tests.zoo.foreign.exported import Exported
from tests.zoo.foreign.face import Face, caches_of, feeds_of, names_of
from tests.zoo.init import spread

FAMILY = "optimum"
GENERATE, FEATURES, TRANSLATE = (
    "text-generation-with-past",
    "feature-extraction",
    "text2text-generation-with-past",
)
# fmt: off
TEXT: Options = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 48, "max_position_embeddings": 64}
NARROW: Options = TEXT | {"embedding_size": 16}
LLAMA: Options = TEXT | {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}
GEMMA: Options = LLAMA | {"query_pre_attn_scalar": 8}
GPT: Options = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
STACKS: Options = {"vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 4, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48,
    "max_position_embeddings": 64, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2,
    "decoder_start_token_id": 1}
T5: Options = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10, "decoder_start_token_id": 0}
WHISPER: Options = STACKS | {"num_mel_bins": 12, "max_source_positions": 1500, "max_target_positions": 64}
VISION: Options = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 48,
    "image_size": 16, "patch_size": 8}
DEBERTA: Options = TEXT | {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
DISTILLED: Options = {"vocab_size": VOCAB, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}
BLOOM: Options = {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}
FALCON: Options = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
FALCON_GROUPED: Options = FALCON | {"new_decoder_architecture": True, "num_kv_heads": 2, "hidden_size": 48,
    "num_attention_heads": 6}
OPT: Options = FALCON | {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}

DENSE, O_PROJ, OUT_PROJ = "attention.output.dense", "self_attn.o_proj", "self_attn.out_proj"


@dataclass(frozen=True)
class Recipe:
    """One file that Optimum writes.

    Attributes:
        name: of the case, behind "optimum-".
        model: class name in transformers.
        options: of its configuration.
        task: Optimum's name of what the model is for.
        out: ends of the paths of the output projections in the file.
        file: which of the files.
        part: "encoder" or "decoder" of a pair.
        shapes: of inputs, without the batch axis.
        config: the configuration's class, where it does not follow from the model's.
    """

    name: str
    model: str
    options: Options
    task: str
    out: tuple[str, ...]
    file: str = "model"
    part: str = ""
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    config: str = ""


def _recipes() -> list[Recipe]:
    def text(name: str, model: str, options: Options, out: str, task: str = FEATURES, **rest: Any) -> Recipe:
        return Recipe(name, model, options, task, (out,), **rest)

    image = {"shapes": (("pixel_values", (3, 16, 16)),)}
    decoder = partial(text, task=GENERATE)
    falcon = "self_attention.dense"
    found = [
        text("bert", "BertModel", TEXT, DENSE),
        text("roberta", "RobertaModel", TEXT, DENSE),
        text("distilbert", "DistilBertModel", DISTILLED, "attention.out_lin"),
        text("albert", "AlbertModel", NARROW, "attention.dense"),
        text("electra", "ElectraModel", NARROW, DENSE),
        text("mpnet", "MPNetModel", TEXT, "attn.o"),
        text("deberta-v2", "DebertaV2Model", DEBERTA, DENSE),
        text("modernbert", "ModernBertModel", TEXT | {"pad_token_id": 0}, "attn.Wo"),
        decoder("gpt2", "GPT2LMHeadModel", GPT, "attn.c_proj"),
        decoder("gpt2-no-past", "GPT2LMHeadModel", GPT, "attn.c_proj", task="text-generation"),
        decoder("llama-gqa", "LlamaForCausalLM", LLAMA, O_PROJ),
        decoder("llama-no-past", "LlamaForCausalLM", LLAMA, O_PROJ, task="text-generation"),
        decoder("qwen2", "Qwen2ForCausalLM", LLAMA, O_PROJ),
        decoder("qwen3", "Qwen3ForCausalLM", LLAMA, O_PROJ),
        decoder("gemma", "GemmaForCausalLM", LLAMA, O_PROJ),
        decoder("gemma2", "Gemma2ForCausalLM", GEMMA, O_PROJ),
        decoder("gemma3", "Gemma3ForCausalLM", GEMMA, O_PROJ, config="Gemma3TextConfig"),
        decoder("phi", "PhiForCausalLM", TEXT, "self_attn.dense"),
        decoder("phi3", "Phi3ForCausalLM", LLAMA | {"pad_token_id": 0}, O_PROJ),
        decoder("mistral", "MistralForCausalLM", LLAMA, O_PROJ),
        decoder("granite", "GraniteForCausalLM", LLAMA, O_PROJ),
        decoder("olmo2", "Olmo2ForCausalLM", LLAMA, O_PROJ),
        decoder("bloom", "BloomForCausalLM", BLOOM, falcon),
        decoder("falcon-mqa", "FalconForCausalLM", FALCON, falcon),
        decoder("falcon-gqa", "FalconForCausalLM", FALCON_GROUPED, falcon),
        decoder("opt", "OPTForCausalLM", OPT, OUT_PROJ),
        decoder("gpt-neox", "GPTNeoXForCausalLM", TEXT, "attention.dense"),
        decoder("gptj", "GPTJForCausalLM", GPT | {"rotary_dim": 4}, "attn.out_proj"),
        decoder("codegen", "CodeGenForCausalLM", GPT | {"rotary_dim": 4, "n_ctx": 64}, "attn.out_proj"),
        text("vit", "ViTModel", VISION, DENSE, **image),
        text("deit", "DeiTModel", VISION, DENSE, **image),
        text("beit", "BeitModel", VISION | {"use_relative_position_bias": True}, DENSE, **image),
        text("clip-vision", "CLIPVisionModel", VISION, OUT_PROJ, config="CLIPVisionConfig", **image),
    ]
    bart, t5 = (OUT_PROJ, "encoder_attn.out_proj"), ("SelfAttention.o", "EncDecAttention.o")
    speech = (("input_features", (12, 3000)), ("encoder_hidden_states", (1500, 32)))
    for name, model, options, (own, cross), task, shapes in (
        ("t5", "T5ForConditionalGeneration", T5, t5, TRANSLATE, ()),
        ("bart", "BartForConditionalGeneration", STACKS, bart, TRANSLATE, ()),
        ("marian", "MarianMTModel", STACKS, bart, TRANSLATE, ()),
        ("whisper", "WhisperForConditionalGeneration", WHISPER, bart, "automatic-speech-recognition-with-past", speech),
    ):
        for end, file, part in (
            ("encoder", "encoder_model", "encoder"),
            ("decoder", "decoder_model", "decoder"),
            ("step", "decoder_with_past_model", "decoder"),
            ("merged", "decoder_model_merged", "decoder"),
        ):
            out = (own,) if part == "encoder" else (own, cross)
            found.append(Recipe(f"{name}-{end}", model, options, task, out, file, part, shapes))
    return found


RECIPES = tuple(_recipes())
# fmt: on


def _export(recipe: Recipe, model: nn.Module, folder: Path) -> Path:
    from optimum.exporters.onnx import onnx_export_from_model

    onnx_export_from_model(model, folder, task=recipe.task, do_validation=False)
    return folder / f"{recipe.file}.onnx"


def case_of(recipe: Recipe, folder: Path) -> tuple[Case, Path]:
    """Exports a recipe's model into `folder`; the case, and the file that was written."""
    torch.manual_seed(7)
    config = recipe.config or getattr(transformers, recipe.model).config_class.__name__
    kind = "sdpa" if getattr(transformers, recipe.model)._supports_sdpa else "eager"
    model = spread(maker(recipe.model, config=config, **recipe.options)(kind))
    path = _export(recipe, model, folder)
    inputs, outputs = names_of(path)
    if "use_cache_branch" in inputs:  # the branch with a cache returns no cross-attention cache
        outputs = tuple(name for name in outputs if ".encoder." not in name)
    case = Case(
        name=f"optimum-{recipe.name}",
        family=FAMILY,
        builder=partial(Face, model, inputs, outputs, recipe.part),
        feeds=feeds_of(path, shapes=dict(recipe.shapes)),
        outputs=outputs,
        dynamic_axes={},
        rules=at(*recipe.out),
        caches=caches_of(inputs, outputs),
        note=f"Optimum, {recipe.task}, {recipe.file}.onnx",
    )
    return case, path


def optimized(level: str, source: Path, target: Path, original: Original) -> None:
    """ORTOptimizer at one of its levels."""
    from optimum.onnxruntime import AutoOptimizationConfig, ORTOptimizer

    with tempfile.TemporaryDirectory() as folder:
        config = _config(original)
        optimizer = ORTOptimizer([source], config=config, from_ortmodel=False)
        optimizer.optimize(
            AutoOptimizationConfig.with_optimization_level(level), save_dir=folder, file_suffix=""
        )
        shutil.copy(next(Path(folder).glob("*.onnx")), target)


def quantized(source: Path, target: Path, original: Original) -> None:
    """ORTQuantizer, dynamic."""
    from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer

    with tempfile.TemporaryDirectory() as folder:
        settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
        ORTQuantizer(source, config=_config(original)).quantize(
            save_dir=folder, quantization_config=settings, file_suffix=""
        )
        shutil.copy(next(Path(folder).glob("*.onnx")), target)


def optimizer(source: Path, target: Path, original: Original) -> None:
    """onnxoptimizer's default passes."""
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source)), target)


def common_float16(source: Path, target: Path, original: Original) -> None:
    """onnxconverter-common's conversion to float16."""
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def _config(original: Original) -> Any:
    return original.module.get_submodule("model").config


steps.STEPS |= {
    "O1": partial(optimized, "O1"),
    "O2": partial(optimized, "O2"),
    "O3": partial(optimized, "O3"),
    "ortq": quantized,
    "optimizer": optimizer,
    "common16": common_float16,
}
steps.TOLERANCES |= {"ortq": None, "common16": 2e-2}


def rows() -> dict[str, Exported]:
    """Return the rows of the table."""
    names = {f"optimum-{recipe.name}": recipe for recipe in RECIPES}
    return {
        name: Exported(name, FAMILY, {"optimum": partial(case_of, recipe)}) for name, recipe in names.items()
    }
