"""Where the page stands: behind a prefix with a key, at another host name; links and snippets work from there."""

import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from playwright.sync_api import expect

from tests.page.conftest import Open, Watched
from tests.page.test_answer import BARS
from tests.page.test_ways_in import EXAMPLES
from tests.service.conftest import started
from tests.service.test_proxies import proxied

pytestmark = pytest.mark.page
KEY = "sesame"
SNIPPETS = {"curl": ("bash", "ask.sh"), "python": (sys.executable, "ask.py"), "javascript": ("node", "ask.mjs")}
AWKWARD = 'it\'s a "coat" $HOME `id` \\ 100 %.png'


def unlock(found: Watched) -> None:
    found.locator("#key").fill(KEY)
    found.locator("#key").press("Enter")
    found.locator("#card-list article").first.wait_for()


def run_snippets(found: Watched, folder: Path, key: str = "") -> None:
    """Saves the picture, runs the lines of each language, and compares the class with that of the page."""
    with found.expect_download() as download:
        found.locator("#snippet-link").click()
    download.value.save_as(folder / download.value.suggested_filename)
    shown = found.text("#status").split(",")[0]
    for name, (command, script) in SNIPPETS.items():
        if not shutil.which(command):
            continue  # node, which is not installed everywhere
        (folder / script).write_text(found.locator(f"#snippet-{name}").text_content() or "")
        ended = subprocess.run(
            [command, script], cwd=folder, env={**os.environ, "KEY": key}, capture_output=True, text=True, check=False
        )
        assert ended.returncode == 0, ended.stderr
        assert shown in ended.stdout, name


@pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
@pytest.mark.parametrize("prefix", ["/fashion", "/whole"])
def test_behind_a_prefix_and_with_a_key_links_and_snippets_work(open_page: Open, tmp_path: Path, prefix: str) -> None:
    variables = {"SERVICE_API_KEY": KEY, "SERVICE_ROOT_PATH": "/whole", "SERVICE_ACCESS_LOG": "false"}
    with (
        started(SERVICE_PHOTO_MODEL="", **variables) as (_, client),
        proxied(client.base_url.port or 0, tmp_path) as proxy,
    ):
        found = open_page(f"{proxy.base_url}{prefix}/", is_ready=False)
        unlock(found)
        found.choose("sandal-82")
        run_snippets(found, tmp_path, KEY)
        for name in SNIPPETS:
            assert KEY not in found.text(f"#snippet-{name}")
        found.locator("#share").click()
        other = open_page(found.locator("#share-link").input_value(), is_ready=False)
        unlock(other)
        other.wait("shared")
        assert other.evaluate(BARS) == found.evaluate(BARS)


def test_the_snippets_work_with_a_name_that_a_shell_would_read(open_page: Open, tmp_path: Path) -> None:
    found = open_page()
    content = (EXAMPLES / "coat-10.png").read_bytes()
    found.send({"name": AWKWARD, "mimeType": "image/png", "buffer": content})
    found.wait("100 %")
    expect(found.locator("#sent-caption")).to_have_text(f"As sent: {AWKWARD}")
    shown = found.text("#status").split(",")[0]
    (tmp_path / AWKWARD).write_bytes(content)
    for name, (command, script) in SNIPPETS.items():
        if not shutil.which(command):
            continue
        (tmp_path / script).write_text(found.locator(f"#snippet-{name}").text_content() or "")
        ended = subprocess.run([command, script], cwd=tmp_path, capture_output=True, text=True, check=False)
        assert shown in ended.stdout, (name, ended.stderr)


def test_nothing_of_a_links_picture_is_in_an_address_or_a_header(open_page: Open) -> None:
    found = open_page()
    found.choose("coat-6")
    found.locator("#share").click()
    link = found.locator("#share-link").input_value()
    picture = link.partition("#p=")[2]
    assert len(picture) == 1046  # 784 bytes in base64
    other = open_page(link)
    other.wait("shared")
    for request in other.requests:
        assert picture[:40] not in request.url.partition("#")[0]
        assert not any(picture[:40] in value for value in request.all_headers().values())


def test_a_new_fragment_opens_its_picture_and_the_next_picture_removes_it(open_page: Open) -> None:
    found = open_page()
    found.choose("bag-30")
    found.locator("#share").click()
    link = found.locator("#share-link").input_value()
    found.choose("coat-10")
    found.evaluate("(link) => { location.href = link; }", link)
    found.wait("shared")
    assert found.text("#status").startswith("Bag, ")
    assert found.page.url == link
    found.choose("coat-10")
    assert found.page.url.rstrip("#") == found.url


def test_plain_http_from_another_host_with_a_key_has_all_but_the_camera_and_the_clipboard(
    open_page: Open, tmp_path: Path
) -> None:
    with started(SERVICE_API_KEY=KEY, SERVICE_PHOTO_MODEL="", SERVICE_ACCESS_LOG="false") as (_, client):
        found = open_page(f"http://shop.example:{client.base_url.port}/", is_ready=False)
        assert not found.evaluate("isSecureContext")
        unlock(found)
        found.choose("bag-30")
        assert found.text("#status").startswith("Bag, ")
        expect(found.locator("#camera-reason")).to_be_visible()
        for name in SNIPPETS:
            found.locator(f"[data-copy=snippet-{name}]").click()
            selected = str(found.evaluate("getSelection().toString()"))
            assert "".join(selected.split()) == "".join(
                (found.locator(f"#snippet-{name}").text_content() or "").split()
            )
        expect(found.locator("#announcer")).to_contain_text("Ctrl+C")
        found.locator("[data-shift='1,0']").click()
        expect(found.locator("#bench-seen")).to_have_attribute("data-equal", "true")


def test_the_camera_stops_when_the_page_is_hidden(open_page: Open) -> None:
    found = open_page(permissions=["camera"])
    found.locator("#camera-open").click()
    expect(found.locator("#camera")).to_have_attribute("data-answers", re.compile("[1-9]"))
    state = found.evaluate(
        """() => {
          const [track] = document.querySelector('#camera-video').srcObject.getTracks();
          Object.defineProperty(document, 'hidden', { value: true });
          document.dispatchEvent(new Event('visibilitychange'));
          return track.readyState;
        }"""
    )
    assert state == "ended"
    expect(found.locator("#camera")).to_be_hidden()
