"""Real clients, each in the ways its manual shows: a form, the picture as the body, several pictures, HEAD."""

import asyncio
import json
import shutil
import subprocess
import urllib.request
from collections.abc import Callable
from pathlib import Path
from typing import Any

import aiohttp
import httpx
import pytest
import requests
import urllib3

from tests.service.conftest import SHOE

PICTURE = SHOE.read_bytes()
SECONDS = 60

COMMANDS = {  # {url} and {shoe} are filled in
    "curl, form": "curl -sS -F file=@{shoe} {url}/predict",
    "curl, body": "curl -sS --data-binary @{shoe} {url}/predict",
    "curl, body without type": "curl -sS --data-binary @{shoe} -H Content-Type: {url}/predict",
    "curl, octets in chunks": "curl -sS --data-binary @{shoe} -H Content-Type:application/octet-stream "
    "-H Transfer-Encoding:chunked {url}/predict",
    "curl, upload": "curl -sS -X POST -T {shoe} {url}/predict",
    "curl, expecting 100": "curl -sS -H Expect:100-continue -F file=@{shoe} {url}/predict/",
    "curl, Upgrade": "curl -sS --http2 -F file=@{shoe} {url}/predict",
    "curl, HTTP/1.0": "curl -sS --http1.0 -F file=@{shoe} {url}/predict",
    "wget, body": "wget -qO- --post-file={shoe} {url}/predict",
    "node, buffer": "node -e fetch('{url}/predict',{{method:'POST',body:require('fs').readFileSync('{shoe}')}})"
    ".then(r=>r.text()).then(console.log)",
    "node, form": "node -e f=new/**/FormData();"
    "f.append('file',new/**/Blob([require('fs').readFileSync('{shoe}')]),'a.png');"
    "fetch('{url}/predict',{{method:'POST',body:f}}).then(r=>r.text()).then(console.log)",
}

JAVA = """
import java.net.URI; import java.net.http.*; import java.nio.file.*;
public class Client {
  public static void main(String[] arguments) throws Exception {
    HttpRequest request = HttpRequest.newBuilder(URI.create(arguments[0] + "/predict"))
        .POST(HttpRequest.BodyPublishers.ofFile(Path.of(arguments[1]))).build();
    HttpClient client = HttpClient.newHttpClient();  // asks for HTTP/2 by Upgrade: h2c
    System.out.println(client.send(request, HttpResponse.BodyHandlers.ofString()).body());
  }
}
"""


AXIOS = {  # by the data of the request; needs axios on NODE_PATH
    "buffer": "fs.readFileSync(shoe)",
    "stream": "fs.createReadStream(shoe)",
    "form": "(form => (form.append('file', new Blob([fs.readFileSync(shoe)]), 'a.png'), form))(new FormData())",
}
AXIOS_PROGRAM = """
const [url, shoe] = process.argv.slice(1), fs = require('fs'), axios = require('axios');
axios.post(url + '/predict', %s).then(answer => console.log(JSON.stringify(answer.data)));
"""


def with_urllib(url: str) -> bytes:
    request = urllib.request.Request(f"{url}/predict", PICTURE)  # says application/x-www-form-urlencoded
    with urllib.request.urlopen(request, timeout=SECONDS) as answer:
        body: bytes = answer.read()
    return body


def with_aiohttp(url: str) -> bytes:
    async def ask() -> bytes:
        async with aiohttp.ClientSession() as session:
            form = aiohttp.FormData()
            form.add_field("file", PICTURE, filename="Schuh, 1.png")
            async with session.post(f"{url}/predict", data=form) as answer:
                as_form = await answer.read()
            async with session.post(f"{url}/predict", data=PICTURE) as answer:
                assert await answer.read() == as_form
                return as_form

    return asyncio.run(ask())


