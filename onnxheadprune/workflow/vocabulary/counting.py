"""Token counts of the user's data."""

from __future__ import annotations

from collections.abc import Iterable

import numpy as np

from onnxheadprune.attention.vocabulary.find import Vocabulary
from onnxheadprune.data.respelled import tokens_in
from onnxheadprune.errors import UsageError
from onnxheadprune.runtime.feeds.inputs import Input
from onnxheadprune.runtime.feeds.samples import Sample
from onnxheadprune.workflow.vocabulary.keep import Counts


def counted(samples: Iterable[Sample], inputs: tuple[Input, ...], vocabulary: Vocabulary) -> Counts:
    """Return how often each token occurs in data.

    Args:
        samples: the data.
        inputs: the graph inputs.
        vocabulary: of the model.

    Raises:
        UsageError: if the data has ids that the model does not have.
    """
    counts = np.zeros(vocabulary.rows, np.int64)
    for sample in samples:
        for ids in tokens_in(sample, inputs, vocabulary.inputs):
            if ids.size and not 0 <= ids.min() <= ids.max() < vocabulary.rows:
                raise UsageError(f"the data has a token id outside of the model's 0 to {vocabulary.rows - 1}")
            counts += np.bincount(ids, minlength=vocabulary.rows)
    return counts
