"""Request ids, security headers, the API key and CORS, on every kind of answer."""

import re
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image

from classifier.checkpoint import save
from service.schemas import INTERNAL_ERROR, NO_KEY
from service.settings import Settings, load_settings
from tests.conftest import overflowing
from tests.service.conftest import SHOE, encoded, serving

PICTURE = SHOE.read_bytes()
KEY, SITE = "swordfish-Ω", "https://shop.example"
BEARER = httpx.Headers({"Authorization": f"Bearer {KEY}"}, encoding="utf-8")
OPEN = ("/health", "/health/live")


@pytest.fixture(scope="module")
def locked(settings: Settings) -> Iterator[httpx.Client]:
    """A client without the key, of a service that requires one and allows one other origin."""
    with serving(load_settings(**settings.model_dump() | {"api_key": KEY, "cors_origins": SITE})) as client:
        yield client


def assert_guarded(response: httpx.Response) -> None:
    assert response.headers["X-Content-Type-Options"] == "nosniff"
    assert "frame-ancestors 'none'" in response.headers["Content-Security-Policy"]
    assert re.fullmatch(r"[0-9a-f]{8}-\d+", response.headers["X-Request-ID"])


def test_every_answer_has_a_request_id_and_security_headers(client: httpx.Client, locked: httpx.Client) -> None:
    preflight = {"Origin": SITE, "Access-Control-Request-Method": "POST"}
    answers = [
        *(
            client.get(path)
            for path in ("/", "/model", "/docs", "/openapi.json", "/health", "/health/live", "/metrics")
        ),
        client.get("/nothing"),
        client.get("/predict"),
        client.post("/predict"),
        client.post("/explain"),
        client.post("/explain", files={"file": PICTURE}),
        *(client.post("/predict", files={"file": content}) for content in (PICTURE, b"", b"text", bytes(300_000))),
        client.post("/predict/batch", files={"file": PICTURE}),
        client.post("/predict/batch"),
        locked.post("/predict"),
        locked.options("/predict", headers=preflight),
        locked.options("/predict", headers=preflight | {"Origin": "https://other.example"}),
    ]
    assert {answer.status_code for answer in answers} == {200, 400, 401, 404, 405, 413, 415, 422}
    for answer in answers:
        assert_guarded(answer)
    assert len({answer.headers["X-Request-ID"] for answer in answers}) == len(answers)


def test_an_answer_without_a_model_has_them_too(tmp_path: Path) -> None:
    with serving(Settings(model=tmp_path / "gone.pt")) as client:
        for answer in (client.get("/health"), client.post("/predict", files={"file": PICTURE})):
            assert answer.status_code == 503
            assert_guarded(answer)


