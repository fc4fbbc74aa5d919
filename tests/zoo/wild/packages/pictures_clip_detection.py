"""open_clip, segment-anything, ultralytics and docTR: pictures, and text beside them."""

from __future__ import annotations

from functools import partial

from tests.zoo import feeds
from tests.zoo.wild.case import Wild, image, sequence, tokens
from tests.zoo.wild.packages._pictures import (
    CLIP_TEXT,
    CLIP_VISION,
    MHA,
    _both,
    _case,
    _coca,
    _Detr,
    _features,
    _Moved,
    _of,
    _whole_yolo,
    _yolo,
)
from tests.zoo.wild.rules import Heads


def cases() -> list[Wild]:
    """Returns these cases."""
    sam = Heads("Attention", ("proj", "out_proj"), "num_heads")
    yolo = Heads("Attention|AAttn", ("proj",), "num_heads")
    clip = {"image": image(), "text": tokens()}
    return [
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
