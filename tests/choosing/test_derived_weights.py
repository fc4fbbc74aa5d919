"""A method sees the weights of a projection as the matrix that they are, whatever stored tensors they follow from."""

from __future__ import annotations

import numpy as np
import pytest

from onnxheadprune import inspect
from onnxheadprune.choosing.activations.contexts import projection_matrix
from tests.graphs.derived_weights import WAYS, computed, network


@pytest.mark.parametrize("way", WAYS)
def test_the_matrix_of_a_projection_is_what_the_model_computes(way: str) -> None:
    model = network(WAYS[way])
    (projection,) = inspect(model)[0].projections
    np.testing.assert_allclose(projection_matrix(projection), computed(model, "o"), rtol=1e-5, atol=1e-7)
