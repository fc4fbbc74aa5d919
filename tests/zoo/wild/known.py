"""What is not as it should be yet, by case, and why. The page shows it; a row that is not named here is a failure."""

from __future__ import annotations

from fnmatch import fnmatchcase

from tests.zoo.wild.row import WildRow

_TOKENS = (
    "joint attention: rows of tokens that two projections read apart, or that none reads, are taken for heads"
)
_BEHIND = "cut at the convolution behind BatchNorm and an activation, where a head silenced earlier leaves a constant"
_STREAMS = "residual streams mixed by a learned matrix are taken for an attention"
_CONTACTS = "the regression over all attention maps is listed as a site (that cannot lose heads)"
KNOWN: dict[str, str] = {
    "diffusers-sd3*": _TOKENS,
    "diffusers-auraflow.*": _TOKENS,
    "diffusers-flux.*": _TOKENS,
    "diffusers-chroma.*": _TOKENS,
    "diffusers-bria.*": _TOKENS,
    "diffusers-mochi.*": "joint attention whose context is cut by tokens that the mask keeps: not found",
    "torchvision-mvit-v*": "pooled queries, keys and values: neither found nor reported",
    "vit-pytorch-t2t.*": "a single head without an output projection is taken for one that the feed-forward block sums",
    "vit-pytorch-sep-vit.*": "window tokens and pixels are attended in a row before one projection: counted twice",
    "vit-pytorch-simple-vit-with-hyper-connections.*": _STREAMS,
    "ultralytics-aifi.*": "an outer product that makes the sine positions is taken for an attention of two heads",
    "tab-transformer-pytorch-ft-streams.*": _STREAMS,
    "esm-2-contacts.*": _CONTACTS,
    "transformers-esm-contacts.*": _CONTACTS,
    "spandrel-retinexformer.*": "channel attention with a single head is a near miss",
    "spandrel-grl.*": _TOKENS,
    "bottleneck-transformer-pytorch.*": _BEHIND,
    "timm-bottleneck-attn.*": _BEHIND,
    "timm-halo-attn.*": _BEHIND,
    "timm-lambda.*": _BEHIND,
}
"""Shell patterns of a case and its exporter, and the reason in plain words."""


def reason_for(row: WildRow) -> str | None:
    """Why a row may be as it is, None if nobody said so."""
    return next((reason for pattern, reason in KNOWN.items() if fnmatchcase(row.name, pattern)), None)
