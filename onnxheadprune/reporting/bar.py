"""The bar that a terminal shows while a call works: loaded where there is a terminal."""

from __future__ import annotations

from collections.abc import Callable, Iterable

from rich.console import Console, RenderableType
from rich.progress import BarColumn, Progress, TextColumn, TimeElapsedColumn
from rich.text import Text


class Bar(Progress):
    """One bar for the call, and below it what is to come."""

    def __init__(self, to_come: Callable[[], str], console: Console) -> None:
        self._to_come = to_come
        columns = (
            TextColumn("{task.description}"),
            BarColumn(),
            TimeElapsedColumn(),
            TextColumn("{task.fields[left]}"),
        )
        super().__init__(*columns, console=console, transient=True)

    def get_renderables(self) -> Iterable[RenderableType]:
        """The bar, then the stages that follow."""
        yield from super().get_renderables()
        if to_come := self._to_come():
            yield Text(to_come, style="dim")
