"""nginx in front of the service: with a prefix that it strips, and one that it does not, over kept connections."""

import re
import shutil
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from urllib.parse import urljoin

import httpx
import pytest

from service.settings import Settings, load_settings
from tests.service.conftest import DEADLINE_SECONDS, SHOE, free_port, poll, serving

pytestmark = pytest.mark.skipif(not shutil.which("nginx"), reason="nginx is not installed")
PICTURE = SHOE.read_bytes()
CONFIG = """
daemon off; master_process off; pid {folder}/pid; error_log {folder}/errors;
events {{ }}
http {{
    access_log off; client_max_body_size 20m;
    client_body_temp_path {folder}/body; proxy_temp_path {folder}/proxy; fastcgi_temp_path {folder}/f;
    uwsgi_temp_path {folder}/u; scgi_temp_path {folder}/s;
    upstream service {{ server 127.0.0.1:{service}; keepalive 8; }}
    server {{
        listen 127.0.0.1:{port};
        proxy_http_version 1.1; proxy_set_header Connection "";
        location /fashion/ {{ proxy_pass http://service/; }}
        location /whole/ {{ proxy_pass http://service; }}
    }}
}}
"""


@contextmanager
def proxied(port_behind: int, folder: Path) -> Iterator[httpx.Client]:
    """A client of nginx in front of the service at this port."""
    port = free_port()
    (folder / "nginx.conf").write_text(CONFIG.format(folder=folder, port=port, service=port_behind))
    process = subprocess.Popen(
        ["nginx", "-p", str(folder), "-e", str(folder / "errors"), "-c", str(folder / "nginx.conf")]
    )
    try:
        with httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=DEADLINE_SECONDS) as client:
            for _ in poll():
                assert process.poll() is None, (folder / "errors").read_text()
                with suppress(httpx.TransportError):
                    client.get("/fashion/health/live")
                    break
            yield client
    finally:
        process.terminate()
        process.wait()


@pytest.fixture(scope="module")
def proxy(settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Iterator[httpx.Client]:
    """A client of nginx; the service behind it expects the prefix /whole, or none."""
    with serving(load_settings(**settings.model_dump() | {"root_path": "/whole"})) as service:
        assert service.base_url.port
        with proxied(service.base_url.port, tmp_path_factory.mktemp("nginx")) as client:
            yield client


@pytest.mark.parametrize("prefix", ["/fashion", "/whole"])
def test_pictures_are_answered_under_a_prefix(proxy: httpx.Client, prefix: str) -> None:
    for path in ("/predict", "/predict/", "//predict"):
        assert proxy.post(prefix + path, files={"file": PICTURE}).status_code == 200
    assert proxy.post(f"{prefix}/predict", content=PICTURE).status_code == 200
    assert proxy.post(f"{prefix}/predict/batch", files=[("file", PICTURE)] * 2).status_code == 200
    assert proxy.head(f"{prefix}/health").status_code == 200


@pytest.mark.parametrize("page", ["/docs", "/docs/"])
@pytest.mark.parametrize("prefix", ["/fashion", "/whole"])
def test_the_documentation_works_under_a_prefix(proxy: httpx.Client, prefix: str, page: str) -> None:
    answer = proxy.get(prefix + page, follow_redirects=True)
    assert answer.status_code == 200
    address = str(answer.url)
    found = ["".join(each) for each in re.findall(r"""(?:src|href)="([^"]+)"|url: '([^']+)'""", answer.text)]
    assert len(found) == 4
    for each in found:
        assert proxy.get(urljoin(address, each)).status_code == 200, each
    schema_address = urljoin(address, found[-1])
    [server] = proxy.get(schema_address).json()["servers"]
    predict = urljoin(schema_address, server["url"]).rstrip("/") + "/predict"
    assert proxy.post(predict, files={"file": PICTURE}).status_code == 200


def test_connections_to_the_service_are_kept(proxy: httpx.Client) -> None:
    assert {proxy.post("/fashion/predict", files={"file": PICTURE}).status_code for _ in range(100)} == {200}
