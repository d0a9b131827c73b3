"""Pages that are files of the repository, and links from the docs to such files.

The same Markdown is read in the repository, where links are relative paths, and as a page of the site. A link that
leaves docs/ becomes a link to the page that shows the file. If no page does, it becomes a link to the repository that
GITHUB_REPOSITORY names, or plain text. A link to a file that does not exist is a warning, and a warning ends the build.
"""

from __future__ import annotations

import os
import re
from pathlib import Path

from sphinx.application import Sphinx
from sphinx.util import logging

log = logging.getLogger(__name__)

DOCS = Path(__file__).resolve().parents[1]
ROOT = DOCS.parent
PAGES = {
    "README.md": "/index.md",
    "CHANGELOG.md": "/changelog.md",
    "CODE_OF_CONDUCT.md": "/code-of-conduct.md",
    "CONTRIBUTING.md": "/contributing.md",
    "SECURITY.md": "/security.md",
    **{
        path.relative_to(ROOT).as_posix(): f"/reference/recipes/{path.parent.name}.md"
        for path in ROOT.glob("images/*/README.md")
    },
}
INCLUDE = re.compile(r"^```\{include\} (\S+)\n```$", re.MULTILINE)
LINK = re.compile(r"(!?)\[([^\]\[]*)\]\(([^)\s#]+)(#[^)\s]*)?\)")


def read(app: Sphinx, docname: str, source: list[str]) -> None:
    """Put the files in that a page includes, and rewrite links that leave docs/."""
    path = Path(app.env.doc2path(docname))

    def included(match: re.Match[str]) -> str:
        file = (path.parent / match[1]).resolve()
        app.env.note_dependency(str(file))
        return rewrite(file.read_text(), file, docname)

    source[0] = INCLUDE.sub(included, rewrite(source[0], path, docname))


def rewrite(text: str, path: Path, docname: str) -> str:
    """Return a text of `path` with its links made fit for the site."""

    def link(match: re.Match[str]) -> str:
        image, label, target, anchor = match[1], match[2], match[3], match[4] or ""
        if image or re.match(r"[a-z]+:|/", target):
            return match[0]
        file = (path.parent / target).resolve()
        if not file.exists():
            log.warning("link to a file that does not exist: %s", target, location=docname)
            return match[0]
        name = file.relative_to(ROOT).as_posix()
        if file.is_relative_to(DOCS):
            return f"[{label}](/{file.relative_to(DOCS).as_posix()}{anchor})"
        if name in PAGES:
            return f"[{label}]({PAGES[name]}{anchor})"
        if repository := os.environ.get("GITHUB_REPOSITORY"):
            server = os.environ.get("GITHUB_SERVER_URL", "https://github.com")
            return f"[{label}]({server}/{repository}/blob/HEAD/{name}{anchor})"
        return label

    return LINK.sub(link, text)


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the event."""
    app.connect("source-read", read)
    return {"parallel_read_safe": True}
