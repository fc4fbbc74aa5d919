"""A report as one self-contained HTML page, made from the JSON documents that commands print."""

from __future__ import annotations

from pathlib import Path

from onnxheadprune.errors import UsageError
from onnxheadprune.model.storage.folder import write_text
from onnxheadprune.reporting.page.documents import Document, Documents, Shipped, read_documents
from onnxheadprune.reporting.page.render import rendered
from onnxheadprune.reporting.page.story import story_of

__all__ = ["Documents", "Shipped", "page_of", "read_documents", "save_page"]


def save_page(path: Path, document: Document) -> None:
    """Writes the page of one result.

    Args:
        path: an .html file.
        document: what the command prints with --json.

    Raises:
        UsageError: if the file cannot be written.
    """
    documents = Documents()
    documents.add(document, "the result")
    write_text(path, page_of(documents))


def page_of(documents: Documents) -> str:
    """The page of one or several results.

    Raises:
        UsageError: if a document is not whole, or of another version.
    """
    try:
        return rendered(story_of(documents))
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise UsageError(
            f"a result is not as this version writes it ({type(error).__name__}: {error}); make it once more with"
            " --json"
        ) from error
