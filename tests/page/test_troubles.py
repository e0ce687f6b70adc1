"""Trouble half-way: an answer without its explanation, a full service, limits of bytes, refusals in the editor."""

import time
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import Route, expect

from tests.page.conftest import Open, Watched
from tests.page.test_ways_in import BAG, EXAMPLES
from tests.service.conftest import encoded, started

pytestmark = pytest.mark.page
NO_ANSWER = "No answer to the last picture."
NOISE = np.random.default_rng(0).integers(0, 256, (200, 200, 3), dtype=np.uint8)  # 120,000 bytes as PNG


def is_stale(found: Watched) -> bool:
    return bool(found.locator("#answer").get_attribute("data-stale") == "true")


def test_without_its_explanation_an_answer_stays_and_the_maps_of_the_picture_before_go(open_page: Open) -> None:
    found = open_page()
    found.choose("coat-10")
    expect(found.locator("#step-first .live")).to_be_visible()
    found.page.route("**/explain", lambda route: route.abort("internetdisconnected"))
    found.send({"name": "bag.png", "mimeType": "image/png", "buffer": BAG.read_bytes()})
    expect(found.locator("#problem")).to_contain_text("bag.png: The service cannot be reached")
    assert found.text("#status").startswith("Bag, ")
    assert not is_stale(found)
    for name in "first", "middle", "last", "logits", "probabilities":
        expect(found.locator(f"#step-{name} .live")).to_be_hidden()
    found.locator("#bars .bar").first.click()
    expect(found.locator("#seen")).to_have_attribute("data-evidence", "")
    found.page.unroute("**/explain")
    found.locator("#again").click()
    expect(found.locator("#step-first .live")).to_be_visible()
    expect(found.locator("#problem")).to_be_empty()
    expect(found.locator("#seen")).to_have_attribute("data-evidence", "0")


def test_after_a_503_the_old_answer_is_stale_and_retry_after_is_kept(open_page: Open, tmp_path: Path) -> None:

    with started("--model", str(tmp_path / "none.pt"), SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (
        _,
        client,
    ):
        seconds = int(client.post("/predict", content=BAG.read_bytes()).headers["Retry-After"])
        found = open_page(f"{client.base_url}/", is_ready=False)
        found.locator("[data-example*='bag-30']").click()
        expect(found.locator("#problem")).to_contain_text(f"The page asks again in {seconds} s.")
        begin = time.monotonic()
        with found.page.expect_request("**/predict"):
            pass
        assert time.monotonic() - begin > 0.7 * seconds
        assert len(found.posts("/predict")) == 2
        expect(found.locator("#status")).to_have_text("No answer yet.")
        expect(found.locator("#stale")).to_be_hidden()  # there is no old answer


def test_another_picture_ends_the_wait_for_the_refused_one(open_page: Open) -> None:
    found = open_page()
    found.choose("coat-10")
    found.page.context.set_offline(True)
    found.send({"name": "first.png", "mimeType": "image/png", "buffer": BAG.read_bytes()})
    expect(found.locator("#problem")).to_contain_text("first.png")
    expect(found.locator("#status")).to_have_text(NO_ANSWER)
    assert is_stale(found)
    found.send({"name": "second.png", "mimeType": "image/png", "buffer": (EXAMPLES / "sneaker-9.png").read_bytes()})
    expect(found.locator("#problem")).to_contain_text("second.png")
    found.page.context.set_offline(False)
    found.wait("second.png")
    assert found.text("#status").startswith("Sneaker")
    assert not is_stale(found)


def test_a_file_over_the_services_limit_is_converted_if_the_browser_reads_it(open_page: Open) -> None:
    with started(SERVICE_MAX_UPLOAD_BYTES="60000", SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client):
        found = open_page(f"{client.base_url}/")
        large = encoded(Image.fromarray(NOISE))
        assert client.post("/predict", content=large).status_code == 413
        found.choose("coat-10")
        found.send({"name": "noise.png", "mimeType": "image/png", "buffer": large})
        found.wait("noise.jpg")
        expect(found.locator("#converted")).to_contain_text("60,000")
        expect(found.locator("#converted")).to_contain_text("JPEG of 200×200 pixels")
        found.send({"name": "film.bin", "mimeType": "video/mp4", "buffer": bytes(70_000)})
        expect(found.locator("#problem")).to_contain_text("film.bin: ")
        expect(found.locator("#problem")).to_have_attribute("data-status", "413")
        assert is_stale(found)
        found.choose("bag-30")
        expect(found.locator("#converted")).to_be_hidden()


def test_a_refusal_in_the_editor_is_shown_there_and_the_next_change_is_sent(open_page: Open) -> None:
    found = open_page()
    found.choose("ankle-boot-0")
    found.page.context.set_offline(True)
    found.locator("[data-shift='1,0']").click()
    expect(found.locator("#bench-answer")).to_have_text("No answer.")
    expect(found.locator("#bench-seen")).to_contain_text("cannot be reached")
    assert is_stale(found)
    found.page.context.set_offline(False)
    expect(found.locator("#bench-seen")).to_have_attribute("data-equal", "true")
    found.locator("[data-shift='1,0']").click()
    expect(found.locator("#bench-answer")).to_contain_text("%")
    found.locator("#answer:not([aria-busy])").wait_for()
    assert not is_stale(found)


def test_the_late_explanation_of_a_first_picture_does_not_replace_the_second(open_page: Open) -> None:
    found = open_page()
    held: list[Route] = []
    found.page.route("**/explain", lambda route: route.continue_() if held else held.append(route))
    found.locator("[data-example*='sneaker-9']").click()
    expect(found.locator("#status")).to_contain_text("Sneaker")
    found.choose("trouser-2")
    shown = found.locator("#bars .bar").evaluate_all("all => all.map((bar) => bar.dataset.probability)")
    if not held[0].request.failure:  # else the page has given it up
        held[0].continue_()
    found.choose("trouser-2")
    assert found.locator("#bars .bar").evaluate_all("all => all.map((bar) => bar.dataset.probability)") == shown
    assert found.text("#status").startswith("Trouser")


def test_each_picture_of_a_gallery_has_its_own_refusal(open_page: Open) -> None:
    found = open_page()
    broken = {"name": "broken.png", "mimeType": "image/png", "buffer": BAG.read_bytes()[:100]}
    found.send(
        {"name": "bag.png", "mimeType": "image/png", "buffer": BAG.read_bytes()},
        broken,
        {"name": "coat.png", "mimeType": "image/png", "buffer": (EXAMPLES / "coat-10.png").read_bytes()},
    )
    items = found.locator("#gallery-list li[data-done]")
    expect(items).to_have_count(3)
    expect(items.nth(1)).to_contain_text("broken.png: The PNG picture is damaged")
    expect(items.nth(2)).to_contain_text("coat.png: Coat")
    assert found.text("#status").startswith("Bag, ")  # the first is shown in full
    assert not is_stale(found)
    items.nth(1).locator("button").click()
    expect(found.locator("#problem")).to_contain_text("damaged")
    assert is_stale(found)
