"""The pages in a real browser: without scripts, in both themes, on a phone, and with hostile READMEs."""

from __future__ import annotations

import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from playwright.sync_api import Browser, expect

from tests.hub_server.conftest import HOSTILE, LONG_NAME
from tests.support.browser import PHONE, chromium, visit
from tests.support.engine import Engine
from tests.support.serving import Serving

FILE_PAGES = ("/datasets/good/set/blob/main/bad.csv", "/bad/files/blob/main/a.svg", "/bad/readme/blob/main/README.md")
COPIED_BY_CLICK = ("shell", "python", "extract", "docker", "kubernetes")


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    """One browser for all tests of this file."""
    with chromium() as browser:
        yield browser


def test_search_and_copy_work_without_scripts(browser: Browser, served_pages: Serving, engine: Engine, tmp_path: Path):
    with visit(browser, served_pages.url, scripts=False) as visited:
        page = visited.page
        expect(page.get_by_role("row")).to_have_count(6)
        page.get_by_label("Search").fill("RUNS")
        page.get_by_label("Search").press("Enter")
        expect(page.get_by_role("row")).to_have_count(2)
        page.get_by_role("link", name="good/runs").click()
        expect(page.get_by_role("heading", level=1)).to_have_text("good/runs")
        copied = {}
        for name in COPIED_BY_CLICK:
            page.locator(f"#use-{name} code").click()
            copied[name] = visited.selected()
        page.get_by_role("link", name="data/").click()
        page.get_by_role("link", name="a.txt", exact=True).click()
        expect(page.locator("pre.content")).to_have_text("a")
    check_copied(copied, engine, tmp_path)


def check_copied(copied: dict[str, str], engine: Engine, folder: Path) -> None:
    """Run the copied snippets unchanged."""
    run(f"{copied['shell']}\n{copied['extract']}", folder)
    assert (folder / "runs/data/a.txt").read_text() == "a"
    environment = copied["shell"].splitlines()[0].removeprefix("export ").split("=", 1)
    code = f"import os; os.environ[{environment[0]!r}] = {environment[1]!r}\n{copied['python']}\nprint(folder)"
    snapshot = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert Path(snapshot.strip(), "data/a.txt").read_text() == "a"
    assert "README.md" in engine.docker(*copied["docker"].split()[1:]).stdout
    pod = yaml.safe_load(copied["kubernetes"])
    assert pod["spec"]["volumes"][0]["image"]["reference"] == copied["docker"].split()[3]
    assert pod["spec"]["containers"][0]["volumeMounts"][0]["subPath"] == "REPO"


def run(script: str, folder: Path) -> None:
    path = f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}"
    done = subprocess.run(
        ["bash", "-euc", script], cwd=folder, env={**os.environ, "PATH": path}, capture_output=True, check=False
    )
    assert done.returncode == 0, done.stderr.decode()


def test_a_hostile_readme_does_nothing(browser: Browser, served_pages: Serving):
    # Without the sanitizer it does run, so that the rest of this test is meaningful.
    with visit(browser, "about:blank") as raw:
        raw.page.set_content(HOSTILE.decode().partition("<iframe")[0])
        while not {"script", "handler", "svg"} <= set(raw.dialogs):
            raw.page.wait_for_event("dialog")
    assert "http://evil.invalid/b.png" in raw.requests
    with visit(browser, f"{served_pages.url}/bad/readme") as visited:
        page = visited.page
        expect(page.get_by_role("link", name="remote")).to_have_attribute("href", "http://evil.invalid/e.png")
        expect(page.get_by_alt_text("own")).to_have_js_property("naturalWidth", 40)
        page.get_by_text("another").click()
        # If the sanitizer missed something, the Content-Security-Policy would stop it.
        violated = page.evaluate(
            """() => new Promise(resolve => {
                addEventListener("securitypolicyviolation", event => resolve(event.effectiveDirective));
                document.body.insertAdjacentHTML("beforeend", "<img src='/-/none' onerror='alert(1)'>");
            })"""
        )
        assert violated.startswith("script-src")
        assert outside(visited.requests, served_pages) == set()
        # An SVG image that is opened directly is a document.
        page.goto(page.get_by_alt_text("own").evaluate("image => image.src"))
        expect(page.locator("rect")).to_have_count(1)
    assert visited.dialogs == []
    assert outside(visited.requests, served_pages) == outside(visited.blocked, served_pages)


def outside(urls: list[str], hub: Serving) -> set[str]:
    return {url for url in urls if not url.startswith(f"{hub.url}/")}


