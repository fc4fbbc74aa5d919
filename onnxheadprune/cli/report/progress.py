"""A progress bar on stderr for work that takes its time."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TaskID, TextColumn, TimeElapsedColumn


@contextlib.contextmanager
def progress_on(console: Console) -> Iterator[Callable[[str, int, int], None]]:
    """A function to tell what is being done, how much of it is done, and of how much (0: unknown).

    What comes behind a colon changes as the work goes on, and is shown in the same line. Nothing is shown where nobody
    looks at a terminal.
    """
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as bar:
        tasks: dict[str, TaskID] = {}

        def tell(what: str, done: int, of: int) -> None:
            work = what.partition(":")[0]
            if work not in tasks:
                tasks[work] = bar.add_task(what, total=of or None)
            bar.update(tasks[work], description=what, completed=done, total=of or None)

        yield tell
