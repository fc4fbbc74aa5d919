"""The runtimes by name, each in a file of its own."""

from __future__ import annotations

import importlib

from onnxheadprune.deploying.clients.contract import Client
from onnxheadprune.errors import UsageError
from onnxheadprune.settings.registry import RUNTIMES


def client_named(name: str) -> Client:
    """A runtime by its name."""
    if name not in RUNTIMES:
        raise UsageError(f"there is no runtime {name!r}; known are {', '.join(RUNTIMES)}")
    module = importlib.import_module(RUNTIMES[name])
    found: Client = module.CLIENT
    return found
