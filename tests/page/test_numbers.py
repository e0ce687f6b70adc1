"""The numbers of the six steps, computed again from /model and /explain: sums, receptive fields, values, card."""

import base64
import json
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
from numpy.typing import NDArray
from playwright.sync_api import expect

from classifier.checkpoint import load
from tests.page.conftest import Open, Watched
from tests.page.test_answer import NETWORKS, last_answer
from tests.page.test_steps import STEPS
from tests.page.test_ways_in import ask
from tests.service.conftest import started

pytestmark = pytest.mark.page
ROUNDING = 1e-5  # of the weights that are sent, relative to the sum
ONE_PIXEL = 1.0
ROWS = """(table) => [...table.tBodies[0].rows].map((row) => [...row.cells].map((cell) => cell.textContent))"""
GEOMETRY = """(step) => {
  const picture = step.querySelector('.look canvas').getBoundingClientRect();
  const field = step.querySelector('.field').getBoundingClientRect();
  return [(field.top - picture.top) / picture.height, (field.left - picture.left) / picture.width,
    (field.bottom - picture.top) / picture.height, (field.right - picture.left) / picture.width, picture.height];
}"""


def values_of(stage: dict[str, Any]) -> NDArray[np.float64]:
    """The maps of a stage, float64 [shown, height, width]."""
    levels = np.frombuffer(base64.b64decode(stage["data"]), np.uint8)
    maps = levels.reshape(len(stage["channels"]), stage["height"], stage["width"])
    values: NDArray[np.float64] = stage["low"] + maps / 255 * (stage["high"] - stage["low"])
    return values


def read(text: str) -> float:
    return float(text.replace("−", "-"))


def choose_cell(found: Watched, step: str, row: int, column: int) -> None:
    found.locator(f"#step-{step} .row-slider").fill(str(row))
    found.locator(f"#step-{step} .column-slider").fill(str(column))


@pytest.mark.parametrize("network", ["shipped", "tutorial"])
def test_the_table_lists_the_pixels_and_weights_of_a_cell(
    open_page: Open, network: str, tutorial_state_dict: Path
) -> None:
    """Its sum is computed here from /model, and compared with the map that /explain sent."""
    model = {"shipped": str(NETWORKS[0]), "tutorial": str(tutorial_state_dict)}[network]
    with started("--model", model, SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client):
        layer = client.get("/model").json()["networks"][0]["first_layer"]
        found = open_page(f"{client.base_url}/")
        found.choose("coat-6")
        explained: Any = last_answer(found)
        stage = explained["stages"][0]
        values = values_of(stage)
        half_step = (stage["high"] - stage["low"]) / 255 / 2
        pixels = np.frombuffer(base64.b64decode(explained["seen"]["data"]), np.uint8).reshape(28, 28)
        scaled = np.pad(
            (pixels - layer["mean"]) / layer["std"], layer["padding"]
        )  # 0 outside, behind the normalisation
        size = {"shipped": 3, "tutorial": 5}[network]
        found.locator("#step-first summary").click()
        last = stage["height"] - 1
        for shown in range(0, len(stage["channels"]), 3):
            found.locator("#step-first .map").nth(shown).click()
            weights = np.array(layer["weights"][stage["channels"][shown]][0])
            assert weights.shape == (size, size)
            for row, column in (0, 0), (0, last), (last // 2, last // 2), (last, last - 1):
                choose_cell(found, "first", row, column)
                part = scaled[row : row + size, column : column + size]
                expected = layer["bias"][stage["channels"][shown]] + (weights * part).sum()
                assert abs(expected - values[shown, row, column]) <= half_step + ROUNDING * max(1, abs(expected))
                table = found.locator("#step-first table").first
                assert float(table.get_attribute("data-value") or "nan") == pytest.approx(expected, abs=1e-4)
                rows = table.evaluate(ROWS)
                assert [read(weight) for *_, weight, _ in rows] == pytest.approx(list(weights.flat), abs=6e-4)
                assert [read(product) for *_, product in rows] == pytest.approx(list((weights * part).flat), abs=6e-4)
                for name, level, *_ in rows:
                    y, x = map(int, name.removesuffix(" (outside)").split(", "))
                    inside = 0 <= y < 28 and 0 <= x < 28
                    assert inside is not name.endswith("(outside)")
                    assert read(level) == pytest.approx(pixels[y, x] if inside else layer["mean"], abs=0.05)


@pytest.mark.parametrize("picture", ["coat-6", "photo"])
def test_each_cell_has_its_value_and_outlines_what_it_sees(open_page: Open, picture: str) -> None:
    found = open_page(viewport={"width": 1280, "height": 900})
    ask(found, picture)
    explained: Any = last_answer(found)
    side = {"photo": 160}.get(picture, 28)
    for name, stage in zip(STEPS[1:4], explained["stages"], strict=True):
        step = found.locator(f"#step-{name}")
        step.locator(".map").nth(1).click()
        values, field = values_of(stage), stage["receptive_field"]
        for row, column in (0, 0), (stage["height"] // 2, stage["width"] - 1):
            choose_cell(found, name, row, column)
            assert float(step.get_attribute("data-value") or "nan") == pytest.approx(values[1, row, column])
            edges = []
            for cell in row, column:
                start = field["start"] + field["stride"] * cell
                edges += [max(0, start), min(side, start + field["size"])]
            assert step.locator(".field").get_attribute("data-rows") == f"{edges[0]},{edges[1]}"
            assert step.locator(".field").get_attribute("data-columns") == f"{edges[2]},{edges[3]}"
            top, left, bottom, right, height = step.evaluate(GEOMETRY)
            expected = np.array([edges[0], edges[2], edges[1], edges[3]]) / side
            assert np.abs(np.array([top, left, bottom, right]) - expected).max() <= ONE_PIXEL / height
            expect(step.locator(".reading")).to_contain_text(f"row {row}, column {column}")


def test_without_scripts_each_step_has_a_sentence_before_its_formula(open_page: Open) -> None:
    found = open_page(is_ready=False, java_script_enabled=False)
    titles = found.locator(".step h3").all_inner_texts()
    assert titles == ["Pixels", "First layer", "Middle", "Last maps", "Logits", "Probabilities"]
    for name in STEPS:
        sentence, formula = found.locator(f"#step-{name} > p").all()
        expect(sentence).to_be_visible()
        assert sentence.inner_text().count(".") == 1
        assert "=" not in sentence.inner_text()
        assert "formula" in (formula.get_attribute("class") or "")
    assert found.locator(".live:visible").count() == 0


def test_the_card_shows_the_training_and_the_metrics_in_words_and_numbers(open_page: Open) -> None:
    found = open_page()
    cards = httpx.get(f"{found.url}model").json()["networks"]
    for path, description in zip(NETWORKS, cards, strict=True):
        checkpoint = load(path)
        card = found.locator(f"#card-list article[data-model='{checkpoint.model}']")
        for name in ("recipe", "seed", "epochs"):
            shown = card.locator(f".training dd[data-name='{name}']")
            assert json.loads(shown.get_attribute("data-value") or "null") == checkpoint.training[name]
        accuracies = {name: value for name, value in checkpoint.metrics.items() if name.endswith("accuracy")}
        assert accuracies
        for name, value in accuracies.items():
            expect(card.locator(f".metrics dd[data-name='{name}']")).to_have_text(f"{100 * value:.2f} %")
        assert card.locator(".limits li").all_text_contents() == description["limits"]
        assert description["sha256"] in (card.locator(".file").text_content() or "")
