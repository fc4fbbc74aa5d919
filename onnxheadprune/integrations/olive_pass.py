"""`HeadPruning`, a pass of Olive. Imported through `onnxheadprune.integrations.olive`, and only where Olive is."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from olive.common.config_utils import ParamCategory, validate_config
from olive.common.utils import format_data
from olive.data.config import DataConfig
from olive.hardware.accelerator import AcceleratorSpec
from olive.model import CompositeModelHandler, OliveModelHandler, ONNXModelHandler
from olive.passes import Pass
from olive.passes.pass_config import BasePassConfig, PassConfigParam
from olive.search.search_parameter import Categorical

from onnxheadprune.deploying.folders.export import open_export
from onnxheadprune.errors import RefusedError, UsageError
from onnxheadprune.integrations.cutting import (
    MEASURED,
    NO_DATA,
    PARAMETERS,
    Outcome,
    call_of,
    cut,
    default_of,
    type_of,
)
from onnxheadprune.settings.calls import PruneCall
from onnxheadprune.settings.setting import Declared
from onnxheadprune.settings.words import described

LOG = logging.getLogger("olive.onnxheadprune")
"""A child of Olive's own, so that its log level holds."""
SEARCHED: dict[str, tuple[object, ...]] = {
    "ratio": (0.125, 0.25, 0.375, 0.5),
    "whole_groups": (False, True),
    "method": (MEASURED, "reconstruction"),
}
"""Values that a search tries, unless given."""
DATA_CONFIG = "Calibration data of Olive."
ATTRIBUTE = "onnxheadprune_heads"
"""Among the attributes of the model: the heads that went, per site."""


class HeadPruning(Pass):  # type: ignore[misc]  # Olive comes without types
    """Removes attention heads from an ONNX model, and proves the result equal to the masked original.

    A model that is given as a folder gives a folder: the same heads go from every model in it, and all other files go
    on with it to the next pass. The models of a composite must lie in one folder.
    """

    _accepts_composite_model = True

    @classmethod
    def _default_config(cls, accelerator_spec: AcceleratorSpec) -> dict[str, PassConfigParam]:
        own = {
            "data_config": PassConfigParam(
                type_=DataConfig | dict, default_value=None, description=DATA_CONFIG
            )
        }
        return {name: _parameter(item) for name, item in PARAMETERS.items()} | own

    @classmethod
    def validate_config(cls, config: type[BasePassConfig], accelerator_spec: AcceleratorSpec) -> bool:
        """Return whether a point of a search makes sense: methods that look at activations need data."""
        given: Any = config
        call = _call_of(given, None if given.data_config is None else [])
        if call.method in (None, *NO_DATA) or call.data is not None:
            return True
        LOG.warning("the method %s needs data or data_config", given.method)
        return False

    def _run_for_config(
        self, model: OliveModelHandler, config: type[BasePassConfig], output_model_path: str
    ) -> OliveModelHandler:
        """Prune a model."""
        output = Path(output_model_path)
        if isinstance(model, CompositeModelHandler):
            return self._of_composite(model, config, output.with_suffix(""))
        if not isinstance(model, ONNXModelHandler):
            raise UsageError("HeadPruning takes ONNX models; put it behind the conversion to ONNX")
        file, given = Path(model.model_path), Path(model.get_resource("model_path"))
        call = _call(config, model)
        if given.is_dir():
            target = output.with_suffix("")
            target.parent.mkdir(parents=True, exist_ok=True)
            outcome = _told(cut(given, target, call))
            place = target / file.relative_to(given)
            made = ONNXModelHandler(place.parent, place.name, model.inference_settings)
            _remember(made, model, outcome, _beside(target, folders=True))
            return made
        target = output if output.suffix == ".onnx" else output / file.name
        target.parent.mkdir(parents=True, exist_ok=True)
        outcome = _told(cut(file, target, call))
        # The folder, so that weights beside the model belong to it.
        made = ONNXModelHandler(target.parent, target.name, model.inference_settings)
        _remember(made, model, outcome, ())
        return made

    def _of_composite(
        self, model: CompositeModelHandler, config: type[BasePassConfig], output: Path
    ) -> CompositeModelHandler:
        components = [component for _, component in model.get_model_components()]
        if not all(isinstance(component, ONNXModelHandler) for component in components):
            raise UsageError("HeadPruning takes ONNX models; put it behind the conversion to ONNX")
        files = [Path(component.model_path) for component in components]
        given = model.get_resource("model_path")
        root = files[0].parent if given is None else Path(given)
        if not root.is_dir() or not all(file.is_relative_to(root) for file in files):
            raise RefusedError(
                "the models of a composite are pruned together, so they must lie in one folder"
            )
        target = output
        target.parent.mkdir(parents=True, exist_ok=True)
        outcome = _told(cut(root, target, _call(config, components[0])))
        places = [target / file.relative_to(root) for file in files]
        parts = [
            ONNXModelHandler(place.parent, place.name, component.inference_settings)
            for place, component in zip(places, components, strict=True)
        ]
        made = CompositeModelHandler(parts, model.model_component_names, target)
        _remember(made, model, outcome, _beside(target, folders=False))
        return made


def _parameter(item: Declared) -> PassConfigParam:
    searched = SEARCHED.get(item.name)
    return PassConfigParam(
        type_=type_of(item),
        default_value=default_of(item),
        search_defaults=None if searched is None else Categorical(list(searched)),
        category=ParamCategory.DATA if item.kind is Path or item.name == "data" else ParamCategory.NONE,
        description=described(item),
    )


def _call(config: Any, model: ONNXModelHandler) -> PruneCall:
    return _call_of(config, _data(config, model))


def _call_of(config: Any, feeds: Any) -> PruneCall:
    return call_of({name: getattr(config, name) for name in PARAMETERS}, feeds)


def _data(config: Any, model: ONNXModelHandler) -> Any:
    """The calibration data of Olive's own kind as batches, None without."""
    if config.data_config is None:
        return None
    batches = validate_config(config.data_config, DataConfig).to_data_container().create_dataloader()
    return [
        format_data(batch[0] if isinstance(batch, (list, tuple)) else batch, model.io_config)
        for batch in batches
    ]


def _told(outcome: Outcome) -> Outcome:
    for warning in outcome.warnings:
        LOG.warning("%s", warning)
    return outcome


def _remember(
    made: OliveModelHandler,
    model: OliveModelHandler,
    outcome: Outcome,
    side: Iterator[Path] | tuple[Path, ...],
) -> None:
    attributes = {**(model.model_attributes or {})}
    attributes[ATTRIBUTE] = {str(site): list(heads) for site, heads in outcome.heads.items()}
    found = [str(path) for path in side]
    if found:
        attributes["additional_files"] = sorted({*found, *attributes.get("additional_files", ())})
    made.model_attributes = attributes


def _beside(folder: Path, *, folders: bool) -> Iterator[Path]:
    """Yield what a folder holds beside its models and their weights.

    Olive copies these next to the result of every pass, by their last name.

    Args:
        folders: whether folders without models may be named as a whole; Olive copies none for a composite.
    """
    export = open_export(folder)
    with_models = {PurePosixPath(file.name).parts[0] for file in export.models}
    named: set[str] = set()
    for other in sorted(export.others, key=lambda name: name.count("/")):
        parts = PurePosixPath(other).parts
        whole = folders and len(parts) > 1 and parts[0] not in with_models
        path = folder / parts[0] if whole else folder / other
        if path.name not in named:
            named.add(path.name)
            yield path
