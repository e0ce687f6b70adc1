"""The files of the web page: types, caching, headers, and no API key."""

import tomllib
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from service.page_files import CONTENT_TYPES, FOLDER, read_files
from service.settings import Settings, load_settings
from tests.service.conftest import serving
from tests.service.test_paths import at

FILES = sorted(path for path in FOLDER.rglob("*") if path.is_file())
POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
    "base-uri 'none'; form-action 'self'; frame-ancestors 'none'; require-trusted-types-for 'script'; "
    "trusted-types 'none'"
)


def path_of(file: Path) -> str:
    name = file.relative_to(FOLDER).as_posix()
    return "/" if name == "index.html" else f"/page/{name}"


@pytest.fixture(scope="module")
def locked(settings: Settings) -> Iterator[httpx.Client]:
    """A client without the key, of a service that requires one, below a prefix."""
    with serving(load_settings(**settings.model_dump() | {"api_key": "swordfish", "root_path": "/v1"})) as client:
        yield client


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_a_file_is_served_as_it_is(client: httpx.Client, locked: httpx.Client, file: Path) -> None:
    for answer in (client.get(path_of(file)), locked.get(f"/v1{path_of(file)}")):
        assert answer.status_code == 200
        assert answer.content == file.read_bytes()
        assert answer.headers["Content-Type"] == CONTENT_TYPES[file.suffix]
        assert answer.headers["Cache-Control"] == "no-cache"
        assert answer.headers["Content-Security-Policy"] == POLICY
        assert answer.headers["Permissions-Policy"] == "camera=(self)"
        assert answer.headers["X-Content-Type-Options"] == "nosniff"


@pytest.mark.parametrize("path", ["/", "/model"])
def test_a_known_answer_is_not_sent_again(client: httpx.Client, path: str) -> None:
    answer = client.get(path)
    etag = answer.headers["ETag"]
    assert answer.headers["Cache-Control"] == "no-cache"
    for known in (etag, f"W/{etag}", f'"other", {etag}'):
        again = client.get(path, headers={"If-None-Match": known})
        assert (again.status_code, again.content, again.headers["ETag"]) == (304, b"", etag)
        assert "Content-Security-Policy" in again.headers
    assert client.get(path, headers={"If-None-Match": '"other"'}).content == answer.content
    head = client.head(path)
    assert (head.status_code, head.content, head.headers["ETag"]) == (200, b"", etag)
    assert head.headers["Content-Length"] == str(len(answer.content))
    assert client.head(path, headers={"If-None-Match": etag}).status_code == 304


def test_other_paths_are_not_found(client: httpx.Client) -> None:
    for path in ("/page", "/page/", "/page/nothing.js", "/page/../app.py", "/page/%2e%2e/app.py", "/page/index.html"):
        answer = client.get(at(client, path))
        assert answer.status_code == 404, path
        assert answer.json()["detail"].startswith("There is nothing at ")


@pytest.mark.parametrize("before", ["/v1", "//v1", ""])
@pytest.mark.parametrize("end", ["/", "//", ""])
def test_relative_addresses_of_the_page_are_right_under_a_prefix(locked: httpx.Client, before: str, end: str) -> None:
    asked = at(locked, f"{before}{end}" or "/")
    answer = locked.get(asked)
    if answer.status_code == 307:
        asked = urljoin(asked, answer.headers["Location"])
        answer = locked.get(asked)
    assert answer.content == (FOLDER / "index.html").read_bytes()
    assert locked.get(urljoin(asked, "health")).status_code == 200


def test_metrics_and_log_name_the_page(client: httpx.Client) -> None:
    client.get("/")
    page = client.get("/metrics").text
    assert 'fashion_mnist_requests_total{route="/page",status="200"}' in page
    assert 'fashion_mnist_requests_total{route="/model",status="200"}' in page


def test_the_page_can_be_switched_off(settings: Settings) -> None:
    with serving(settings.model_copy(update={"page": False})) as client:
        assert client.get("/").headers["Location"] == "docs"
        for path in ("/page/index.html", "/model", "/page/main.js"):
            assert client.get(path).status_code == 404, path
        assert client.post("/explain", content=b"").status_code == 404
        assert client.get("/openapi.json").json()["paths"].keys() == {
            "/predict", "/predict/batch", "/health", "/health/live"
        }  # fmt: skip


def test_the_page_is_not_in_the_schema(client: httpx.Client) -> None:
    paths = client.get("/openapi.json").json()["paths"]
    assert {"/explain", "/model"} <= paths.keys()
    assert not [path for path in paths if path == "/" or path.startswith("/page")]


def test_files_of_other_types_are_left_out(tmp_path: Path) -> None:
    (tmp_path / "examples").mkdir()
    for name in ("index.html", "main.js", "notes.txt", ".hidden", "examples/0.png"):
        (tmp_path / name).write_bytes(name.encode())
    files = read_files(tmp_path)
    assert {path: file.content_type for path, file in files.items()} == {
        "/": "text/html; charset=utf-8",
        "/page/main.js": "text/javascript; charset=utf-8",
        "/page/examples/0.png": "image/png",
    }
    assert len({file.etag for file in files.values()}) == 3


def test_the_wheel_holds_every_file() -> None:
    service = FOLDER.parent
    project = tomllib.loads((service.parent / "pyproject.toml").read_text())
    patterns = project["tool"]["setuptools"]["package-data"]["service"]
    assert set(FILES) <= {path for pattern in patterns for path in service.glob(pattern)}
