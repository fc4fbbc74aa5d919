"""Every quantized form of a table, and of the linear layer that makes logits, loses rows and columns."""

from __future__ import annotations

from itertools import chain

import numpy as np
import pytest
from onnx import ModelProto

import onnxheadprune as ohp
from onnxheadprune import RefusedError
from onnxheadprune.attention.vocabulary.trim import trimming
from onnxheadprune.model.graph.operator import CONVOLVES
from onnxheadprune.model.load import open_structure
from tests.operator_records import key_of, keys_with
from tests.vocabulary.graphs import GRAPHS, KEPT, TOKENS, feeds, run
from tests.vocabulary.quantized import BLOCKED, HEADS, TABLES, TIED

FORMS = {str(key): make for key, make in chain(HEADS.items(), TABLES.items(), TIED.items())}


NO_KERNEL = "FusedMatMulActivation"
"""ONNX Runtime has none on the CPU."""


def operators(model: ModelProto) -> set[tuple[str, str]]:
    return {(node.domain, node.op_type) for node in model.graph.node}


@pytest.mark.parametrize("name", FORMS)
def test_every_form_loses_its_tokens(name: str) -> None:
    model = FORMS[name]()
    made = trimming(open_structure(model), KEPT).model.proto
    whole = [tensor.name for tensor in made.graph.initializer if TOKENS in tensor.dims]
    assert not whole, f"these still have all tokens: {whole}"
    if NO_KERNEL in name:
        return
    new, old = feeds(model, KEPT)
    (got,), (wanted,) = run(made, new), run(model, old)
    logits = wanted.shape[-1] == TOKENS
    np.testing.assert_allclose(got, wanted[..., KEPT] if logits else wanted, rtol=0, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize("name", TIED)
def test_the_proof_knows_them(name: str) -> None:
    made = ohp.prune(TIED[name](), vocab=KEPT.tolist(), provider="cpu")
    assert made.validation is not None and made.validation.verdict == "passed"


def test_every_operator_that_multiplies_or_picks_is_tried() -> None:
    tried = {key for make in (*FORMS.values(), *GRAPHS.values()) for key in operators(make())}
    products = keys_with(lambda record: record.operands is not None)
    assert set(products) - set(map(key_of, CONVOLVES)) <= tried
    of_elements = {("", "GatherElements"), ("", "ScatterElements")}
    assert set(keys_with(lambda record: record.roles.rows)) - of_elements <= tried


@pytest.mark.parametrize("operator", BLOCKED)
def test_a_scale_of_several_tokens(operator: str) -> None:
    """Tokens cannot go one by one from a block that they share, and the reason is that."""
    with pytest.raises(RefusedError, match=rf"the vocabulary cannot get smaller: .*{operator}"):
        trimming(open_structure(BLOCKED[operator]()), KEPT)
