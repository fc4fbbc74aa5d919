"""Optimum's ONNX Runtime classes (`ORTModelForCausalLM`, `ORTModelForSeq2SeqLM`, encoders).

Encoders and classifiers take any cut. A decoder gets its first cache, which is empty, in a shape that is computed from
config.json: one number of heads for all layers, and as the size of a head the hidden size over the number of query
heads. Where the configuration has a separate number of KV heads, only that one changes: the size of a head must
not change. Elsewhere the same number also divides the hidden size, so both change together.
"""

from __future__ import annotations

from onnxheadprune.deploying.clients.contract import CONFIG, Client, ConfigChange, Deployment
from onnxheadprune.deploying.clients.layers import KV_HEADS, even_heads, layers_follow, of_decoder
from onnxheadprune.errors import RefusedError, named_setting

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


def _caches(folder: Deployment) -> tuple[int, int] | None:
    """The heads and the size of a head that a decoder's first, empty caches get; None where that is not known.

    Only a merged decoder takes caches in the first step of an encoder-decoder.
    """
    _, config = of_decoder(folder.config)
    kind = config.get("model_type", folder.config.get("model_type"))
    both = bool(folder.config.get("is_encoder_decoder") or any(map(config.get, STACKS)))
    if (
        kind is None
        or kind in OTHERWISE
        or (both and not any("merged" in file.name for file in folder.files))
    ):
        return None
    heads, hidden, own = (
        next((config[name] for name in names if type(config.get(name)) is int), None)
        for names in ((*HEADS, *STACKS), HIDDEN, KV_HEADS)
    )
    if not heads or not hidden:
        return None
    own = own if kind in GROUPED and not both else heads
    size = config.get("head_dim") if kind in OWN_SIZE else hidden // heads
    return (own or heads, size) if isinstance(size, int) else None


def _changes(cut: Deployment) -> tuple[ConfigChange, ...]:
    """The fields that a cut of caches changes: heads, the head size, and layers."""
    layers = layers_follow(cut, TITLE)
    return (*_heads(cut), *layers)


def _heads(cut: Deployment) -> tuple[ConfigChange, ...]:
    """The fields that change where caches get narrower."""
    if not cut.cut_caches:
        return ()
    if not cut.config:
        raise RefusedError(
            f"{TITLE} reads the shape of caches from config.json, and there is none;"
            f" {named_setting('cache', 'keep')} leaves the"
            " caches as they are"
        )
    way, config = of_decoder(cut.config)
    kind = config.get("model_type", cut.config.get("model_type"))
    own = next((name for name in KV_HEADS if isinstance(config.get(name), int)), None)
    grouped = own is not None and (kind in GROUPED or kind == "falcon")
    counted = [name for name in (*STACKS, *HEADS) if isinstance(config.get(name), int)]
    hidden = next((name for name in HIDDEN if isinstance(config.get(name), int)), None)
    if not grouped and (not counted or hidden is None):
        raise RefusedError(
            f"config.json has no field that tells {TITLE} the heads of the caches;"
            f" {named_setting('cache', 'keep')} leaves the"
            " caches as they are"
        )
    if not grouped and own is not None and config[own] != config[counted[0]]:
        # It allocates a cache for each query head, so no cut makes the folder one that runs.
        return ()
    heads, size = even_heads(cut, TITLE)
    # A number of KV heads that is that of heads stays it, although this version reads the latter only.
    alike = [own] if not grouped and own is not None else []
    wanted = dict.fromkeys([own] if grouped else [*counted, *alike], heads)
    wanted |= {} if grouped else {hidden: heads * size}
    return tuple(
        ConfigChange(CONFIG, (*way, name), config.get(name), value)
        for name, value in wanted.items()
        if name is not None and config.get(name) != value
    )


CLIENT = Client(
    "optimum",
    TITLE,
    even_caches=lambda _: True,
    caches=_caches,
    reads=(CONFIG,),
    changes=_changes,
)
