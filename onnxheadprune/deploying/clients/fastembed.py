"""FastEmbed, with a model of one's own (`TextEmbedding.add_custom_model`).

It takes any cut. It downloads the files that it is told of: the model, and weights beside it as `additional_files`.
"""

from __future__ import annotations

from pathlib import PurePosixPath

from onnxheadprune.deploying.clients.contract import Client, Deployment


def check(folder: Deployment) -> tuple[str, ...]:
    """Return how the model is named to it where weights lie beside it."""
    return tuple(
        f'name the weights beside {file.name} to add_custom_model: additional_files=["{_beside(file.name)}"]'
        for file in folder.files
        if file.data_files
    )


def _beside(name: str) -> str:
    path = PurePosixPath(name)
    return str(path.with_name(f"{path.name}_data"))


FASTEMBED = Client("fastembed", "FastEmbed", check=check, data_name="{}_data")
