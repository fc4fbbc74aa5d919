"""Optimum's exports: ``python -m tests.zoo.foreign.optimum --out DIR [--only GLOB] [--variants V,V]``.

Runs in an environment of its own (see README.md); `python -m tests.zoo.table` then checks the folders in ours.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import onnx
import torch
import transformers
from torch import nn

from tests.zoo import postprocess
from tests.zoo.case import Case, Expect, Projection
from tests.zoo.families.common import VOCAB, Options, layers, maker, wrapped
from tests.zoo.foreign.cli import run
from tests.zoo.foreign.face import Face, caches_of, feeds_of, names_of
from tests.zoo.init import spread

FAMILY = "optimum"
GENERATE, FEATURES, TRANSLATE = (
    "text-generation-with-past",
    "feature-extraction",
    "text2text-generation-with-past",
)
TEXT: Options = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 64,
}
LLAMA: Options = TEXT | {"hidden_size": 48, "num_attention_heads": 6, "num_key_value_heads": 2, "head_dim": 8}
GPT: Options = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 64}
STACKS: Options = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "encoder_layers": 2,
    "decoder_layers": 2,
    "encoder_attention_heads": 4,
    "decoder_attention_heads": 4,
    "encoder_ffn_dim": 48,
    "decoder_ffn_dim": 48,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "decoder_start_token_id": 1,
}
T5: Options = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "d_kv": 6,
    "d_ff": 48,
    "num_layers": 2,
    "num_heads": 4,
    "relative_attention_num_buckets": 8,
    "relative_attention_max_distance": 10,
    "decoder_start_token_id": 0,
}
WHISPER: Options = STACKS | {"num_mel_bins": 12, "max_source_positions": 1500, "max_target_positions": 64}
VISION: Options = {
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "image_size": 16,
    "patch_size": 8,
}
DEBERTA: Options = TEXT | {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"]}
DISTILLED: Options = {"vocab_size": VOCAB, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48}


@dataclass(frozen=True)
class Recipe:
    """One file that Optimum writes.

    Attributes:
        name: of the case.
        model: class name in transformers.
        options: of its configuration.
        task: Optimum's name of what the model is for.
        projections: the output projections in the file, in order of execution.
        file: which of the files.
        part: "encoder" or "decoder" of a pair.
        shapes: of inputs, without the batch axis.
        settings: more arguments for Optimum.
        expect: what pruning should answer.
    """

    name: str
    model: str
    options: Options
    task: str
    projections: tuple[Projection, ...]
    file: str = "model"
    part: str = ""
    shapes: tuple[tuple[str, tuple[int, ...]], ...] = ()
    config: str = ""
    settings: tuple[tuple[str, Any], ...] = ()
    expect: Expect = "exact"


def _export(recipe: Recipe, model: nn.Module, folder: Path) -> Path:
    from optimum.exporters.onnx import onnx_export_from_model

    onnx_export_from_model(model, folder, task=recipe.task, do_validation=False, **dict(recipe.settings))
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
    projections = wrapped(recipe.projections)
    case = Case(
        name=recipe.name,
        family=FAMILY,
        builder=partial(Face, model, inputs, outputs, recipe.part),
        feeds=feeds_of(path, shapes=dict(recipe.shapes)),
        inputs=inputs,
        outputs=outputs,
        dynamic_axes={},
        projections=projections,
        expect=recipe.expect,
        caches=caches_of(inputs, outputs, projections),
        note=f"Optimum, {recipe.task}, {recipe.file}.onnx",
    )
    return case, path


def optimized(level: str, source: Path, target: Path, case: Case, model: nn.Module) -> None:
    """ORTOptimizer at one of its levels."""
    from optimum.onnxruntime import AutoOptimizationConfig, ORTOptimizer

    with tempfile.TemporaryDirectory() as folder:
        config = model.config
        optimizer = ORTOptimizer([source], config=config, from_ortmodel=False)
        optimizer.optimize(
            AutoOptimizationConfig.with_optimization_level(level), save_dir=folder, file_suffix=""
        )
        shutil.copy(next(Path(folder).glob("*.onnx")), target)


def quantized(source: Path, target: Path, case: Case, model: nn.Module) -> None:
    """ORTQuantizer, dynamic."""
    from optimum.onnxruntime import AutoQuantizationConfig, ORTQuantizer

    with tempfile.TemporaryDirectory() as folder:
        settings = AutoQuantizationConfig.avx512_vnni(is_static=False, per_channel=True)
        ORTQuantizer(source, config=model.config).quantize(
            save_dir=folder, quantization_config=settings, file_suffix=""
        )
        shutil.copy(next(Path(folder).glob("*.onnx")), target)


def optimizer(source: Path, target: Path, case: Case, model: nn.Module) -> None:
    """onnxoptimizer's default passes."""
    import onnxoptimizer

    onnx.save(onnxoptimizer.optimize(onnx.load(source)), target)


