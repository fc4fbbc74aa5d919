"""kornia, monai, open_clip, ultralytics, segment-anything, docTR: pictures, volumes and text in them."""

# fmt: off

from __future__ import annotations

from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import torch
from torch import nn

from tests.zoo import feeds
from tests.zoo.attributes import Heads
from tests.zoo.case import Case
from tests.zoo.packages.row import MHA, image, new, of, row, sequence, tokens

CLIP_VISION = {"layers": 2, "width": 24, "head_width": 8, "patch_size": 8, "image_size": 32, "mlp_ratio": 2.0}
CLIP_TEXT = {"context_length": 12, "vocab_size": 50, "width": 24, "heads": 3, "layers": 2}


def _coca() -> nn.Module:
    text = CLIP_TEXT | {"embed_cls": True, "output_tokens": True, "context_length": 11}
    decoder = CLIP_TEXT | {"attn_pooler_heads": 3}
    vision = CLIP_VISION | {"attentional_pool": True, "attn_pooler_heads": 3, "output_tokens": True}
    return of("open_clip.coca_model:CoCa", 24, decoder, text, vision)


def _loftr(attention: str) -> nn.Module:
    config = {"d_model": 24, "d_ffn": 24, "nhead": 3, "layer_names": ["self", "cross"], "attention": attention,
        "temp_bug_fix": True}
    return of("kornia.feature.loftr.loftr_module.transformer:LocalFeatureTransformer", config)


def _yolo(config: str, block: str) -> nn.Module:
    """One attention block of a YOLO, as its configuration would build it."""
    return of(f"ultralytics.nn.modules.block:{block}", **{"Attention": {"dim": 24, "num_heads": 3},
        "AAttn": {"dim": 24, "num_heads": 3, "area": 4 if config == "area" else 1}, "C2PSA": {"c1": 128, "c2": 128},
        "A2C2f": {"c1": 64, "c2": 64, "n": 1, "a2": True, "area": 4}}[block])


def _whole_yolo(name: str, classes: int = 3) -> nn.Module:
    folder = Path(import_module("ultralytics").__file__ or "").parent / "cfg" / "models"
    task = "RTDETRDetectionModel" if "rtdetr" in name else "DetectionModel"
    model = of(f"ultralytics.nn.tasks:{task}", str(next(folder.rglob(f"{name}.yaml"))), nc=classes, verbose=False)
    for module in model.modules():
        if hasattr(module, "export"):
            module.export = True
    return model


class _Detr(nn.Module):
    """RT-DETR's head on three maps of features."""

    def __init__(self) -> None:
        super().__init__()
        options = {"nc": 3, "ch": (8, 8, 8), "hd": 24, "nq": 5, "nh": 3, "ndl": 2, "d_ffn": 32}
        self.head = of("ultralytics.nn.modules.head:RTDETRDecoder", **options)
        self.head.export = True

    def forward(self, *maps: torch.Tensor) -> Any:
        return self.head(list(maps))


class _Moved(nn.Module):
    """Two-way transformer of Segment Anything on flat inputs."""

    def __init__(self) -> None:
        super().__init__()
        self.two = of("segment_anything.modeling:TwoWayTransformer", depth=2, embedding_dim=24, num_heads=3,
            mlp_dim=32, attention_downsample_rate=1)

    def forward(self, image: torch.Tensor, points: torch.Tensor) -> tuple[torch.Tensor, ...]:
        queries, keys = self.two(image, image.flip(-1), points)
        return (queries, keys)