PYTHON: dict[str, Callable[[str], bytes]] = {
    "requests, form": lambda url: (
        requests.post(f"{url}/predict", files={"file": SHOE.open("rb")}, timeout=SECONDS).content
    ),
    "requests, body": lambda url: requests.post(f"{url}/predict", data=PICTURE, timeout=SECONDS).content,
    "requests, file": lambda url: requests.post(f"{url}/predict", data=SHOE.open("rb"), timeout=SECONDS).content,
    "httpx, form": lambda url: httpx.post(f"{url}/predict", files={"file": PICTURE}, timeout=SECONDS).content,
    "httpx, stream": lambda url: httpx.post(f"{url}/predict", content=iter([PICTURE]), timeout=SECONDS).content,
    "urllib3, form": lambda url: urllib3.request("POST", f"{url}/predict", fields={"file": ("ü.png", PICTURE)}).data,
    "urllib3, body": lambda url: urllib3.request("POST", f"{url}/predict", body=PICTURE).data,
    "urllib": with_urllib,
    "aiohttp": with_aiohttp,
}


def check(client: httpx.Client, answer: str | bytes) -> None:
    expected: dict[str, Any] = client.post("/predict", files={"file": PICTURE}).json()
    assert json.loads(answer) == expected


def run(*command: str) -> str:
    return subprocess.run(command, capture_output=True, text=True, timeout=SECONDS, check=True).stdout


@pytest.mark.parametrize("name", COMMANDS)
def test_a_program_gets_its_prediction(client: httpx.Client, name: str) -> None:
    program, *arguments = COMMANDS[name].format(url=str(client.base_url).rstrip("/"), shoe=SHOE).split()
    if not shutil.which(program):
        pytest.skip(f"{program} is not installed")
    check(client, run(program, *arguments))


@pytest.mark.parametrize("name", AXIOS)
def test_axios_gets_its_prediction(client: httpx.Client, name: str) -> None:
    if not shutil.which("node") or subprocess.run(["node", "-e", "require('axios')"], capture_output=True).returncode:
        pytest.skip("axios is not installed")
    check(client, run("node", "-e", AXIOS_PROGRAM % AXIOS[name], str(client.base_url).rstrip("/"), str(SHOE)))


@pytest.mark.parametrize("name", PYTHON)
def test_a_library_gets_its_prediction(client: httpx.Client, name: str) -> None:
    check(client, PYTHON[name](str(client.base_url).rstrip("/")))


@pytest.mark.skipif(not shutil.which("javac"), reason="no JDK is installed")
def test_java_gets_its_prediction(client: httpx.Client, tmp_path: Path) -> None:
    (tmp_path / "Client.java").write_text(JAVA)
    check(client, run("java", str(tmp_path / "Client.java"), str(client.base_url).rstrip("/"), str(SHOE)))


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
@pytest.mark.parametrize("path", ["/", "/docs", "/metrics", "/health/live"])
def test_curl_asks_for_the_head(client: httpx.Client, path: str) -> None:
    head = run("curl", "-sSI", f"{str(client.base_url).rstrip('/')}{path}")
    assert head.startswith("HTTP/1.1 200")


@pytest.mark.skipif(not shutil.which("curl"), reason="curl is not installed")
def test_the_usual_mistakes_are_told(client: httpx.Client) -> None:
    url = f"{str(client.base_url).rstrip('/')}/predict"
    folder = SHOE.parent
    for arguments, words in {
        ("-F", "image=@shoe.png"): "the field 'image'",
        ("-F", "file=@shoe.png", "-F", "file=@shoe.png"): "/predict/batch",
        ("--data-binary", "@shoe.png", "-H", "Content-Type: multipart/form-data"): "let the client set this header",
        ("--data-binary", "@shoe.png", "-H", "Content-Encoding: gzip"): "Content-Encoding 'gzip'",
        ("-X", "POST"): "The body is empty",
        (
            "-F",
            "file=shoe.png",
        ): "send the bytes of the file: with curl, -F file=@shoe.png.",
        ("-d", "@shoe.png"): "line ends were removed or changed on the way; with curl, send it with --data-binary",
        ("-F", "file=data:image/png;base64,iVBORw0KGgoAAAANSUhEUgAAABwAAAAc"): "as base64 text",
    }.items():
        process = subprocess.run(
            ["curl", "-sS", *arguments, url], cwd=folder, capture_output=True, text=True, timeout=SECONDS, check=True
        )
        assert words in json.loads(process.stdout)["detail"]
