import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import httpx
import pytest
import torch
from PIL import Image

from classifier.classifier import Classifier
from classifier.networks import CLASSES
from classifier.preprocessing import prepare
from service.settings import Settings
from tests.service.conftest import SHOE, encoded, serving

PICTURE = SHOE.read_bytes()


def test_predict_answers_a_form(client: httpx.Client) -> None:
    response = client.post("/predict", files={"file": ("shoe.png", PICTURE, "image/png")})
    assert response.status_code == 200
    answer = response.json()
    assert answer["class"] == CLASSES[answer["index"]]
    assert list(answer["probabilities"]) == list(CLASSES)
    assert sum(answer["probabilities"].values()) == pytest.approx(1, abs=1e-6)
    assert answer["confidence"] == max(answer["probabilities"].values())
    assert re.fullmatch(r"tiny-[0-9a-f]{8}", answer["model"])


def test_predict_answers_a_bare_body_alike(client: httpx.Client) -> None:
    as_form = client.post("/predict", files={"file": PICTURE}).json()
    as_body = client.post("/predict", content=PICTURE, headers={"Content-Type": "image/png"}).json()
    assert as_form == as_body


@pytest.mark.parametrize("format", ["PNG", "BMP", "GIF", "WEBP", "JPEG", "AVIF"])
def test_predict_goes_by_content_not_by_name_or_type(client: httpx.Client, format: str) -> None:
    picture = encoded(Image.new("L", (40, 30), 200), format)
    response = client.post("/predict", files={"file": ("evil.exe", picture, "text/html")})
    assert response.status_code == 200


def test_predict_gives_what_the_classifier_gives(client: httpx.Client, tiny_checkpoint: Path) -> None:
    prepared = prepare(PICTURE)
    [expected] = Classifier.load(tiny_checkpoint, "cpu").predict(prepared.pixels[None])
    torch.set_num_threads(1)
    answer = client.post("/predict", files={"file": PICTURE}).json()
    assert answer == {**expected, "input": {"format": "PNG", "width": 28, "height": 28, "adapted": []}}


def test_predict_answers_many_at_once_as_if_alone(client: httpx.Client) -> None:
    pictures = [encoded(Image.effect_noise((28, 28), 10.0 + i)) for i in range(32)]

    def ask(picture: bytes) -> dict[str, float]:
        probabilities: dict[str, float] = client.post("/predict", files={"file": picture}).json()["probabilities"]
        return probabilities

    alone = [ask(picture) for picture in pictures]
    with ThreadPoolExecutor(32) as pool:
        together = list(pool.map(ask, pictures))
    for one, other in zip(alone, together, strict=True):
        assert one == pytest.approx(other, abs=1e-5)


def test_predict_repeats_itself_bit_for_bit(client: httpx.Client) -> None:
    answers = {client.post("/predict", files={"file": PICTURE}).text for _ in range(20)}
    assert len(answers) == 1


REFUSALS = {
    "an empty file": (b"", 400, "empty"),
    "a truncated PNG": (PICTURE[:200], 400, "PNG"),
    "a broken JPEG": (b"\xff\xd8\xff" + bytes(100), 400, "JPEG"),
    "too many bytes": (PICTURE + bytes(200_000), 413, "200,393 bytes, over the limit of 200,000"),
    "too many pixels": (encoded(Image.new("L", (301, 300))), 413, "90,300 pixels, over the limit of 90,000"),
    "too many JPEG pixels": (encoded(Image.new("L", (401, 400)), "JPEG"), 413, "160,400 pixels, over the limit"),
    "a text": (b"hello", 415, "This is text, not a picture; send the bytes of the file"),
    "a TIFF": (encoded(Image.new("L", (28, 28)), "TIFF"), 415, "This is a TIFF picture; send it as JPEG or PNG."),
    "an SVG": (b"<svg xmlns='http://www.w3.org/2000/svg'/>", 415, "This is an SVG drawing; send it as PNG."),
}


@pytest.mark.parametrize("case", REFUSALS)
def test_predict_refuses(client: httpx.Client, case: str) -> None:
    content, status, words = REFUSALS[case]
    response = client.post("/predict", files={"file": ("shoe.png", content, "image/png")})
    assert response.status_code == status
    assert response.json().keys() == {"detail"}
    assert words in response.json()["detail"]


def test_predict_refuses_a_request_without_file(client: httpx.Client) -> None:
    for response in (
        client.post("/predict"),
        client.post("/predict", files={"picture": PICTURE}),
        client.post("/predict", files=[("file", PICTURE), ("file", PICTURE)]),
    ):
        assert response.status_code == 422
        assert "'file'" in response.json()["detail"]


def test_predict_counts_bytes_without_content_length(client: httpx.Client) -> None:
    def endless() -> Iterator[bytes]:
        for _ in range(1_000):
            yield bytes(1_000)

    response = client.post("/predict", content=endless(), headers={"Content-Type": "image/png"})
    assert response.status_code == 413


