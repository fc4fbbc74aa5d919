"""FastEmbed (`TextEmbedding.add_custom_model`).

It downloads the files that the configuration lists: the model, and external weights as `additional_files`.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from onnxheadprune.deploying.clients.contract import Client, Deployment


def _name_weights(folder: Deployment) -> tuple[str, ...]:
    """Return how to declare a model with external weights to FastEmbed."""
    paths = [PurePosixPath(file.name) for file in folder.files if file.data_files]
    return tuple(
        f"name the weights beside {path} to add_custom_model:"
        f' additional_files=["{path.with_name(f"{path.name}_data")}"]'
        for path in paths
    )


CLIENT = Client(
    "fastembed",
    "FastEmbed",
    reads=("config.json", "tokenizer.json", "tokenizer_config.json", "special_tokens_map.json"),
    check=_name_weights,
    data_name="{}_data",
)
