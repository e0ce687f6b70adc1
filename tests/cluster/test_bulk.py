"""Bulk scoring on Ray Data: every picture is predicted once, as by /predict. Needs the extra `cluster`."""

import json
import shutil
import threading
import time
from collections.abc import Iterator
from itertools import islice, repeat
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

pytest.importorskip("ray.data")
import pyarrow as pa
from pyarrow import dataset, parquet
from rich.console import Console

from classifier.classifier import Classifier
from classifier.preprocessing import prepare
from service import bulk_input, bulk_output, bulk_progress
from tests.cluster.conftest import MODEL, PHOTOS, ROWS, Refusal, png, read, record_of, run_bulk
from training import data
from training.metrics import all_logits

pytestmark = [pytest.mark.cluster, pytest.mark.timeout(600)]


def test_a_folder_gives_what_predict_gives(tmp_path: Path, pictures: list[bytes]) -> None:
    folder, output = tmp_path / "pictures", tmp_path / "predictions"
    (folder / "more").mkdir(parents=True)
    colours = np.random.default_rng(1).integers(256, size=(90, 120, 3), dtype=np.uint8)
    contents = {
        "a.png": pictures[0], "b.txt": b"no picture", "c.png": b"", "d.png": pictures[1][:-40],
        "more/photo.jpg": png(colours), "more/shoe.png": Path("shoe.png").read_bytes(),
    }  # fmt: skip
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    (folder / ".hidden.png").write_bytes(pictures[2])
    (folder / "large.png").write_bytes(pictures[3] + bytes(bulk_input.MAX_BYTES))
    result = run_bulk(folder, output, "--batch-size", 1)
    assert (result["rows"], result["errors"]) == (7, 4)

    rows = {row["path"].removeprefix(f"{folder}/"): row for row in read(output)}
    assert rows.keys() == {*contents, "large.png"}
    assert rows["large.png"]["error"].endswith(f"over the limit of {bulk_input.MAX_BYTES:,}.")
    classifiers = {loaded.shape: loaded for loaded in (Classifier.load(MODEL), Classifier.load(PHOTOS))}
    for name in ("a.png", "more/photo.jpg", "more/shoe.png"):
        pixels = prepare(contents[name], photos=True).pixels
        [expected] = classifiers[pixels.shape].predict(pixels[None])
        found = {key: rows[name][key] for key in expected}
        assert found["class"] == expected["class"]
        assert found["model"] == expected["model"]
        assert found["prediction_set"] == expected["prediction_set"]
        assert found["probabilities"] == pytest.approx(expected["probabilities"], abs=1e-5)
        assert rows[name]["error"] is None
    for name in ("b.txt", "c.png", "d.png"):
        assert rows[name]["class"] is None
        assert rows[name]["error"].endswith(".")


def test_a_glob_names_files(tmp_path: Path, pictures: list[bytes]) -> None:
    folder = tmp_path / ".cache"  # a hidden folder that is named is read
    folder.mkdir()
    for name in ("a.png", "b.png", ".c.png", "d.gif"):
        (folder / name).write_bytes(pictures[0])
    assert bulk_input.list_pictures(str(folder / "*.png")).rows == 2
    assert bulk_input.list_pictures(str(folder)).rows == 3


def test_every_row_is_scored_once(undisturbed: list[dict[str, Any]]) -> None:
    assert [row["row"] for row in undisturbed] == list(range(ROWS))
    assert all(row["class"] and not row["error"] for row in undisturbed)


def test_files_have_at_most_the_rows_that_a_kill_may_cost(output: Path) -> None:
    counts = [parquet.read_metadata(path).num_rows for path in output.glob("*.parquet")]
    assert max(counts) <= bulk_input.MAX_BLOCK_ROWS


def test_another_run_is_refused(table: Path, tmp_path: Path, pictures: list[bytes], refusal: Refusal) -> None:
    output, record = tmp_path / "output", tmp_path / "output.resume"
    record.mkdir()
    (record / bulk_output.RUN_FILE).write_text(json.dumps(record_of(table)))
    assert "output.resume belongs to a run with another batch size (64)" in refusal(
        table, output, "--resume", "--batch-size", "32"
    )
    copy = tmp_path / "copy.parquet"
    parquet.write_table(pa.table({"image": pictures}), copy)
    assert "belongs to a run with another input" in refusal(copy, output, "--resume")
    output.mkdir()
    (output / "old.parquet").write_bytes(b"")
    assert f"{output} is not empty" in refusal(table, output)
    shutil.rmtree(record)
    assert "there is no" in refusal(table, output, "--resume")


