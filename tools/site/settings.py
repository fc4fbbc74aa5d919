"""A page of all keys of a job, made of their declarations."""

from __future__ import annotations

from collections.abc import Iterator

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `keys.md`."""
    files.append(File.generated(config, "keys.md", content="\n\n".join(parts()) + "\n"))
    return files


def parts() -> Iterator[str]:
    """The title, then the keys of each section."""
    from onnxheadprune.deploying.jobs.keys import SECTIONS, JobKeys
    from onnxheadprune.settings.words import table

    yield "# Keys of a job"
    yield "The options of the commands have the same names, and [pipelines.md](pipelines.md) is about jobs."
    yield table(JobKeys)
    for name, group in SECTIONS.items():
        yield f"## {name}"
        yield (group.__doc__ or "").partition("\n")[0]
        yield table(group)
