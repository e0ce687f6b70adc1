"""Runs of service.bulk, as a command, and their input."""

import io
import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

MODEL, PHOTOS = Path("models/model_scratch.pt"), Path("models/photos.pt")
ROWS = 20_000  # four blocks or more


def png(pixels: np.ndarray) -> bytes:
    content = io.BytesIO()
    Image.fromarray(pixels).save(content, "PNG")
    return content.getvalue()


def command(*arguments: object, cores: str = "") -> list[str]:
    prefix = ["taskset", "--cpu-list", cores] if cores else []
    return [*prefix, sys.executable, "-m", "service.bulk", *map(str, arguments)]


def run_bulk(*arguments: object, cores: str = "", **environment: str) -> dict[str, Any]:
    """The last line of a run that succeeds."""
    done = subprocess.run(
        command(*arguments, cores=cores), capture_output=True, text=True, env=os.environ | environment, timeout=300
    )
    assert done.returncode == 0, done.stderr
    result: dict[str, Any] = json.loads(done.stdout.splitlines()[-1])
    return result


Refusal = Callable[..., str]


@pytest.fixture
def refusal(capsys: pytest.CaptureFixture[str]) -> Refusal:
    """The sentence of a run that is refused before Ray starts; nothing else may be printed."""
    from service import bulk

    def run(*arguments: object) -> str:
        assert bulk.main([str(argument) for argument in arguments]) == 1
        printed = capsys.readouterr()
        assert printed.out == ""
        [sentence] = printed.err.splitlines()
        return sentence

    return run


def read(output: Path) -> list[dict[str, Any]]:
    from pyarrow import dataset

    rows: list[dict[str, Any]] = dataset.dataset(output).to_table().sort_by("row").to_pylist()
    return rows


@pytest.fixture(scope="session")
def pictures() -> list[bytes]:
    """300 images of noise, 28×28, as PNG, each another one."""
    generator = np.random.default_rng(0)
    images = generator.integers(256, size=(300, 28, 28), dtype=np.uint8)
    images[:, ::27, ::27] = 0
    return [png(image) for image in images]


@pytest.fixture(scope="session")
def table(pictures: list[bytes], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A Parquet file with ROWS rows in one row group."""
    import pyarrow as pa  # of the extra `cluster`, which other tests in this folder do not need
    from pyarrow import parquet

    path = tmp_path_factory.mktemp("input") / "pictures.parquet"
    parquet.write_table(pa.table({"image": [pictures[row % len(pictures)] for row in range(ROWS)]}), path)
    return path


@pytest.fixture(scope="session")
def output(table: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The output of a run on `table` that nothing disturbed, on two cores."""
    output = tmp_path_factory.mktemp("output") / "predictions"
    run_bulk(table, output, cores="0-1")
    assert not output.with_name("predictions.resume").exists()
    return output


@pytest.fixture(scope="session")
def undisturbed(output: Path) -> list[dict[str, Any]]:
    return read(output)


def record_of(table: Path, batch_size: int = 64) -> dict[str, Any]:
    """What OUTPUT.resume says of a run."""
    from service import bulk, bulk_input, bulk_output

    models = bulk.load_models(bulk.CHECKPOINT, None)
    return bulk_output.describe(bulk_input.list_pictures(str(table)), models, batch_size)
