"""Whether a model runs: a part of a graph can be valid by its declarations and fit together nowhere."""

from __future__ import annotations

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.errors import InferenceError
from onnxheadprune.model.load import open_structure
from onnxheadprune.runtime import CPU, Provider, Session
from onnxheadprune.runtime.feeds import FeedMaker


def runs(model: str) -> bool:
    """Whether ONNX Runtime runs a model on random inputs of some size, whatever comes out.

    Args:
        model: its path.
    """
    try:
        loaded = open_structure(model)
        maker = FeedMaker(view_of(loaded.proto))
        session = Session(loaded, Provider(CPU, "reduce"))
        found = maker.first_that_runs(maker.cases[0], session.run)
    except Exception:
        # What does not run may fail at any of these steps, and which one is not asked.
        return False
    return not isinstance(found, InferenceError)
