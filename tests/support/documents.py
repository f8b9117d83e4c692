"""The documents as tests read them: fenced blocks, and which of them are run.

A block is run where `<!-- run -->`, or `<!-- run: slow -->`, stands before it.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from tests.conftest import PROJECT

PAGES = (PROJECT / "README.md", *sorted((PROJECT / "docs").glob("*.md")))
_BLOCK = re.compile(r"(?:<!-- run(: slow)? -->\n)?^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


@dataclass(frozen=True)
class Block:
    """A fenced block of a page."""

    page: Path
    language: str
    text: str
    is_run: bool
    is_slow: bool


def blocks(page: Path) -> Iterator[Block]:
    """The fenced blocks of `page`, in order."""
    for match in _BLOCK.finditer(page.read_text()):
        is_run = match[0].startswith("<!-- run")
        yield Block(page, match[2], match[3], is_run, match[1] is not None)


def all_blocks(language: str) -> list[Block]:
    """The blocks of all pages in `language`."""
    return [block for page in PAGES for block in blocks(page) if block.language == language]


def anchor_of(heading: str) -> str:
    """The anchor of a page's heading, as GitHub and MkDocs both make it."""
    return re.sub(r"[^\w -]", "", heading).strip().lower().replace(" ", "-")
