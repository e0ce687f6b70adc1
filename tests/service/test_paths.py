"""Paths and methods: slashes, a proxy's prefix, HEAD; no redirect but that of / to /docs, or to itself with a slash."""

import re
from collections.abc import Iterator
from urllib.parse import urljoin

import httpx
import pytest

from service.settings import Settings, load_settings
from tests.service.conftest import SHOE, serving

PICTURE = SHOE.read_bytes()
PAGES = ("/health", "/health/live", "/metrics", "/docs", "/openapi.json", "/static-offline-docs/swagger-ui.css")
EVIL = {"Host": "evil.example"}


@pytest.fixture(scope="module")
def prefixed(settings: Settings) -> Iterator[httpx.Client]:
    with serving(load_settings(**settings.model_dump() | {"root_path": "fashion/v1/"})) as client:
        yield client


@pytest.fixture(scope="module")
def without_page(settings: Settings) -> Iterator[httpx.Client]:
    with serving(load_settings(**settings.model_dump() | {"root_path": "fashion/v1/", "page": False})) as client:
        yield client


def at(client: httpx.Client, path: str) -> str:
    """The address with this very path; httpx takes slashes off a relative one."""
    return str(client.base_url).rstrip("/") + path


@pytest.mark.parametrize("path", ["/predict/", "//predict", "///predict//", "/predict%2F"])
def test_extra_slashes_are_taken_off(client: httpx.Client, path: str) -> None:
    answer = client.post(at(client, path), files={"file": PICTURE})
    assert (answer.status_code, answer.json()["index"]) == (
        200,
        client.post(at(client, "/predict"), content=PICTURE).json()["index"],
    )
    batch = client.post(at(client, path).replace("predict", "predict//batch"), files={"file": PICTURE})
    assert (batch.status_code, len(batch.json()["predictions"])) == (200, 1)


@pytest.mark.parametrize("path", PAGES)
def test_no_page_redirects_by_slashes(client: httpx.Client, path: str) -> None:
    for asked in (path, f"{path}/", f"/{path}", f"{path}//"):
        answer = client.get(at(client, asked), headers=EVIL)
        assert answer.status_code == 200, asked
        assert "evil" not in answer.text
    assert client.get(at(client, "/static-offline-docs/"), headers=EVIL).status_code == 404


@pytest.mark.parametrize("path", ["/", *PAGES])
def test_head_is_answered_as_get_without_a_body(client: httpx.Client, path: str) -> None:
    got, head = client.get(at(client, path)), client.head(at(client, path))
    assert (head.status_code, head.content) == (got.status_code, b"")
    assert head.headers["Content-Type"] == got.headers["Content-Type"]
    refused = client.put(at(client, path))
    assert (refused.status_code, refused.headers["Allow"]) == (405, "GET, HEAD")
    assert refused.json() == {"detail": f"{path} takes GET or HEAD, not PUT."}


def test_head_of_a_prediction_is_refused(client: httpx.Client) -> None:
    for path in ("/predict", "/predict/batch", "/explain"):
        answer = client.head(at(client, path))
        assert (answer.status_code, answer.headers["Allow"], answer.content) == (405, "POST", b"")


@pytest.mark.parametrize("before", ["/fashion/v1", "//fashion//v1", ""])
def test_a_prefix_may_be_stripped_or_not(prefixed: httpx.Client, before: str) -> None:
    for path in ("/predict", "/predict/"):
        assert prefixed.post(at(prefixed, f"{before}{path}"), files={"file": PICTURE}).status_code == 200
    for path in PAGES:
        assert prefixed.get(at(prefixed, f"{before}{path}")).status_code == 200
    assert prefixed.get(at(prefixed, f"{before}/nothing")).status_code == 404
    assert prefixed.get(at(prefixed, "/fashion/v12/health")).status_code == 404


@pytest.mark.parametrize("before", ["/fashion/v1", ""])
@pytest.mark.parametrize("start", ["/", "//", ""])
def test_the_documentation_is_found_from_the_start_page(without_page: httpx.Client, before: str, start: str) -> None:
    asked = at(without_page, f"{before}{start}" or "/")
    page = urljoin(asked, without_page.get(asked).headers["Location"])
    assert without_page.get(page).status_code == 200
    assert without_page.get(urljoin(page, "openapi.json")).status_code == 200


@pytest.mark.parametrize("path", ["/docs", "/docs/", "//docs//"])
def test_the_documentation_has_relative_addresses_only(client: httpx.Client, path: str) -> None:
    page = client.get(at(client, path)).text
    assert not re.search(r"https?://", page)
    assets = re.findall(r'(?:src|href)="([^"]+)"|url: \'([^\']+)\'', page)
    assert len(assets) == 4
    for asset in map("".join, assets):
        assert not asset.startswith("/")
        assert client.get(at(client, urljoin(f"http://x{path}", asset).removeprefix("http://x"))).status_code == 200, (
            asset
        )


def test_the_schema_names_a_relative_server(client: httpx.Client) -> None:
    [server] = client.get(at(client, "/openapi.json")).json()["servers"]
    assert urljoin("https://shop.example/fashion/openapi.json", server["url"]) == "https://shop.example/fashion/"


def test_a_long_path_is_refused_fast(client: httpx.Client) -> None:
    for path in ("/static-offline-docs/" + "a/" * 30_000, "/" * 60_000 + "x"):
        answer = client.get(at(client, path))
        assert answer.status_code == 404
        assert len(answer.text) < 300
