"""onnxruntime-genai loads pruned folders of its exports, and generates what the silenced PyTorch model generates."""

from __future__ import annotations

import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import onnxruntime_genai as og
import tiny_hf
import torch
from calibrated import logits, prompts, pruned, require_continued, require_same, write_lines
from cuts import Cut, prune, prune_folder
from environment import tell
from readme import run_readme
from smaller import CHOSEN, byte_pairs, prune_vocabulary
from tokenizers import Tokenizer

from onnxheadprune.edit.records import record_of

CLIENT = f"onnxruntime-genai {version('onnxruntime-genai')} (onnxruntime {version('onnxruntime')})"
PROMPT = [2, 11, 12, 13, 14, 15]
NEW = 12
WHERE = replace(tiny_hf.LLAMA, head_size=tiny_hf.GENAI_HEAD)
CUTS = {
    "one KV head of each layer": Cut(heads={0: (0, 1), 1: (4, 5), 2: (6, 7)}),
    "other numbers of KV heads in each layer": Cut(heads={0: (0, 1), 1: (2, 3, 4, 5, 6, 7)}),
    "query heads alone": Cut(heads={0: (0, 2, 4, 6), 2: (1, 2, 5, 6)}),
    "neurons": Cut(neurons={0: range(32), 1: range(32, 96)}),
    "heads, neurons and a layer": Cut(heads={0: (0, 1)}, neurons={2: range(64, 96)}, layers=(1,)),
}
"""In four bits neurons go in blocks of 32."""
WINDOWED = {
    tiny_hf.mistral: True,
    tiny_hf.phi3: True,
    tiny_hf.gemma2: False,
    tiny_hf.gpt_oss: False,
    tiny_hf.lfm2: True,
}
"""Decoders with windows, or types of layers, and whether genai allocates their caches by one number of heads: it does
not where the configuration lists the layers with a window."""

_DECODER = "model.decoder.layers.{}.{}"
SPEECH: dict[str, tuple[list[str], dict[str, tuple[int, ...]]]] = {
    "heads of the encoder, uneven": (
        ["--heads", "4:1 5:0,2"],
        {f"model.encoder.layers.{layer}.self_attn": gone for layer, gone in enumerate([(1,), (0, 2)])},
    ),
    "self-attention of the decoder, uneven": (
        ["--heads", "0:1 2:0,3"],
        {_DECODER.format(layer, "self_attn"): gone for layer, gone in enumerate([(1,), (0, 3)])},
    ),
    "one head of each layer, caches kept": (
        ["--heads", "*:1", "--cache", "keep"],
        {
            name: (1,)
            for layer in range(2)
            for name in (
                f"model.encoder.layers.{layer}.self_attn",
                _DECODER.format(layer, "self_attn"),
                _DECODER.format(layer, "encoder_attn"),
            )
        },
    ),
}
"""Cuts of Whisper: options of `prune`, and the heads by the attention that loses them in PyTorch."""


def main() -> None:
    """Every cut in float32 against PyTorch, and in int4 against the export with silenced heads."""
    with tempfile.TemporaryDirectory() as name:
        place = Path(name)
        tiny_hf.saved(tiny_hf.llama_of_64, place / "torch")
        for precision in ("fp32", "int4"):
            _export(place / "torch", place / precision, precision)
            for case, cut in CUTS.items():
                _check(place, precision, case, cut)
            _check_calibrated(place, precision)
        _check_vocabulary(place)
        for precision in ("fp32", "int4"):
            _check_speech(place / "whisper", precision)
        for make, alike in WINDOWED.items():
            _check_windowed(make, place / make.model, alike)
        (place / "fp32").rename(place / "llama")  # as README.md calls its folders
        write_lines(place / "lines.txt").rename(place / "sentences.txt")
        run_readme(Path(__file__).name, place)


def _export(model: Path, folder: Path, precision: str) -> None:
    options = [
        "-m",
        str(model),
        "-o",
        str(folder),
        "-p",
        precision,
        "-e",
        "cpu",
        "-c",
        str(folder.with_name("cache")),
    ]
    subprocess.run([sys.executable, "-m", "onnxruntime_genai.models.builder", *options], check=True)


