"""Evidence: where a class has most of it the picture is lighter, where it has least it is darker, in every theme."""

import base64
import io
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from PIL import Image
from playwright.sync_api import expect

from tests.page.conftest import Open, Watched
from tests.page.test_answer import last_answer
from tests.page.test_ways_in import ask

pytestmark = pytest.mark.page
MIN_DIFFERENCE = 40  # levels of grey between the lightest and the darkest evidence
THEMES: dict[str, dict[str, Any]] = {
    "light": {"color_scheme": "light"},
    "dark": {"color_scheme": "dark"},
    "forced colours": {"forced_colors": "active"},
}


def grey(found: Watched) -> NDArray[np.float64]:
    """The picture that the network saw as it is on the screen, in grey."""
    picture = Image.open(io.BytesIO(found.locator("#seen").screenshot())).convert("L")
    return np.asarray(picture).astype(np.float64)


@pytest.mark.parametrize("picture", ["coat-6", "photo"])
@pytest.mark.parametrize("theme", THEMES)
def test_lightness_alone_tells_evidence_for_a_class_from_evidence_against_it(
    open_page: Open, picture: str, theme: str
) -> None:
    found = open_page(viewport={"width": 1280, "height": 900}, **THEMES[theme])
    ask(found, picture)
    explained: Any = last_answer(found)
    evidence = explained["evidence"]
    maps = np.frombuffer(base64.b64decode(evidence["data"]), np.uint8)
    maps = maps.reshape(10, evidence["height"], evidence["width"])
    top, left, bottom, right = evidence["box"]

    def level(chosen: int, row: int, column: int) -> float:
        """The lightness of a cell with the evidence for this class, over 5×5 pixels at its middle."""
        found.locator(f"#bars [data-class='{chosen}']").click()
        expect(found.locator("#seen")).to_have_attribute("data-evidence", str(chosen))
        shown = grey(found)
        y = int(((row + 0.5) / evidence["height"] * (bottom - top) + top) * shown.shape[0])
        x = int(((column + 0.5) / evidence["width"] * (right - left) + left) * shown.shape[1])
        return float(shown[y - 2 : y + 3, x - 2 : x + 3].mean())

    # The cell in which the classes differ most, so that the picture below is the same.
    spread = maps.max(axis=0).astype(int) - maps.min(axis=0)
    row, column = (int(index) for index in np.unravel_index(spread.argmax(), spread.shape))
    levels = maps[:, row, column]
    assert levels.max() > 160
    assert levels.min() < 95
    middle = int(np.abs(levels - 127.5).argmin())
    light, neutral, dark = (level(int(each), row, column) for each in (levels.argmax(), middle, levels.argmin()))
    assert light > neutral > dark
    assert light - dark > MIN_DIFFERENCE
    expect(found.locator("#legend")).to_contain_text("Light parts")
    expect(found.locator("#legend")).to_contain_text("Dark parts")
