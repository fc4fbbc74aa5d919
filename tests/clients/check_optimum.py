"""Optimum's ONNX Runtime classes load pruned folders, and generate what the silenced PyTorch model generates."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from functools import partial
from importlib.metadata import version
from pathlib import Path
from typing import Any

import onnx
import onnxruntime
import tiny_hf
import torch
from calibrated_optimum import check_all as check_calibrated
from cuts import Cut, prune, prune_folder
from environment import tell
from lines import written
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import (
    ORTModelForCausalLM,
    ORTModelForFeatureExtraction,
    ORTModelForImageClassification,
    ORTModelForSeq2SeqLM,
    ORTModelForSequenceClassification,
    ORTModelForSpeechSeq2Seq,
    ORTModelForZeroShotImageClassification,
)
from oracle import WholeSequences
from smaller import CHOSEN, prune_vocabulary, unigram
from tokenizers import Tokenizer

from onnxheadprune.edit.records import record_of

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
        heads: the cut, with the numbers that sites have in the folder; none for a quarter, refitted on text.
        silent: the same for PyTorch: heads per output projection.
        cut: what goes in place of these heads, of neurons and layers as well, and where PyTorch has it.
        size: of a head.
        more: further options of `prune`.
        neurons: what `more` takes of feed-forward blocks, for PyTorch: neurons per map that sums them up.
    """

    make: Callable[[], Any]
    task: str
    loads: Any
    heads: str
    silent: Mapping[str, tuple[int, ...]]
    cut: tuple[Cut, tiny_hf.Projections] | None = None
    size: int = 8
    more: tuple[str, ...] = ("--runtime", "optimum")
    neurons: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    @property
    def refitted(self) -> bool:
        """Whether heads are chosen and refitted on text, in place of those that are named."""
        return not self.heads and self.cut is None


UNEVEN = {"Llama, one KV head of each layer": "0:0,1 1:2-7", "GPT-2, one head of each layer": "0:0 2:1,3"}
"""Cuts of caches that Optimum cannot express, by the case whose export they are made of."""


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
GENERATE = "text-generation-with-past"
KEPT = ("--runtime", "optimum", "--cache", "keep")
# fmt: off
_bert = partial(Case, tiny_hf.bert, "feature-extraction", ORTModelForFeatureExtraction)
_classes = partial(Case, tiny_hf.classifier, "text-classification", ORTModelForSequenceClassification)
_llama = partial(Case, tiny_hf.llama, GENERATE, ORTModelForCausalLM)
_gpt2 = partial(Case, tiny_hf.gpt2, GENERATE, ORTModelForCausalLM)
_t5 = partial(Case, tiny_hf.t5, TEXT, ORTModelForSeq2SeqLM)
_bart = partial(Case, tiny_hf.bart, TEXT, ORTModelForSeq2SeqLM)
CASES = {
    "BERT, uneven": _bert("0:1 1:0,2,3", _layers(BERT, (1,), (0, 2, 3))),
    "BERT classes, uneven": _classes("0:1 1:0,2,3", _layers("bert." + BERT, (1,), (0, 2, 3))),
    "Llama, one KV head of each layer": _llama("0:0,1 1:4,5 2:6,7", _layers(LLAMA, (0, 1), (4, 5), (6, 7))),
    "Llama, a KV head and neurons of each layer": _llama("0:0,1 1:4,5 2:6,7", _layers(LLAMA, (0, 1), (4, 5), (6, 7)),
        more=("--runtime", "optimum", "--neurons", "0:0-7 1:3 2:1,5-9"),
        neurons=_layers("model.layers.{}.mlp.down_proj", tuple(range(8)), (3,), (1, *range(5, 10)))),
    "Llama, query heads alone": _llama("0:0,2,4,6 2:1,2,5,6", _layers(LLAMA, (0, 2, 4, 6), (), (1, 2, 5, 6))),
    "Llama, uneven, caches kept": _llama("0:0,1 1:4-7", _layers(LLAMA, (0, 1), (4, 5, 6, 7)), more=KEPT),
    "GPT-2, one head of each layer": _gpt2("0:0 1:2 2:3", _layers(GPT2, (0,), (2,), (3,))),
    "GPT-2, uneven, caches kept": _gpt2("0:0 2:1,3", _layers(GPT2, (0,), (), (1, 3)), more=KEPT),
    "Llama, a quarter of the heads, refitted": _llama("", {}),
    "GPT-2, a quarter of the heads, refitted": _gpt2("", {}),
    "Llama, neurons and a layer": _llama("", {},
        cut=(Cut(neurons={0: range(32), 2: range(16)}, layers=(1,)), tiny_hf.LLAMA)),
    "GPT-2, neurons": _gpt2("", {}, cut=(Cut(neurons={1: range(64), 2: range(100, 128)}), tiny_hf.GPT2)),
    "T5, one head of each layer": _t5("*:1",
        _layers(ENCODER, (1,), (1,)) | _layers(SELF, (1,), (1,)) | _layers(CROSS, (1,), (1,))),
    "T5, neurons of encoder and decoder, heads of the encoder": _t5("4:0,3 5:1", _layers(ENCODER, (0, 3), (1,)),
        more=("--runtime", "optimum", "--neurons", "0:0-3 1:7 2:1,2 3:9"),
        neurons=_layers("decoder.block.{}.layer.2.DenseReluDense.wo", (0, 1, 2, 3), (7,))
        | _layers("encoder.block.{}.layer.1.DenseReluDense.wo", (1, 2), (9,))),
    "T5, the encoder alone, uneven": _t5("4:0,3 5:1", _layers(ENCODER, (0, 3), (1,))),
    "BART, one head of each layer": _bart("*:2",
        {k: v for pattern in BARTS for k, v in _layers(pattern + ".out_proj", (2,), (2,)).items()}),
}
# fmt: on