def common_float16(source: Path, target: Path, case: Case, model: nn.Module) -> None:
    """onnxconverter-common's conversion to float16."""
    from onnxconverter_common import float16

    onnx.save(float16.convert_float_to_float16(onnx.load(source), keep_io_types=True), target)


def _texts() -> list[Recipe]:
    dense = layers("encoder.layer.{}.attention.output.dense", 2, 4, 8)
    albert = layers("encoder.albert_layer_groups.0.albert_layers.0.attention.dense", 2, 4, 8)
    narrow = TEXT | {"embedding_size": 16}

    def text(name: str, model: str, options: Options, projections: tuple[Projection, ...]) -> Recipe:
        return Recipe(f"optimum-{name}", model, options, FEATURES, projections)

    return [
        text("bert", "BertModel", TEXT, dense),
        text("roberta", "RobertaModel", TEXT, dense),
        text(
            "distilbert",
            "DistilBertModel",
            DISTILLED,
            layers("transformer.layer.{}.attention.out_lin", 2, 4, 8),
        ),
        text("albert", "AlbertModel", narrow, albert),
        text("electra", "ElectraModel", narrow, dense),
        text("mpnet", "MPNetModel", TEXT, layers("encoder.layer.{}.attention.attn.o", 2, 4, 8)),
        text("deberta-v2", "DebertaV2Model", DEBERTA, dense),
        text(
            "modernbert", "ModernBertModel", TEXT | {"pad_token_id": 0}, layers("layers.{}.attn.Wo", 2, 4, 8)
        ),
    ]


