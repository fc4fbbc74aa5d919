"""Links from docs/ to other files of the repository: what they lead to becomes part of the site.

Markdown becomes a page, anything else a file to read or download. A link to nothing stays as it is, so a strict build
fails on it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from posixpath import normpath, relpath

from mkdocs.config.defaults import MkDocsConfig
from mkdocs.plugins import event_priority
from mkdocs.structure.files import File, Files, InclusionLevel
from mkdocs.structure.pages import Page

FOLDER = "repository"
"""Where such files lie on the site."""
PAGES = {"README.md": "index.md", "CHANGELOG.md": "changelog.md"}
"""Files that `home` makes pages of."""
LINK = re.compile(r"(?<=\]\()(?!\w+:|#|/)([^)\s#]+)")


@event_priority(-50)
def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Adds every file outside of docs/ that a page of the site, or an added page, leads to."""
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    waiting = [(file.src_uri, file.content_string) for file in files.documentation_pages()]
    while waiting:
        uri, text = waiting.pop()
        for target in _targets(uri, text, root, docs):
            place = _place(target, docs.relative_to(root))
            if files.get_file_from_path(place) is None:
                source = str(root / target)
                added = File.generated(
                    config, place, abs_src_path=source, inclusion=InclusionLevel.NOT_IN_NAV
                )
                files.append(added)
                if added.is_documentation_page():
                    waiting.append((place, added.content_string))
    return files


def on_page_markdown(markdown: str, page: Page, config: MkDocsConfig, files: Files) -> str:
    """Leads links to the files that were added."""
    root, docs = Path(config.config_file_path).parent, Path(config.docs_dir)
    uri = page.file.src_uri

    def led(match: re.Match[str]) -> str:
        target = _target(uri, match[1], root, docs)
        if target is None:
            return match[1]
        return relpath(_place(target, docs.relative_to(root)), str(PurePosixPath(uri).parent))

    return LINK.sub(led, markdown)


def _targets(uri: str, text: str, root: Path, docs: Path) -> Iterator[str]:
    """What a page leads to that is not in docs/, as paths in the repository."""
    inside = docs.relative_to(root).as_posix() + "/"
    for match in LINK.finditer(text):
        target = _target(uri, match[1], root, docs)
        if target is not None and not target.startswith(inside):
            yield target


def _place(target: str, docs: Path) -> str:
    """Where a file of the repository lies on the site."""
    path = PurePosixPath(target)
    if target in PAGES:
        return PAGES[target]
    return (
        str(path.relative_to(docs.as_posix()))
        if path.is_relative_to(docs.as_posix())
        else f"{FOLDER}/{target}"
    )


def _target(uri: str, link: str, root: Path, docs: Path) -> str | None:
    """The file of the repository that a link leads to, None if it is one of docs/ as it stands, or none."""
    if uri.startswith(f"{FOLDER}/"):
        here = PurePosixPath(uri).relative_to(FOLDER).parent
    elif link.startswith(".."):
        here = PurePosixPath(docs.relative_to(root).as_posix(), uri).parent
    else:
        return None
    target = normpath(str(here / link))
    return target if not target.startswith("..") and (root / target).is_file() else None
