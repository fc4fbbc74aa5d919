"""How far a quantized model is from the original, of which it is a cut with weights of fewer bits."""

from __future__ import annotations

from onnxheadprune.attention.sites.find import view_of
from onnxheadprune.model.load import LoadedModel
from onnxheadprune.model.spelling import file_name
from onnxheadprune.runtime import Provider
from onnxheadprune.runtime.providers import resolve_provider
from onnxheadprune.selection.activations.data import calibration_data
from onnxheadprune.validation.claim import read_claim
from onnxheadprune.validation.claimed_exits import claimed_exits
from onnxheadprune.validation.request import ValidationRequest
from onnxheadprune.validation.result import RANDOM_INPUTS
from onnxheadprune.workflow.apart import Distance, Looking, Reference
from onnxheadprune.workflow.jobs.asked import is_function, source_of
from onnxheadprune.workflow.jobs.reading import Job


def judged_on(job: Job) -> str:
    """What the figures of a job are measured on, and what has seen it before."""
    keys = job.keys
    if keys.validate is None or keys.validate.data is None:
        return RANDOM_INPUTS
    source = source_of(job, keys.validate.data)
    name = source if is_function(source) else file_name(source)
    if keys.data is None:
        return f"your data, {name}"
    if keys.data.path is not None and source_of(job, keys.data.path) == source:
        return f"the calibration data, which the {'choice' if keys.recover is None else 'training'} has seen, {name}"
    return f"test data, {name}"


def deployed_distance(
    original: LoadedModel, exact: LoadedModel, rounded: LoadedModel, request: ValidationRequest
) -> Distance:
    """Drift, accuracy and metric of what came out, as a deployment runs it.

    Args:
        original: the model that was cut.
        exact: the cut in floats, whose record says what is left of inputs and outputs.
        rounded: the quantized model that was made of it.
        request: on what and by what it is judged; with data.

    Raises:
        UsageError: if the data does not fit, or the metric fails.
        RefusedError: if there is no float output to measure.
    """
    assert request.data is not None
    left = claimed_exits(original, exact)
    subject = original if left is None else left.model
    names = (original.name, exact.name)
    claim = read_claim(subject.proto, exact.proto, request.heads, names, left=left is not None)
    view = view_of(original)
    asked = request.provider
    where = asked if isinstance(asked, Provider) else resolve_provider(asked)
    reference = Reference(original, calibration_data(request.data, view), where)
    looking = Looking(request.effect, request.metric)
    return reference.distance(rounded, looking, claim.planning.io)
