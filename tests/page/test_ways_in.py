"""The ways in: file input, drop, paste, example, keyboard, several pictures; and the answer that they get."""

import base64
import json
import re
import statistics
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Open, Watched
from tests.service.conftest import SHOE

pytestmark = pytest.mark.page
EXAMPLES = Path(__file__).parents[2] / "service/page/examples"
BAG = EXAMPLES / "bag-30.png"
SECONDS = 1.0  # from a click to its answer
MAX_SCALE = 3  # of the times, on a machine that others share
FILE = """
const bytes = Uint8Array.from(atob(data), (character) => character.charCodeAt(0));
const transfer = new DataTransfer();
transfer.items.add(new File([bytes], name, { type: 'image/png' }));
"""
DROP = f"""([data, name, selector]) => {{ {FILE}
  const event = new DragEvent('drop', {{ bubbles: true, cancelable: true, dataTransfer: transfer }});
  document.querySelector(selector).dispatchEvent(event);
  return event.defaultPrevented;
}}"""
PASTE = f"""([data, name]) => {{ {FILE}
  const options = {{ bubbles: true, cancelable: true, clipboardData: transfer }};
  document.body.dispatchEvent(new ClipboardEvent('paste', options));
}}"""
TIMED_DROP = f"""([data, name, selector]) => new Promise((done) => {{ {FILE}
  const begin = performance.now();
  const observer = new MutationObserver(() => {{
    if (!document.querySelector('#sent-caption').textContent.includes(name)) return;
    observer.disconnect();
    done(performance.now() - begin);
  }});
  observer.observe(document.querySelector('#answer'), {{ subtree: true, childList: true, characterData: true }});
  const event = new DragEvent('drop', {{ bubbles: true, cancelable: true, dataTransfer: transfer }});
  document.querySelector(selector).dispatchEvent(event);
}})"""


def base64_of(path: Path) -> str:
    return base64.b64encode(path.read_bytes()).decode()


def answers_of(found: Watched) -> list[dict[str, object]]:
    return [json.loads(request.response().text()) for request in found.posts("/explain")]  # type: ignore[union-attr]


def test_all_ways_in_get_equal_answers(open_page: Open) -> None:
    found = open_page()
    data = base64_of(BAG)
    found.choose("bag-30")
    for name, selector in ("dropped.png", "#zone"), ("beside.png", "h1"):
        assert found.evaluate(DROP, [data, name, selector]), "the browser would leave the page"
        found.wait(name)
    found.evaluate(PASTE, [data, "pasted.png"])
    found.wait("pasted.png")
    found.send({"name": "input.png", "mimeType": "image/png", "buffer": BAG.read_bytes()})
    found.wait("input.png")
    found.choose("coat-10")
    found.locator("[data-example*='bag-30']").focus()
    found.keyboard.press("Enter")
    found.wait("bag-30")
    coat, *_ = [answer for answer in answers_of(found) if answer["class"] != "Bag"]
    bags = [answer for answer in answers_of(found) if answer["class"] == "Bag"]
    assert coat["class"] == "Coat"
    assert len(bags) == 6
    assert all(answer == bags[0] for answer in bags)


def test_a_drop_shows_the_picture_what_the_network_saw_and_ten_bars(open_page: Open) -> None:
    found = open_page()
    found.evaluate(DROP, [base64_of(BAG), "mine.png", "#zone"])
    found.wait("mine.png")
    expect(found.locator("#sent")).to_be_visible()
    expect(found.locator("#seen")).to_be_visible()
    assert found.locator("#sent").evaluate("image => image.complete && image.naturalWidth") == 28
    assert "28×28" in found.text("#adapted")
    assert found.text("#status").startswith("Bag, ")
    assert found.locator("#bars .bar").count() == 10
    found.send({"name": "shoe.jpg", "mimeType": "image/jpeg", "buffer": photo()})
    found.wait("shoe.jpg")
    assert "padded to a square" in found.text("#adapted")
    assert "resized to 160×160" in found.text("#adapted")
    assert found.text("#model-name").count("photos-") == 1


def test_a_dropped_picture_is_answered_at_once(open_page: Open, capsys: pytest.CaptureFixture[str]) -> None:
    found = open_page()
    times = []
    for number, path in enumerate(sorted(EXAMPLES.iterdir())):
        times.append(found.evaluate(TIMED_DROP, [base64_of(path), f"n{number}.png", "#zone"]))
        found.wait(f"n{number}.png")
    median = statistics.median(times)
    with capsys.disabled():
        print(f"\ndrop to answer: median of {len(times)} {median:.0f} ms, at most {max(times):.0f} ms")
    assert median < 200 * MAX_SCALE


