"""POST /explain: the prediction of /predict and what it rests on, within limits of size and waiting."""

import asyncio
import base64
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pytest
import torch
from numpy.typing import NDArray
from PIL import Image

from classifier.checkpoint import Checkpoint, save
from classifier.networks import ARCHITECTURES
from classifier.preprocessing import prepare
from service.settings import Settings
from tests.service.conftest import SHOE, encoded, serving
from tests.service.test_app import REFUSALS
from tests.service.test_error_sentences import UPLOADS
from tests.service.test_photos import FASHION, PHOTOS

PICTURE = SHOE.read_bytes()
MAX_BYTES = 40_000
HEALTH_SECONDS = 0.1
ROUNDS = 20
NETWORKS: dict[str, tuple[str, dict[str, Any]]] = {
    "Net": ("Net", {"sigmoid": True}),
    "largest maps": ("ConvNet", {"widths": (16, 16), "blocks": (3, 0), "side": 28}),
    "most features": ("ConvNet", {"widths": (8, 128), "blocks": (0, 1), "side": 14, "tta_views": 6}),
    "Pretrained": ("Pretrained", {"backbone": "test_resnet", "side": 160}),
    "no maps": ("Pretrained", {"backbone": "test_vit", "side": 160}),
    "too large": ("ConvNet", {"widths": (130, 130), "blocks": (0, 0), "side": 28}),
}


@pytest.fixture(scope="module")
def both(tiny_checkpoint: Path, photo_checkpoint: Path) -> Iterator[httpx.Client]:
    """A client of a service with both networks."""
    with serving(Settings(model=tiny_checkpoint, photo_model=photo_checkpoint)) as client:
        yield client


def values(maps: dict[str, Any], count: int) -> NDArray[np.float64]:
    """The maps of a stage or of the evidence, float64 [count, height, width]."""
    levels = np.frombuffer(base64.b64decode(maps["data"]), np.uint8).reshape(count, maps["height"], maps["width"])
    decoded: NDArray[np.float64] = maps["low"] + levels / 255 * (maps["high"] - maps["low"])
    return decoded


def check_answer(answer: dict[str, Any]) -> None:
    """Checks that everything in an answer has the size that it says."""
    seen = answer["seen"]
    assert len(base64.b64decode(seen["data"])) == seen["channels"] * seen["height"] * seen["width"]
    assert len(answer["logits"]) == 10
    logits = np.array(answer["logits"]) / answer["temperature"]
    probabilities = np.exp(logits - logits.max())
    assert list(answer["probabilities"].values()) == pytest.approx(list(probabilities / probabilities.sum()))
    for stage in answer["stages"]:
        values(stage, len(stage["channels"]))
        assert stage["low"] <= stage["high"]
        assert stage["receptive_field"].keys() == {"size", "stride", "start"}
    if answer["evidence"]:
        values(answer["evidence"], 10)
        assert answer["evidence"]["low"] == -answer["evidence"]["high"]


@pytest.mark.parametrize("picture", [*FASHION.values(), *PHOTOS.values()], ids=[*FASHION, *PHOTOS])
def test_the_prediction_is_that_of_predict(both: httpx.Client, picture: bytes) -> None:
    predicted = both.post("/predict", files={"file": picture}).json()
    for answer in (
        both.post("/explain", files={"file": picture}),
        both.post("/explain", content=picture, headers={"Content-Type": "image/png"}),
    ):
        assert answer.status_code == 200
        assert len(answer.content) <= MAX_BYTES
        explained = answer.json()
        assert {name: explained[name] for name in predicted} == predicted
        check_answer(explained)


def test_what_the_network_saw_is_shown(both: httpx.Client) -> None:
    seen = both.post("/explain", content=PICTURE).json()["seen"]
    assert (seen["channels"], seen["height"], seen["width"]) == (1, 28, 28)
    assert base64.b64decode(seen["data"]) == Image.open(SHOE).convert("L").tobytes()
    seen = both.post("/explain", content=PHOTOS["PNG"]).json()["seen"]
    assert (seen["channels"], seen["height"], seen["width"]) == (3, 80, 80)
    pixels = prepare(PHOTOS["PNG"], photos=True).pixels.astype(float)
    means = pixels.reshape(3, 80, 2, 80, 2).mean(axis=(2, 4)).transpose(1, 2, 0)
    levels = np.frombuffer(base64.b64decode(seen["data"]), np.uint8).reshape(80, 80, 3)
    np.testing.assert_allclose(levels, means, atol=0.5)


@pytest.mark.parametrize("photo", [False, True], ids=["28×28", "photo"])
def test_the_first_maps_can_be_computed_from_the_model_page(both: httpx.Client, photo: bool) -> None:
    explained = both.post("/explain", content=PHOTOS["PNG"] if photo else PICTURE).json()
    layer = both.get("/model").json()["networks"][photo]["first_layer"]
    pixels = prepare(PHOTOS["PNG"] if photo else PICTURE, photos=photo).pixels
    stage = explained["stages"][0]
    x = (torch.from_numpy(pixels[None]).double() - layer["mean"]) / layer["std"]
    before = layer["padding"]
    x = torch.nn.functional.pad(x, (before, 1, before, 1))  # the filters have an odd side
    weights, bias = (torch.tensor(layer[name], dtype=torch.float64) for name in ("weights", "bias"))
    maps = torch.nn.functional.conv2d(x, weights, bias, layer["stride"])[0, stage["channels"]]
    reduced = torch.nn.functional.adaptive_avg_pool2d(maps, (stage["height"], stage["width"])).numpy()
    half_a_step = (stage["high"] - stage["low"]) / 255 / 2
    assert np.abs(values(stage, len(stage["channels"])) - reduced).max() <= half_a_step + 2e-5 * np.abs(reduced).max()


