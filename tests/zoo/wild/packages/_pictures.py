"""kornia, monai, open_clip, ultralytics, segment-anything, docTR: pictures, volumes and text in them."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.zoo.wild.case import Wild
from tests.zoo.wild.rules import Heads

MHA = Heads("MultiheadAttention", ("",), "num_heads")
CLIP_VISION = {"layers": 2, "width": 24, "head_width": 8, "patch_size": 8, "image_size": 32, "mlp_ratio": 2.0}
CLIP_TEXT = {"context_length": 12, "vocab_size": 50, "width": 24, "heads": 3, "layers": 2}


def _of(module: str, name: str, *arguments: Any, **options: Any) -> nn.Module:
    built: nn.Module = getattr(import_module(module), name)(*arguments, **options)
    return built


def _coca() -> nn.Module:
    text = CLIP_TEXT | {"embed_cls": True, "output_tokens": True, "context_length": 11}
    decoder = CLIP_TEXT | {"attn_pooler_heads": 3}
    vision = CLIP_VISION | {"attentional_pool": True, "attn_pooler_heads": 3, "output_tokens": True}
    return _of("open_clip.coca_model", "CoCa", 24, decoder, text, vision)


def _loftr(attention: str) -> nn.Module:
    config = {
        "d_model": 24,
        "d_ffn": 24,
        "nhead": 3,
        "layer_names": ["self", "cross"],
        "attention": attention,
        "temp_bug_fix": True,
    }
    return _of("kornia.feature.loftr.loftr_module.transformer", "LocalFeatureTransformer", config)


def _yolo(config: str, block: str) -> nn.Module:
    """One attention block of a YOLO, as its configuration would build it."""
    return _of(
        "ultralytics.nn.modules.block",
        block,
        **{
            "Attention": {"dim": 24, "num_heads": 3},
            "AAttn": {"dim": 24, "num_heads": 3, "area": 4 if config == "area" else 1},
            "C2PSA": {"c1": 128, "c2": 128},
            "A2C2f": {"c1": 64, "c2": 64, "n": 1, "a2": True, "area": 4},
        }[block],
    )


def _whole_yolo(name: str, classes: int = 3) -> nn.Module:
    folder = Path(import_module("ultralytics").__file__ or "").parent / "cfg" / "models"
    task = "RTDETRDetectionModel" if "rtdetr" in name else "DetectionModel"
    model = _of(
        "ultralytics.nn.tasks", task, str(next(folder.rglob(f"{name}.yaml"))), nc=classes, verbose=False
    )
    for module in model.modules():
        if hasattr(module, "export"):
            module.export = True
    return model


class _Detr(nn.Module):
    """RT-DETR's head on three maps of features."""

    def __init__(self) -> None:
        super().__init__()
        options = {"nc": 3, "ch": (8, 8, 8), "hd": 24, "nq": 5, "nh": 3, "ndl": 2, "d_ffn": 32}
        self.head = _of("ultralytics.nn.modules.head", "RTDETRDecoder", **options)
        self.head.export = True

    def forward(self, *maps: torch.Tensor) -> Any:
        """Boxes and scores."""
        return self.head(list(maps))


class _Moved(nn.Module):
    """Two-way transformer of Segment Anything on flat inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.two = _of(
            "segment_anything.modeling",
            "TwoWayTransformer",
            depth=2,
            embedding_dim=24,
            num_heads=3,
            mlp_dim=32,
            attention_downsample_rate=1,
        )

    def forward(self, image: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Runs with the picture as its own positions."""
        queries, keys = self.two(image, image.flip(-1), points)
        return queries, keys


def _case(
    name: str, package: str, make: Any, inputs: Mapping[str, torch.Tensor], *rules: Heads, **rest: Any
) -> Wild:
    prefix = {"open-clip-torch": "open-clip", "segment-anything": "sam", "python-doctr": "doctr"}.get(
        package, package
    )
    return Wild(f"{prefix}-{name}", package, make, inputs, rules, **rest)


def _both(out: Any) -> Any:
    return tuple(out)


def _features(out: Any) -> Any:
    return out[0], out[1]
