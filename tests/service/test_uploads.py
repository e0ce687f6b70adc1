"""What a request may bring, and how it is refused; over the running app."""

import httpx
import pytest

from tests.service.conftest import SHOE

PICTURE = SHOE.read_bytes()
FORM = {"Content-Type": "multipart/form-data; boundary=x"}


def part(name: str, content: bytes = PICTURE) -> bytes:
    return b'--x\r\nContent-Disposition: form-data; name="%s"; filename="a"\r\n\r\n%s\r\n' % (name.encode(), content)


@pytest.mark.parametrize(
    "content_type",
    [
        *(None, "", "application/octet-stream", "application/x-www-form-urlencoded", "image/png", "IMAGE/JPEG"),
        *("text/plain;charset=UTF-8", "application/json", "multipart/mixed; boundary=x", "multipart/form-datax", "png"),
        *("binary/octet-stream", "*/*", ";", "multipart"),
    ],
)
def test_a_body_that_is_no_form_is_the_picture(client: httpx.Client, content_type: str | None) -> None:
    headers = {} if content_type is None else {"Content-Type": content_type}
    assert client.post("/predict", content=PICTURE, headers=headers).status_code == 200
    for content in (b"hello", b'{"file": "shoe.png"}', b"file=shoe.png"):
        answer = client.post("/predict", content=content, headers=headers)
        assert (answer.status_code, list(answer.json())) == (415, ["detail"])


def test_an_empty_body_is_no_picture(client: httpx.Client) -> None:
    for kind in ("", "application/octet-stream", "application/json"):
        assert client.post("/predict", headers={"Content-Type": kind}).status_code == 422
    assert client.post("/predict", headers={"Content-Type": "image/png"}).status_code == 400


@pytest.mark.parametrize("kind", ["application/json", "image/png", "text/plain", ""])
def test_a_form_under_another_type_is_told(client: httpx.Client, kind: str) -> None:
    answer = client.post("/predict", content=part("file") + b"--x--\r\n", headers={"Content-Type": kind})
    assert answer.status_code == 415
    sentence = f"The body is a form, but its Content-Type is '{kind}'; let the client set this header."
    assert answer.json()["detail"] == sentence


@pytest.mark.parametrize("coding", ["gzip", "br", "deflate", "x-gzip", "gzip, identity", "zstd"])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_an_encoded_body_is_refused_by_its_coding(client: httpx.Client, path: str, coding: str) -> None:
    answer = client.post(path, files={"file": PICTURE}, headers={"Content-Encoding": coding})
    assert answer.status_code == 415
    assert f"Content-Encoding '{coding}'" in answer.json()["detail"]


@pytest.mark.parametrize("coding", ["identity", "Identity", ""])
def test_the_coding_identity_is_none(client: httpx.Client, coding: str) -> None:
    assert client.post("/predict", files={"file": PICTURE}, headers={"Content-Encoding": coding}).status_code == 200


@pytest.mark.parametrize("kind", ["multipart/form-data", "multipart/form-data; charset=utf-8", "Multipart/Form-Data;"])
@pytest.mark.parametrize("path", ["/predict", "/predict/batch"])
def test_a_form_without_boundary_says_who_sets_it(client: httpx.Client, path: str, kind: str) -> None:
    answer = client.post(path, content=part("file") + b"--x--\r\n", headers={"Content-Type": kind})
    assert answer.status_code == 400
    sentence = "The Content-Type multipart/form-data names no boundary; let the client set this header."
    assert answer.json()["detail"] == sentence


def test_a_boundary_that_the_body_lacks_is_told(client: httpx.Client) -> None:
    answer = client.post(
        "/predict", content=part("file") + b"--x--\r\n", headers={"Content-Type": FORM["Content-Type"] + "y"}
    )
    assert answer.status_code == 400
    assert answer.json()["detail"].endswith("let the client set this header.")


@pytest.mark.parametrize(
    ("fields", "named"),
    [
        (["image"], "the field 'image'"),
        (["image", "files"], "the fields 'image', 'files'"),
        (["file[]", "file[]"], "the field 'file[]'"),
        (["a", "b", "c", "d", "e", "f"], "the fields 'a', 'b', 'c', 'd' and 2 more"),
        (["a\x1bb" + "c" * 60], "the field 'a\\x1bb" + "c" * 34 + "...'"),
        ([], "no fields"),
    ],
)
def test_predict_names_the_fields_that_came(client: httpx.Client, fields: list[str], named: str) -> None:
    answer = client.post("/predict", content=b"".join(map(part, fields)) + b"--x--\r\n", headers=FORM)
    assert answer.status_code == 422
    assert answer.json() == {"detail": f"The form has {named}; send the picture in the field 'file'."}


def test_two_files_are_for_the_batch(client: httpx.Client) -> None:
    answer = client.post("/predict", files=[("file", PICTURE), ("file", PICTURE)])
    assert answer.status_code == 422
    assert answer.json()["detail"].endswith("fields 'file', /predict takes one; send several to /predict/batch.")


@pytest.mark.parametrize(
    "names", [["file[]", "file[]"], ["files", "files"], ["files[]"], ["file[0]", "files[1]", "file"]]
)
def test_a_batch_takes_the_usual_names_of_several_files(client: httpx.Client, names: list[str]) -> None:
    answer = client.post("/predict/batch", content=b"".join(map(part, names)) + b"--x--\r\n", headers=FORM)
    assert (answer.status_code, len(answer.json()["predictions"])) == (200, len(names))


def test_a_batch_names_the_fields_that_came(client: httpx.Client) -> None:
    answer = client.post("/predict/batch", content=part("image") + part("file[x]") + b"--x--\r\n", headers=FORM)
    assert answer.status_code == 422
    assert answer.json()["detail"].startswith("The form has the fields 'image', 'file[x]'; ")
    answer = client.post("/predict/batch", content=PICTURE, headers={"Content-Type": "image/png"})
    assert answer.status_code == 422
    assert answer.json()["detail"].endswith("send a single picture as the body to /predict.")


def test_a_preamble_is_accepted(client: httpx.Client) -> None:
    form = b"This is a message in MIME format.\r\n" + part("file") + b"--x--\r\nand an epilogue"
    assert client.post("/predict", content=form, headers=FORM).status_code == 200
