"""Text models of transformers: encoders, decoders without a cache, encoders with decoders, speech."""

# fmt: off

from __future__ import annotations

from functools import partial

from tests.zoo import feeds
from tests.zoo.case import Case
from tests.zoo.families.row import (
    BATCH,
    ONE_KIND,
    PLACED,
    SEQUENCE,
    VOCAB,
    Options,
    Reads,
    floats,
    ids,
    row,
)

TWO: Options = {"num_hidden_layers": 2, "num_attention_heads": 4}
SMALL: Options = {"vocab_size": VOCAB, "hidden_size": 32, **TWO}
PLAIN: Options = SMALL | {"intermediate_size": 48}
BERT: Options = PLAIN | {"max_position_embeddings": 24}
NARROW: Options = BERT | {"embedding_size": 16}
DISTILLED: Options = {"vocab_size": VOCAB, "dim": 32, "n_layers": 2, "n_heads": 4, "hidden_dim": 48,
    "max_position_embeddings": 24}
DISENTANGLED: Options = BERT | {"relative_attention": True, "position_buckets": 8, "pos_att_type": ["p2c", "c2p"],
    "share_att_key": True, "norm_rel_ebd": "layer_norm", "position_biased_input": False}
MODERN: Options = BERT | {"num_hidden_layers": 3, "local_attention": 4, "global_attn_every_n_layers": 2,
    "pad_token_id": 0}
SQUEEZED: Options = PLAIN | {"embedding_size": 32, "q_groups": 2, "k_groups": 2, "v_groups": 2,
    "post_attention_groups": 1, "intermediate_groups": 2, "output_groups": 2}
