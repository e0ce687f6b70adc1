"""The answer: bars, prediction set, a stranger, evidence, link, pinned answer, snippets, the card."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from playwright.sync_api import expect

from classifier.checkpoint import load
from tests.page.conftest import Open, Watched
from tests.page.test_ways_in import EXAMPLES
from tests.service.conftest import encoded, poll, started

pytestmark = pytest.mark.page
HALF_PIXEL = 0.5
BARS = """() => [...document.querySelectorAll('#bars .bar')].map((bar) => ({
  name: bar.querySelector('.bar-name').textContent,
  value: bar.querySelector('.bar-value').textContent,
  probability: Number(bar.dataset.probability),
  width: bar.querySelector('.fill').getBoundingClientRect().width,
  track: bar.querySelector('.track').getBoundingClientRect().width,
}))"""
NETWORKS = (Path("models/model_scratch.pt"), Path("models/photos.pt"))
MAX_BYTES = 100_000  # of the page's files without the examples


def last_answer(found: Watched) -> dict[str, object]:
    answer: dict[str, object] = json.loads(found.posts("/explain")[-1].response().text())  # type: ignore[union-attr]
    return answer


@pytest.mark.parametrize("name", ["bag-1300", "ankle-boot-0", "shirt-147"])
def test_bars_are_in_class_order_and_as_wide_as_their_probability(open_page: Open, name: str) -> None:
    found = open_page()
    found.choose(name)
    probabilities = last_answer(found)["probabilities"]
    assert isinstance(probabilities, dict)
    bars = found.evaluate(BARS)
    assert [bar["name"].strip() for bar in bars] == list(probabilities)
    for bar, probability in zip(bars, probabilities.values(), strict=True):
        assert bar["probability"] == probability
        assert abs(bar["width"] - probability * bar["track"]) <= HALF_PIXEL
        expected = "<0.1 %" if probability < 0.001 else ">99.9 %" if probability > 0.999 else f"{probability:.1%}"
        assert bar["value"].replace(" ", "") == expected.replace(" ", "")
        assert bar["value"] not in ("0.0 %", "100.0 %")


def test_the_prediction_set_is_said_in_words(open_page: Open) -> None:
    found = open_page()
    found.choose("bag-1300")
    sets = last_answer(found)["prediction_set"]
    assert isinstance(sets, dict)
    text = found.text("#set")
    for coverage, names in sets.items():
        assert f"{float(coverage):.0%}".replace("%", " %") in text
        assert all(name in text for name in names)


def test_a_stranger_is_said_before_the_class(open_page: Open) -> None:
    found = open_page()
    noise = np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)
    noise[::27, ::27] = 0
    found.send({"name": "noise.png", "mimeType": "image/png", "buffer": encoded(Image.fromarray(noise))})
    found.wait("noise.png")
    assert last_answer(found)["familiar"] is False
    sentence = "This does not look like any of the ten."
    assert found.text("#status").startswith(sentence)
    tree = found.locator("main").aria_snapshot()
    assert tree.index(sentence) < tree.index(str(last_answer(found)["class"]), tree.index("status"))


def test_each_bar_is_a_toggle_of_its_evidence_without_a_request(open_page: Open) -> None:
    found = open_page()
    found.choose("bag-30")
    before = len(found.requests)
    pictures = []
    for number in range(10):
        bar = found.locator(f"#bars [data-class='{number}']")
        bar.click()
        expect(bar).to_have_attribute("aria-pressed", "true")
        expect(found.locator("#seen")).to_have_attribute("data-evidence", str(number))
        pictures.append(found.locator("#seen").screenshot())
    assert found.locator("#bars [aria-pressed='true']").count() == 1
    legend = found.text("#legend")
    assert "Light" in legend
    assert "ark" in legend
    found.locator("#bars [data-class='9']").click()
    assert found.locator("#bars [aria-pressed='true']").count() == 0
    assert len(set(pictures)) > 5
    assert len(found.requests) == before


def test_a_link_opens_the_same_picture_with_the_same_bars(open_page: Open) -> None:
    found = open_page()
    found.choose("coat-6")
    found.locator("#share").click()
    link = found.locator("#share-link").input_value()
    assert "#p=" in link
    bars = found.evaluate(BARS)
    other = open_page(link)
    other.wait("shared")
    assert [(bar["probability"], bar["value"]) for bar in other.evaluate(BARS)] == [
        (bar["probability"], bar["value"]) for bar in bars
    ]
    assert not any("#p=" in (request.post_data or "") for request in other.requests if request.method == "GET")
    broken = open_page(f"{found.url}#p=AAAA")
    expect(broken.locator("#problem")).to_contain_text("28×28")


def test_a_pinned_answer_stays_beside_the_next_also_after_a_hot_reload(
    open_page: Open, tmp_path: Path, tiny_checkpoint: Path
) -> None:
    model = tmp_path / "model.pt"
    shutil.copy(NETWORKS[0], model)
    with started("--model", str(model), SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client):
        found = open_page(f"{client.base_url}/")
        found.choose("bag-30")
        first, bars = found.text("#model-name"), found.evaluate(BARS)
        found.locator("#pin").click()
        shutil.copy(tiny_checkpoint, tmp_path / "new")
        os.replace(tmp_path / "new", model)
        for _ in poll():
            if "tiny" in client.get("/health").text:
                break
        found.choose("coat-10")
        assert found.text("#model-name") != first
        assert "shipped-" in found.text("#pinned-model")
        assert "Bag" in found.text("#pinned-text")
        pinned = found.locator("#pinned-bars .bar").evaluate_all(
            "all => all.map((bar) => Number(bar.dataset.probability))"
        )
        assert pinned == [bar["probability"] for bar in bars]
        model_name = client.get("/health").json()["model"]
        expect(found.locator("#card-list article").first).to_have_attribute("data-model", model_name)
        found.locator("#unpin").click()
        expect(found.locator("#pinned")).to_be_hidden()


@pytest.mark.parametrize("key", ["", "sesame"])
def test_the_snippets_give_the_class_that_is_shown(open_page: Open, tmp_path: Path, key: str) -> None:
    with (
        started(SERVICE_API_KEY=key or "", SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false")
        if key
        else started(SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client)
    ):
        found = open_page(f"{client.base_url}/", is_ready=not key)
        if key:
            found.locator("#key").fill(key)
            found.locator("#key").press("Enter")
            found.locator("#card-list article").first.wait_for()
        found.choose("sandal-82")
        with found.expect_download() as download:
            found.locator("#snippet-link").click()
        download.value.save_as(tmp_path / download.value.suggested_filename)
        shown = found.text("#status").split(",")[0]
        environment = {**os.environ, "KEY": key}
        for name, command in ("curl", ["bash"]), ("python", [sys.executable]), ("javascript", ["node"]):
            if not shutil.which(command[0]):
                continue  # node, which is not installed everywhere
            script = tmp_path / {"curl": "ask.sh", "python": "ask.py", "javascript": "ask.mjs"}[name]
            script.write_text(found.locator(f"#snippet-{name}").text_content() or "")
            ended = subprocess.run(
                [*command, script.name], cwd=tmp_path, env=environment, capture_output=True, text=True, check=True
            )
            assert shown in ended.stdout, name
        assert ("KEY" in (found.locator("#snippet-curl").text_content() or "")) == bool(key)


def test_the_card_has_the_metrics_of_the_checkpoints(open_page: Open) -> None:
    found = open_page()
    for path in NETWORKS:
        checkpoint = load(path)
        card = found.locator(f"#card-list article[data-model='{checkpoint.model}']")
        for name, value in checkpoint.metrics.items():
            shown = card.locator(f"dd[data-name='{name}']").first
            assert json.loads(shown.get_attribute("data-value") or "null") == pytest.approx(value), name
        text = card.inner_text()
        assert str(checkpoint.training["recipe"]) in text
        assert f"{checkpoint.parameters:,}" in text
        assert card.locator(".limits li").count() >= 3


def test_the_page_weighs_at_most_100_000_bytes_without_the_examples() -> None:
    files = [path for path in EXAMPLES.parent.iterdir() if path.is_file()]
    assert sum(path.stat().st_size for path in files) <= MAX_BYTES
