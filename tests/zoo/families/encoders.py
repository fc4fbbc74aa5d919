"""BERT and its relatives."""

from __future__ import annotations

from tests.zoo.case import Case
from tests.zoo.families.common import ONE_KIND, VOCAB, Options, layers, maker, text_model

FAMILY = "encoders"
OUTPUT = "encoder.layer.{}.attention.output.dense"
SIZES: Options = {
    "vocab_size": VOCAB,
    "hidden_size": 32,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "intermediate_size": 48,
    "max_position_embeddings": 24,
}
NARROW: Options = SIZES | {"embedding_size": 16}
NO_POOLER = {"add_pooling_layer": False}
DISTILLED: Options = {
    "vocab_size": VOCAB,
    "dim": 32,
    "n_layers": 2,
    "n_heads": 4,
    "hidden_dim": 48,
    "max_position_embeddings": 24,
}
DISENTANGLED: Options = SIZES | {
    "relative_attention": True,
    "position_buckets": 8,
    "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True,
    "norm_rel_ebd": "layer_norm",
    "position_biased_input": False,
}
MODERN: Options = SIZES | {
    "num_hidden_layers": 3,
    "local_attention": 4,
    "global_attn_every_n_layers": 2,
    "pad_token_id": 0,
}


def _berts() -> list[Case]:
    """BERT itself, in the sizes and with the inputs that make a difference."""
    bert = maker("BertModel", keywords=NO_POOLER, **SIZES)
    wide = SIZES | {"hidden_size": 64, "num_attention_heads": 2}
    four = layers(OUTPUT, 2, 4, 8)
    return [
        *text_model("bert", FAMILY, bert, four, fusion="bert"),
        *text_model(
            "bert-all-four",
            FAMILY,
            bert,
            four,
            sizes=((4, 4), (1, 4)),
            fusion="bert",
            note="batch = heads = sequence = 4",
        ),
        *text_model(
            "bert-head32",
            FAMILY,
            maker("BertModel", keywords=NO_POOLER, **wide),
            layers(OUTPUT, 2, 2, 32),
            fusion="bert",
            note="a head is whole 16- or 32-blocks of a 4-bit weight",
        ),
        *text_model("bert-no-mask", FAMILY, bert, four, inputs=("input_ids",), fusion="bert"),
    ]


def cases() -> list[Case]:
    """Returns the cases of this family."""
    roberta = maker("RobertaModel", keywords=NO_POOLER, **SIZES)
    albert = maker("AlbertModel", keywords=NO_POOLER, **NARROW)
    mpnet = maker("MPNetModel", keywords=NO_POOLER, **SIZES)
    distilbert = maker("DistilBertModel", **DISTILLED)
    deberta = maker("DebertaV2Model", **DISENTANGLED)
    separate = maker("DebertaV2Model", **DISENTANGLED | {"share_att_key": False})
    modern = maker("ModernBertModel", **MODERN)
    four = layers(OUTPUT, 2, 4, 8)
    lin = layers("transformer.layer.{}.attention.out_lin", 2, 4, 8)
    shared = layers("encoder.albert_layer_groups.0.albert_layers.0.attention.dense", 2, 4, 8)
    o = layers("encoder.layer.{}.attention.attn.o", 2, 4, 8)
    wo = layers("layers.{}.attn.Wo", 3, 4, 8)
    return [
        *_berts(),
        *text_model("distilbert", FAMILY, distilbert, lin, fusion="bert"),
        *text_model("roberta", FAMILY, roberta, four, fusion="bert"),
        *text_model("albert", FAMILY, albert, shared, note="layers share weights"),
        *text_model("electra", FAMILY, maker("ElectraModel", **NARROW), four, fusion="bert"),
        *text_model("mpnet", FAMILY, mpnet, o, kinds=ONE_KIND),
        *text_model("deberta-v2", FAMILY, deberta, four, kinds=ONE_KIND),
        *text_model("deberta-v2-keys", FAMILY, separate, four, kinds=ONE_KIND),
        *text_model("modernbert", FAMILY, modern, wo),
    ]
