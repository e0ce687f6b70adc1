"""Accessibility in the states that few visitors see, and of the keyboard with everything open."""

import re
from typing import Any

import pytest
from playwright.sync_api import Route, expect

from tests.page.conftest import Open, Watched
from tests.page.test_accessibility import MISSED, violations
from tests.page.test_errors import SVG
from tests.page.test_ways_in import EXAMPLES
from tests.service.conftest import started

pytestmark = pytest.mark.page
SMALL = {"viewport": {"width": 320, "height": 640}, "has_touch": True, "is_mobile": True}
THEMES: dict[str, dict[str, Any]] = {
    "light": {},
    "dark, 320 pixels": {"color_scheme": "dark", **SMALL},
    "forced colours, 320 pixels": {"forced_colors": "active", **SMALL},
}
MIN_CONTRAST = 3.0  # WCAG 1.4.11, of the outline
MAX_TABS = 400
# Of the element with the focus: its name, whether it is in sight, and width and contrast of its outline.
FOCUS = """() => {
  const element = document.activeElement;
  if (element === document.body) return null;
  window.reached ??= [];
  if (!reached.includes(element)) reached.push(element);
  const outlined = element.type === 'file' ? element.parentElement : element;
  const style = getComputedStyle(outlined);
  const levels = (colour) => colour.match(/[\\d.]+/g).map(Number);
  const luminance = (colour) => levels(colour).slice(0, 3).map((level) => level / 255)
    .map((level) => (level <= 0.04045 ? level / 12.92 : ((level + 0.055) / 1.055) ** 2.4))
    .reduce((sum, level, channel) => sum + level * [0.2126, 0.7152, 0.0722][channel], 0);
  let around = outlined.parentElement;
  while (around && levels(getComputedStyle(around).backgroundColor)[3] === 0) around = around.parentElement;
  const ground = around ? getComputedStyle(around).backgroundColor : 'rgb(255, 255, 255)';
  const [dark, light] = [luminance(style.outlineColor), luminance(ground)].sort((first, second) => first - second);
  const box = outlined.getBoundingClientRect();
  return [reached.indexOf(element), `${element.tagName}#${element.id}.${element.className}`,
    box.bottom > 0 && box.top < innerHeight, style.outlineStyle === 'none' ? 0 : parseFloat(style.outlineWidth),
    (light + 0.05) / (dark + 0.05)];
}"""


def open_everything(found: Watched) -> None:
    """Evidence, details, gallery, pinned answer and link, all at once."""
    found.send(*(EXAMPLES / f"{name}.png" for name in ("coat-6", "bag-1300", "shirt-7")))
    expect(found.locator("#gallery-list li[data-done]")).to_have_count(3)
    found.wait("coat-6")
    found.locator("#bars .bar").nth(5).click()
    found.locator("#pin").click()
    found.locator("#share").click()
    found.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_in_rare_states(open_page: Open, theme: str) -> None:
    found = open_page(bypass_csp=True, permissions=["camera"], **THEMES[theme])
    width = found.evaluate("innerWidth")

    def check(state: str) -> None:
        assert not violations(found), state
        assert found.evaluate("document.documentElement.scrollWidth") <= width, state

    open_everything(found)
    found.locator("#camera-open").click()
    expect(found.locator("#camera")).to_have_attribute("data-answers", re.compile("[1-9]"))
    check("gallery, pinned answer, evidence, camera")
    found.locator("#camera-close").click()
    found.send(
        {"name": "a-long-name-of-a-drawing-without-any-space-in-it.svg", "mimeType": "image/svg+xml", "buffer": SVG}
    )
    found.wait("a-long-name")
    expect(found.locator("#converted")).to_be_visible()
    found.page.context.set_offline(True)
    found.locator("#bench-clear").click()
    expect(found.locator("#again")).to_be_visible()
    check("converted, offline, the answer is stale")
    found.page.context.set_offline(False)
    expect(found.locator("#problem")).to_be_empty()


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing_when_the_key_is_asked_for(open_page: Open, theme: str) -> None:
    with started(SERVICE_API_KEY="sesame", SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client):
        found = open_page(f"{client.base_url}/", is_ready=False, bypass_csp=True, **THEMES[theme])
        expect(found.locator("#key")).to_be_visible()
        assert not violations(found)


@pytest.mark.parametrize("theme", ["light", "dark", "forced"])
def test_tab_reaches_everything_that_is_open_with_an_outline_of_contrast(open_page: Open, theme: str) -> None:
    options = {"light": {}, "dark": {"color_scheme": "dark"}, "forced": {"forced_colors": "active"}}[theme]
    found = open_page(viewport={"width": 1280, "height": 800}, **options)
    open_everything(found)
    found.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); getSelection().empty(); }")
    faint, highest = [], 0
    for _ in range(MAX_TABS):
        found.keyboard.press("Tab")
        if (focus := found.evaluate(FOCUS)) is None:
            continue
        number, name, in_sight, width, contrast = focus
        if number == 0 and highest:
            break
        highest = max(highest, number)
        assert in_sight, name
        if width < 1 or contrast < MIN_CONTRAST:
            faint.append((name, width, contrast))
    assert faint == []
    assert found.evaluate(MISSED) == []


def test_reduced_motion_holds_while_an_answer_is_awaited(open_page: Open) -> None:
    found = open_page(reduced_motion="reduce")
    found.choose("bag-30")
    held: list[Route] = []
    found.page.route("**/explain", lambda route: held.append(route))
    found.locator("[data-example*='coat-10']").click()
    expect(found.locator("#steps")).to_have_attribute("data-pending", "true")
    assert found.evaluate("document.getAnimations().length") == 0
    assert found.evaluate("getComputedStyle(document.documentElement).scrollBehavior") == "auto"
    held[0].continue_()
    found.wait("coat-10")


def test_what_changes_is_in_a_live_region_and_the_focus_stays(open_page: Open) -> None:
    found = open_page()
    button = found.locator("[data-example*='bag-30']")
    button.focus()
    found.keyboard.press("Enter")
    found.wait("bag-30")
    expect(button).to_be_focused()
    status = found.locator("[role=status]")
    expect(status).to_have_count(1)
    expect(status).to_contain_text("Bag")
    found.locator("#pin").focus()
    found.keyboard.press("Enter")
    expect(found.locator("#announcer")).to_have_text("Pinned.")
    found.locator("#unpin").focus()
    found.keyboard.press("Enter")
    expect(found.locator("#pin")).to_be_focused()