def test_a_batch_is_answered_in_order_and_a_broken_picture_costs_the_others_nothing(client: httpx.Client) -> None:
    other = encoded(Image.new("L", (40, 30), 200))
    files = [("file", content) for content in (PICTURE, b"hello", other, PICTURE[:200], PICTURE)]
    predictions = client.post("/predict/batch", files=files).json()["predictions"]
    alone = [client.post("/predict", files={"file": content}) for _, content in files]
    for prediction, response in zip(predictions, alone, strict=True):
        if response.status_code == 200:
            assert prediction["probabilities"] == pytest.approx(response.json()["probabilities"], abs=1e-5)
        else:
            assert prediction == {**response.json(), "status": response.status_code}


def test_a_batch_has_limits(client: httpx.Client) -> None:
    assert client.post("/predict/batch", files=[("file", PICTURE)] * 64).status_code == 200
    assert client.post("/predict/batch", files=[("file", PICTURE)] * 65).status_code == 413
    assert client.post("/predict/batch", files=[("file", bytes(110_000))] * 2).status_code == 413
    assert client.post("/predict/batch", files={"picture": PICTURE}).status_code == 422
    assert client.post("/predict/batch", content=PICTURE, headers={"Content-Type": "image/png"}).status_code == 422


def test_unknown_addresses_and_methods_are_told_in_a_sentence(client: httpx.Client) -> None:
    assert client.get("/nothing%0A").json()["detail"].startswith("There is nothing at /nothing\\n; ")
    response = client.get("/predict")
    assert response.status_code == 405
    assert response.headers["Allow"] == "POST"
    assert response.json() == {"detail": "/predict takes POST, not GET."}


def test_health_names_device_and_model(client: httpx.Client) -> None:
    health = client.get("/health").json()
    assert health.keys() == {"status", "device", "runtime", "precision", "model"}
    assert (health["status"], health["device"], health["runtime"]) == ("ok", "cpu", "openvino")
    assert health["precision"] in ("bfloat16", "float32")
    assert health["model"] == client.post("/predict", files={"file": PICTURE}).json()["model"]
    assert client.get("/health/live").json() == {"status": "alive"}


@pytest.mark.parametrize("content", [None, b"", b"not a checkpoint"])
def test_without_a_model_the_service_stays_up_and_says_why(tmp_path: Path, content: bytes | None) -> None:
    model = tmp_path / "model_scratch.pt"
    if content is not None:
        model.write_bytes(content)
    with serving(Settings(model=model)) as client:
        health = client.get("/health")
        predict = client.post("/predict", files={"file": PICTURE})
        for response in (health, predict):
            assert response.status_code == 503
            assert "Retry-After" in response.headers
            assert response.json()["detail"].startswith("model_scratch.pt ")
            assert str(tmp_path) not in response.text
        assert client.get("/health/live").status_code == 200


def test_a_state_dict_of_the_tutorial_is_served(tutorial_state_dict: Path) -> None:
    with serving(Settings(model=tutorial_state_dict)) as client:
        answer = client.post("/predict", files={"file": PICTURE}).json()
    assert answer["model"].startswith("tutorial-")
    assert answer["confidence"] < 0.2321


def test_the_schema_is_complete(client: httpx.Client) -> None:
    schema = client.get("/openapi.json").json()
    predict = schema["paths"]["/predict"]["post"]
    assert predict["summary"] == "Predict"
    assert predict["requestBody"]["content"].keys() == {"multipart/form-data", "image/*"}
    assert predict["responses"].keys() == {"200", "400", "408", "413", "415", "422", "431", "500", "503"}
    for path in schema["paths"].values():
        for operation in path.values():
            for status, response in operation["responses"].items():
                if status == "304":
                    continue
                content = response["content"]["application/json"]
                if status == "200":
                    name = content["schema"]["$ref"].rpartition("/")[2]
                    assert "example" in schema["components"]["schemas"][name]
                else:
                    assert content["example"]["detail"].endswith(".")


@pytest.mark.data
@pytest.mark.timeout(600)
def test_all_test_images_get_what_evaluate_computes() -> None:
    from training import data
    from training.metrics import all_logits, evaluate

    model = Path("models/model_scratch.pt")
    _, test = data.load()
    classifier = Classifier.load(model, "cpu")
    evaluation = evaluate(classifier, test)
    probabilities = torch.tensor(list(map(classifier.probabilities, all_logits(classifier, test).tolist()))).double()
    pictures = [encoded(Image.fromarray(pixels[0].numpy())) for pixels in test.pixels]
    with serving(Settings(model=model)) as client, ThreadPoolExecutor(16) as pool:
        answers = list(pool.map(lambda picture: client.post("/predict", files={"file": picture}).json(), pictures))
    assert [answer["index"] for answer in answers] == evaluation.predicted.tolist()
    served = torch.tensor([list(answer["probabilities"].values()) for answer in answers], dtype=torch.float64)
    assert (served - probabilities).abs().max() < 1e-3
