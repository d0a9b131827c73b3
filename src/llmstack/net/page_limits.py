"""Limits for lists that servers send in pages: a faulty server may link to new pages without end."""

from __future__ import annotations

from dataclasses import dataclass

from llmstack.errors import UnavailableError

# More pages than this must have this many entries each, on average: a list of few entries fits on few pages.
SPARSE_PAGES = 100
ENTRIES_PER_PAGE = 10


@dataclass(slots=True)
class PageLimits:
    """Counts the pages and entries of one list. `what` names the list in the error."""

    what: str
    max_entries: int
    max_pages: int
    _pages: int = 0
    _entries: int = 0

    def count(self, entries: int) -> None:
        """Count a page that links to a next one; raises UnavailableError if the list exceeds a limit."""
        self._pages += 1
        self._entries += entries
        if self._entries > self.max_entries:
            raise UnavailableError(f"{self.what}: more than {self.max_entries:,} entries")
        if self._pages >= self.max_pages:
            raise UnavailableError(f"{self.what}: more than {self.max_pages:,} pages")
        if self._pages >= SPARSE_PAGES and self._entries < ENTRIES_PER_PAGE * self._pages:
            raise UnavailableError(
                f"{self.what}: more than {SPARSE_PAGES} pages with fewer than {ENTRIES_PER_PAGE} entries on average"
            )
