"""Errors in place, in the service's own sentence; the old answer is marked as stale."""

import json
from contextlib import suppress
from pathlib import Path

import httpx
import pytest
from PIL import Image
from playwright.sync_api import Error, Route, expect

from tests.page.conftest import Open, Watched
from tests.page.test_ways_in import EXAMPLES
from tests.service.conftest import encoded, started

pytestmark = pytest.mark.page
BAG = (EXAMPLES / "bag-30.png").read_bytes()
SVG = b"""<svg xmlns="http://www.w3.org/2000/svg" width="120" height="120"><rect width="120" height="120" fill="#fff"/>
<path d="M30 20h60l20 30-15 10v40H25V60L10 50z" fill="#246"/></svg>"""


def service_sentence(found: Watched, content: bytes) -> str:
    detail: str = httpx.post(f"{found.url}predict", content=content).json()["detail"]
    return detail


def is_stale(found: Watched) -> bool:
    return bool(found.locator("#answer").get_attribute("data-stale") == "true" and found.locator("#stale").is_visible())


@pytest.mark.parametrize(
    ("name", "content", "status"),
    [("empty.png", b"", 422), ("broken.png", BAG[:-40], 400), ("notes.txt", b"a list of garments", 415)],
)
def test_a_refusal_is_shown_in_the_services_own_sentence(
    open_page: Open, name: str, content: bytes, status: int
) -> None:
    found = open_page()
    found.choose("coat-10")
    found.send({"name": name, "mimeType": "application/octet-stream", "buffer": content})
    expect(found.locator("#problem")).to_have_text(f"{name}: {service_sentence(found, content)}")
    expect(found.locator("#problem")).to_have_attribute("data-status", str(status))
    assert is_stale(found)
    assert not found.text("#status").startswith("Coat")
    found.choose("bag-30")
    expect(found.locator("#problem")).to_have_text("")
    assert not is_stale(found)


def test_what_the_service_refuses_and_the_browser_reads_is_converted(open_page: Open) -> None:
    found = open_page()
    found.send({"name": "shirt.svg", "mimeType": "image/svg+xml", "buffer": SVG})
    found.wait("shirt.jpg")
    assert service_sentence(found, SVG) in found.text("#converted")
    assert found.locator("#bars .bar").first.is_enabled()
    large = encoded(Image.new("L", (5_000, 4_100), 255))  # 20.5 megapixels
    assert "pixels" in service_sentence(found, large)
    found.send({"name": "large.png", "mimeType": "image/png", "buffer": large})
    found.wait("large.jpg")
    assert "pixels" in found.text("#converted")
    assert len(found.posts("/predict")) == 4


def test_a_file_over_the_limit_of_bytes_that_nobody_reads_is_refused(open_page: Open) -> None:
    found = open_page()
    found.send({"name": "film.mp4", "mimeType": "video/mp4", "buffer": bytes(11 * 2**20)})
    expect(found.locator("#problem")).to_contain_text("10,485,760")
    expect(found.locator("#problem")).to_have_attribute("data-status", "413")


def test_a_key_is_asked_for_and_kept_in_memory_only(open_page: Open) -> None:
    with started(SERVICE_API_KEY="sesame", SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client):
        found = open_page(f"{client.base_url}/", is_ready=False)
        found.locator("[data-example*='bag-30']").click()
        expect(found.locator("#problem")).to_contain_text("API key")
        found.locator("#key").fill("wrong")
        found.locator("#key").press("Enter")
        expect(found.locator("#problem")).to_contain_text("API key")
        found.locator("#key").fill("sesame")
        found.locator("#key").press("Enter")
        found.wait("bag-30")
        assert found.text("#status").startswith("Bag, ")
        expect(found.locator("#key-form")).to_be_hidden()
        stored = found.evaluate(
            "JSON.stringify([{...localStorage}, {...sessionStorage}, document.cookie, location.href])"
        )
        assert "sesame" not in stored
        assert found.locator("#key").input_value() == ""


def test_after_a_503_the_page_asks_again(open_page: Open, tmp_path: Path) -> None:
    model = tmp_path / "model.pt"
    with started("--model", str(model), SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client):
        found = open_page(f"{client.base_url}/", is_ready=False)
        found.locator("[data-example*='bag-30']").click()
        expect(found.locator("#problem")).to_contain_text(client.post("/predict", content=BAG).json()["detail"])
        expect(found.locator("#problem")).to_have_attribute("data-status", "503")
        (tmp_path / "new").write_bytes(Path("models/model_scratch.pt").read_bytes())
        (tmp_path / "new").replace(model)
        expect(found.locator("#status")).to_contain_text("Bag", timeout=30_000)
        expect(found.locator("#problem")).to_have_text("")


def test_without_a_connection_the_page_says_so_and_goes_on_when_it_is_back(open_page: Open) -> None:
    found = open_page()
    found.choose("coat-10")
    found.page.context.set_offline(True)
    found.send({"name": "bag.png", "mimeType": "image/png", "buffer": BAG})
    expect(found.locator("#problem")).to_contain_text("cannot be reached")
    expect(found.locator("#again")).to_be_visible()
    assert is_stale(found)
    found.page.context.set_offline(False)  # the browser says "online", and the page asks again
    expect(found.locator("#status")).to_contain_text("Bag", timeout=20_000)
    expect(found.locator("#problem")).to_have_text("")


def test_a_late_answer_does_not_replace_a_later_one(open_page: Open) -> None:
    found = open_page()
    held: list[Route] = []
    found.page.route("**/predict", lambda route: held.append(route) if not held else route.continue_())
    found.locator("[data-example*='sneaker-9']").click()
    found.choose("trouser-2")
    with suppress(Error):  # the page has given the request up
        held[0].continue_()
    found.page.wait_for_timeout(300)
    assert found.text("#status").startswith("Trouser")
    assert "trouser" in found.text("#sent-caption")
    assert json.loads(found.posts("/explain")[-1].response().text())["class"] == "Trouser"  # type: ignore[union-attr]
