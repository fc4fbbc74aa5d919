"""Formulas are MathML, which browsers show without a script: `$`...`$` in a line, a block `math` on its own."""

from __future__ import annotations

import re

from latex2mathml.converter import convert

INLINE = re.compile(r"\$`([^`]+)`\$")
BLOCK = re.compile(r"^```math\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def on_page_markdown(markdown: str, **_: object) -> str:
    """Write formulas as the browser takes them; the repository's browser reads the same LaTeX."""
    markdown = BLOCK.sub(lambda found: f"<div>{convert(found[1].strip(), display='block')}</div>", markdown)
    # Markdown takes an element that it does not know for a block where a line begins with it.
    return INLINE.sub(lambda found: f"<span>{convert(found[1])}</span>", markdown)
