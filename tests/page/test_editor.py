"""The editor under slow answers, and its ways back: undo, reset, clear. The service gets the last state."""

import base64
from collections.abc import Callable
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.page.conftest import Open, Watched
from tests.page.test_answer import last_answer
from tests.service.conftest import poll

pytestmark = pytest.mark.page
CHANGES = 6
PIXELS = """(canvas) => {
  const copy = new OffscreenCanvas(28, 28).getContext('2d', { willReadFrequently: true });
  copy.drawImage(canvas, 0, 0);
  return [...copy.getImageData(0, 0, 28, 28).data].filter((_, index) => index % 4 === 0);
}"""


def pixels_of(found: Watched) -> bytes:
    """The 784 levels of the editor; Chromium reads a canvas without changes."""
    return bytes(found.locator("#bench-canvas").evaluate(PIXELS))


def seen(found: Watched) -> bytes:
    explained: Any = last_answer(found)
    return base64.b64decode(explained["seen"]["data"])


def changed(found: Watched, change: Callable[[], object]) -> bytes:
    """The pixels of the editor after a change that is answered and explained."""
    with found.page.expect_response(lambda response: response.url.endswith("/explain")):
        change()
    expect(found.locator("#bench-seen")).to_have_attribute("data-equal", "true")
    found.locator("#answer:not([aria-busy])").wait_for()
    pixels = pixels_of(found)
    assert seen(found) == pixels
    return pixels


def wait_for(found: Watched, held: list[Route], count: int) -> None:
    for _ in poll():
        found.evaluate("0")  # lets Playwright call the handlers
        if len(held) == count:
            break


def test_while_an_answer_is_slow_only_the_last_change_is_sent_after_it(open_page: Open) -> None:
    found = open_page()
    found.choose("ankle-boot-0")
    before, posts = pixels_of(found), len(found.posts(""))
    held: list[Route] = []
    found.page.route("**/predict", lambda route: held.append(route))
    right = found.locator("[data-shift='1,0']")
    for _ in range(CHANGES):
        right.click()
    wait_for(found, held, 1)
    assert len(found.posts("")) == posts + 1  # the others wait in the page
    held[0].continue_()
    wait_for(found, held, 2)
    with found.page.expect_response("**/explain"):
        held[1].continue_()
    expect(found.locator("#bench-seen")).to_have_attribute("data-equal", "true")
    rows = [before[28 * row : 28 * (row + 1)] for row in range(28)]
    assert seen(found) == b"".join(bytes(CHANGES) + row[:-CHANGES] for row in rows)
    assert [request.url.rsplit("/", 1)[1] for request in found.posts("")[posts:]] == ["predict", "predict", "explain"]


def test_shift_turn_undo_reset_and_clear(open_page: Open) -> None:
    found = open_page()
    found.choose("bag-30")
    first = pixels_of(found)
    assert first == seen(found)
    down = changed(found, found.locator("[data-shift='0,1']").click)
    assert down == bytes(28) + first[:-28]
    assert changed(found, found.locator("#bench-undo").click) == first
    turned = changed(found, lambda: found.locator("#bench-turn").fill("180"))
    assert turned == first[::-1]
    brighter = changed(found, lambda: found.locator("#bench-gain").fill("2"))
    assert brighter == bytes(min(255, 2 * level) for level in turned)
    assert changed(found, found.locator("#bench-reset").click) == first
    assert changed(found, found.locator("#bench-clear").click) == bytes(784)


def test_space_draws_and_erases_the_pixel_below_the_cursor(open_page: Open) -> None:
    found = open_page()
    found.choose("bag-30")
    cleared = changed(found, found.locator("#bench-clear").click)
    assert cleared == bytes(784)
    found.locator("#bench-size").select_option("1")
    found.locator("#bench-canvas").focus()
    for key in ("ArrowRight", "ArrowRight", "ArrowDown"):
        found.keyboard.press(key)
    expect(found.locator("#bench-place")).to_have_text("Row 15, column 16: 0")
    drawn = changed(found, lambda: found.keyboard.press("Space"))
    assert drawn == bytes(15 * 28 + 16) + b"\xff" + bytes(784 - 15 * 28 - 17)
    found.locator("[name=tool][value=erase]").check()
    found.locator("#bench-canvas").focus()
    assert changed(found, lambda: found.keyboard.press("Enter")) == bytes(784)


def test_the_answer_of_the_editor_is_the_answer_of_the_page(open_page: Open) -> None:
    found = open_page()
    found.choose("ankle-boot-0")
    changed(found, found.locator("#bench-clear").click)
    explained: Any = last_answer(found)
    expect(found.locator("#status")).to_contain_text(explained["class"])
    expect(found.locator("#bench-answer")).to_contain_text(explained["class"])
    for bars in "#bars", "#bench-bars":
        shown = found.locator(f"{bars} .bar").evaluate_all("all => all.map((bar) => Number(bar.dataset.probability))")
        assert shown == list(explained["probabilities"].values())
    expect(found.locator("#truth")).to_be_hidden()  # the label was that of other pixels