def _check(place: Path, precision: str, case: str, cut: Cut) -> None:
    out, silent = place / f"{precision} {case}", place / f"{precision} {case} silent"
    prune_folder(place / precision, out, cut, "genai")
    model = tiny_hf.loaded(place / "torch")
    tiny_hf.silence_cut(model, cut, WHERE)
    if precision == "fp32":
        with torch.no_grad():
            made = model.generate(
                torch.tensor([PROMPT]),
                max_new_tokens=NEW,
                min_new_tokens=NEW,
                do_sample=False,
                pad_token_id=0,
            )
        wanted = made[0].tolist()
    else:
        # Rows that are zero are zero in four bits, too, and the others are rounded as they were.
        model.save_pretrained(silent / "torch")
        _export_silent(place, silent, precision)
        wanted = _generated(silent / "onnx")
    found = _generated(out)
    assert found == wanted, f"{precision}, {case}: {found} is not {wanted}"
    same = (place / precision / "genai_config.json").read_bytes() == (out / "genai_config.json").read_bytes()
    assert same
    tell(CLIENT, f"Llama, {precision}, {case}", f"generation of {NEW} tokens", [])


def _check_windowed(make: Callable[[], Any], place: Path, alike: bool) -> None:
    """Where caches are alike, even cuts follow in genai_config.json, and uneven ones are refused or keep the caches."""
    tiny_hf.saved(make, place / "torch")
    _export(place / "torch", place / "onnx", "fp32")
    uneven = Cut(heads={0: (0, 1)})
    if alike:
        words = [sys.executable, "-m", "onnxheadprune", "prune", str(place / "onnx"), *uneven.options]
        refused = subprocess.run(
            [*words, "-o", str(place / "no"), "--runtime", "genai"],
            capture_output=True,
            text=True,
            check=False,
        )
        assert refused.returncode == 3 and "cannot express this cut" in refused.stderr, refused.stderr
    projections = [
        name
        for name, _ in tiny_hf.loaded(place / "torch").named_modules()
        if name.endswith((".o_proj", "self_attn.out_proj"))
    ]
    even = Cut(heads=dict.fromkeys(range(len(projections)), (0, 1)))
    cases: tuple[tuple[str, Cut, list[str], list[str]], ...] = (
        ("one KV head of each layer", even, [], ["num_key_value_heads 2 -> 1"] if alike else []),
        ("uneven, caches kept", uneven, ["--cache", "keep"], [])
        if alike
        else ("other numbers of KV heads in each layer", uneven, [], []),
    )
    for case, cut, options, followed in cases:
        prune_folder(place / "onnx", place / case, cut, "genai", options)
        model = tiny_hf.loaded(place / "torch")
        tiny_hf.silence(model, {projections[at]: gone for at, gone in cut.heads.items()}, tiny_hf.GENAI_HEAD)
        with torch.no_grad():
            ids = torch.tensor([PROMPT])
            made = model.generate(
                ids, max_new_tokens=NEW, min_new_tokens=NEW, do_sample=False, pad_token_id=0
            )
        assert _generated(place / case) == made[0].tolist(), f"{make.model}, {case}"
        told = f"generation of {NEW} tokens"
        tell(CLIENT, f"{type(model).__name__.removesuffix('ForCausalLM')}, fp32, {case}", told, followed)


def _check_speech(place: Path, precision: str) -> None:
    """Heads of both files are removed; keys and values that the decoder takes from the encoder's file are kept."""
    torch.manual_seed(1)
    sound = torch.randn(1, 12, 3000)
    original = tiny_hf.saved(tiny_hf.whisper_of_128, place / "torch")
    _export(place / "torch", place / precision, precision)
    for case, (options, gone) in SPEECH.items():
        out = place / f"{precision} {case}"
        prune(place / precision, "-o", out, "--runtime", "genai", *options)
        model = type(original).from_pretrained(place / "torch").eval()
        tiny_hf.silence(
            model, {name + ".out_proj": units for name, units in gone.items()}, tiny_hf.GENAI_HEAD
        )
        wanted = _spoken(model, place / f"{precision} {case} silent", precision, sound)
        found = _generated(out, sound=sound)
        assert found == wanted, f"Whisper, {precision}, {case}: {found} is not {wanted}"
        told = f"generation of {NEW} tokens"
        tell(CLIENT, f"Whisper, {precision}, {case}", told, [])


