"""A merged decoder with its flag answered is one of the two decoders in it."""

from __future__ import annotations

from typing import Any

import numpy as np
import onnx
import pytest

from onnxheadprune.edit.bodies import with_answer
from onnxheadprune.operators import view_of
from tests.data.stepping import run
from tests.graphs import pairs, toys


@pytest.mark.parametrize("named_twice", [False, True])
@pytest.mark.parametrize("answer", [False, True])
def test_a_merged_decoder_is_what_its_flag_leaves(answer: bool, named_twice: bool) -> None:
    made = with_answer(view_of(pairs.merged(named_twice=named_twice)), answer)
    assert made is not None
    onnx.checker.check_model(made, full_check=True)
    random = np.random.default_rng(0)
    past = 3 if answer else 0
    feed: dict[str, Any] = {
        "input_ids": random.integers(0, 17, (2, 3)),
        "encoder_attention_mask": np.ones((2, 5), np.int64),
        "encoder_hidden_states": random.standard_normal((2, 5, toys.HIDDEN)).astype(np.float32),
        "use_cache_branch": np.array([answer]),
    }
    for name in pairs.CACHES:
        length = 5 if name.startswith("encoder") else past
        shape = (2, toys.HEADS, length, toys.HEAD_SIZE)
        feed[f"past_key_values.0.{name}"] = random.standard_normal(shape).astype(np.float32)
    whole, part = (run(model, feed) for model in (pairs.merged(), made))
    made_anew = ["logits"] if answer else ["logits", *(f"present.0.{name}" for name in pairs.CACHES)]
    for name in made_anew:
        np.testing.assert_array_equal(part[name], whole[name])
    names = {item.name for item in made.graph.input}
    assert "use_cache_branch" not in names and ("encoder_hidden_states" in names) is not answer
