"""torchaudio, openai-whisper, speechbrain, demucs, encodec, bs-roformer, conformer: speech and music."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from importlib import import_module
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.wild.case import Wild, sequence, tokens
from tests.zoo.wild.rules import Heads

MHA = Heads("MultiheadAttention", ("",), "num_heads")
WAVE = feeds.floats(2, 1000)
LAYERS = [(8, 10, 5), (8, 3, 2)]
WAV2VEC2: dict[str, Any] = {
    "extractor_mode": "group_norm",
    "extractor_conv_layer_config": LAYERS,
    "extractor_conv_bias": False,
    "encoder_embed_dim": 24,
    "encoder_projection_dropout": 0.0,
    "encoder_pos_conv_kernel": 5,
    "encoder_pos_conv_groups": 3,
    "encoder_num_layers": 2,
    "encoder_num_heads": 3,
    "encoder_attention_dropout": 0.0,
    "encoder_ff_interm_features": 32,
    "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0,
    "encoder_layer_norm_first": False,
    "encoder_layer_drop": 0.0,
    "aux_num_out": 7,
}


def _of(module: str, name: str, *arguments: Any, **options: Any) -> nn.Module:
    built: nn.Module = getattr(import_module(module), name)(*arguments, **options)
    return built


def _audio(name: str, **options: Any) -> Callable[[], nn.Module]:
    return partial(_of, "torchaudio.models", name, **options)


def _whisper(part: str) -> nn.Module:
    dims = _of("whisper.model", "ModelDimensions", 8, 16, 24, 3, 2, 50, 12, 24, 3, 2)
    whole = import_module("whisper.model").Whisper(dims)
    built: nn.Module = getattr(whole, part)
    return built


def _wavlm() -> nn.Module:
    options = {key: value for key, value in WAV2VEC2.items() if key != "encoder_layer_norm_first"}
    return _audio(
        "wavlm_model",
        **options,
        encoder_num_buckets=8,
        encoder_max_distance=16,
        encoder_layer_norm_first=False,
    )()


class _Emformer(nn.Module):
    """Emformer without the lengths, which a fixed input has no use for."""

    def __init__(self, **options: Any) -> None:
        super().__init__()
        self.emformer = _audio(
            "Emformer", input_dim=24, num_heads=3, ffn_dim=32, num_layers=2, segment_length=4, **options
        )()

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs on ``[batch, time, 24]``."""
        out: torch.Tensor = self.emformer(x, torch.full((x.shape[0],), x.shape[1]))[0]
        return out


class _Lengths(nn.Module):
    """A model of torchaudio that wants the length of every row."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Runs on whole rows."""
        out: torch.Tensor = self.inner(x, torch.full((x.shape[0],), x.shape[1]))[0]
        return out


def _conformer(**options: Any) -> nn.Module:
    return _Lengths(
        _audio(
            "Conformer",
            input_dim=24,
            num_heads=3,
            ffn_dim=32,
            num_layers=2,
            depthwise_conv_kernel_size=3,
            **options,
        )()
    )


def _brain(kind: str, **options: Any) -> nn.Module:
    return _of(
        "speechbrain.lobes.models.transformer.Transformer",
        "TransformerEncoder",
        num_layers=2,
        nhead=3,
        d_ffn=32,
        d_model=24,
        attention_type=kind,
        **options,
    )


class _SelfAttention(nn.Module):
    """An attention of speechbrain that reads one sequence, and positions if it wants them."""

    def __init__(self, kind: str) -> None:
        super().__init__()
        self.inner = _of("speechbrain.nnet.attention", kind, 24, 3)

    def forward(self, x: torch.Tensor, *positions: torch.Tensor) -> torch.Tensor:
        """Query, key and value are the same."""
        out: torch.Tensor = self.inner(x, x, x, *positions)[0]
        return out


def _demucs_transformer(**options: Any) -> nn.Module:
    return _of(
        "demucs.transformer",
        "CrossTransformerEncoder",
        dim=24,
        num_heads=3,
        num_layers=3,
        hidden_scale=2.0,
        **options,
    )


def _pair(out: Any) -> Any:
    return tuple(out)


def _case(
    name: str, package: str, make: Any, inputs: Mapping[str, torch.Tensor], *rules: Heads, **rest: Any
) -> Wild:
    return Wild(f"{package}-{name}", package, make, inputs, rules, **rest)


