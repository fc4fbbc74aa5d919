"""What PyTorch itself says a model with silenced heads gives: the oracle of the tiny samples.

A head is silenced when its columns of the output projection are zeroed, so that what it computes
reaches nothing. ONNX plays no part in this module.
"""

from __future__ import annotations

import copy
import json
import random
from typing import Any

import numpy as np
import numpy.typing as npt
import torch
from onnx_export import Feed
from tiny_configs import (
    HEAD_SIZE,
    LAYERS,
    NUM_HEADS,
    SEED,
    Architecture,
    build,
    make_feed,
)
from transformers.pytorch_utils import Conv1D

# NumPy arrays; `Any` because `np.savez` takes them as keywords beside one of its own.
Arrays = dict[str, Any]
HeadSet = dict[int, list[int]]
SETS = 20
# (batch, sequence) of each feed.
FEEDS = ((2, 7), (5, 11))


def head_sets() -> list[HeadSet]:
    """Draws 20 head sets (layer to heads), the same ones for each architecture.

    The first eight are the cases with a name, in this order: one head of one layer (first,
    middle, last layer); the same heads in each layer; different heads in every layer; the same
    one head left in every layer; another head left in every layer; all but one of one layer.
    No set takes all heads of a layer.
    """
    everyone = range(NUM_HEADS)
    named: list[HeadSet] = [
        {0: [2]},
        {1: [0]},
        {LAYERS - 1: [NUM_HEADS - 1]},
        {layer: [1, 2] for layer in range(LAYERS)},
        {0: [0], 1: [1, 3], 2: [2]},
        {layer: [0, 2, 3] for layer in range(LAYERS)},
        {layer: [head for head in everyone if head != layer] for layer in range(LAYERS)},
        {1: [0, 1, 2]},
    ]
    sets = list(named)
    generator = random.Random(SEED)
    while len(sets) < SETS:
        counts = [generator.randrange(NUM_HEADS) for _ in range(LAYERS)]
        drawn = {
            layer: sorted(generator.sample(everyone, count)) for layer, count in enumerate(counts) if count
        }
        if drawn and drawn not in sets:
            sets.append(drawn)
    return sets


def silenced(model: torch.nn.Module, projection: str, heads: HeadSet) -> torch.nn.Module:
    """Copies `model` and zeroes the columns of `heads` in the output projections.

    Args:
        model: the original; it is left as it is.
        projection: path of the output projections, with `{}` for the layer.
        heads: layer to heads.
    """
    model = copy.deepcopy(model)
    with torch.no_grad():
        for layer, gone in heads.items():
            module = model.get_submodule(projection.format(layer))
            weight = module.get_parameter("weight")
            # GPT-2's Conv1D stores [in, out] where Linear stores [out, in].
            inputs_first = weight if isinstance(module, Conv1D) else weight.T
            for head in gone:
                inputs_first[head * HEAD_SIZE : (head + 1) * HEAD_SIZE] = 0
    return model


def run(model: torch.nn.Module, feed: Feed) -> npt.NDArray[np.float32]:
    """Gives the model's first output."""
    with torch.no_grad():
        output: torch.Tensor = model(**feed)[0]
    return output.numpy()


def make_reference(architecture: Architecture) -> Arrays:
    """Computes the arrays of `<architecture>.reference.npz`.

    Returns:
        `head_sets` and `feeds` (JSON in a string array without axes), `feed0/<input>`,
        `original/feed0/<output>` and `set03/feed0/<output>` for every feed and head set.
    """
    model, sets = build(architecture, "eager"), head_sets()
    names = [f"feed{index}" for index in range(len(FEEDS))]
    arrays: Arrays = {
        "head_sets": np.array(json.dumps(sets)),
        "feeds": np.array(json.dumps(names)),
    }
    models = {"original": model} | {
        f"set{index:02}": silenced(model, architecture.projection, heads) for index, heads in enumerate(sets)
    }
    for index, (name, (batch, sequence)) in enumerate(zip(names, FEEDS, strict=True)):
        feed = make_feed(architecture, batch, sequence, SEED + index)
        arrays |= {f"{name}/{key}": value.numpy() for key, value in feed.items()}
        for variant, candidate in models.items():
            arrays[f"{variant}/{name}/{architecture.output}"] = run(candidate, feed)
    return arrays


def smallest_effect(architecture: Architecture) -> float:
    """Silences each head alone; gives the smallest largest change, relative to the output."""
    model = build(architecture, "eager")
    feed = make_feed(architecture, *FEEDS[0], SEED)
    original = run(model, feed)
    effects = (
        np.abs(run(silenced(model, architecture.projection, {layer: [head]}), feed) - original)
        for layer in range(LAYERS)
        for head in range(NUM_HEADS)
    )
    return min(float(effect.max()) for effect in effects) / float(np.abs(original).max())