def _decoders() -> list[Recipe]:
    own = layers("model.layers.{}.self_attn.o_proj", 2, 6, 8, 2)

    def text(
        name: str,
        model: str,
        options: Options,
        projections: tuple[Projection, ...],
        task: str = GENERATE,
        **rest: Any,
    ) -> Recipe:
        return Recipe(f"optimum-{name}", model, options, task, projections, **rest)

    gpt2 = layers("transformer.h.{}.attn.c_proj", 2, 4, 8)
    gemma = LLAMA | {"query_pre_attn_scalar": 8}
    falcon = {"vocab_size": VOCAB, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    falcon_grouped = falcon | {
        "new_decoder_architecture": True,
        "num_kv_heads": 2,
        "hidden_size": 48,
        "num_attention_heads": 6,
    }
    opt = falcon | {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 64}
    return [
        text("gpt2", "GPT2LMHeadModel", GPT, gpt2),
        text("gpt2-no-past", "GPT2LMHeadModel", GPT, gpt2, "text-generation"),
        text("llama-gqa", "LlamaForCausalLM", LLAMA, own),
        text("llama-no-past", "LlamaForCausalLM", LLAMA, own, "text-generation"),
        text("qwen2", "Qwen2ForCausalLM", LLAMA, own),
        text("qwen3", "Qwen3ForCausalLM", LLAMA, own),
        text("gemma", "GemmaForCausalLM", LLAMA, own),
        text("gemma2", "Gemma2ForCausalLM", gemma, own),
        text("gemma3", "Gemma3ForCausalLM", gemma, own, config="Gemma3TextConfig"),
        text("phi", "PhiForCausalLM", TEXT, layers("model.layers.{}.self_attn.dense", 2, 4, 8)),
        text("phi3", "Phi3ForCausalLM", LLAMA | {"pad_token_id": 0}, own),
        text("mistral", "MistralForCausalLM", LLAMA, own),
        text("granite", "GraniteForCausalLM", LLAMA, own),
        text("olmo2", "Olmo2ForCausalLM", LLAMA, own, expect="refused"),
        text(
            "bloom",
            "BloomForCausalLM",
            {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4},
            layers("transformer.h.{}.self_attention.dense", 2, 4, 8),
        ),
        text(
            "falcon-mqa",
            "FalconForCausalLM",
            falcon,
            layers("transformer.h.{}.self_attention.dense", 2, 4, 8, 1),
        ),
        text(
            "falcon-gqa",
            "FalconForCausalLM",
            falcon_grouped,
            layers("transformer.h.{}.self_attention.dense", 2, 6, 8, 2),
        ),
        text("opt", "OPTForCausalLM", opt, layers("model.decoder.layers.{}.self_attn.out_proj", 2, 4, 8)),
        text("gpt-neox", "GPTNeoXForCausalLM", TEXT, layers("gpt_neox.layers.{}.attention.dense", 2, 4, 8)),
        text(
            "gptj",
            "GPTJForCausalLM",
            GPT | {"rotary_dim": 4},
            layers("transformer.h.{}.attn.out_proj", 2, 4, 8),
        ),
        text(
            "codegen",
            "CodeGenForCausalLM",
            GPT | {"rotary_dim": 4, "n_ctx": 64},
            layers("transformer.h.{}.attn.out_proj", 2, 4, 8),
        ),
    ]


def _both(own: str, cross: str, size: int) -> tuple[Projection, ...]:
    return tuple(Projection(path.format(i), 4, size, 4) for i in range(2) for path in (own, cross))


def _pairs() -> list[Recipe]:
    bart = _both(
        "model.decoder.layers.{}.self_attn.out_proj", "model.decoder.layers.{}.encoder_attn.out_proj", 8
    )
    bart_encoder = layers("model.encoder.layers.{}.self_attn.out_proj", 2, 4, 8)
    t5 = _both("decoder.block.{}.layer.0.SelfAttention.o", "decoder.block.{}.layer.1.EncDecAttention.o", 6)
    t5_encoder = layers("encoder.block.{}.layer.0.SelfAttention.o", 2, 4, 6)
    found = []
    for name, model, options, decoder, encoder, task in (
        ("t5", "T5ForConditionalGeneration", T5, t5, t5_encoder, TRANSLATE),
        ("bart", "BartForConditionalGeneration", STACKS, bart, bart_encoder, TRANSLATE),
        ("marian", "MarianMTModel", STACKS, bart, bart_encoder, TRANSLATE),
        (
            "whisper",
            "WhisperForConditionalGeneration",
            WHISPER,
            bart,
            bart_encoder,
            "automatic-speech-recognition-with-past",
        ),
    ):
        shapes = (("input_features", (12, 3000)),) if name == "whisper" else ()
        if name == "whisper":
            shapes += (("encoder_hidden_states", (1500, 32)),)
        found += [
            Recipe(
                f"optimum-{name}-encoder", model, options, task, encoder, "encoder_model", "encoder", shapes
            ),
            Recipe(
                f"optimum-{name}-decoder", model, options, task, decoder, "decoder_model", "decoder", shapes
            ),
            Recipe(
                f"optimum-{name}-step",
                model,
                options,
                task,
                decoder,
                "decoder_with_past_model",
                "decoder",
                shapes,
            ),
            Recipe(
                f"optimum-{name}-merged",
                model,
                options,
                task,
                decoder,
                "decoder_model_merged",
                "decoder",
                shapes,
            ),
        ]
    return found


def _vision() -> list[Recipe]:
    image = (("pixel_values", (3, 16, 16)),)
    dense = layers("encoder.layer.{}.attention.output.dense", 2, 4, 8)
    clip = layers("vision_model.encoder.layers.{}.self_attn.out_proj", 2, 4, 8)
    return [
        Recipe("optimum-vit", "ViTModel", VISION, FEATURES, dense, shapes=image),
        Recipe("optimum-deit", "DeiTModel", VISION, FEATURES, dense, shapes=image),
        Recipe(
            "optimum-beit",
            "BeitModel",
            VISION | {"use_relative_position_bias": True},
            FEATURES,
            dense,
            shapes=image,
        ),
        Recipe(
            "optimum-clip-vision",
            "CLIPVisionModel",
            VISION,
            FEATURES,
            clip,
            shapes=image,
            config="CLIPVisionConfig",
        ),
    ]


RECIPES: tuple[Recipe, ...] = (*_texts(), *_decoders(), *_pairs(), *_vision())

STEPS: dict[str, Callable[..., None]] = {
    "O1": partial(optimized, "O1"),
    "O2": partial(optimized, "O2"),
    "O3": partial(optimized, "O3"),
    "ortq": quantized,
    "optimizer": optimizer,
    "common16": common_float16,
}


def main() -> int:
    """Runs the command line."""
    postprocess.TOLERANCES |= {"ortq": None, "common16": 2e-2}
    return run({r.name: {"optimum": partial(case_of, r)} for r in RECIPES}, STEPS, __doc__ or "")


if __name__ == "__main__":
    raise SystemExit(main())
