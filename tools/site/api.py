"""Pages of the Python interface: every public name, with what its docstring says."""

from __future__ import annotations

import inspect

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files

PACKAGE = "onnxheadprune"
INTRO = {
    "functions": "What the commands do, after `import onnxheadprune as ohp`. Names are loaded when first used.",
    "classes": "What functions take and give.",
    "errors": "Everything that is raised on purpose is a `HeadPruneError`, with one sentence that says what to do.",
}


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds `api/functions.md`, `api/classes.md` and `api/errors.md`."""
    for kind, names in kinds().items():
        blocks = "\n\n".join(f"::: {PACKAGE}.{name}" for name in names)
        content = f"# {kind.capitalize()}\n\n{INTRO[kind]}\n\n{blocks}\n"
        files.append(File.generated(config, f"api/{kind}.md", content=content))
    return files


def kinds() -> dict[str, list[str]]:
    """The public names, by what they are."""
    import onnxheadprune

    found: dict[str, list[str]] = {kind: [] for kind in INTRO}
    for name in onnxheadprune.__all__:
        thing = getattr(onnxheadprune, name)
        if inspect.isclass(thing):
            found["errors" if issubclass(thing, Exception) else "classes"].append(name)
        elif inspect.isfunction(thing):
            found["functions"].append(name)
    return found
