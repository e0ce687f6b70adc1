"""The six steps from pixels to probabilities, and the editor of the pixels."""

import base64
import json
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import expect

from tests.page.conftest import Open, Watched
from tests.page.test_answer import last_answer
from tests.page.test_ways_in import photo
from tests.service.conftest import poll, started

pytestmark = pytest.mark.page
STEPS = ("pixels", "first", "middle", "last", "logits", "probabilities")
SUMS = """() => {
  const step = document.querySelector('#step-first'), table = step.querySelector('table');
  const [row, column] = [step.querySelector('.row-slider'), step.querySelector('.column-slider')];
  let cells = 0, worst = 0;
  for (const map of step.querySelectorAll('.map')) {
    map.click();
    for (let y = 0; y <= row.max; y += 3) for (let x = 0; x <= column.max; x += 3) {
      row.value = y; row.dispatchEvent(new Event('input'));
      column.value = x; column.dispatchEvent(new Event('input'));
      cells += 1;
      worst = Math.max(worst, Math.abs(table.dataset.value - table.dataset.sent) / table.dataset.halfStep);
    }
  }
  return [cells, worst, table.tBodies[0].rows.length];
}"""
RECORD_BODIES = """
window.bodies = [];
const plainFetch = window.fetch;
window.fetch = async (address, options) => {
  if (String(address).endsWith('explain')) window.bodies.push([...new Uint8Array(await options.body.arrayBuffer())]);
  return plainFetch(address, options);
};
"""
NOISY = 1.001  # rounding of the weights that are sent


def test_the_six_steps_have_this_pictures_maps_and_their_shapes(open_page: Open) -> None:
    found = open_page()
    found.choose("coat-10")
    stages = last_answer(found)["stages"]
    assert isinstance(stages, list)
    for name, stage in zip(STEPS[1:4], stages, strict=True):
        assert "×".join(map(str, stage["shape"])) in found.text(f"#step-{name} .shape")
        assert found.locator(f"#step-{name} .map").count() == len(stage["channels"])
    assert "28×28" in found.text("#step-pixels .shape")
    for name in STEPS[4:]:
        assert found.locator(f"#step-{name} tbody tr").count() == 10


def test_the_last_steps_compute_the_probabilities(open_page: Open) -> None:
    found = open_page()
    found.choose("coat-6")
    answer = last_answer(found)
    logits, temperature = np.array(answer["logits"]), answer["temperature"]
    exponentials = np.exp((logits - logits.max()) / temperature)
    probabilities = answer["probabilities"]
    assert isinstance(probabilities, dict)
    assert list(exponentials / exponentials.sum()) == pytest.approx(list(probabilities.values()), abs=1e-6)
    rows = found.locator("#step-probabilities tbody tr").all_inner_texts()
    assert all(name in row for name, row in zip(probabilities, rows, strict=True))


def test_without_scripts_each_step_can_be_read(open_page: Open) -> None:
    found = open_page(is_ready=False, java_script_enabled=False)
    for name in STEPS:
        text = found.text(f"#step-{name}")
        assert len(text.split()) > 20, name


@pytest.mark.parametrize("network", ["shipped", "tutorial"])
def test_the_first_layers_sums_equal_the_services_maps(
    open_page: Open, network: str, tutorial_state_dict: Path
) -> None:
    model = {"shipped": "models/model_scratch.pt", "tutorial": str(tutorial_state_dict)}[network]
    with started("--model", model, SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client):
        found = open_page(f"{client.base_url}/")
        found.choose("coat-6")
        cells, worst, rows = found.evaluate(SUMS)
        assert rows == {"shipped": 9, "tutorial": 25}[network]
        assert cells > 300
        assert worst <= NOISY
        expect(found.locator("#step-first table").first).to_have_attribute("data-agrees", "true")


def test_pointing_at_a_cell_outlines_its_receptive_field(open_page: Open) -> None:
    found = open_page()
    found.choose("coat-10")
    sizes = []
    for name in STEPS[1:4]:
        step = found.locator(f"#step-{name}")
        step.scroll_into_view_if_needed()
        canvas = step.locator(".map canvas").first
        box = canvas.bounding_box()
        assert box
        found.mouse.move(box["x"] + 0.5 * box["width"], box["y"] + 0.5 * box["height"])
        field = step.locator(".field")
        expect(field).to_be_visible()
        first, end = map(int, str(field.get_attribute("data-rows")).split(","))
        sizes.append(end - first)
        middle = field.get_attribute("data-rows")
        step.locator(".row-slider").fill("0")
        assert field.get_attribute("data-rows") != middle
    assert sizes[0] == 3
    assert all(first < second for first, second in pairwise(sizes))


def test_the_photo_network_shows_receptive_fields_and_says_why_there_is_no_sum(open_page: Open) -> None:
    found = open_page()
    found.send({"name": "shoe.jpg", "mimeType": "image/jpeg", "buffer": photo()})
    found.wait("shoe.jpg")
    assert len(found.text("#step-first .why").split()) > 8
    expect(found.locator("#step-first .field")).to_be_visible()
    found.locator("#bars .bar").nth(9).click()
    expect(found.locator("#seen")).to_have_attribute("data-evidence", "9")


def sent_pixels(found: Watched) -> tuple[bytes, bytes]:
    """The 784 bytes that the editor sent last, and those that the service says it saw."""
    body = found.evaluate("window.bodies.at(-1)")
    rows = np.array(body[-784:], np.uint8).reshape(28, 28)[::-1]  # a BMP has its lowest row first
    return rows.tobytes(), base64.b64decode(json.loads(found.posts("/explain")[-1].response().text())["seen"]["data"])  # type: ignore[union-attr]


def settle(found: Watched) -> None:
    """Until the last change of the editor is answered and explained."""
    expect(found.locator("#bench-seen")).to_have_attribute("data-equal", "true", timeout=20_000)
    found.locator("#answer:not([aria-busy])").wait_for()


def test_what_the_service_saw_are_the_editors_pixels(open_page: Open) -> None:
    found = open_page(script=RECORD_BODIES)
    found.choose("ankle-boot-0")
    canvas = found.locator("#bench-canvas")
    canvas.scroll_into_view_if_needed()
    seen: set[bytes] = set()
    box = canvas.bounding_box()
    assert box

    def drawn() -> None:
        found.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
        found.mouse.down()
        found.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.6 * box["height"], steps=10)
        found.mouse.up()

    def keyed() -> None:
        canvas.focus()
        for key in ("ArrowLeft", "ArrowUp", "ArrowUp", "Space"):
            found.keyboard.press(key)

    def erased() -> None:
        found.locator("[name=tool][value=erase]").check()
        drawn()

    changes = (
        drawn,
        keyed,
        lambda: found.locator("[data-shift='1,0']").click(),
        lambda: found.locator("#bench-turn").fill("20"),
        lambda: found.locator("#bench-gain").fill(str(found.locator("#bench-gain").get_attribute("max"))),
        erased,
    )
    for number, change in enumerate(changes, start=1):
        change()
        for _ in poll():
            found.page.wait_for_timeout(20)
            settle(found)
            ours, theirs = sent_pixels(found)
            if len({*seen, ours}) == number:
                break
        assert ours == theirs
        seen.add(ours)
        assert found.text("#bench-answer")
    assert len(seen) == len(changes)
