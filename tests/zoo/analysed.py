"""A folder of the zoo as the engine sees it, and what it raised, in words."""

from __future__ import annotations

from collections.abc import Collection
from functools import cached_property
from pathlib import Path

from onnxheadprune.attention.sites.all_sites import Sites
from onnxheadprune.attention.sites.find import sites_of
from onnxheadprune.model.graph.view import GraphView
from onnxheadprune.operators import view_of
from tests.zoo.folder import Folder
from tests.zoo.row import general


class Analysed:
    """A folder and its analysis, which is made when it is first asked for: it may be what fails."""

    def __init__(self, folder: Folder) -> None:
        self.folder = folder

    @cached_property
    def view(self) -> GraphView:
        """The graph."""
        return view_of(self.folder.model)

    @cached_property
    def sites(self) -> Sites:
        """What is found in it."""
        return sites_of(self.view, self.folder.path.name)

    def general(self, sentences: Collection[str]) -> tuple[str, ...]:
        """Reasons without the names of this one graph, which is looked at only where there are any."""
        return general(sentences, self.view, self.sites) if sentences else ()


def told(problem: Exception) -> str:
    """What was raised, and where."""
    place = problem.__traceback__
    while place is not None and place.tb_next is not None:
        place = place.tb_next
    where = "" if place is None else f" ({Path(place.tb_frame.f_code.co_filename).name}:{place.tb_lineno})"
    return f"{type(problem).__name__}: {str(problem)[:300]}{where}"
