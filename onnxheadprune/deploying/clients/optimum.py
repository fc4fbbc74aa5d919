"""Optimum's ONNX Runtime classes (`ORTModelForCausalLM`, `ORTModelForSeq2SeqLM`, encoders).

Encoders and classifiers take any cut. A decoder gets its first cache, which is empty, in a shape that is computed from
config.json: one number of heads for all layers, and as the size of a head the hidden size over the number of query
heads. Where the configuration has a separate number of KV heads, only that one changes: the size of a head must
not change. Elsewhere the same number also divides the hidden size, so both change together.
"""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import CONFIG, CacheFields, Client, Deployment, number_in
from onnxheadprune.deploying.clients.layers import KV_HEADS, in_config, of_decoder
from onnxheadprune.errors import RefusedError

TITLE = "Optimum"
GROUPED = frozenset(
    "arcee deepseek_v3 cohere gemma gemma3 gemma3_text glm granite gpt_oss helium mistral llama nemotron qwen2 qwen3"
    " qwen3_moe smollm3 stablelm".split()
)
"""Model types for which optimum-onnx 0.1 reads `num_key_value_heads`."""
HEADS = ("num_attention_heads", "n_head", "num_heads", "n_heads")
HIDDEN = ("hidden_size", "n_embd", "d_model")
STACKS = ("encoder_attention_heads", "decoder_attention_heads")


OWN_SIZE = frozenset({"gemma", "gemma3", "gemma3_text", "gpt_oss", "nemotron"})
"""Model types for which it reads the size of a head, `head_dim`."""
OTHERWISE = frozenset({"bloom", "deepseek_v3", "falcon", "gpt_bigcode"})
"""Model types whose caches it computes in a way of their own."""


def _caches(folder: Deployment) -> CacheFields:
    """The fields of a decoder's first, empty caches.

    Only a merged decoder takes caches in the first step of an encoder-decoder.
    """
    way, config = of_decoder(folder.config)
    kind = config.get("model_type", folder.config.get("model_type"))
    both = bool(folder.config.get("is_encoder_decoder") or any(map(config.get, STACKS)))
    counted = tuple(name for name in (*STACKS, *HEADS) if type(config.get(name)) is int)
    hidden = next((name for name in HIDDEN if type(config.get(name)) is int), None)
    own = next((name for name in KV_HEADS if type(config.get(name)) is int), None)
    grouped = own is not None and (kind in GROUPED or kind == "falcon")
    if folder.cut_caches and not grouped and (not counted or hidden is None):
        told = f"{CONFIG} has no field that tells {TITLE} the heads of the caches"
        if not folder.config:
            told = f"{TITLE} reads the shape of caches from {CONFIG}, and there is none"
        raise RefusedError(f"{told}; `cache=keep` leaves the caches as they are")
    heads, allocated = number_in(config, (*HEADS, *STACKS)), None
    runs = not both or any("merged" in file.name for file in folder.files)
    if kind is not None and kind not in OTHERWISE and runs and heads and hidden is not None:
        size = config.get("head_dim") if kind in OWN_SIZE else config[hidden] // heads
        number = config[own] if own is not None and kind in GROUPED and not both else heads
        allocated = (number, size) if isinstance(size, int) else None
    alike = () if own is None else (own,)
    if grouped or (alike and counted and config[alike[0]] != config[counted[0]]):
        # Where it allocates a cache for each query head, no cut makes the folder one that runs.
        return CacheFields((CONFIG, way, config), alike if grouped else (), allocated=allocated)
    # A number of KV heads that is that of heads stays it, although this version reads the latter only.
    return CacheFields((CONFIG, way, config), (*counted, *alike), hidden, allocated)


CLIENT = Client(
    "optimum",
    TITLE,
    caches=_caches,
    reads=(CONFIG,),
    layers=in_config,
)
