"""Fixtures of the browser tests: Chromium, the real service with the shipped networks, and a watch on every page."""

import os
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, ConsoleMessage, Page, Request, expect, sync_playwright

from tests.service.conftest import started

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
FLAGS = (
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--host-resolver-rules=MAP shop.example 127.0.0.1",
    "--use-fake-device-for-media-stream",
    "--use-fake-ui-for-media-stream",
)
VIOLATIONS = (
    "addEventListener('securitypolicyviolation', event => console.error('policy: ' + event.violatedDirective));"
)
# Chromium's own lines for a status of 400 or more and for a lost connection; only these requests may be refused.
# The service of a single test ends before its page, perhaps during a request.
REFUSED = re.compile(
    r"Failed to load resource: "
    r"(?:the server responded with a status of|net::ERR_(?:INTERNET_DISCONNECTED|CONNECTION_\w+|EMPTY_RESPONSE))"
)
REFUSABLE = re.compile(r"/(?:predict|explain|model)$")

Open = Callable[..., "Watched"]


@dataclass
class Watched:
    """A page, what it asked for and what went wrong on it."""

    page: Page
    url: str
    requests: list[Request] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.page, name)

    def choose(self, name: str) -> None:
        """Clicks the example and waits for its explanation."""
        self.page.locator(f"[data-example*='{name}']").click()
        self.wait(name)

    def wait(self, name: str = "") -> None:
        """Until the picture of this name is answered in full."""
        self.page.locator("#sent-caption", has_text=name).wait_for(timeout=60_000)
        self.page.locator("#answer:not([aria-busy])").wait_for(timeout=60_000)

    def text(self, selector: str) -> str:
        return self.page.locator(selector).inner_text()

    def send(self, *files: str | Path | dict[str, Any]) -> None:
        self.page.set_input_files("#file", list(files))  # type: ignore[arg-type]

    def posts(self, path: str) -> list[Request]:
        return [request for request in self.requests if request.method == "POST" and request.url.endswith(path)]


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    expect.set_options(timeout=20_000)  # milliseconds, for a machine that does other work
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS)
        yield browser
        browser.close()


@pytest.fixture(scope="session")
def service() -> Iterator[str]:
    """The address of the service with the shipped networks."""
    with started(SERVICE_PHOTO_MODEL="models/photos.pt", SERVICE_ACCESS_LOG="false") as (_, client):
        yield f"{client.base_url}/"


@pytest.fixture
def open_page(browser: Browser, service: str) -> Iterator[Open]:
    """Opens the page. At the end nothing must have gone wrong on it: no error in the console, no violation of the
    policy, no request to another host."""
    watched: list[Watched] = []

    def open_page(url: str = service, is_ready: bool = True, script: str = "", **options: Any) -> Watched:
        context = browser.new_context(**options)
        page = context.new_page()
        found = Watched(page, url)
        page.on("request", lambda request: found.requests.append(request))
        page.on("console", lambda message: note(found, message))
        page.on("pageerror", lambda error: found.errors.append(str(error)))
        page.add_init_script(VIOLATIONS + script)
        page.goto(url)
        if is_ready:
            page.locator("#card-list article").first.wait_for(timeout=60_000)
        watched.append(found)
        return found

    yield open_page
    for found in watched:
        found.page.context.close()
        host = found.url.split("/")[2]
        assert {request.url.split("/")[2] for request in found.requests if request.url.startswith("http")} == {host}
        assert not found.errors


def note(found: Watched, message: ConsoleMessage) -> None:
    if REFUSED.match(message.text) and REFUSABLE.search(message.location["url"]):
        return
    if message.type in ("error", "warning"):
        found.errors.append(f"{message.text} {message.location['url']}")