BOTTLENECK: Options = NARROW | {"true_hidden_size": 24, "intra_bottleneck_size": 24}
LATENT: Options = BERT | {"num_key_value_heads": 4, "kv_lora_rank": 12, "q_lora_rank": 16, "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 6, "v_head_dim": 8, "first_k_dense_replace": 2}
XLNET: Options = {"vocab_size": VOCAB, "d_model": 32, "n_layer": 2, "n_head": 4, "d_inner": 48, "mem_len": None}
FUNNEL: Options = {"vocab_size": VOCAB, "d_model": 32, "block_sizes": [1, 1], "n_head": 4, "d_head": 8, "d_inner": 48}
BLOOM: Options = {"vocab_size": VOCAB, "hidden_size": 32, "n_layer": 2, "n_head": 4}
GPT: Options = {"vocab_size": VOCAB, "n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 24}
NEOX: Options = BERT | {"rope_parameters": {"rope_type": "default", "rope_theta": 10000.0,
    "partial_rotary_factor": 0.5}}
NEO: Options = {"vocab_size": VOCAB, "hidden_size": 32, "num_layers": 2, "num_heads": 4, "intermediate_size": 48,
    "max_position_embeddings": 24, "attention_types": [[["global", "local"], 1]], "window_size": 4}
MPT: Options = {"vocab_size": VOCAB, "d_model": 32, "n_heads": 4, "n_layers": 2, "max_seq_len": 24}
OPT: Options = SMALL | {"ffn_dim": 48, "word_embed_proj_dim": 32, "max_position_embeddings": 24}
FALCON_GROUPED: Options = SMALL | {"new_decoder_architecture": True, "num_kv_heads": 2, "hidden_size": 48,
    "num_attention_heads": 6}
LLAMA: Options = {"vocab_size": VOCAB, "hidden_size": 48, "num_hidden_layers": 2, "num_attention_heads": 6,
    "num_key_value_heads": 2, "head_dim": 8, "intermediate_size": 48, "max_position_embeddings": 24,
    "pad_token_id": 0}
MHA: Options = LLAMA | {"num_key_value_heads": 4, "num_attention_heads": 4}
MQA: Options = LLAMA | {"num_key_value_heads": 1, "num_attention_heads": 4}
WINDOW: Options = {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]}
GEMMA: Options = LLAMA | WINDOW | {"query_pre_attn_scalar": 8}
# Grouped matrix products, the default, cannot be exported.
EXPERTS: Options = {"num_experts_per_tok": 2, "experts_implementation": "batched_mm"}
MIXTRAL: Options = LLAMA | EXPERTS | {"num_local_experts": 4}
MOE: Options = LLAMA | EXPERTS | {"num_experts": 4, "moe_intermediate_size": 24}
SHARED: Options = {"moe_intermediate_size": 24, "n_routed_experts": 8, "n_shared_experts": 1,
    "first_k_dense_replace": 1}
JAMBA: Options = LLAMA | EXPERTS | {"num_experts": 4, "use_mamba_kernels": False, "expert_layer_period": 1,
    "expert_layer_offset": 0, "attn_layer_period": 1, "attn_layer_offset": 0}
T5: Options = {"vocab_size": VOCAB, "d_model": 32, "d_kv": 6, "d_ff": 48, "num_layers": 2, "num_heads": 4,
    "relative_attention_num_buckets": 8, "relative_attention_max_distance": 10}
STACKS: Options = {"vocab_size": VOCAB, "d_model": 32, "encoder_layers": 2, "decoder_layers": 2,
    "encoder_attention_heads": 4, "decoder_attention_heads": 2, "encoder_ffn_dim": 48, "decoder_ffn_dim": 48}
BART: Options = STACKS | {"max_position_embeddings": 24}
MARIAN: Options = BART | {"pad_token_id": 0, "decoder_start_token_id": 0}
WHISPER: Options = STACKS | {"num_mel_bins": 12, "max_source_positions": 10, "max_target_positions": 16,
    "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
SPEECH: Options = {"hidden_size": 32, **TWO, "intermediate_size": 48}
WAVE: Options = SPEECH | {"conv_dim": (16, 16), "conv_stride": (5, 4), "conv_kernel": (10, 4),
    "num_feat_extract_layers": 2, "num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 4,
    "feat_extract_norm": "layer"}
CONFORMER: Options = WAVE | {"conv_depthwise_kernel_size": 3}
SPECTRUM: Options = SPEECH | {"patch_size": 8, "frequency_stride": 6, "time_stride": 6, "max_length": 32,
    "num_mel_bins": 16}

NO_POOLER = {"add_pooling_layer": False}
DENSE, O_PROJ, OUT_PROJ = "attention.output.dense", "self_attn.o_proj", "self_attn.out_proj"
LENGTH_8 = ((3, 8), (1, 8))
SOURCE, TARGET = {0: "batch", 1: "source"}, {0: "batch", 1: "target"}
PAIRS: Reads = {"input_ids": (SOURCE, ids), "attention_mask": (SOURCE, feeds.mask),
    "decoder_input_ids": (TARGET, lambda batch, length: ids(batch, length - 3))}
DECODES: Reads = {"input_ids": (TARGET, ids), "attention_mask": (TARGET, feeds.mask),
    **floats("encoder_hidden_states", BATCH, 10, 32)}


def cases() -> list[Case]:
    encoder, exotic = partial(row, "encoders"), partial(row, "encoders-exotic")
    decoder = partial(row, "decoders", fixed={"use_cache": False})
    llama = partial(row, "llamas", fixed={"use_cache": False})
    seq2seq = partial(row, "seq2seq")
    pairs = partial(row, "seq2seq", reads=PAIRS, fields={"last_hidden_state": TARGET}, fixed={"use_cache": False})
    waves = partial(row, "audio", reads=floats("input_values", {0: "batch", 1: "samples"}),
        sizes=((3, 170), (1, 130)), fields={"last_hidden_state": {0: "batch", 1: "frames"}})
    # ONNX Runtime's RotaryEmbedding does not broadcast the angles over the batch, so the exports at opset 23 only
    # run where the positions have a batch axis of their own.
    placed = partial(llama, reads=PLACED, note="opset 23 exports use RotaryEmbedding")
    gemma3 = {"config": "Gemma3TextConfig"}
    return [case for rows in (
        encoder("bert", "BertModel", BERT, DENSE, keywords=NO_POOLER, fusion="bert"),
        encoder("bert-all-four", "BertModel", BERT, DENSE, keywords=NO_POOLER, sizes=((4, 4), (1, 4)), fusion="bert",
            note="batch = heads = sequence = 4"),
        encoder("bert-head32", "BertModel", BERT | {"hidden_size": 64, "num_attention_heads": 2}, DENSE,
            keywords=NO_POOLER, fusion="bert", note="a head is whole 16- or 32-blocks of a 4-bit weight"),
        encoder("bert-no-mask", "BertModel", BERT, DENSE, keywords=NO_POOLER, fusion="bert",
            reads={"input_ids": (SEQUENCE, ids)}),
        encoder("distilbert", "DistilBertModel", DISTILLED, "attention.out_lin", fusion="bert"),
        encoder("roberta", "RobertaModel", BERT, DENSE, keywords=NO_POOLER, fusion="bert"),
        encoder("albert", "AlbertModel", NARROW, "attention.dense", keywords=NO_POOLER, note="layers share weights"),
        encoder("electra", "ElectraModel", NARROW, DENSE, fusion="bert"),
        encoder("mpnet", "MPNetModel", BERT, "attn.o", keywords=NO_POOLER, kinds=ONE_KIND),
        encoder("deberta-v2", "DebertaV2Model", DISENTANGLED, DENSE, kinds=ONE_KIND),
        encoder("deberta-v2-keys", "DebertaV2Model", DISENTANGLED | {"share_att_key": False}, DENSE, kinds=ONE_KIND),
        encoder("modernbert", "ModernBertModel", MODERN, "attn.Wo"),

        exotic("squeezebert", "SqueezeBertModel", SQUEEZED, "post_attention.conv1d", kinds=ONE_KIND,
            note="grouped Conv1d projections: two heads per group"),
        exotic("xlnet", "XLNetModel", XLNET, "rel_attn", kinds=ONE_KIND, fixed={"use_mems": False},
            note="3-D projection weights; relative shift"),
        exotic("esm", "EsmModel", PLAIN | {"position_embedding_type": "rotary", "pad_token_id": 1}, DENSE,
            keywords=NO_POOLER),
        exotic("roformer", "RoFormerModel", BERT, DENSE, kinds=ONE_KIND),
        exotic("mobilebert", "MobileBertModel", BOTTLENECK, DENSE, keywords=NO_POOLER),
        exotic("bigbird-full", "BigBirdModel", BERT | {"attention_type": "original_full", "sep_token_id": 2}, DENSE,
            keywords=NO_POOLER, kinds=ONE_KIND),
        exotic("longformer", "LongformerModel", BERT | {"attention_window": 4}, DENSE, keywords=NO_POOLER,
            kinds=ONE_KIND, sizes=LENGTH_8),
        exotic("funnel", "FunnelBaseModel", FUNNEL, "attention.post_proj", kinds=ONE_KIND, sizes=LENGTH_8,
            note="relative shift; the second block pools its queries"),
        exotic("deepseek-latent", "DeepseekV3Model", LATENT, O_PROJ, fixed={"use_cache": False},
            note="keys and values unpacked from one latent; the rotary part is shared"),

        decoder("gpt2", "GPT2Model", GPT, "attn.c_proj", fusion="gpt2"),
        decoder("gptj", "GPTJModel", GPT | {"rotary_dim": 4}, "attn.out_proj"),
        decoder("gpt-neox", "GPTNeoXModel", NEOX, "attention.dense"),
        decoder("gpt-neox-positions", "GPTNeoXModel", NEOX, "attention.dense", reads=PLACED),
        decoder("gpt-neo", "GPTNeoModel", NEO, "attention.out_proj", kinds=ONE_KIND),
        decoder("codegen", "CodeGenModel", GPT | {"n_ctx": 24, "rotary_dim": 4}, "attn.out_proj", kinds=ONE_KIND),
        decoder("opt", "OPTModel", OPT, OUT_PROJ),
        decoder("bloom", "BloomModel", BLOOM, "self_attention.dense", kinds=ONE_KIND),
        decoder("falcon-mqa", "FalconModel", SMALL, "self_attention.dense"),
        decoder("falcon-alibi", "FalconModel", SMALL | {"alibi": True, "multi_query": False}, "self_attention.dense",
            kinds=ONE_KIND),
        decoder("falcon-gqa", "FalconModel", FALCON_GROUPED, "self_attention.dense"),
        decoder("gpt-bigcode", "GPTBigCodeModel", GPT | {"multi_query": True}, "attn.c_proj"),
        decoder("mpt", "MptModel", MPT, "attn.out_proj", kinds=ONE_KIND),

        placed("llama-mha-positions", "LlamaModel", MHA, O_PROJ),
        placed("llama-gqa-positions", "LlamaModel", LLAMA, O_PROJ),
        placed("llama-mqa-positions", "LlamaModel", MQA, O_PROJ),
        placed("qwen3-positions", "Qwen3Model", LLAMA, O_PROJ),
        placed("phi3-positions", "Phi3Model", LLAMA, O_PROJ),
        placed("gemma3-positions", "Gemma3TextModel", GEMMA, O_PROJ, **gemma3),
        llama("llama-mha", "LlamaModel", MHA, O_PROJ),
        llama("llama-gqa", "LlamaModel", LLAMA, O_PROJ),
        llama("llama-mqa", "LlamaModel", MQA, O_PROJ),
        llama("llama-bias", "LlamaModel", LLAMA | {"attention_bias": True}, O_PROJ),
        llama("qwen2", "Qwen2Model", LLAMA, O_PROJ),
        llama("qwen3", "Qwen3Model", LLAMA, O_PROJ),
        llama("gemma2", "Gemma2Model", GEMMA, O_PROJ, kinds=ONE_KIND),
        llama("gemma3", "Gemma3TextModel", GEMMA, O_PROJ, **gemma3),
        llama("phi3", "Phi3Model", LLAMA, O_PROJ),
        llama("mixtral", "MixtralModel", MIXTRAL, O_PROJ),
        llama("qwen3-moe", "Qwen3MoeModel", MOE, O_PROJ),
        llama("qwen2-moe", "Qwen2MoeModel", MOE | {"shared_expert_intermediate_size": 24}, O_PROJ),
        llama("olmoe", "OlmoeModel", MOE, O_PROJ),
        llama("granite-moe", "GraniteMoeModel", MIXTRAL, O_PROJ),
        llama("deepseek-v3", "DeepseekV3Model", LATENT | EXPERTS | SHARED | {"n_group": 2, "topk_group": 1}, O_PROJ,
            note="the router chooses a group of experts first"),
        llama("glm4-moe", "Glm4MoeModel", LLAMA | EXPERTS | SHARED | {"n_group": 1, "topk_group": 1}, O_PROJ),
        llama("jamba", "JambaModel", JAMBA, O_PROJ),
        llama("gpt-oss", "GptOssModel", MIXTRAL | WINDOW, O_PROJ, kinds=ONE_KIND,
            note="attention sinks: one logit per head joins the softmax"),
        llama("cohere", "CohereModel", LLAMA, O_PROJ),
        llama("cohere2", "Cohere2Model", LLAMA | WINDOW, O_PROJ),
        llama("starcoder2", "Starcoder2Model", LLAMA, O_PROJ),
        llama("granite", "GraniteModel", LLAMA | {"attention_multiplier": 0.3}, O_PROJ),
        llama("smollm3", "SmolLM3Model", LLAMA | {"no_rope_layers": [1, 0]}, O_PROJ),
        llama("olmo2", "Olmo2Model", LLAMA, O_PROJ, note="Q and K are normalised across heads"),

        seq2seq("t5-encoder", "T5EncoderModel", T5, "SelfAttention.o", kinds=ONE_KIND, fusion="t5",
            note="one position bias for all layers"),
        seq2seq("umt5-encoder", "UMT5EncoderModel", T5 | {"feed_forward_proj": "gated-gelu"}, "SelfAttention.o",
            kinds=ONE_KIND, note="a position bias per layer"),
        pairs("t5", "T5Model", T5, "SelfAttention.o", "EncDecAttention.o", kinds=ONE_KIND),
        pairs("bart", "BartModel", BART, OUT_PROJ, "encoder_attn.out_proj", fusion="bart"),
        pairs("mbart", "MBartModel", BART, OUT_PROJ, "encoder_attn.out_proj"),
        pairs("marian", "MarianModel", MARIAN, OUT_PROJ, "encoder_attn.out_proj"),
        pairs("pegasus", "PegasusModel", MARIAN, OUT_PROJ, "encoder_attn.out_proj", kinds=ONE_KIND),
        seq2seq("whisper-encoder", "WhisperModel", WHISPER, OUT_PROJ, part="encoder", fusion="bart",
            reads=floats("input_features", BATCH, 12, 20), sizes=((3, 0), (1, 0))),
        seq2seq("whisper-decoder", "WhisperModel", WHISPER, OUT_PROJ, "encoder_attn.out_proj", part="decoder",
            reads=DECODES, fixed={"use_cache": False}),

        waves("wav2vec2", "Wav2Vec2Model", WAVE, "attention.out_proj"),
        waves("hubert", "HubertModel", WAVE, "attention.out_proj"),
        waves("wavlm", "WavLMModel", WAVE | {"num_buckets": 8, "max_bucket_distance": 10}, "attention", kinds=ONE_KIND,
            note="a position bias gated per head, inside nn.MultiheadAttention's function"),
        waves("conformer-relative", "Wav2Vec2ConformerModel", CONFORMER | {"position_embeddings_type": "relative"},
            "self_attn.linear_out", kinds=ONE_KIND, note="relative shift"),
        waves("conformer-rotary", "Wav2Vec2ConformerModel", CONFORMER | {"position_embeddings_type": "rotary"},
            "self_attn.linear_out", kinds=ONE_KIND),
        row("audio", "ast", "ASTModel", SPECTRUM, "attention.o_proj", reads=floats("input_values", BATCH, 32, 16),
            sizes=((3, 0), (1, 0))),
    ) for case in rows]
