"""Accessibility: axe-core, the keyboard, forced colours, few announcements, no motion."""

import io
from typing import Any

import numpy as np
import pytest
from axe_playwright_python.sync_playwright import Axe
from PIL import Image
from playwright.sync_api import expect

from tests.page.conftest import Open, Watched

pytestmark = pytest.mark.page
TAGS = ("wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice")
THEMES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "forced colours": {"forced_colors": "active"},
    "320 pixels": {"viewport": {"width": 320, "height": 700}},
}
ANNOUNCED = """() => {
  window.announced = [];
  for (const region of document.querySelectorAll('[aria-live], [role=status], [role=alert]')) {
    new MutationObserver(() => announced.push(region.textContent)).observe(
      region, { childList: true, characterData: true, subtree: true });
  }
}"""
FOCUSED = """() => {
  const element = document.activeElement;
  if (element === document.body) return null;
  window.reached ??= [];
  if (!reached.includes(element)) reached.push(element);
  const outlined = element.type === 'file' ? element.parentElement : element;
  const style = getComputedStyle(outlined);
  const name = `${element.tagName}#${element.id}`;
  return [reached.indexOf(element), name, style.outlineStyle, parseFloat(style.outlineWidth)];
}"""
MISSED = """() => [...document.querySelectorAll('a[href], button, input, select, summary, [tabindex="0"]')]
  .filter((element) => element.checkVisibility() && !element.disabled && !window.reached.includes(element))
  .filter((element) => element.type !== 'radio' || element.checked)
  .map((element) => `${element.tagName}#${element.id}.${element.className}`)"""


def violations(found: Watched) -> list[str]:
    results = Axe().run(found.page, options={"runOnly": {"type": "tag", "values": list(TAGS)}}).response
    return [f"{each['id']}: {each['nodes'][0]['html'][:120]}" for each in results["violations"]]


@pytest.mark.parametrize("theme", THEMES)
def test_axe_finds_nothing(open_page: Open, theme: str) -> None:
    found = open_page(bypass_csp=True, **THEMES[theme])  # Trusted Types would stop axe itself
    assert not violations(found), "empty"
    found.choose("bag-1300")
    assert not violations(found), "answered"
    found.locator("#bars .bar").nth(5).click()
    found.locator("#pin").click()
    found.locator("#share").click()
    found.evaluate("document.querySelectorAll('details').forEach((each) => (each.open = true))")
    assert not violations(found), "everything open"
    found.send({"name": "notes.txt", "mimeType": "text/plain", "buffer": b"a list of garments"})
    expect(found.locator("#problem")).to_contain_text("text")
    assert not violations(found), "in error"


def test_tab_reaches_every_control_with_a_visible_outline(open_page: Open) -> None:
    found = open_page(viewport={"width": 1280, "height": 800})
    found.choose("bag-30")
    found.evaluate("() => { document.activeElement.blur(); scrollTo(0, 0); }")
    first = 0
    for _ in range(300):
        found.keyboard.press("Tab")
        if (focused := found.evaluate(FOCUSED)) is None:
            continue
        number, name, style, width = focused
        assert style != "none", name
        assert width >= 1, name
        if number == 0 and first > 1:
            break
        first = max(first, number)
    assert found.evaluate(MISSED) == []
    assert first > 50


def test_filled_and_empty_bars_differ_in_forced_colours(open_page: Open) -> None:
    found = open_page(forced_colors="active")
    found.choose("bag-30")
    track = found.locator("#bars .best .track").screenshot()
    empty = found.locator("#bars [data-class='0'] .track").screenshot()
    filled, other = (np.asarray(Image.open(io.BytesIO(each)).convert("L")).astype(int) for each in (track, empty))
    middle = filled.shape[0] // 2
    assert abs(int(np.median(filled[middle])) - int(np.median(other[middle]))) > 50


@pytest.mark.parametrize("slider", ["#bench-turn", "#step-first .row-slider"])
def test_thirty_ticks_of_a_slider_make_one_announcement(open_page: Open, slider: str) -> None:
    found = open_page()
    found.choose("ankle-boot-0")
    found.locator(slider).focus()
    found.evaluate(ANNOUNCED)
    for number in range(30):
        found.keyboard.press("ArrowLeft" if "row" in slider and number % 2 else "ArrowRight")
    found.page.wait_for_timeout(2_500)
    found.wait()
    texts = [text for text in found.evaluate("announced") if text]
    assert len(set(texts)) == len(texts) == 1


def test_reduced_motion_stops_all_motion(open_page: Open) -> None:
    found = open_page(reduced_motion="reduce")
    found.choose("bag-30")
    found.locator("#bars .bar").nth(3).click()
    assert found.evaluate("document.getAnimations().length") == 0
    moving = """() => [...document.querySelectorAll('*')].filter((element) => {
      const style = getComputedStyle(element);
      return parseFloat(style.transitionDuration) > 0.01 || parseFloat(style.animationDuration) > 0.01;
    }).length"""
    assert found.evaluate(moving) == 0
