"""A real browser for the tests of the report."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from playwright.sync_api import Browser, Page

NAMES = ["chromium", "chromium-browser", "google-chrome"]
# The second draws WebGL on machines without a graphics card.
FLAGS = ["--no-sandbox", "--enable-unsafe-swiftshader"]

Visit = Callable[..., "Page"]


@pytest.fixture(scope="session")
def chromium() -> Iterator[Browser]:
    """The Chromium that this machine has; without one, or without playwright, the test skips."""
    api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    found = next(filter(None, map(shutil.which, NAMES)), None)
    if found is None:
        pytest.skip(f"no browser: none of {', '.join(NAMES)} is installed")
    with api.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=found, args=FLAGS)
        yield browser
        browser.close()


def rendered(page: Page) -> Page:
    """Waits until the current view has rendered."""
    page.wait_for_selector("html[data-ready='1']", timeout=60_000)
    return page


@pytest.fixture
def visit(chromium: Browser) -> Iterator[Visit]:
    """Opens `folder`'s index.html at an address in it; options are those of a browser context.

    When the test ends, no page may have written an error to its console, thrown, opened a dialogue
    or asked for anything outside its own folder or server.
    """
    pages: list[tuple[Any, list[str]]] = []

    def open_report(root: Path | str, address: str = "", script: str = "", **options: Any) -> Page:
        base = root if isinstance(root, str) else root.resolve().as_uri()
        context = chromium.new_context(**{"viewport": {"width": 1280, "height": 900}, **options})
        page = context.new_page()
        faults: list[str] = []
        pages.append((context, faults))
        page.on("console", lambda m: faults.append(m.text) if m.type == "error" else None)
        page.on("pageerror", lambda error: faults.append(str(error)))
        page.on("dialog", lambda dialog: (faults.append(dialog.message), dialog.dismiss()))
        page.on(
            "request",
            lambda request: (
                None
                if request.url.startswith((f"{base}/", "data:", "blob:"))
                else faults.append(f"asked for {request.url}")
            ),
        )
        if script:
            page.add_init_script(script)
        page.goto(f"{base}/index.html#{address}")
        return rendered(page)

    yield open_report
    for context, _ in pages:
        context.close()
    assert [faults for _, faults in pages if faults] == []
