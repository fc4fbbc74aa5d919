"""Optimum's classes: they feed what `--data` feeds, from text and arrays, and generate from folders that it made."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import tiny_hf
import torch
from calibrated import completed, logits, prompts, pruned, require_continued, require_same, write_lines
from environment import tell
from optimum.exporters.onnx import main_export
from optimum.onnxruntime import ORTModelForCausalLM, ORTModelForSeq2SeqLM, ORTModelForSpeechSeq2Seq

NEW = 12
RAN = f"logits of prompts, generate() of {NEW} tokens through the cache"
DECODERS = {"GPT-2": tiny_hf.gpt2, "Llama": tiny_hf.llama}
PAIRS = {"T5": tiny_hf.t5, "BART": tiny_hf.bart}
GREEDY = {"max_new_tokens": NEW, "min_new_tokens": NEW, "do_sample": False, "num_beams": 1, "pad_token_id": 0}


def check_all(client: str, place: Path) -> None:
    """Decoders, encoders with decoders, and speech.

    Args:
        client: and its versions.
        place: a folder to work in.
    """
    lines = write_lines(place / "lines.txt")
    for name, make in DECODERS.items():
        folder = _exported(make, place / name, "text-generation-with-past")
        followed = _check_decoder(folder, lines)
        tell(client, f"{name}, a quarter of the heads, chosen on text", RAN, followed)
    for name, make in PAIRS.items():
        folder = _exported(make, place / name, "text2text-generation-with-past")
        for case in ("all files", "merged alone"):
            if case == "merged alone":
                for extra in ("decoder_model.onnx", "decoder_with_past_model.onnx"):
                    (folder / extra).unlink()
            followed = _check_pair(folder, folder.with_name(case), lines)
            tell(client, f"{name}, {case}, a quarter of the heads, chosen on text", RAN, followed)
    folder = _exported(tiny_hf.whisper, place / "Whisper", "automatic-speech-recognition-with-past")
    followed = _check_speech(folder)
    tell(client, "Whisper, a quarter of the heads, chosen on text", "logits", followed)


def _exported(make: Callable[[], Any], place: Path, task: str) -> Path:
    tiny_hf.saved(make, place / "torch")
    main_export(str(place / "torch"), output=str(place / "onnx"), task=task, do_validation=False)
    return place / "onnx"


def _check_decoder(folder: Path, lines: Path) -> list[str]:
    model = folder / "model.onnx"
    client, torch_model = (
        ORTModelForCausalLM.from_pretrained(folder),
        tiny_hf.loaded(folder.with_name("torch")),
    )
    for feed in prompts(model, lines):
        tokens = {name: torch.tensor(feed[name]) for name in ("input_ids", "attention_mask")}
        ours, mask = logits(model, feed), feed["attention_mask"] != 0
        for theirs in (client, torch_model):
            with torch.no_grad():
                found = theirs(**tokens).logits.numpy()
            require_same(ours, found, mask, str(model))
    out = folder.with_name("pruned")
    followed = pruned(folder, out, "--data", lines, "--runtime", "optimum")
    ids = torch.tensor([[2, 11, 12, 13, 14, 15]])
    made = ORTModelForCausalLM.from_pretrained(out).generate(
        ids, attention_mask=torch.ones_like(ids), **GREEDY
    )
    (feed, *_) = prompts(out / "model.onnx", lines)
    one = {name: array[:1] for name, array in feed.items()}
    require_continued(out / "model.onnx", one, made[0].tolist(), ids.shape[1])
    return followed


def _check_pair(folder: Path, out: Path, lines: Path) -> list[str]:
    model = folder / "decoder_model_merged.onnx"
    _require_pair(ORTModelForSeq2SeqLM.from_pretrained(folder), model, lines)
    followed = pruned(folder, out, "--data", lines, "--runtime", "optimum")
    client = ORTModelForSeq2SeqLM.from_pretrained(out)
    _require_pair(client, out / model.name, lines)
    ids = torch.tensor([[2, 11, 12, 13, 14, 15]])
    made = client.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **GREEDY)
    states = client.encoder(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state
    (feed, *_) = prompts(out / model.name, lines)
    one = {name: array if name == "use_cache_branch" else array[:1] for name, array in feed.items()}
    one |= {"encoder_hidden_states": states.numpy(), "encoder_attention_mask": np.ones((1, 6), np.int64)}
    require_continued(out / model.name, one, made[0].tolist(), 1)
    return followed


def _require_pair(client: Any, model: Path, lines: Path) -> None:
    """Whether the client gives on a source and a target what the prompt of the target gives."""
    known = {len(feed["input_ids"][0]): feed for feed in prompts(model, lines)}
    for source in prompts(model.with_name("encoder_model.onnx"), lines):
        rows = source["attention_mask"].sum(1)
        for row, length in enumerate(rows):
            ids = source["input_ids"][row, :length]
            feed = known[int(length)]
            (at,) = np.flatnonzero((feed["input_ids"][:, 1:] == ids[:-1]).all(1))[:1]
            with torch.no_grad():
                found = client(
                    input_ids=torch.tensor(ids[None]),
                    attention_mask=torch.ones((1, int(length)), dtype=torch.long),
                    decoder_input_ids=torch.tensor(feed["input_ids"][at : at + 1]),
                ).logits.numpy()
            ours = logits(model, feed)[at : at + 1]
            require_same(ours, found, np.ones(ours.shape[:2], bool), str(model))


def _check_speech(folder: Path) -> list[str]:
    random = np.random.default_rng(0)
    sound = random.standard_normal((8, 12, 3000)).astype(np.float32)
    tokens = np.concatenate([np.full((8, 1), 3), random.integers(4, 94, (8, 11))], axis=1)
    data, out = folder.with_name("data.npz"), folder.with_name("pruned")
    np.savez(data, input_features=sound, decoder_input_ids=tokens)
    followed = pruned(folder, out, "--data", data, "--runtime", "optimum")
    for place in (folder, out):
        model = place / "decoder_model_merged.onnx"
        feed = completed(model, {"input_features": sound, "decoder_input_ids": tokens})
        client = ORTModelForSpeechSeq2Seq.from_pretrained(place)
        with torch.no_grad():
            found = client(
                input_features=torch.tensor(sound), decoder_input_ids=torch.tensor(tokens)
            ).logits.numpy()
        require_same(logits(model, feed), found, np.ones(tokens.shape, bool), str(model))
    return followed