def test_a_wrong_input_is_one_sentence(tmp_path: Path, refusal: Refusal) -> None:
    (tmp_path / "empty").mkdir()
    assert refusal(tmp_path / "empty", tmp_path / "output").endswith("empty holds no pictures.")
    assert refusal(tmp_path / "none", tmp_path / "output").endswith("none does not exist.")
    assert "no address" in refusal("ftp://somewhere/pictures", tmp_path / "output")
    (tmp_path / "broken.parquet").write_bytes(b"PAR1")
    assert "is no Parquet file" in refusal(tmp_path / "broken.parquet", tmp_path / "output")
    parquet.write_table(pa.table({"label": [1]}), tmp_path / "labels.parquet")
    assert "0 binary columns" in refusal(tmp_path / "labels.parquet", tmp_path / "output")
    assert "none.pt" in refusal("shoe.png", tmp_path / "output", "--checkpoint", tmp_path / "none.pt")
    assert not (tmp_path / "output").exists()


def seconds_until_stalled(progress: bulk_progress.Progress, steps: Iterator[str]) -> float:
    """How long a run of which each second reaches one of `steps`, and then nothing, is watched until it is ended."""
    over = threading.Event()
    thread = threading.Thread(target=over.wait)
    thread.start()

    def state() -> tuple[int, int]:
        for step in islice(steps, 1):
            progress.reach(step)
        return progress.state()

    begin = time.monotonic()
    with pytest.raises(bulk_progress.BulkError, match=r"no progress for \d s, after 7 of 10 pictures"):
        bulk_progress.watch(thread, state, 7, 10, Console(quiet=True), stall_seconds=1.5)
    over.set()
    thread.join()
    return time.monotonic() - begin


def test_a_run_without_progress_ends_with_a_sentence_also_at_its_start() -> None:
    assert seconds_until_stalled(bulk_progress.Progress(), iter(())) < 4
    assert seconds_until_stalled(bulk_progress.Progress(), iter(("scorer 1 starts", "scorer 1 has loaded"))) > 3


def test_a_step_that_is_repeated_is_no_progress() -> None:
    """As of a scorer that dies each time that it loads a network."""
    assert seconds_until_stalled(bulk_progress.Progress(), repeat("scorer 1 starts")) < 5


@pytest.fixture
def object_storage() -> Iterator[str]:
    """The endpoint of moto's S3."""
    server = pytest.importorskip("moto.server").ThreadedMotoServer("127.0.0.1", 0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"{host}:{port}"
    server.stop()


def test_object_storage_holds_input_and_output(
    object_storage: str, table: Path, undisturbed: list[dict[str, Any]], monkeypatch: pytest.MonkeyPatch
) -> None:
    credentials = {"AWS_ACCESS_KEY_ID": "test", "AWS_SECRET_ACCESS_KEY": "test"}
    for name, value in credentials.items():
        monkeypatch.setenv(name, value)
    query = f"?scheme=http&endpoint_override={object_storage}&region=us-east-1&allow_bucket_creation=true"
    filesystem, bucket = bulk_input.locate(f"s3://pictures{query}")
    filesystem.create_dir(bucket)
    with filesystem.open_output_stream(f"{bucket}/in/pictures.parquet") as file:
        file.write(table.read_bytes())
    result = run_bulk(f"s3://pictures/in/*.parquet{query}", f"s3://pictures/out{query}")
    assert result["rows"] == ROWS
    found = dataset.dataset(f"{bucket}/out", filesystem=filesystem).to_table().sort_by("row").to_pylist()
    assert [row["class"] for row in found] == [row["class"] for row in undisturbed]


@pytest.mark.data
@pytest.mark.long
def test_all_images_get_the_classes_of_evaluate(tmp_path: Path) -> None:
    """In structs, as datasets of Hugging Face have them, and with a row without a picture at the end."""
    pixels = np.concatenate([images.array() for images in data.load()])
    structs = [*({"bytes": png(image[0]), "path": None} for image in pixels), None]
    parquet.write_table(pa.table({"label": [0] * len(structs), "picture": structs}), tmp_path / "images.parquet")
    result = run_bulk(tmp_path / "images.parquet", tmp_path / "output")
    assert (result["rows"], result["errors"]) == (len(structs), 1)
    rows = dataset.dataset(tmp_path / "output").to_table(columns=["row", "path", "index", "error"]).sort_by("row")
    assert rows["path"].to_pylist() == [f"{tmp_path}/images.parquet#{number}" for number in range(len(structs))]
    assert rows["error"].to_pylist() == [None] * len(pixels) + ["The row holds no picture."]
    images = data.Images(torch.from_numpy(pixels), torch.zeros(len(pixels), dtype=torch.int64))
    expected = all_logits(Classifier.load(MODEL, "cpu"), images).argmax(dim=1).numpy()
    assert (rows["index"][:-1].to_numpy() != expected).sum() == 0
