"""Text models whose attention is built differently from BERT's."""

from __future__ import annotations

from tests.zoo.case import Case
from tests.zoo.families.common import ONE_KIND, VOCAB, Options, layers, maker, text_model

FAMILY = "encoders-exotic"
OUTPUT = "encoder.layer.{}.attention.output.dense"
FIXED_LENGTH = ((3, 8), (1, 8))
NO_POOLER = {"add_pooling_layer": False}
SIZES: Options = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
}
SHORT: Options = SIZES | {"max_position_embeddings": 24}
GROUPED: Options = SIZES | {
    "embedding_size": 32,
    "q_groups": 2,
    "k_groups": 2,
    "v_groups": 2,
    "post_attention_groups": 1,
    "intermediate_groups": 2,
    "output_groups": 2,
}
BOTTLENECK: Options = SHORT | {
    "embedding_size": 16,
    "true_hidden_size": 24,
    "intra_bottleneck_size": 24,
}
LATENT: Options = SHORT | {
    "num_key_value_heads": 4,
    "kv_lora_rank": 12,
    "q_lora_rank": 16,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6,
    "v_head_dim": 8,
    "first_k_dense_replace": 2,
}
XLNET: Options = {"vocab_size": VOCAB, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48}
FUNNEL: Options = {
    "vocab_size": VOCAB,
    "d_model": 32,
    "block_sizes": [1, 1],
    "n_head": 4,
    "d_head": 8,
}


def cases() -> list[Case]:
    """Returns the cases of this family."""
    bert = layers(OUTPUT, 2, 4, 8)
    esm = maker(
        "EsmModel",
        keywords=NO_POOLER,
        **SIZES,
        position_embedding_type="rotary",
        pad_token_id=1,
    )
    mobilebert = maker("MobileBertModel", keywords=NO_POOLER, **BOTTLENECK)
    bigbird = maker(
        "BigBirdModel", keywords=NO_POOLER, **SHORT, attention_type="original_full", sep_token_id=2
    )
    longformer = maker("LongformerModel", keywords=NO_POOLER, **SHORT, attention_window=4)
    return [
        *text_model(
            "squeezebert",
            FAMILY,
            maker("SqueezeBertModel", **GROUPED),
            layers("encoder.layers.{}.post_attention.conv1d", 2, 4, 8),
            kinds=ONE_KIND,
            note="grouped Conv1d projections: two heads per group",
        ),
        *text_model(
            "xlnet",
            FAMILY,
            maker("XLNetModel", **XLNET, mem_len=None),
            layers("layer.{}.rel_attn", 2, 4, 8),
            kinds=ONE_KIND,
            fixed={"use_mems": False},
            note="3-D projection weights; relative shift",
        ),
        *text_model("esm", FAMILY, esm, bert),
        *text_model("roformer", FAMILY, maker("RoFormerModel", **SHORT), bert, kinds=ONE_KIND),
        *text_model("mobilebert", FAMILY, mobilebert, layers(OUTPUT, 2, 4, 6)),
        *text_model("bigbird-full", FAMILY, bigbird, bert, kinds=ONE_KIND),
        *text_model("longformer", FAMILY, longformer, bert, kinds=ONE_KIND, sizes=FIXED_LENGTH),
        *text_model(
            "funnel",
            FAMILY,
            maker("FunnelBaseModel", **FUNNEL, d_inner=48),
            layers("encoder.blocks.{}.0.attention.post_proj", 2, 4, 8),
            kinds=ONE_KIND,
            sizes=FIXED_LENGTH,
            note="relative shift; the second block pools its queries",
        ),
        *text_model(
            "deepseek-latent",
            FAMILY,
            maker("DeepseekV3Model", **LATENT),
            layers("layers.{}.self_attn.o_proj", 2, 4, 8),
            fixed={"use_cache": False},
            note="keys and values unpacked from one latent; the rotary part is shared",
        ),
    ]