def _spoken(model: Any, silent: Path, precision: str, sound: torch.Tensor) -> list[int]:
    """Return the tokens of PyTorch in float32, else those of the client with an export of the silenced model."""
    if precision != "fp32":
        model.save_pretrained(silent / "torch")
        _export_silent(silent.parent, silent, precision)
        return _generated(silent / "onnx", sound=sound)
    ids = list(PROMPT)
    for _ in range(NEW):
        with torch.no_grad():
            row = model(input_features=sound, decoder_input_ids=torch.tensor([ids])).logits[0, -1]
        row[model.config.eos_token_id] = -torch.inf
        ids.append(int(row.argmax()))
    return ids


def _check_vocabulary(place: Path) -> None:
    """Generation of the same tokens by other ids, of those that the folder before generates."""
    old = byte_pairs()
    prompt = old.encode(CHOSEN[1]).ids
    wanted = _generated(place / "fp32", prompt)
    smaller = prune_vocabulary(place / "fp32", old, "genai", *wanted)
    record = record_of(onnx.load(smaller.after / "model.onnx", load_external_data=False)).vocabulary
    assert record is not None and len(record.kept) < record.rows
    new = Tokenizer.from_file(str(smaller.after / "tokenizer.json"))
    found = _generated(smaller.after, new.encode(CHOSEN[1]).ids)
    assert [record.kept[number] for number in found] == wanted, f"{found} is not {wanted}"
    tell(CLIENT, "Llama, fp32, fewer tokens", f"generation of {NEW} tokens", ["vocab_size"])


def _check_calibrated(place: Path, precision: str) -> None:
    """What the client computes for a prompt is what `--data` feeds, and it goes on from a folder that was pruned so."""
    lines, folder = write_lines(place / "lines.txt"), place / precision
    out = place / f"{precision} by text"
    pruned(folder, out, "--data", lines, "--runtime", "genai")
    for name in (folder, out):
        for feed in prompts(name / "model.onnx", lines):
            ours = logits(name / "model.onnx", feed)
            for row in range(0, len(ours), 7):
                length = int(feed["attention_mask"][row].sum())
                theirs = _logits(name, feed["input_ids"][row, :length].tolist())
                require_same(ours[row : row + 1, length - 1], theirs, np.ones(1, bool), str(name))
    (feed, *_) = prompts(out / "model.onnx", lines)
    one = {name: array[:1] for name, array in feed.items()}
    require_continued(out / "model.onnx", one, _generated(out), len(PROMPT))
    told = f"logits of prompts, generation of {NEW} tokens"
    tell(CLIENT, f"Llama, {precision}, a quarter of the heads, chosen on text", told, [])


def _logits(folder: Path, ids: list[int]) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    """What the client gives for the last token of a prompt, [1, vocabulary]."""
    model = og.Model(str(folder))
    generator = og.Generator(model, og.GeneratorParams(model))
    generator.append_tokens(ids)
    return np.asarray(generator.get_logits(), np.float32).reshape(1, -1)


def _export_silent(place: Path, silent: Path, precision: str) -> None:
    for path in (place / "torch").iterdir():
        target = silent / "torch" / path.name
        if not target.exists():
            target.write_bytes(path.read_bytes())
    _export(silent / "torch", silent / "onnx", precision)


def _generated(folder: Path, prompt: Sequence[int] = PROMPT, sound: torch.Tensor | None = None) -> list[int]:
    model = og.Model(str(folder))
    parameters = og.GeneratorParams(model)
    length = len(prompt) + NEW
    parameters.set_search_options(max_length=length, min_length=length, do_sample=False)
    generator = og.Generator(model, parameters)
    if sound is not None:
        inputs = og.NamedTensors()
        inputs["audio_features"] = sound.numpy()
        generator.set_inputs(inputs)
    generator.append_tokens(list(prompt))
    while not generator.is_done():
        generator.generate_next_token()
    return list(map(int, generator.get_sequence(0)))[:length]


if __name__ == "__main__":
    main()
