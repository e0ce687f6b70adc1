"""The page under every configuration: prefixes, a key, no photo network, the tutorial's network, a costly network.

That nothing goes wrong in the console, with the policy or with other hosts is checked for each page in conftest.py.
"""

import shutil
from pathlib import Path

import httpx
import pytest
import torch
from playwright.sync_api import expect

from classifier.checkpoint import Checkpoint, save
from classifier.networks import ConvNet
from tests.page.conftest import Open
from tests.page.test_answer import last_answer
from tests.page.test_ways_in import photo
from tests.service.conftest import started
from tests.service.test_proxies import proxied

pytestmark = pytest.mark.page


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
@pytest.mark.parametrize("prefix", ["/fashion", "/whole"])
def test_the_page_works_under_a_prefix(open_page: Open, tmp_path: Path, prefix: str) -> None:
    with (
        started(SERVICE_ROOT_PATH="/whole", SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client),
        proxied(client.base_url.port or 0, tmp_path) as proxy,
    ):
        found = open_page(f"{proxy.base_url}{prefix}/")
        found.choose("bag-30")
        assert found.text("#status").startswith("Bag, ")
        assert f"{prefix}/predict" in (found.locator("#snippet-curl").text_content() or "")
        without_slash = open_page(f"{proxy.base_url}{prefix}")
        without_slash.choose("coat-10")
        found.locator("#share").click()
        assert f"{prefix}/#p=" in found.locator("#share-link").input_value()


def test_without_the_photo_network_a_photo_is_answered_by_the_other(open_page: Open) -> None:
    with started(SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client):
        found = open_page(f"{client.base_url}/")
        assert found.locator("#card-list article").count() == 1
        found.send({"name": "shoe.jpg", "mimeType": "image/jpeg", "buffer": photo()})
        found.wait("shoe.jpg")
        assert "28×28" in found.text("#seen-caption")
        expect(found.locator("#share")).to_be_visible()


def test_the_tutorials_own_checkpoint_is_shown(open_page: Open, tutorial_state_dict: Path) -> None:
    with started("--model", str(tutorial_state_dict), SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (
        _,
        client,
    ):
        found = open_page(f"{client.base_url}/")
        found.choose("bag-30")
        assert found.text("#model-name").count("tutorial-")
        assert len(found.text("#set").split()) > 5  # its checkpoint has no thresholds
        assert last_answer(found)["prediction_set"] is None
        found.locator("#bars .bar").nth(2).click()
        expect(found.locator("#seen")).to_have_attribute("data-evidence", "2")


def test_without_evidence_the_page_says_so(open_page: Open, tmp_path: Path) -> None:
    torch.manual_seed(0)
    arguments = {"widths": (512, 512), "blocks": (0, 1), "side": 28}
    network = ConvNet(**arguments)  # type: ignore[arg-type]
    save(Checkpoint("ConvNet", arguments, network.state_dict(), training={"recipe": "costly"}), tmp_path / "costly.pt")
    variables = {"SERVICE_PHOTO_MODEL": "", "SERVICE_ACCESS_LOG": "false", "SERVICE_MAX_BATCH": "1"}
    with started("--model", str(tmp_path / "costly.pt"), **variables) as (
        _,
        client,
    ):
        found = open_page(f"{client.base_url}/")
        found.choose("bag-30")
        assert last_answer(found)["evidence"] is None
        found.locator("#bars .bar").nth(2).click()
        assert "no evidence" in found.text("#legend").lower()


def test_the_page_is_switched_off_by_its_setting() -> None:
    with started(SERVICE_PAGE="false", SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client):
        for path in ("page/main.js", "model"):
            assert client.get(path).status_code == 404
        assert client.post("explain", content=b"x").status_code == 404
        assert isinstance(client.get("/"), httpx.Response)