def test_an_html_file_is_downloaded_not_shown(browser: Browser, served_pages: Serving):
    with visit(browser, served_pages.url) as visited:
        page = visited.page
        page.goto(f"{served_pages.url}/bad/files")
        with page.expect_download() as saved:
            page.get_by_role("link", name="Download: a.html").click()
        assert saved.value.suggested_filename == "a.html"
        for name in ("a.html", "a.txt"):
            page.goto(f"{served_pages.url}/bad/files")
            page.get_by_role("link", name=name, exact=True).click()
            expect(page.locator("pre.content")).to_contain_text("<script>")
        page.get_by_role("link", name="Open the raw file").click()
        expect(page.locator("body")).to_contain_text("<script>")
    assert visited.dialogs == []


def test_themes_languages_and_phones(browser: Browser, served_pages: Serving):
    colours = set()
    for dark, language in ((False, "en-GB"), (True, "zh-CN")):
        with visit(browser, served_pages.url, width=PHONE, dark=dark, language=language) as visited:
            page = visited.page
            colours.add(page.evaluate("getComputedStyle(document.body).backgroundColor"))
            colours.add(page.evaluate("getComputedStyle(document.body).color"))
            heading = "模型与数据集" if language == "zh-CN" else "Models and datasets"
            expect(page.get_by_role("heading", level=1)).to_have_text(heading)
            expect(page.locator("html")).to_have_attribute("lang", "zh-Hans" if language == "zh-CN" else "en")
            for path in ("/", "/good", f"/{LONG_NAME}", "/datasets/good/set", *FILE_PAGES, "/no/such"):
                page.goto(served_pages.url + path)
                assert page.evaluate("document.documentElement.scrollWidth") <= PHONE, path
    assert len(colours) == 4


def test_everything_is_reachable_by_keyboard(browser: Browser, served_pages: Serving):
    with visit(browser, served_pages.url) as visited:
        page = visited.page
        page.keyboard.press("Tab")
        expect(page.get_by_role("link", name="Skip to content")).to_be_focused()
        expect(page.get_by_role("link", name="Skip to content")).to_be_in_viewport()
        page.goto(f"{served_pages.url}/good/runs")
        page.locator("#use-shell pre").focus()
        page.keyboard.press("Tab")
        expect(page.locator("#use-python").get_by_role("button", name="Copy")).to_be_focused()
        page.keyboard.press("Tab")
        expect(page.locator("#use-python pre")).to_be_focused()
        assert page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"


def test_a_button_copies_a_snippet(browser: Browser, served_pages: Serving):
    with visit(browser, f"{served_pages.url}/good/runs") as visited:
        page = visited.page
        page.context.grant_permissions(["clipboard-read", "clipboard-write"])
        page.locator("#use-shell").get_by_role("button", name="Copy").click()
        expect(page.locator("#use-shell").get_by_role("button")).to_have_text("Copied")
        copied = page.evaluate("navigator.clipboard.readText()")
        assert copied == page.locator("#use-shell code").text_content()
        # Pages without HTTPS have no clipboard; the button selects and copies.
        page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
        page.locator("#use-extract").get_by_role("button", name="Copy").click()
        expect(page.locator("#use-extract").get_by_role("button")).to_have_text("Copied")
        assert visited.selected().startswith("llmstack extract ")


def test_filters_work_without_scripts(browser: Browser, served_pages: Serving):
    with visit(browser, served_pages.url, width=PHONE, scripts=False) as visited:
        page = visited.page
        page.get_by_label("Size").select_option("1GB")
        page.get_by_label("Task").select_option("-")
        page.get_by_role("button", name="Show").click()
        expect(page.get_by_label("Task")).to_have_value("-")
        expect(page.get_by_role("row")).to_have_count(6)
        assert page.evaluate("document.documentElement.scrollWidth") <= PHONE


def test_the_rows_of_a_hostile_table_are_only_text(browser: Browser, served_pages: Serving):
    with visit(browser, f"{served_pages.url}{FILE_PAGES[0]}") as visited:
        page = visited.page
        cells = page.locator("table.rows td")
        expect(cells.nth(0)).to_have_text('=HYPERLINK("http://evil.invalid/")')
        expect(cells.nth(1)).to_have_text("<img src=x onerror=alert(1)>")
        expect(page.locator("table.rows tr")).to_have_count(2)
        expect(page.locator("table.rows :is(a, img, script)")).to_have_count(0)
        assert outside(visited.requests, served_pages) == set()
    assert visited.dialogs == []