def test_evidence_and_features(both: httpx.Client) -> None:
    explained = both.post("/explain", content=PICTURE).json()
    assert explained["evidence"]["method"] == "occlusion"
    assert explained["evidence"]["source"].startswith("Zeiler and Fergus 2014")
    assert (explained["evidence"]["height"], explained["evidence"]["width"]) == (12, 12)
    assert len(explained["features"]["values"]) == 16
    explained = both.post("/explain", content=PHOTOS["PNG"]).json()
    assert explained["evidence"]["method"] == "class activation map"
    assert explained["evidence"]["source"].startswith("Zhou et al. 2016")
    assert (explained["evidence"]["height"], explained["evidence"]["width"]) == (5, 5)
    assert explained["features"] is None


@pytest.mark.parametrize("name", NETWORKS)
def test_every_architecture_is_explained_in_few_bytes(name: str, tmp_path: Path) -> None:
    architecture, arguments = NETWORKS[name]
    torch.manual_seed(0)
    weights = ARCHITECTURES[architecture](**arguments).state_dict()
    save(Checkpoint(architecture, arguments, weights, training={"recipe": "x" * 40}), tmp_path / "model.pt")
    noise = encoded(Image.effect_noise((28, 28), 100))
    with serving(Settings(model=tmp_path / "model.pt", max_batch=2)) as client:
        answer = client.post("/explain", content=noise)
        assert answer.status_code == 200
        predicted = client.post("/predict", content=noise).json()
        networks = client.get("/model").json()["networks"]
    explained = answer.json()
    assert len(answer.content) <= MAX_BYTES
    check_answer(explained)
    assert {field: explained[field] for field in predicted} == predicted
    assert explained["views"] == arguments.get("tta_views", 1)
    assert (explained["evidence"] is None) == (name == "too large")
    assert (networks[0]["first_layer"]["weights"] is None) == (architecture == "Pretrained")


@pytest.mark.parametrize("case", REFUSALS)
def test_a_refused_picture_is_refused_as_by_predict(client: httpx.Client, case: str) -> None:
    content, status, _ = REFUSALS[case]
    explained, predicted = (client.post(path, files={"file": content}) for path in ("/explain", "/predict"))
    assert (explained.status_code, explained.json()) == (predicted.status_code, predicted.json())
    assert explained.status_code == status


@pytest.mark.parametrize("upload", [upload for upload in UPLOADS if upload[0] == "/predict"])
def test_a_refused_upload_is_refused_as_by_predict(client: httpx.Client, upload: tuple[str, str, bytes]) -> None:
    _, kind, content = upload
    explained, predicted = (
        client.post(path, content=content, headers={"Content-Type": kind}) for path in ("/explain", "/predict")
    )
    assert (explained.status_code, explained.json()) == (predicted.status_code, predicted.json())


def test_without_a_model_there_is_no_explanation(tmp_path: Path) -> None:
    with serving(Settings(model=tmp_path / "gone.pt")) as client:
        for answer in (client.post("/explain", content=PICTURE), client.get("/model")):
            assert answer.status_code == 503
            assert answer.headers["Retry-After"] == "1"
            assert answer.json()["detail"].startswith("gone.pt does not exist")


def test_an_explanation_that_waits_for_too_long_is_refused() -> None:
    settings = Settings(model=Path("models/model_scratch.pt"), max_wait_seconds=0.2)

    async def ask(url: httpx.URL) -> list[httpx.Response]:
        async with httpx.AsyncClient(base_url=url, timeout=20) as client:
            return await asyncio.gather(*(client.post("/explain", content=PICTURE) for _ in range(40)))

    with serving(settings) as client:
        answers = asyncio.run(ask(client.base_url))
        assert client.post("/explain", content=PICTURE).status_code == 200
    assert {answer.status_code for answer in answers} == {200, 503}
    for answer in answers:
        if answer.status_code == 503:
            assert answer.headers["Retry-After"] == "1"
            assert "over the limit of 0.2 s; try again later." in answer.json()["detail"]


def test_explanations_at_once_are_those_alone(both: httpx.Client) -> None:
    pictures = [PICTURE, PHOTOS["PNG"], FASHION["grey on white"], PHOTOS["JPEG"]] * 3

    def ask(picture: bytes) -> bytes:
        return both.post("/explain", content=picture).content

    alone = [ask(picture) for picture in pictures]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, pictures)) == alone


@pytest.mark.parametrize("photo", [False, True], ids=["28×28", "photo"])
def test_health_is_answered_while_explanations_run(photo_checkpoint: Path, photo: bool) -> None:
    settings = Settings(model=Path("models/model_scratch.pt"), photo_model=photo_checkpoint)
    picture = PHOTOS["PNG"] if photo else PICTURE
    stop = threading.Event()
    explained: list[int] = []

    def explain(url: httpx.URL) -> None:
        with httpx.Client(base_url=url, timeout=20) as client:
            while not stop.is_set():
                explained.append(client.post("/explain", content=picture).status_code)

    with serving(settings) as client:
        threads = [threading.Thread(target=explain, args=(client.base_url,)) for _ in range(2)]
        for thread in threads:
            thread.start()
        try:
            times: list[float] = []
            while len(times) < ROUNDS or not explained:
                begin = time.perf_counter()
                assert client.get("/health").status_code == 200
                times.append(time.perf_counter() - begin)
        finally:
            stop.set()
            for thread in threads:
                thread.join()
    assert set(explained) == {200}
    assert sorted(times)[len(times) // 2] < HEALTH_SECONDS