def cases() -> list[Case]:
    sam = Heads("Attention", ("proj", "out_proj"), "num_heads")
    yolo = Heads("Attention|AAttn", ("proj",), "num_heads")
    clip = {"image": image(), "text": tokens()}
    block = Heads("SABlock|CrossAttentionBlock", ("out_proj",), "num_heads")
    window = Heads("WindowAttention", ("proj",), "num_heads")
    mlp = {"mlp_dim": 32, "num_layers": 2, "num_heads": 3, "hidden_size": 24}
    volume = feeds.floats(2, 1, 32, 32)
    return [
        row("clip-pooler", "open-clip-torch", new("open_clip.model:CLIP", 16,
            CLIP_VISION | {"attentional_pool": True, "attn_pooler_heads": 2, "attn_pooler_queries": 4}, CLIP_TEXT),
            clip, MHA, pick=lambda out: out[:2]),
        row("clip-resnet", "open-clip-torch", new("open_clip.model:CLIP", 16, {"layers": [1, 1, 1, 1], "width": 8,
            "head_width": 64, "image_size": 32}, CLIP_TEXT), clip, MHA, Heads("AttentionPool2d", ("",), "num_heads"),
            pick=lambda out: out[:2]),
        row("attention-scaled", "open-clip-torch", new("open_clip.transformer:Attention", 24, 3, scale_heads=True),
            {"x": feeds.floats(9, 2, 24)}, Heads("Attention", ("out_proj",), "num_heads"), dynamic=False),
        row("coca", "open-clip-torch", _coca, {"image": image(), "text": tokens(11)}, MHA,
            pick=lambda out: (out["image_features"], out["logits"])),
        row("encoder", "segment-anything", new("segment_anything.modeling:ImageEncoderViT", img_size=32,
            patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0, out_chans=8, use_rel_pos=True,
            window_size=3, global_attn_indexes=(1,)), {"x": image()}, sam),
        row("two-way", "segment-anything", _Moved, {"image": feeds.floats(2, 24, 4, 4), "points": sequence(5, 24)},
            sam, pick=tuple),
        row("attention", "ultralytics", partial(_yolo, "", "Attention"), {"x": feeds.floats(2, 24, 4, 4)}, yolo),
        row("attention-area", "ultralytics", partial(_yolo, "area", "AAttn"), {"x": feeds.floats(2, 24, 4, 4)},
            yolo),
        row("attention-no-area", "ultralytics", partial(_yolo, "", "AAttn"), {"x": feeds.floats(2, 24, 4, 4)},
            yolo),
        row("c2psa", "ultralytics", partial(_yolo, "", "C2PSA"), {"x": feeds.floats(2, 128, 4, 4)}, yolo),
        row("a2c2f", "ultralytics", partial(_yolo, "", "A2C2f"), {"x": feeds.floats(2, 64, 4, 4)}, yolo),
        row("aifi", "ultralytics", new("ultralytics.nn.modules.transformer:AIFI", 24, 32, 3), {"x": feeds.floats(2,
            24, 4, 4)}, MHA),
        row("yolo11", "ultralytics", partial(_whole_yolo, "yolo11"), {"x": image(64, batch=1)}, yolo,
            dynamic=False),
        row("yolo12", "ultralytics", partial(_whole_yolo, "yolo12"), {"x": image(64, batch=1)}, yolo,
            dynamic=False),
        row("rtdetr-head", "ultralytics", _Detr, {f"x{side}": feeds.floats(1, 8, side, side) for side in (8, 4, 2)},
            MHA, Heads("MSDeformAttn", ("output_proj",), "n_heads"), dynamic=False,
            note="deformable attention: sampled values instead of keys"),
        row("vit", "python-doctr", new("doctr.models.classification.vit.pytorch:VisionTransformer", d_model=24,
            num_layers=2, num_heads=3, ffd_ratio=2, patch_size=(8, 8), num_classes=7), {"x": image()},
            Heads("MultiHeadAttention", ("output_linear", "linear_layers.3"), "num_heads", tied=True)),
        row("decoder", "python-doctr", new("doctr.models.modules.transformer.pytorch:Decoder", num_layers=2,
            num_heads=3, d_model=24, vocab_size=50, dff=32), {"ids": tokens(), "memory": sequence(5, 24)},
            Heads("MultiHeadAttention", ("output_linear",), "num_heads")),
        row("vit", "kornia", new("kornia.models.vit:VisionTransformer", image_size=32, patch_size=8, embed_dim=24,
            depth=2, num_heads=3), {"x": image()}, Heads("MultiHeadAttention", ("projection",), "num_heads")),
        row("loftr-linear", "kornia", partial(_loftr, "linear"), {"a": sequence(9, 24), "b": sequence(7, 24)},
            Heads("LoFTREncoderLayer", ("merge",), "nhead"), pick=tuple),
        row("loftr-full", "kornia", partial(_loftr, "full"), {"a": sequence(9, 24), "b": sequence(7, 24)},
            Heads("LoFTREncoderLayer", ("merge",), "nhead"), pick=tuple),
        row("tiny-vit", "kornia", new("kornia.models.tiny_vit:TinyViT", img_size=64, num_classes=7, embed_dims=(8,
            16, 24, 32), depths=(1, 1, 1, 1), num_heads=(1, 2, 3, 4), window_sizes=(4, 4, 2, 2), mlp_ratio=2.0),
            {"x": image(64)}, Heads("Attention", ("proj",), "num_heads")),
        row("sam-encoder", "kornia", new("kornia.models.sam.architecture.image_encoder:ImageEncoderViT",
            img_size=32, patch_size=8, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0, out_chans=8,
            use_rel_pos=True, window_size=3, global_attn_indexes=(1,)), {"x": image()}, sam),
        row("dedode-vit", "kornia", new("kornia.feature.dedode.transformer.dinov2:DinoVisionTransformer",
            img_size=28, patch_size=7, embed_dim=24, depth=2, num_heads=3, mlp_ratio=2.0), {"x": image(28)},
            Heads(r"\w*Attention", ("proj",), "num_heads")),
        row("vit", "monai", new("monai.networks.nets:ViT", in_channels=1, img_size=(32, 32), patch_size=(8, 8),
            spatial_dims=2, classification=True, num_classes=7, **mlp), {"x": volume}, block),
        row("vit-save-attn", "monai", new("monai.networks.nets:ViT", in_channels=1, img_size=(32, 32), patch_size=(8,
            8), spatial_dims=2, save_attn=True, qkv_bias=True, **mlp), {"x": volume}, block),
        row("unetr", "monai", new("monai.networks.nets:UNETR", in_channels=1, out_channels=2, img_size=(32, 32),
            feature_size=4, hidden_size=24, mlp_dim=32, num_heads=3, spatial_dims=2), {"x": volume}, block),
        row("swin-unetr", "monai", new("monai.networks.nets:SwinUNETR", in_channels=1, out_channels=2, depths=(1, 1, 1,
            1), num_heads=(1, 2, 3, 4), window_size=2, feature_size=12, spatial_dims=2), {"x": feeds.floats(2, 1, 64,
            64)}, window),
        row("swin-unetr-3d", "monai", new("monai.networks.nets:SwinUNETR", in_channels=1, out_channels=2, depths=(2, 1,
            1, 1), num_heads=(1, 2, 3, 4), window_size=2, feature_size=12, use_v2=True, norm_name="batch"),
            {"x": feeds.floats(1, 1, 32, 32, 32)}, window, dynamic=False),
        row("vit-autoencoder", "monai", new("monai.networks.nets:ViTAutoEnc", in_channels=1, img_size=(32, 32),
            patch_size=(16, 16), spatial_dims=2, deconv_chns=4, **mlp), {"x": volume}, block),
        row("diffusion-unet", "monai", new("monai.networks.nets:DiffusionModelUNet", spatial_dims=2, in_channels=1,
            out_channels=1, num_res_blocks=(1, 1), channels=(8, 16), attention_levels=(False, True),
            norm_num_groups=4, num_head_channels=8, with_conditioning=True, cross_attention_dim=20),
            {"x": feeds.floats(2, 1, 8, 8), "timesteps": torch.tensor([3, 700]), "context": sequence(5, 20)}, block,
            by_name=True),
        row("diffusion-unet-spatial", "monai", new("monai.networks.nets:DiffusionModelUNet", spatial_dims=2,
            in_channels=1, out_channels=1, num_res_blocks=(1, 1), channels=(8, 16), attention_levels=(False, True),
            norm_num_groups=4, num_head_channels=8), {"x": feeds.floats(2, 1, 8, 8), "timesteps": torch.tensor([3,
            700])}, block),
        row("decoder", "monai", new("monai.networks.nets:DecoderOnlyTransformer", num_tokens=50, max_seq_len=16,
            attn_layers_dim=24, attn_layers_depth=2, attn_layers_heads=3, with_cross_attention=True), {"x": tokens(),
            "context": sequence(5, 24)}, block),
        row("clip", "open-clip-torch", new("open_clip.model:CLIP", 16, CLIP_VISION, CLIP_TEXT), clip, MHA,
            pick=lambda out: out[:2]),
    ]
