"""`inspect` as a function: the sites of a model, which print as the table of the command."""

from __future__ import annotations

from dataclasses import dataclass, field, fields
from typing import Unpack

from onnxheadprune.api import calls
from onnxheadprune.api.keywords import keywords_of
from onnxheadprune.api.typed import InspectKeywords
from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import analysis_of, inspect_loaded
from onnxheadprune.model.load import LoadedModel, ModelLike, open_structure


@dataclass(frozen=True)
class InspectedSites(Sites):
    """The sites of a loaded model.

    Attributes:
        loaded: the model, of which printing shows more: layers, exits, vocabularies.
    """

    loaded: LoadedModel | None = field(default=None, compare=False, repr=False)

    def __str__(self) -> str:
        """The table that the command prints."""
        from onnxheadprune.reporting.console import text_of
        from onnxheadprune.reporting.sites import inspection_report
        from onnxheadprune.runtime.loading import why_not_loaded
        from onnxheadprune.workflow.inspection import Inspection

        if self.loaded is None:
            return repr(self)
        found = Inspection.of(self.loaded, analysis_of(self.loaded))
        return text_of(inspection_report(found, why_not_loaded(self.loaded)))

    __repr__ = Sites.__repr__


@keywords_of(calls.INSPECT)
def inspect(model: ModelLike, **settings: Unpack[InspectKeywords]) -> Sites:
    """Return the attention sites of a model and its feed-forward blocks, and which units can be removed.

        print(ohp.inspect("model.onnx"))
        heads = [site.num_heads for site in ohp.inspect("model.onnx")]

    Args:
        model: a path, a `ModelProto`, a `gs.Graph` or an `onnx_ir.Model`; it is never changed.
        {settings}

    Returns:
        The sites with head counts, groups and sizes, and the near misses with their reasons; `print` shows the table of
        the command.

    Raises:
        UsageError: if the path does not exist.
        ModelError: if the file cannot be read as an ONNX model.
    """
    given = calls.INSPECT.read(settings)
    loaded = open_structure(model, follow_links=given.follow_links)
    sites = inspect_loaded(loaded)
    return InspectedSites(**{item.name: getattr(sites, item.name) for item in fields(sites)}, loaded=loaded)
