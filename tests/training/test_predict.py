import io
import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from rich.console import Console

from classifier.classifier import Classifier
from classifier.networks import CLASSES
from classifier.preprocessing import Input
from training import predict
from training.data import Images

PNG: Input = {"format": "PNG", "width": 28, "height": 28, "adapted": []}


@pytest.fixture
def pictures(tmp_path: Path, tiny_images: Images) -> list[Path]:
    paths = [tmp_path / f"{index}.png" for index in range(3)]
    for path, pixels in zip(paths, tiny_images.pixels, strict=False):
        Image.fromarray(pixels[0].numpy()).save(path)
    return paths


def test_several_files_are_predicted_in_order(
    pictures: list[Path], tiny_checkpoint: Path, tiny_images: Images, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([*map(str, pictures), "--checkpoint", str(tiny_checkpoint), "--device", "cpu"]) == 0
    output = capsys.readouterr()
    classifier = Classifier.load(tiny_checkpoint, "cpu")
    expected = [
        {"file": str(path), **classifier.predict(pixels[None])[0], "input": PNG}
        for path, pixels in zip(pictures, tiny_images.array(), strict=False)
    ]
    assert json.loads(output.out.splitlines()[-1]) == {"predictions": expected}
    assert output.err == ""
    for path, prediction in zip(pictures, expected, strict=True):
        assert f"{path}: {prediction['class']} ({prediction['confidence']:.1%})" in output.out
    assert all(output.out.count(name) >= len(pictures) for name in CLASSES)


def test_a_bad_file_is_one_sentence_and_the_others_are_predicted(
    pictures: list[Path], tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bad = {name: tmp_path / name for name in ("text.txt", "missing.png", "folder", "half.png", "large.bmp", "empty")}
    bad["text.txt"].write_text("shoe")
    bad["folder"].mkdir()
    bad["half.png"].write_bytes(pictures[0].read_bytes()[:60])
    bad["large.bmp"].write_bytes(b"BM" + bytes(predict.MAX_BYTES))
    bad["empty"].touch()
    paths = [pictures[0], *bad.values(), pictures[1]]
    assert predict.main([*map(str, paths), "--checkpoint", str(tiny_checkpoint)]) == 1
    output = capsys.readouterr()
    predictions = json.loads(output.out.splitlines()[-1])["predictions"]
    assert [prediction["file"] for prediction in predictions] == [str(path) for path in paths]
    assert ["class" in prediction for prediction in predictions] == [True, *[False] * len(bad), True]
    assert output.err.splitlines() == [f"{p['file']}: {p['detail']}" for p in predictions[1:-1]]
    for sentence, words in zip(
        output.err.splitlines(),
        ["text, not a picture", "No such file", "directory", "PNG", "10,485,760", "empty"],
        strict=True,
    ):
        assert words in sentence


@pytest.mark.parametrize("name", ["[red]shoe.png", "[/]shoe.png", ":shoe:.png", "my shoe: 50%.png", "Schuhgröße.png"])
def test_any_file_name_is_printed_as_it_is(
    name: str, pictures: list[Path], tmp_path: Path, tiny_checkpoint: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / name).parent.mkdir(exist_ok=True)
    path = pictures[0].rename(tmp_path / name)
    assert predict.main([str(path), "--checkpoint", str(tiny_checkpoint)]) == 0
    assert f"{path}: " in capsys.readouterr().out


def test_a_missing_checkpoint_is_one_sentence(
    pictures: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(pictures[0]), "--checkpoint", str(tmp_path / "no.pt")]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err == f"error: {tmp_path}/no.pt does not exist: train it with `python -m training.run`.\n"


def test_the_command_runs_as_a_module(pictures: list[Path], tutorial_state_dict: Path) -> None:
    command = [sys.executable, "-m", "training.predict", str(pictures[0]), "--checkpoint", str(tutorial_state_dict)]
    process = subprocess.run(command, cwd=Path(__file__).parents[2], capture_output=True, text=True)
    assert (process.returncode, process.stderr) == (0, "")
    [prediction] = json.loads(process.stdout.splitlines()[-1])["predictions"]
    assert prediction["model"].startswith("tutorial-")
    assert sum(prediction["probabilities"].values()) == pytest.approx(1, abs=1e-6)


def test_a_line_of_text_shows_two_rows_of_pixels() -> None:
    pixels = np.arange(28 * 28).reshape(1, 28, 28).astype(np.uint8)
    text = predict.half_blocks(pixels)
    assert text.plain == ("▀" * 28 + "\n") * 14
    assert str(text.spans[29].style) == f"rgb({2 * 28 + 1},{2 * 28 + 1},{2 * 28 + 1}) on rgb(85,85,85)"


@pytest.mark.parametrize("environment", [{"NO_COLOR": "1"}, {"TERM": "dumb"}], ids=["NO_COLOR", "dumb"])
def test_a_terminal_without_colours_shows_shades(
    environment: dict[str, str], tiny_checkpoint: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TERM", "xterm-256color")
    for name, value in environment.items():
        monkeypatch.setenv(name, value)
    stream = io.StringIO()
    console = Console(file=stream, force_terminal=True, markup=False, emoji=False, highlight=False)
    pixels = np.tile(np.linspace(0, 255, 28).astype(np.uint8), (1, 28, 1))
    [prediction] = Classifier.load(tiny_checkpoint, "cpu").predict(pixels[None])
    predict.print_prediction(console, Path("shoe.png"), pixels, prediction, PNG)
    assert "▀" not in stream.getvalue()
    rows = [line for line in stream.getvalue().splitlines() if line.endswith("@")]
    assert len(rows) == 14


def test_what_a_bare_state_dict_is_assumed_to_be_is_said(
    pictures: list[Path], tutorial_state_dict: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert predict.main([str(pictures[0]), "--checkpoint", str(tutorial_state_dict)]) == 0
    assert "pixels / 255 and no Normalize, no ReLU behind the convolutions, and a sigmoid" in capsys.readouterr().out
