"""Optimum's ONNX Runtime classes load pruned folders, and generate what the silenced PyTorch model generates."""

from __future__ import annotations

import json
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnxruntime
import tiny_hf
import torch
from calibrated_optimum import check_all as check_calibrated
from environment import tell
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import (
    ORTModelForCausalLM,
    ORTModelForFeatureExtraction,
    ORTModelForSeq2SeqLM,
    ORTModelForSequenceClassification,
)

_VERSIONS = f"transformers {version('transformers')}, onnxruntime {onnxruntime.__version__}"
CLIENT = f"Optimum {version('optimum-onnx')} ({_VERSIONS})"
IDS = torch.tensor([[2, 11, 12, 13, 14, 15], [2, 31, 22, 3, 0, 0]])
MASK = (IDS != 0).long()
NEW = 12
"""Tokens that are generated."""
CLOSE = 1e-4


@dataclass(frozen=True)
class Case:
    """A model and a cut.

    Attributes:
        make: makes the model.
        task: as Optimum calls it.
        loads: the class that loads the folder.
        heads: the cut, with the numbers that sites have in the folder.
        silent: the same for PyTorch: heads per output projection.
        size: of a head.
        more: further options of `prune`.
    """

    make: Callable[[], Any]
    task: str
    loads: Any
    heads: str
    silent: Mapping[str, tuple[int, ...]]
    size: int = 8
    more: tuple[str, ...] = ("--for", "optimum")


def _layers(pattern: str, *heads: tuple[int, ...]) -> dict[str, tuple[int, ...]]:
    return {pattern.format(layer): gone for layer, gone in enumerate(heads)}


BERT = "encoder.layer.{}.attention.output.dense"
LLAMA = "model.layers.{}.self_attn.o_proj"
GPT2 = "transformer.h.{}.attn.c_proj"
ENCODER, SELF, CROSS = (
    "encoder.block.{}.layer.0.SelfAttention.o",
    "decoder.block.{}.layer.0.SelfAttention.o",
    "decoder.block.{}.layer.1.EncDecAttention.o",
)
BARTS = (
    "model.encoder.layers.{}.self_attn",
    "model.decoder.layers.{}.self_attn",
    "model.decoder.layers.{}.encoder_attn",
)
TEXT = "text2text-generation-with-past"
CASES = {
    "BERT, uneven": Case(
        tiny_hf.bert,
        "feature-extraction",
        ORTModelForFeatureExtraction,
        "0:1 1:0,2,3",
        _layers(BERT, (1,), (0, 2, 3)),
    ),
    "BERT classes, uneven": Case(
        tiny_hf.classifier,
        "text-classification",
        ORTModelForSequenceClassification,
        "0:1 1:0,2,3",
        _layers("bert." + BERT, (1,), (0, 2, 3)),
    ),
    "Llama, one KV head of each layer": Case(
        tiny_hf.llama,
        "text-generation-with-past",
        ORTModelForCausalLM,
        "0:0,1 1:4,5 2:6,7",
        _layers(LLAMA, (0, 1), (4, 5), (6, 7)),
    ),
    "Llama, query heads alone": Case(
        tiny_hf.llama,
        "text-generation-with-past",
        ORTModelForCausalLM,
        "0:0,2,4,6 2:1,2,5,6",
        _layers(LLAMA, (0, 2, 4, 6), (), (1, 2, 5, 6)),
    ),
    "Llama, uneven, caches kept": Case(
        tiny_hf.llama,
        "text-generation-with-past",
        ORTModelForCausalLM,
        "0:0,1 1:4-7",
        _layers(LLAMA, (0, 1), (4, 5, 6, 7)),
        more=("--for", "optimum", "--keep-cache-shape"),
    ),
    "GPT-2, one head of each layer": Case(
        tiny_hf.gpt2,
        "text-generation-with-past",
        ORTModelForCausalLM,
        "0:0 1:2 2:3",
        _layers(GPT2, (0,), (2,), (3,)),
    ),
    "GPT-2, uneven, caches kept": Case(
        tiny_hf.gpt2,
        "text-generation-with-past",
        ORTModelForCausalLM,
        "0:0 2:1,3",
        _layers(GPT2, (0,), (), (1, 3)),
        more=("--for", "optimum", "--keep-cache-shape"),
    ),
    "T5, one head of each layer": Case(
        tiny_hf.t5,
        TEXT,
        ORTModelForSeq2SeqLM,
        "*:1",
        _layers(ENCODER, (1,), (1,)) | _layers(SELF, (1,), (1,)) | _layers(CROSS, (1,), (1,)),
    ),
    "T5, the encoder alone, uneven": Case(
        tiny_hf.t5, TEXT, ORTModelForSeq2SeqLM, "4:0,3 5:1", _layers(ENCODER, (0, 3), (1,))
    ),
    "BART, one head of each layer": Case(
        tiny_hf.bart,
        TEXT,
        ORTModelForSeq2SeqLM,
        "*:2",
        {k: v for pattern in BARTS for k, v in _layers(pattern + ".out_proj", (2,), (2,)).items()},
    ),
}


def main() -> None:
    """Runs every case."""
    with tempfile.TemporaryDirectory() as place:
        for number, (name, case) in enumerate(CASES.items()):
            _check(name, case, Path(place) / str(number))
        check_calibrated(CLIENT, Path(place))


def _check(name: str, case: Case, place: Path) -> None:
    model = tiny_hf.saved(case.make, place / "torch")
    main_export(str(place / "torch"), output=str(place / "onnx"), task=case.task, do_validation=False)
    tiny_hf.prune(place / "onnx", "-o", place / "pruned", "--heads", case.heads, *case.more)
    with torch.no_grad():
        original = _outcome(model, case)
        tiny_hf.silence(model, case.silent, case.size)
        wanted = _outcome(model, case)
        found = _outcome(case.loads.from_pretrained(place / "pruned"), case)
    assert not _same(original, wanted), f"{name}: silencing the heads shows nowhere"
    assert _same(found, wanted), f"{name}: {found} is not {wanted}"
    before, after = (json.loads((place / which / "config.json").read_text()) for which in ("onnx", "pruned"))
    followed = [f"{key} {before.get(key)} -> {after[key]}" for key in after if before.get(key) != after[key]]
    ran = (
        "outputs"
        if "generation" not in case.task
        else f"generate(), {NEW} tokens through the cache, and the logits"
    )
    tell(CLIENT, name, ran, followed)


def _outcome(model: Any, case: Case) -> list[torch.Tensor]:
    if "generation" not in case.task:
        made = model(input_ids=IDS, attention_mask=MASK)
        return [made[0]]
    mask = MASK if "text2text" in case.task else torch.ones_like(IDS)
    made = model.generate(
        input_ids=IDS,
        attention_mask=mask,
        max_new_tokens=NEW,
        min_new_tokens=NEW,
        do_sample=False,
        num_beams=1,
        pad_token_id=0,
        output_logits=True,
        return_dict_in_generate=True,
    )
    return [made.sequences, torch.stack(made.logits)]


def _same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(
        a.shape == b.shape
        and torch.allclose(a.float(), b.float(), rtol=CLOSE, atol=CLOSE * float(b.abs().max()))
        for a, b in zip(one, other, strict=True)
    )


if __name__ == "__main__":
    main()
