"""transformers.js, in a browser or on onnxruntime-node.

It takes the shapes of caches from the model's inputs, so any cut works where they declare the number
of heads; the number of caches is read from config.json. Models lie in the folder `onnx`, their external data is called
`<file>_data`, and config.json declares it (or the number of its files).
"""

from __future__ import annotations

from pathlib import PurePosixPath
from typing import Any

from onnxheadprune.deploying.clients.contract import CONFIG, Client, ConfigChange, Deployment, FileFacts
from onnxheadprune.deploying.clients.layers import in_config

DATA = "{}_data"
SETTINGS, EXTERNAL = "transformers.js_config", "use_external_data_format"


def _check(folder: Deployment) -> tuple[str, ...]:
    """Return notes for the user."""
    outside = [file.name for file in folder.files if PurePosixPath(file.name).parts[0] != "onnx"]
    if outside:
        return (f'{outside[0]} is not in the folder onnx: load it with {{ subfolder: "" }}',)
    return ()


def _changes(folder: Deployment) -> tuple[ConfigChange, ...]:
    """The field of config.json about external data, now one file per model."""
    beside = [file for file in folder.files if file.data_files]
    settings = folder.config.get(SETTINGS)
    before = settings.get(EXTERNAL) if isinstance(settings, dict) else None
    after = _announced(beside, before)
    if not beside or after == before:
        return ()
    way = (SETTINGS, EXTERNAL) if isinstance(settings, dict) else (SETTINGS,)
    return (ConfigChange(CONFIG, way, before, after if len(way) > 1 else {EXTERNAL: after}),)


def _announced(beside: list[FileFacts], before: Any) -> Any:
    if isinstance(before, dict):
        chunks = {PurePosixPath(file.name).name: 1 for file in beside}
        return {name: chunks.get(name, number) if number else number for name, number in before.items()} | {
            name: 1 for name in chunks if name not in before and PurePosixPath(name).stem not in before
        }
    return True


CLIENT = Client(
    "transformers.js",
    "transformers.js",
    reads=(CONFIG,),
    check=_check,
    changes=_changes,
    data_name=DATA,
    heads_of_inputs=True,
    layers=in_config,
)