def test_a_network_that_overflows_is_an_internal_error(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    save(overflowing(), tmp_path / "model.pt")
    noise = encoded(Image.fromarray(np.random.default_rng(0).integers(0, 256, (28, 28), dtype=np.uint8)))
    with serving(Settings(model=tmp_path / "model.pt")) as client:
        assert client.post("/predict", files={"file": encoded(Image.new("L", (28, 28)))}).status_code == 200
        for path in ("/predict/batch", "/predict", "/explain"):
            answer = client.post(path, files={"file": noise})
            assert (answer.status_code, answer.json()) == (500, {"detail": INTERNAL_ERROR})
            assert_guarded(answer)
    records = [record for record in caplog.records if record.name == "service.errors"]
    assert len(records) == 3
    for record in records:
        assert record.exc_info is not None
        assert "overflow on this picture" in str(record.exc_info[1])


@pytest.mark.parametrize(
    "own",
    [
        *("a", "0-._Z", "x" * 128, "6f1e0c7a-9d2b-4b4e-8d5c-0a1b2c3d4e5f"),
        "Root=1-67891233-abcdef012345678912345678",  # AWS
        "Self=1-67891234-12456789abcdef012345678;Root=1-67891233-abcdef012345678912345678",
        "105445aa7843bc8bf206b12000100000/1;o=1",  # Google Cloud
        "|7d3f2a.1_",  # Azure
        "aGVsbG8gd29ybGQ+/==",  # base64
    ],
)
def test_a_request_keeps_its_own_id(client: httpx.Client, own: str) -> None:
    for answer in (client.get("/health", headers={"X-Request-ID": own}), post(client, "/predict", own)):
        assert answer.headers.get_list("X-Request-ID") == [own]


@pytest.mark.parametrize("own", ["", "x" * 129, "a b", "a\tb", "é", '"', "a'b", "a\\nb", "a,b", "{}"])
def test_an_unsafe_request_id_is_replaced(client: httpx.Client, own: str) -> None:
    [made] = post(client, "/predict", own).headers.get_list("X-Request-ID")
    assert re.fullmatch(r"[0-9a-f]{8}-\d+", made)


def post(client: httpx.Client, path: str, own_id: str) -> httpx.Response:
    return client.post(path, files={"file": PICTURE}, headers=httpx.Headers({"X-Request-ID": own_id}, "utf-8"))


@pytest.mark.parametrize(
    "header",
    [None, b"", b"Bearer", KEY.encode(), b"Basic " + KEY.encode(), b"Bearer swordfish", b"Bearer \xff"],
)
def test_without_the_key_only_health_is_answered(locked: httpx.Client, header: bytes | None) -> None:
    headers = httpx.Headers({} if header is None else {b"Authorization": header})
    for path in (
        "/metrics",
        "/nothing",
        "/predict",
        "/explain",
        "/model",
        "/docs/x",
        "/static-offline-docs/x",
        "/static-offline-docs/",
    ):
        answer = locked.get(path, headers=headers)
        assert (answer.status_code, answer.json()) == (401, {"detail": NO_KEY}), path
        assert answer.headers["WWW-Authenticate"] == "Bearer"
    for path in ("/predict", "/predict/batch", "/explain"):
        assert locked.post(path, headers=headers, files={"file": PICTURE}).status_code == 401
    for path in (*OPEN, "/", "/health/", "/docs", "/docs/", "/openapi.json"):
        assert locked.get(path, headers=headers).status_code == 200


@pytest.mark.parametrize("scheme", ["Bearer ", "bearer ", "BEARER ", "bEaReR ", "Bearer  ", "bearer     "])
def test_the_scheme_is_taken_in_any_case_and_with_several_spaces(locked: httpx.Client, scheme: str) -> None:
    headers = httpx.Headers({"Authorization": f"{scheme}{KEY}"}, encoding="utf-8")
    assert locked.post("/predict", headers=headers, files={"file": PICTURE}).status_code == 200


def test_long_paths_cost_nothing_without_the_key(locked: httpx.Client) -> None:
    path = "/static-offline-docs/" + "a/" * 30_000
    locked.get(path)
    begin = time.process_time()  # of client and server
    answers = [locked.get(path) for _ in range(10)]
    assert time.process_time() - begin < 0.5  # 115 ms each when a static folder was searched
    assert {answer.status_code for answer in answers} == {401}


def test_with_the_key_everything_is_answered(locked: httpx.Client) -> None:
    for path in ("/docs", "/openapi.json", "/metrics", *OPEN):
        assert locked.get(path, headers=BEARER).status_code == 200
    for path in ("/predict", "/predict/batch", "/explain"):
        assert locked.post(path, headers=BEARER, files={"file": PICTURE}).status_code == 200


def test_the_key_is_not_printed_with_the_settings(settings: Settings) -> None:
    assert KEY not in repr(load_settings(api_key=KEY))


def test_pages_can_be_switched_off(settings: Settings) -> None:
    with serving(settings.model_copy(update={"docs": False, "metrics": False, "page": False})) as client:
        for path in ("/", "/model", "/docs", "/openapi.json", "/metrics", "/static-offline-docs/swagger-ui.css"):
            answer = client.get(path)
            assert answer.status_code == 404, path
            assert "docs" not in answer.json()["detail"].replace(path, "")
        assert client.post("/predict", files={"file": PICTURE}).status_code == 200


def test_only_the_named_origin_may_send_requests(client: httpx.Client, locked: httpx.Client) -> None:
    def allowed(answer: httpx.Response) -> str | None:
        origin: str | None = answer.headers.get("Access-Control-Allow-Origin")
        return origin

    for asked, site, expected in ((client, SITE, None), (locked, SITE, SITE), (locked, "https://other.example", None)):
        origin = {"Origin": site}
        bearing = httpx.Headers([*BEARER.raw, (b"Origin", site.encode())])
        wishes = {"Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": "authorization"}
        preflight = asked.options("/predict", headers=origin | wishes)
        assert preflight.status_code == (200 if expected else 405 if asked is client else 400)
        assert allowed(preflight) == expected
        answer = asked.post("/predict", headers=bearing, files={"file": PICTURE})
        assert answer.status_code == 200
        assert allowed(answer) == expected
        for refused in (asked.post("/predict", headers=bearing), asked.post("/predict", headers=origin)):
            assert allowed(refused) == expected
        if preflight.status_code == 400:
            assert preflight.json()["detail"].startswith("The origin 'https://other.example' may not send POST ")
            assert preflight.headers["Vary"].startswith("Origin")
    preflight = locked.options("/predict", headers={"Origin": SITE, **wishes})
    assert "authorization" in preflight.headers["Access-Control-Allow-Headers"].lower()
    assert "POST" in preflight.headers["Access-Control-Allow-Methods"]
    answer = locked.post("/predict", headers={"Origin": SITE})
    assert answer.headers["Access-Control-Expose-Headers"] == "X-Request-ID, Retry-After"
    assert answer.headers["Vary"] == "Origin"