def test_an_example_on_a_small_screen_is_answered_on_the_first_screen(open_page: Open) -> None:
    found = open_page(viewport={"width": 360, "height": 640}, has_touch=True, is_mobile=True)
    found.choose("coat-10")
    milliseconds = found.evaluate("""() => new Promise((done) => {
      const begin = performance.now();
      const status = document.querySelector('#status');
      const observer = new MutationObserver(() => {
        if (status.textContent.startsWith('Bag')) done(performance.now() - begin);
      });
      observer.observe(status, { childList: true, characterData: true, subtree: true });
      document.querySelector("[data-example*='bag-30']").click();
    })""")
    assert milliseconds < 1000 * SECONDS * MAX_SCALE
    found.wait("bag-30")
    box = found.locator("#status").bounding_box()
    assert box
    assert 0 <= box["y"] < box["y"] + box["height"] <= 640


@pytest.mark.parametrize("width", [320, 360, 768, 1280])
def test_nothing_scrolls_sideways(open_page: Open, width: int) -> None:
    found = open_page(viewport={"width": width, "height": 700})
    assert found.evaluate("document.documentElement.scrollWidth") <= width
    found.choose("bag-1300")
    found.locator("#bars .bar").nth(5).click()
    found.locator("#pin").click()
    found.locator("#share").click()
    found.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert found.evaluate("document.documentElement.scrollWidth") <= width


def test_several_pictures_make_a_gallery(open_page: Open) -> None:
    found = open_page()
    files = [EXAMPLES / name for name in ("coat-10.png", "bag-30.png", "ankle-boot-0.png")]
    found.send(*files, Path(__file__))
    items = found.locator("#gallery-list li[data-done]")
    expect(items).to_have_count(4)
    for item, words in zip(items.all(), ("Coat, ", "Bag, ", "Ankle boot, ", "This is text"), strict=True):
        assert words in item.inner_text()
    items.nth(1).locator("button").click()
    found.wait("bag-30")
    assert found.text("#status").startswith("Bag, ")


def test_the_examples_are_two_of_each_class_with_mistakes_among_them(open_page: Open) -> None:
    found = open_page()
    labels = found.locator("#examples .example").evaluate_all("all => all.map((each) => each.dataset.class)")
    assert sorted(labels) == sorted(2 * [str(number) for number in range(10)])
    found.choose("bag-1300")
    assert found.text("#truth").startswith("Wrong: ")
    found.choose("bag-30")
    assert found.text("#truth").startswith("Right: ")


def test_the_camera_answers_and_stops(open_page: Open) -> None:
    found = open_page(permissions=["camera"])
    found.locator("#camera-open").click()
    expect(found.locator("#camera")).to_have_attribute(
        "data-answers", re.compile("^([5-9]|[0-9]{2,})$"), timeout=20_000
    )
    found.locator("#camera-close").click()
    expect(found.locator("#camera")).to_be_hidden()
    assert found.evaluate("document.querySelector('#camera-video').srcObject === null")


def test_plain_http_from_another_host_says_why_there_is_no_camera(open_page: Open, service: str) -> None:
    found = open_page(service.replace("127.0.0.1", "shop.example"))
    expect(found.locator("#camera-open")).to_be_hidden()
    assert "https" in found.text("#camera-reason")
    found.choose("bag-30")
    found.locator("#share").click()
    assert found.text("#share-note").startswith("Selected.")


def photo() -> bytes:
    """A photo-like picture: the shoe, enlarged on a coloured ground, 300×200."""
    import io

    from PIL import Image

    picture = Image.new("RGB", (300, 200), (180, 120, 60))
    shoe = Image.open(SHOE).convert("L").resize((140, 140))
    picture.paste(Image.new("RGB", shoe.size, (40, 60, 160)), (80, 30), shoe)
    buffer = io.BytesIO()
    picture.save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def ask(found: Watched, picture: str) -> None:
    """Sends a picture, and waits for its explanation: the example of this name, or "photo"."""
    if picture != "photo":
        found.choose(picture)
        return
    found.send({"name": "shoe.jpg", "mimeType": "image/jpeg", "buffer": photo()})
    found.wait("shoe.jpg")