def cases() -> list[Wild]:
    """Returns the cases of these packages."""
    audio = Heads("SelfAttention", ("out_proj",), "num_heads")
    wavlm = Heads("WavLMSelfAttention", ("attention.out_proj",), "num_heads")
    emformer = Heads("_EmformerAttention", ("out_proj",), "num_heads")
    whisper = Heads("MultiHeadAttention", ("out",), "n_head")
    brain = Heads("MultiheadAttention", ("",), "num_heads", within=r"\.att$")
    relative = Heads("RelPosMHAXL", ("out_proj",), "num_heads")
    rope = Heads("RoPEMHA", ("out_proj",), "num_heads")
    fixed = {"dynamic": False}
    spectrogram = feeds.floats(2, 24, 4, 6)
    return [
        _case("wav2vec2", "torchaudio", _audio("wav2vec2_model", **WAV2VEC2), {"x": WAVE}, audio),
        _case(
            "hubert-large-style",
            "torchaudio",
            _audio(
                "wav2vec2_model",
                **(WAV2VEC2 | {"extractor_mode": "layer_norm", "encoder_layer_norm_first": True}),
            ),
            {"x": WAVE},
            audio,
        ),
        _case(
            "wavlm", "torchaudio", _wavlm, {"x": WAVE}, wavlm, note="its projection is handed to a function"
        ),
        _case("conformer", "torchaudio", _conformer, {"x": sequence(11, 24)}, MHA),
        _case(
            "conformer-conv-first",
            "torchaudio",
            partial(_conformer, convolution_first=True, use_group_norm=True),
            {"x": sequence(11, 24)},
            MHA,
        ),
        _case("emformer", "torchaudio", _Emformer, {"x": sequence(8, 24)}, emformer, **fixed),
        _case(
            "emformer-context",
            "torchaudio",
            partial(_Emformer, left_context_length=2, right_context_length=1, max_memory_size=2),
            {"x": sequence(9, 24)},
            emformer,
            **fixed,
        ),
        _case(
            "emformer-tanh",
            "torchaudio",
            partial(_Emformer, tanh_on_mem=True, left_context_length=4),
            {"x": sequence(8, 24)},
            emformer,
            **fixed,
        ),
        _case(
            "encoder",
            "openai-whisper",
            partial(_whisper, "encoder"),
            {"mel": feeds.floats(2, 8, 32)},
            whisper,
        ),
        _case(
            "decoder",
            "openai-whisper",
            partial(_whisper, "decoder"),
            {"ids": tokens(6), "xa": sequence(16, 24)},
            whisper,
        ),
        _case("regular", "speechbrain", partial(_brain, "regularMHA"), {"x": sequence(9, 24)}, brain),
        _case(
            "regular-prenorm",
            "speechbrain",
            partial(_brain, "regularMHA", normalize_before=True),
            {"x": sequence(9, 24)},
            brain,
        ),
        _case(
            "relative",
            "speechbrain",
            partial(_SelfAttention, "RelPosMHAXL"),
            {"x": sequence(9, 24), "p": sequence(17, 24, batch=1)},
            relative,
            dynamic=False,
        ),
        _case(
            "rotary",
            "speechbrain",
            partial(_SelfAttention, "RoPEMHA"),
            {"x": sequence(9, 24)},
            rope,
            dynamic=False,
        ),
        _case(
            "cross-transformer",
            "demucs",
            _demucs_transformer,
            {"x": spectrogram, "xt": feeds.floats(2, 24, 10)},
            MHA,
            pick=_pair,
            **fixed,
        ),
        _case(
            "cross-transformer-sparse-off",
            "demucs",
            partial(_demucs_transformer, norm_first=True, emb="sin", layer_scale=True),
            {"x": spectrogram, "xt": feeds.floats(2, 24, 10)},
            MHA,
            pick=_pair,
            **fixed,
        ),
        _case(
            "block",
            "conformer",
            partial(
                _of,
                "conformer",
                "Conformer",
                dim=24,
                depth=2,
                dim_head=8,
                heads=3,
                ff_mult=1,
                conv_expansion_factor=2,
                conv_kernel_size=3,
            ),
            {"x": sequence(9, 24)},
            Heads("Attention", ("to_out",), "heads"),
        ),
        _case(
            "transformer",
            "bs-roformer",
            partial(
                _of,
                "bs_roformer.bs_roformer",
                "Transformer",
                dim=24,
                depth=2,
                dim_head=8,
                heads=3,
                flash_attn=False,
            ),
            {"x": sequence(9, 24)},
            Heads("Attention", ("to_out",), "heads"),
        ),
        _case(
            "transformer-linear",
            "bs-roformer",
            partial(
                _of,
                "bs_roformer.mel_band_roformer",
                "Transformer",
                dim=24,
                depth=2,
                dim_head=8,
                heads=3,
                linear_attn=True,
            ),
            {"x": sequence(9, 24)},
            Heads("LinearAttention", ("to_out",), 3),
        ),
    ]