SPEECH = "automatic-speech-recognition-with-past"
OTHERS: dict[str, tuple[Callable[[], Any], str, Any]] = {
    "Whisper": (tiny_hf.whisper, SPEECH, ORTModelForSpeechSeq2Seq),
    "Pegasus": (tiny_hf.pegasus, TEXT, ORTModelForSeq2SeqLM),
    "Marian": (tiny_hf.marian, TEXT, ORTModelForSeq2SeqLM),
    "ViT classes": (tiny_hf.vit, "image-classification", ORTModelForImageClassification),
    "CLIP": (tiny_hf.clip, "zero-shot-image-classification", ORTModelForZeroShotImageClassification),
}
"""Encoder-decoders by a merged decoder alone and by the two others, images, and text with images."""
MERGED, SPLIT = {"decoder_model_merged.onnx"}, {"decoder_model.onnx", "decoder_with_past_model.onnx"}


def main() -> None:
    """Runs every case."""
    with tempfile.TemporaryDirectory() as place:
        for name in OTHERS:
            _check_other(name, Path(place) / name)
        for number, (name, case) in enumerate(CASES.items()):
            _check(name, case, Path(place) / str(number))
            if name in UNEVEN:
                _refused(name, case, Path(place) / str(number))
        _check_vocabulary(Path(place) / str(list(CASES).index("T5, one head of each layer")))
        (Path(place) / "calibrated").mkdir()
        check_calibrated(CLIENT, Path(place) / "calibrated")


def _check_other(name: str, place: Path) -> None:
    """One head of each layer is removed, of the files that Optimum loads."""
    make, task, loads = OTHERS[name]
    model = tiny_hf.saved(make, place / "torch")
    main_export(str(place / "torch"), output=str(place / "onnx"), task=task, do_validation=False)
    projections = [
        path
        for path, _ in model.named_modules()
        if path.endswith((".out_proj", "attention.output.dense")) and "lm_head" not in path
    ]
    original = _numbers(model, task)
    tiny_hf.silence(model, dict.fromkeys(projections, (1,)), 8)
    wanted = _numbers(model, task)
    assert not _same([original], [wanted]), f"{name}: silencing the heads shows nowhere"
    forms = {"one head of each layer": set[str]()}
    if "with-past" in task:
        forms = {"merged, one head of each layer": SPLIT, "decoders apart, one head of each layer": MERGED}
    (place / "pruned").mkdir()
    for case, left_out in forms.items():
        folder = place / case
        shutil.copytree(place / "onnx", folder)
        for file in left_out:
            (folder / file).unlink()
        prune(folder, "-o", place / "pruned" / case, "--heads", "*:1", "--runtime", "optimum")
        found = _numbers(loads.from_pretrained(place / "pruned" / case), task)
        assert _same([found], [wanted]), f"{name}, {case}: {found} is not {wanted}"
        before, after = (
            json.loads((which / "config.json").read_text()) for which in (folder, place / "pruned" / case)
        )
        followed = [
            f"{key} {before.get(key)} -> {after[key]}" for key in after if before.get(key) != after[key]
        ]
        ran = f"generate(), {NEW} tokens through the cache" if "with-past" in task else "outputs"
        tell(CLIENT, f"{name}, {case}", ran, followed)


