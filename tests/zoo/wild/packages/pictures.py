"""kornia, monai, open_clip, ultralytics, segment-anything, docTR: pictures, volumes and text in them."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.wild.case import Wild, image, sequence, tokens
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


def cases() -> list[Wild]:
    """Returns the cases of these packages."""
    block = Heads("SABlock|CrossAttentionBlock", ("out_proj",), "num_heads")
    window = Heads("WindowAttention", ("proj",), "num_heads")
    sam = Heads("Attention", ("proj", "out_proj"), "num_heads")
    yolo = Heads("Attention|AAttn", ("proj",), "num_heads")
    mlp = {"mlp_dim": 32, "num_layers": 2, "num_heads": 3, "hidden_size": 24}
    volume = feeds.floats(2, 1, 32, 32)
    clip = {"image": image(), "text": tokens()}
    monai = "monai.networks.nets"
    return [
        # kornia
        _case(
            "vit",
            "kornia",
            partial(
                _of,
                "kornia.models.vit",
                "VisionTransformer",
                image_size=32,
                patch_size=8,
                embed_dim=24,
                depth=2,
                num_heads=3,
            ),
            {"x": image()},
            Heads("MultiHeadAttention", ("projection",), "num_heads"),
        ),
        _case(
            "loftr-linear",
            "kornia",
            partial(_loftr, "linear"),
            {"a": sequence(9, 24), "b": sequence(7, 24)},
            Heads("LoFTREncoderLayer", ("merge",), "nhead"),
            pick=_both,
        ),
        _case(
            "loftr-full",
            "kornia",
            partial(_loftr, "full"),
            {"a": sequence(9, 24), "b": sequence(7, 24)},
            Heads("LoFTREncoderLayer", ("merge",), "nhead"),
            pick=_both,
        ),
        _case(
            "tiny-vit",
            "kornia",
            partial(
                _of,
                "kornia.models.tiny_vit",
                "TinyViT",
                img_size=64,
                num_classes=7,
                embed_dims=(8, 16, 24, 32),
                depths=(1, 1, 1, 1),
                num_heads=(1, 2, 3, 4),
                window_sizes=(4, 4, 2, 2),
                mlp_ratio=2.0,
            ),
            {"x": image(64)},
            Heads("Attention", ("proj",), "num_heads"),
        ),
        _case(
            "sam-encoder",
            "kornia",
            partial(
                _of,
                "kornia.models.sam.architecture.image_encoder",
                "ImageEncoderViT",
                img_size=32,
                patch_size=8,
                embed_dim=24,
                depth=2,
                num_heads=3,
                mlp_ratio=2.0,
                out_chans=8,
                use_rel_pos=True,
                window_size=3,
                global_attn_indexes=(1,),
            ),
            {"x": image()},
            sam,
        ),
        _case(
            "dedode-vit",
            "kornia",
            partial(
                _of,
                "kornia.feature.dedode.transformer.dinov2",
                "DinoVisionTransformer",
                img_size=28,
                patch_size=7,
                embed_dim=24,
                depth=2,
                num_heads=3,
                mlp_ratio=2.0,
            ),
            {"x": image(28)},
            Heads(r"\w*Attention", ("proj",), "num_heads"),
        ),
        # monai
        _case(
            "vit",
            "monai",
            partial(
                _of,
                monai,
                "ViT",
                in_channels=1,
                img_size=(32, 32),
                patch_size=(8, 8),
                spatial_dims=2,
                classification=True,
                num_classes=7,
                **mlp,
            ),
            {"x": volume},
            block,
        ),
        _case(
            "vit-save-attn",
            "monai",
            partial(
                _of,
                monai,
                "ViT",
                in_channels=1,
                img_size=(32, 32),
                patch_size=(8, 8),
                spatial_dims=2,
                save_attn=True,
                qkv_bias=True,
                **mlp,
            ),
            {"x": volume},
            block,
        ),
        _case(
            "unetr",
            "monai",
            partial(
                _of,
                monai,
                "UNETR",
                in_channels=1,
                out_channels=2,
                img_size=(32, 32),
                feature_size=4,
                hidden_size=24,
                mlp_dim=32,
                num_heads=3,
                spatial_dims=2,
            ),
            {"x": volume},
            block,
        ),
        _case(
            "swin-unetr",
            "monai",
            partial(
                _of,
                monai,
                "SwinUNETR",
                in_channels=1,
                out_channels=2,
                depths=(1, 1, 1, 1),
                num_heads=(1, 2, 3, 4),
                window_size=2,
                feature_size=12,
                spatial_dims=2,
            ),
            {"x": feeds.floats(2, 1, 64, 64)},
            window,
        ),
        _case(
            "swin-unetr-3d",
            "monai",
            partial(
                _of,
                monai,
                "SwinUNETR",
                in_channels=1,
                out_channels=2,
                depths=(2, 1, 1, 1),
                num_heads=(1, 2, 3, 4),
                window_size=2,
                feature_size=12,
                use_v2=True,
                norm_name="batch",
            ),
            {"x": feeds.floats(1, 1, 32, 32, 32)},
            window,
            dynamic=False,
        ),
        _case(
            "vit-autoencoder",
            "monai",
            partial(
                _of,
                monai,
                "ViTAutoEnc",
                in_channels=1,
                img_size=(32, 32),
                patch_size=(16, 16),
                spatial_dims=2,
                deconv_chns=4,
                **mlp,
            ),
            {"x": volume},
            block,
        ),
        _case(
            "diffusion-unet",
            "monai",
            partial(
                _of,
                monai,
                "DiffusionModelUNet",
                spatial_dims=2,
                in_channels=1,
                out_channels=1,
                num_res_blocks=(1, 1),
                channels=(8, 16),
                attention_levels=(False, True),
                norm_num_groups=4,
                num_head_channels=8,
                with_conditioning=True,
                cross_attention_dim=20,
            ),
            {"x": feeds.floats(2, 1, 8, 8), "timesteps": torch.tensor([3, 700]), "context": sequence(5, 20)},
            block,
            by_name=True,
        ),
        _case(
            "diffusion-unet-spatial",
            "monai",
            partial(
                _of,
                monai,
                "DiffusionModelUNet",
                spatial_dims=2,
                in_channels=1,
                out_channels=1,
                num_res_blocks=(1, 1),
                channels=(8, 16),
                attention_levels=(False, True),
                norm_num_groups=4,
                num_head_channels=8,
            ),
            {"x": feeds.floats(2, 1, 8, 8), "timesteps": torch.tensor([3, 700])},
            block,
        ),
        _case(
            "decoder",
            "monai",
            partial(
                _of,
                monai,
                "DecoderOnlyTransformer",
                num_tokens=50,
                max_seq_len=16,
                attn_layers_dim=24,
                attn_layers_depth=2,
                attn_layers_heads=3,
                with_cross_attention=True,
            ),
            {"x": tokens(), "context": sequence(5, 24)},
            block,
        ),
        # open_clip
        _case(
            "clip",
            "open-clip-torch",
            partial(_of, "open_clip.model", "CLIP", 16, CLIP_VISION, CLIP_TEXT),
            clip,
            MHA,
            pick=_features,
        ),
        _case(
            "clip-pooler",
            "open-clip-torch",
            partial(
                _of,
                "open_clip.model",
                "CLIP",
                16,
                CLIP_VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4},
                CLIP_TEXT,
            ),
            clip,
            MHA,
            pick=_features,
        ),
        _case(
            "clip-resnet",
            "open-clip-torch",
            partial(
                _of,
                "open_clip.model",
                "CLIP",
                16,
                {"layers": [1, 1, 1, 1], "width": 8, "head_width": 64, "image_size": 32},
                CLIP_TEXT,
            ),
            clip,
            MHA,
            Heads("AttentionPool2d", ("",), "num_heads"),
            pick=_features,
        ),
        _case(
            "attention-scaled",
            "open-clip-torch",
            partial(_of, "open_clip.transformer", "Attention", 24, 3, scale_heads=True),
            {"x": feeds.floats(9, 2, 24)},
            Heads("Attention", ("out_proj",), "num_heads"),
            dynamic=False,
        ),
        _case(
            "coca",
            "open-clip-torch",
            _coca,
            {"image": image(), "text": tokens(11)},
            MHA,
            pick=lambda out: (out["image_features"], out["logits"]),
        ),
        # segment-anything
        _case(
            "encoder",
            "segment-anything",
            partial(
                _of,
                "segment_anything.modeling",
                "ImageEncoderViT",
                img_size=32,
                patch_size=8,
                embed_dim=24,
                depth=2,
                num_heads=3,
                mlp_ratio=2.0,
                out_chans=8,
                use_rel_pos=True,
                window_size=3,
                global_attn_indexes=(1,),
            ),
            {"x": image()},
            sam,
        ),
        _case(
            "two-way",
            "segment-anything",
            _Moved,
            {"image": feeds.floats(2, 24, 4, 4), "points": sequence(5, 24)},
            sam,
            pick=_both,
        ),
        # ultralytics
        _case(
            "attention",
            "ultralytics",
            partial(_yolo, "", "Attention"),
            {"x": feeds.floats(2, 24, 4, 4)},
            yolo,
        ),
        _case(
            "attention-area",
            "ultralytics",
            partial(_yolo, "area", "AAttn"),
            {"x": feeds.floats(2, 24, 4, 4)},
            yolo,
        ),
        _case(
            "attention-no-area",
            "ultralytics",
            partial(_yolo, "", "AAttn"),
            {"x": feeds.floats(2, 24, 4, 4)},
            yolo,
        ),
        _case("c2psa", "ultralytics", partial(_yolo, "", "C2PSA"), {"x": feeds.floats(2, 128, 4, 4)}, yolo),
        _case("a2c2f", "ultralytics", partial(_yolo, "", "A2C2f"), {"x": feeds.floats(2, 64, 4, 4)}, yolo),
        _case(
            "aifi",
            "ultralytics",
            partial(_of, "ultralytics.nn.modules.transformer", "AIFI", 24, 32, 3),
            {"x": feeds.floats(2, 24, 4, 4)},
            MHA,
        ),
        _case(
            "yolo11",
            "ultralytics",
            partial(_whole_yolo, "yolo11"),
            {"x": image(64, batch=1)},
            yolo,
            dynamic=False,
        ),
        _case(
            "yolo12",
            "ultralytics",
            partial(_whole_yolo, "yolo12"),
            {"x": image(64, batch=1)},
            yolo,
            dynamic=False,
        ),
        _case(
            "rtdetr-head",
            "ultralytics",
            _Detr,
            {f"x{side}": feeds.floats(1, 8, side, side) for side in (8, 4, 2)},
            MHA,
            Heads("MSDeformAttn", ("output_proj",), "n_heads"),
            dynamic=False,
            note="deformable attention: sampled values instead of keys",
        ),
        # docTR
        _case(
            "vit",
            "python-doctr",
            partial(
                _of,
                "doctr.models.classification.vit.pytorch",
                "VisionTransformer",
                d_model=24,
                num_layers=2,
                num_heads=3,
                ffd_ratio=2,
                patch_size=(8, 8),
                num_classes=7,
            ),
            {"x": image()},
            Heads("MultiHeadAttention", ("output_linear", "linear_layers.3"), "num_heads", tied=True),
        ),
        _case(
            "decoder",
            "python-doctr",
            partial(
                _of,
                "doctr.models.modules.transformer.pytorch",
                "Decoder",
                num_layers=2,
                num_heads=3,
                d_model=24,
                vocab_size=50,
                dff=32,
            ),
            {"ids": tokens(), "memory": sequence(5, 24)},
            Heads("MultiHeadAttention", ("output_linear",), "num_heads"),
        ),
    ]
