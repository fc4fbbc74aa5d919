"""torchaudio, openai-whisper, speechbrain, demucs, encodec, bs-roformer, conformer: speech and music."""

# fmt: off

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import Heads
from tests.zoo.case import Case
from tests.zoo.packages.row import MHA, Repeated, new, of, row, sequence, tokens

WAVE = feeds.floats(2, 1000)
LAYERS = [(8, 10, 5), (8, 3, 2)]
WAV2VEC2: dict[str, Any] = {"extractor_mode": "group_norm", "extractor_conv_layer_config": LAYERS,
    "extractor_conv_bias": False, "encoder_embed_dim": 24, "encoder_projection_dropout": 0.0,
    "encoder_pos_conv_kernel": 5, "encoder_pos_conv_groups": 3, "encoder_num_layers": 2, "encoder_num_heads": 3,
    "encoder_attention_dropout": 0.0, "encoder_ff_interm_features": 32, "encoder_ff_interm_dropout": 0.0,
    "encoder_dropout": 0.0, "encoder_layer_norm_first": False, "encoder_layer_drop": 0.0, "aux_num_out": 7}


def _audio(name: str, **options: Any) -> Callable[[], nn.Module]:
    return new(f"torchaudio.models:{name}", **options)


def _whisper(part: str) -> nn.Module:
    dims = of("whisper.model:ModelDimensions", 8, 16, 24, 3, 2, 50, 12, 24, 3, 2)
    return getattr(of("whisper.model:Whisper", dims), part)


def _wavlm() -> nn.Module:
    return _audio("wavlm_model", **WAV2VEC2, encoder_num_buckets=8, encoder_max_distance=16)()


class _Lengths(nn.Module):
    """A model of torchaudio that wants the length of every row."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.inner = model

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.inner(x, torch.full((x.shape[0],), x.shape[1]))[0]


def _emformer(**options: Any) -> nn.Module:
    return _Lengths(_audio("Emformer", input_dim=24, num_heads=3, ffn_dim=32, num_layers=2, segment_length=4,
        **options)())


def _conformer(**options: Any) -> nn.Module:
    return _Lengths(_audio("Conformer", input_dim=24, num_heads=3, ffn_dim=32, num_layers=2,
        depthwise_conv_kernel_size=3, **options)())


def _brain(kind: str, **options: Any) -> nn.Module:
    return of("speechbrain.lobes.models.transformer.Transformer:TransformerEncoder", num_layers=2, nhead=3, d_ffn=32,
        d_model=24, attention_type=kind, **options)


def _demucs_transformer(**options: Any) -> nn.Module:
    return of("demucs.transformer:CrossTransformerEncoder", dim=24, num_heads=3, num_layers=3, hidden_scale=2.0,
        **options)


def cases() -> list[Case]:
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
        row("wav2vec2", "torchaudio", _audio("wav2vec2_model", **WAV2VEC2), {"x": WAVE}, audio),
        row("hubert-large-style", "torchaudio", _audio("wav2vec2_model",
            **WAV2VEC2 | {"extractor_mode": "layer_norm", "encoder_layer_norm_first": True}), {"x": WAVE}, audio),
        row("wavlm", "torchaudio", _wavlm, {"x": WAVE}, wavlm, note="its projection is handed to a function"),
        row("conformer", "torchaudio", _conformer, {"x": sequence(11, 24)}, MHA),
        row("conformer-conv-first", "torchaudio", partial(_conformer, convolution_first=True, use_group_norm=True),
            {"x": sequence(11, 24)}, MHA),
        row("emformer", "torchaudio", _emformer, {"x": sequence(8, 24)}, emformer, **fixed),
        row("emformer-context", "torchaudio", partial(_emformer, left_context_length=2, right_context_length=1,
            max_memory_size=2), {"x": sequence(9, 24)}, emformer, **fixed),
        row("emformer-tanh", "torchaudio", partial(_emformer, tanh_on_mem=True, left_context_length=4),
            {"x": sequence(8, 24)}, emformer, **fixed),
        row("encoder", "openai-whisper", partial(_whisper, "encoder"), {"mel": feeds.floats(2, 8, 32)}, whisper),
        row("decoder", "openai-whisper", partial(_whisper, "decoder"), {"ids": tokens(6), "xa": sequence(16, 24)},
            whisper),
        row("regular", "speechbrain", partial(_brain, "regularMHA"), {"x": sequence(9, 24)}, brain),
        row("regular-prenorm", "speechbrain", partial(_brain, "regularMHA", normalize_before=True),
            {"x": sequence(9, 24)}, brain),
        row("relative", "speechbrain", partial(Repeated, new("speechbrain.nnet.attention:RelPosMHAXL", 24, 3)),
            {"x": sequence(9, 24),
            "p": sequence(17, 24, batch=1)}, relative, dynamic=False),
        row("rotary", "speechbrain", partial(Repeated, new("speechbrain.nnet.attention:RoPEMHA", 24, 3)),
            {"x": sequence(9, 24)}, rope,
            dynamic=False),
        row("cross-transformer", "demucs", _demucs_transformer, {"x": spectrogram, "xt": feeds.floats(2, 24, 10)},
            MHA, pick=tuple, **fixed),
        row("cross-transformer-sparse-off", "demucs", partial(_demucs_transformer, norm_first=True, emb="sin",
            layer_scale=True), {"x": spectrogram, "xt": feeds.floats(2, 24, 10)}, MHA, pick=tuple, **fixed),
        row("block", "conformer", new("conformer:Conformer", dim=24, depth=2, dim_head=8, heads=3, ff_mult=1,
            conv_expansion_factor=2, conv_kernel_size=3), {"x": sequence(9, 24)}, Heads("Attention", ("to_out",),
            "heads")),
        row("transformer", "bs-roformer", new("bs_roformer.bs_roformer:Transformer", dim=24, depth=2, dim_head=8,
            heads=3, flash_attn=False), {"x": sequence(9, 24)}, Heads("Attention", ("to_out",), "heads")),
        row("transformer-linear", "bs-roformer", new("bs_roformer.mel_band_roformer:Transformer", dim=24, depth=2,
            dim_head=8, heads=3, linear_attn=True), {"x": sequence(9, 24)}, Heads("LinearAttention", ("to_out",), 3)),
    ]