def _numbers(model: Any, task: str) -> torch.Tensor:
    """The logits of what a model generates, or its outputs."""
    torch.manual_seed(1)
    feeds = {
        SPEECH: {"input_features": torch.randn(2, 12, 3000)},
        TEXT: {"input_ids": IDS, "attention_mask": MASK},
        "image-classification": {"pixel_values": torch.randn(2, 3, 32, 32)},
        "zero-shot-image-classification": {
            "input_ids": IDS,
            "attention_mask": torch.ones_like(IDS),
            "pixel_values": torch.randn(2, 3, 32, 32),
        },
    }
    with torch.no_grad():
        if "with-past" not in task:
            return model(**feeds[task])[0]
        made = model.generate(
            **feeds[task],
            max_new_tokens=NEW,
            min_new_tokens=NEW,
            do_sample=False,
            num_beams=1,
            output_logits=True,
            return_dict_in_generate=True,
        )
    return torch.stack(made.logits)


def _check_vocabulary(place: Path) -> None:
    """What a text becomes is the same text, by ids that are others."""
    old = unigram()

    def generated(folder: Path, tokenizer: Tokenizer, line: str) -> list[int]:
        ids = torch.tensor([tokenizer.encode(line).ids])
        made = ORTModelForSeq2SeqLM.from_pretrained(folder).generate(ids, max_new_tokens=NEW, num_beams=1)
        return list(map(int, made[0]))

    wanted = {line: generated(place / "onnx", old, line) for line in CHOSEN}
    more = {number for sequence in wanted.values() for number in sequence}
    smaller = prune_vocabulary(place / "onnx", old, "optimum", *more)
    record = record_of(onnx.load(smaller.after / "encoder_model.onnx")).vocabulary
    assert record is not None
    new = Tokenizer.from_file(str(smaller.after / "tokenizer.json"))
    for line, sequence in wanted.items():
        found = generated(smaller.after, new, line)
        assert [record.kept[number] for number in found] == sequence, f"{line}: {found} is not {sequence}"
    tell(CLIENT, "T5, fewer tokens", f"generate(), {NEW} tokens through the cache", ["vocab_size"])


def _check(name: str, case: Case, place: Path) -> None:
    model = tiny_hf.saved(case.make, place / "torch")
    main_export(str(place / "torch"), output=str(place / "onnx"), task=case.task, do_validation=False)
    if case.cut is not None:
        prune_folder(place / "onnx", place / "pruned", case.cut[0], "optimum")
    else:
        cut = ("--ratio", "0.25", "--data", written(place)) if case.refitted else ("--heads", case.heads)
        prune(place / "onnx", "-o", place / "pruned", *cut, *case.more)
    with torch.no_grad():
        original = _outcome(model, case)
        found = _outcome(case.loads.from_pretrained(place / "pruned"), case)
        if case.cut is not None:
            tiny_hf.silence_cut(model, *case.cut)
        if case.refitted:
            wanted = _whole(place / "pruned" / "model.onnx", found[0])
        else:
            tiny_hf.silence(model, case.silent, case.size)
            tiny_hf.silence(model, case.neurons, 1)
            wanted = _outcome(model, case)
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


def _refused(name: str, case: Case, place: Path) -> None:
    """An uneven cut is refused before it is made."""
    words = [sys.executable, "-m", "onnxheadprune", "prune", str(place / "onnx"), "-o", str(place / "uneven")]
    asked = [*words, "--runtime", "optimum", "--heads", UNEVEN[name]]
    done = subprocess.run(asked, stderr=subprocess.PIPE, text=True, check=False)
    assert done.returncode == 3 and not (place / "uneven").exists(), done.stderr
    tell(CLIENT, f"{name.partition(',')[0]}, uneven caches", "refused", [])


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


def _whole(model: Path, sequences: torch.Tensor) -> list[torch.Tensor]:
    """What the pruned file gives for the same sequences at once, without a cache."""
    logits = torch.from_numpy(WholeSequences(model).logits(sequences.numpy()))[:, -NEW - 1 : -1]
    made = torch.cat([sequences[:, :-NEW], logits.argmax(-1)], 1)
    return [made, logits.transpose(0, 1)]


def _same(one: list[torch.Tensor], other: list[torch.Tensor]) -> bool:
    return all(
        a.shape == b.shape
        and torch.allclose(a.float(), b.float(), rtol=CLOSE, atol=CLOSE * float(b.abs().max()))
        for a, b in zip(one, other, strict=True)
    )


if __name__ == "__main__":
    main()
