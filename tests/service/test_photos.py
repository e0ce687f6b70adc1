"""Two networks: one for images of Fashion-MNIST, one for every other picture."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest
from PIL import Image, ImageOps

from classifier.checkpoint import load
from classifier.classifier import Classifier
from classifier.preprocessing import prepare
from service.settings import Settings, load_settings
from tests.service.conftest import SHOE, Service, encoded, poll, serving, started

NOISE = np.random.default_rng(0).integers(0, 256, (30, 40, 3), dtype=np.uint8)
PHOTO = Image.fromarray(NOISE).resize((400, 300))
GARMENT = Image.open(SHOE).resize((280, 280), Image.Resampling.NEAREST)  # an enlarged image of Fashion-MNIST
FASHION = {
    "28x28": SHOE.read_bytes(),
    "28x28 in colour": encoded(PHOTO.resize((28, 28))),
    "grey on black": encoded(GARMENT),
    "grey on white": encoded(ImageOps.invert(GARMENT), "JPEG"),
}
PHOTOS = {format: encoded(PHOTO, format) for format in ("PNG", "JPEG", "WEBP", "AVIF", "BMP")} | {
    "large": encoded(PHOTO.resize((3000, 2000)), "JPEG"),
    "29x28": encoded(PHOTO.resize((29, 28))),
    "grey and cluttered": encoded(PHOTO.convert("L")),
}


@pytest.fixture(scope="module")
def client(tiny_checkpoint: Path, photo_checkpoint: Path) -> Iterator[httpx.Client]:
    with serving(Settings(model=tiny_checkpoint, photo_model=photo_checkpoint)) as client:
        yield client


def model_of(client: httpx.Client, picture: bytes) -> str:
    answer = client.post("/predict", files={"file": picture})
    assert answer.status_code == 200, answer.text
    return str(answer.json()["model"])


@pytest.mark.parametrize("picture", FASHION.values(), ids=FASHION)
def test_an_image_of_fashion_mnist_goes_to_its_network(client: httpx.Client, picture: bytes) -> None:
    assert model_of(client, picture).startswith("tiny-")


@pytest.mark.parametrize("picture", PHOTOS.values(), ids=PHOTOS)
def test_any_other_picture_goes_to_the_photo_network(
    client: httpx.Client, picture: bytes, photo_checkpoint: Path
) -> None:
    answer = client.post("/predict", files={"file": picture}).json()
    pixels, facts = prepare(picture, photos=True)
    [expected] = Classifier.load(photo_checkpoint, "cpu").predict(pixels[None])
    assert answer == {**expected, "input": facts}
    assert answer["model"] == load(photo_checkpoint).model
    assert set(answer["prediction_set"]) == {"0.95", "0.99"}
    assert 0 <= answer["familiarity"] <= 1


def test_a_batch_may_hold_both(client: httpx.Client) -> None:
    pictures = [*FASHION.values(), *PHOTOS.values()]
    answer = client.post("/predict/batch", files=[("file", picture) for picture in pictures]).json()
    models = [prediction["model"].partition("-")[0] for prediction in answer["predictions"]]
    assert models == ["tiny"] * len(FASHION) + ["photos"] * len(PHOTOS)


def test_health_names_both_networks(client: httpx.Client, photo_checkpoint: Path) -> None:
    health = client.get("/health").json()
    assert (health["model"].partition("-")[0], health["photo_model"]) == ("tiny", load(photo_checkpoint).model)
    assert "photo_refused" not in health


def test_metrics_name_both_networks_and_time_the_main_one(photo_checkpoint: Path, tmp_path: Path) -> None:
    with serving(Settings(model=tmp_path / "gone.pt", photo_model=photo_checkpoint)) as client:
        page = client.get("/metrics").text
    assert f'fashion_mnist_model{{model="{load(photo_checkpoint).model}"}} 1.0' in page
    assert "fashion_mnist_model_loaded_timestamp_seconds 0.0" in page


def test_without_a_photo_network_every_picture_becomes_an_image_of_fashion_mnist(
    tiny_checkpoint: Path, tmp_path: Path
) -> None:
    with serving(Settings(model=tiny_checkpoint, photo_model=tmp_path / "photos.pt")) as client:
        health = client.get("/health").json()
        assert "photo_model" not in health
        assert health["photo_refused"].startswith("photos.pt does not exist")
        assert model_of(client, PHOTOS["PNG"]).startswith("tiny-")


def test_a_photo_network_that_comes_later_is_taken(
    tiny_checkpoint: Path, photo_checkpoint: Path, tmp_path: Path
) -> None:
    served = tmp_path / "photos.pt"
    with serving(Settings(model=tiny_checkpoint, photo_model=served)) as client:
        shutil.copy(photo_checkpoint, tmp_path / "next")
        os.replace(tmp_path / "next", served)
        for _ in poll():
            if "photo_model" in client.get("/health").json():
                break
        assert model_of(client, PHOTOS["PNG"]).startswith("photos-")
        served.write_bytes(b"broken")
        for _ in poll():
            if "photo_refused" in client.get("/health").json():
                break
        assert model_of(client, PHOTOS["PNG"]).startswith("photos-")


def test_a_network_in_the_place_of_the_other_is_refused(tiny_checkpoint: Path, photo_checkpoint: Path) -> None:
    with serving(Settings(model=photo_checkpoint, photo_model=tiny_checkpoint)) as client:
        health = client.get("/health")
        assert health.status_code == 503
        assert health.json()["detail"] == (
            "photos.pt is a network for photos; SERVICE_MODEL needs one for images of Fashion-MNIST."
        )
    with serving(Settings(model=tiny_checkpoint, photo_model=tiny_checkpoint)) as client:
        assert client.get("/health").json()["photo_refused"] == (
            "tiny.pt is a network for images of Fashion-MNIST; SERVICE_PHOTO_MODEL needs one for photos."
        )


def log_of(process: Service) -> str:
    """The log of a service, which is stopped."""
    process.terminate()
    assert process.stderr
    return process.stderr.read()


def test_the_start_says_which_network_answers_photos(tiny_checkpoint: Path, photo_checkpoint: Path) -> None:
    with started("--model", str(tiny_checkpoint), "--photo-model", str(photo_checkpoint)) as (process, _):
        log = log_of(process)
    said = "answers all but images of Fashion-MNIST; an empty SERVICE_PHOTO_MODEL switches it off."
    assert f"{load(photo_checkpoint).model} {said}" in log
    with started("--model", str(tiny_checkpoint), "--photo-model", "") as (process, _):
        log = log_of(process)
    assert "No photo network is served" in log


def test_an_empty_setting_switches_the_photo_network_off(monkeypatch: pytest.MonkeyPatch) -> None:
    assert load_settings().photo_model is None
    monkeypatch.delenv("SERVICE_PHOTO_MODEL")
    assert load_settings().photo_model == Path("models/photos.pt")
    assert load_settings(photo_model="other.pt").photo_model == Path("other.pt")
