"""Chromium under Playwright, which records requests and dialogs."""

from __future__ import annotations

import contextlib
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field

from playwright.sync_api import Browser, Dialog, Page, Request, ViewportSize, sync_playwright

from tests.support.process import RigError

PROGRAMS = ("chromium", "chromium-browser", "google-chrome")
# No requests to the browser's vendor.
ARGUMENTS = [
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
]
WIDE, PHONE = 1280, 390


@dataclass
class Visit:
    """A page with its requests, those that its policy blocked, and its dialogs."""

    page: Page
    requests: list[str] = field(default_factory=list)
    blocked: list[str] = field(default_factory=list)
    dialogs: list[str] = field(default_factory=list)

    def note_failure(self, request: Request) -> None:
        if request.failure == "csp":
            self.blocked.append(request.url)

    def note_dialog(self, dialog: Dialog) -> None:
        self.dialogs.append(dialog.message)
        dialog.dismiss()

    def selected(self) -> str:
        """Return the selected text, as copying takes it."""
        return str(self.page.evaluate("getSelection().toString()"))


@contextlib.contextmanager
def chromium() -> Iterator[Browser]:
    """Run a headless browser."""
    program = next(filter(None, map(shutil.which, PROGRAMS)), None)
    if program is None:
        raise RigError("these tests need a browser: apt-get install chromium (`make system` does it)")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=program, args=ARGUMENTS)
        try:
            yield browser
        finally:
            browser.close()


@contextlib.contextmanager
def visit(
    browser: Browser, url: str, *, width: int = WIDE, dark: bool = False, language: str = "en-GB", scripts: bool = True
) -> Iterator[Visit]:
    """Open a URL in a new profile."""
    context = browser.new_context(
        viewport=ViewportSize(width=width, height=800),
        color_scheme="dark" if dark else "light",
        locale=language,
        java_script_enabled=scripts,
    )
    try:
        visited = Visit(context.new_page())
        context.on("request", lambda request: visited.requests.append(request.url))
        context.on("requestfailed", visited.note_failure)
        visited.page.on("dialog", visited.note_dialog)
        visited.page.goto(url)
        yield visited
    finally:
        context.close()
