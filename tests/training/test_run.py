import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier.checkpoint import load
from classifier.classifier import Classifier
from training import run
from training.arguments import parse
from training.provenance import commit
from training.recipes import FAST

ROOT = Path(__file__).parents[2]
QUICK = ("--recipe", "tutorial", "--batch-size", "1000", "--device", "cpu")
ONE_THREAD = {"OMP_NUM_THREADS": "1"}  # a second one spins while it waits: on a busy machine that doubles the CPU time
KEYS = "recipe seed device epochs seconds parameters validation_loss test_loss test_accuracy output"


@contextmanager
def running(*arguments: str | Path) -> Iterator[subprocess.Popen[str]]:
    """The command in its own process, which handles SIGINT even where the tests ignore it, as in the background."""
    process = subprocess.Popen(
        [sys.executable, "-m", "training.run", *map(str, arguments)],
        cwd=ROOT,
        env=os.environ | ONE_THREAD,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )
    try:
        yield process
    finally:
        process.kill()
        process.wait()


def interrupt(process: subprocess.Popen[str], beginning: str) -> tuple[str, str]:
    """Sends SIGINT when a line starts with `beginning`; the output after it, and standard error."""
    assert process.stdout
    next(line for line in process.stdout if line.startswith(beginning))
    process.send_signal(signal.SIGINT)
    return process.communicate()


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--recipe", "slow"], "fast"),
        (["--epochs", "0"], "0 is not greater than 0"),
        (["--epochs", "many"], "invalid int value"),
        (["--batch-size", "-3"], "-3 is not greater than 0"),
        (["--lr", "nan"], "nan is not greater than 0"),
        (["--lr", "inf"], "inf is not greater than 0"),
        (["--seed", "-1"], "-1 is not from 0"),
        (["--seed", str(2**64)], "is not from 0"),
        (["--device", "tpu"], "cuda"),
        (["--frobnicate"], "--frobnicate"),
        (["shoe.png"], "shoe.png"),
        (["--weights", "imagenet.pt"], "--weights is for --recipe pretrained and --recipe photos"),
        (["--backbone", "resnet18"], "--backbone is for --recipe pretrained"),
        (["--photos", "photos"], "--photos is for --recipe photos"),
        (["--recipe", "photos"], "name their folder with --photos DIR"),
        (["--teacher", "best.pt"], "--teacher is for --recipe shipped"),
        (["--recipe", "shipped"], "name it with --teacher FILE"),
        (["--recipe", "shipped", "--teacher", "a.pt", "--output", "./a.pt"], "are the same file"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_a_wrong_argument_is_one_sentence_and_exit_code_2(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit) as caught:
        run.main(arguments)
    output = capsys.readouterr()
    assert caught.value.code == 2
    assert output.out == ""
    assert words in output.err
    assert output.err.count("\n") == 1


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--data-dir", "{}/missing"], "does not hold train-images-idx3-ubyte"),
        (["--output", "{}"], "is a folder"),
        (["--output", "/dev/null"], "is a folder or a device"),
        (["--output", "{}/file/model.pt"], "cannot be written"),
        (["--output", "{}/" + "x" * 300 + "/model.pt"], "File name too long"),
        (["--recipe", "shipped", "--teacher", "{}/missing.pt"], "missing.pt does not exist"),
        (["--device", "cuda" if not torch.cuda.is_available() else "mps"], "finds no"),
    ],
    ids=lambda value: value[0] if isinstance(value, list) else "",
)
def test_a_run_that_cannot_start_is_one_sentence_and_exit_code_1(
    arguments: list[str], words: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "file").touch()
    defaults = ["--output", str(tmp_path / "model.pt"), "--data-dir", str(tmp_path), "--device", "cpu"]
    assert run.main([*defaults, *(argument.format(tmp_path) for argument in arguments)]) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: ")
    assert words in output.err
    assert output.err.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["file"]
    assert Path(os.devnull).is_char_device()


def test_arguments_override_the_recipe() -> None:
    options = parse(["--epochs", "3", "--batch-size", "7", "--lr", "0.5"], "")
    recipe = run.customise(FAST, options)
    assert (recipe.epochs, recipe.batch_size, recipe.learning_rate) == (3, 7, 0.5)
    assert recipe.muon_learning_rate / FAST.muon_learning_rate == pytest.approx(0.5 / FAST.learning_rate)
    assert run.customise(FAST, parse([], "")) == FAST


def test_without_arguments_the_recipe_is_fast_and_the_seed_0() -> None:
    options = parse([], "")
    assert (options.recipe, options.seed, options.device) == ("fast", 0, "auto")
    assert str(options.output) == "models/model_scratch.pt"


def test_the_commit_is_a_hash_or_unknown() -> None:
    assert re.fullmatch(r"[0-9a-f]{40,64}|unknown", commit())


def finished(*arguments: str | Path) -> tuple[int, str, str]:
    with running(*arguments) as process:
        output, errors = process.communicate()
        return process.returncode, output, errors


@pytest.fixture(scope="module")
def finished_run(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, str]:
    """The folder with the checkpoint and the report of a run, and what it printed."""
    folder = tmp_path_factory.mktemp("run")
    arguments = ("--epochs", "1", "--seed", "7", "--output", folder / "models/model.pt", "--report", folder / "report")
    code, text, errors = finished(*QUICK, *arguments)
    assert (code, errors) == (0, "")
    return folder, text


@pytest.mark.data
@pytest.mark.timeout(600)
def test_a_run_ends_with_a_checkpoint_a_report_and_a_line_of_json(finished_run: tuple[Path, str]) -> None:
    folder, text = finished_run
    output = folder / "models/model.pt"
    result: dict[str, Any] = json.loads(text.splitlines()[-1])
    assert set(KEYS.split()) <= result.keys()
    assert (result["recipe"], result["seed"], result["epochs"], result["parameters"]) == ("tutorial", 7, 1, 11_252)
    assert result["output"] == str(output)
    assert f"python -m service --model {output}" in text
    pictures = list((folder / "report").iterdir())
    assert {picture.name for picture in pictures} == {
        "report.html", "samples.png", "curves.png", "confusion.png", "reliability.png", "familiarity.png", "sets.png",
        "mistakes.png",
    }  # fmt: skip
    assert all(picture.stat().st_size > 5_000 for picture in pictures)

    assert [path.name for path in output.parent.iterdir()] == ["model.pt"]
    checkpoint = load(output)
    assert checkpoint.metrics["test_accuracy"] == result["test_accuracy"]
    facts = {"recipe", "settings", "seed", "epochs", "seconds", "history", "device", "versions", "data", "commit"}
    assert facts <= checkpoint.training.keys()
    Classifier(checkpoint, torch.device("cpu")).smoke_test("x.pt")


@pytest.mark.data
@pytest.mark.timeout(600)
def test_equal_seeds_give_equal_checkpoints(tmp_path: Path, finished_run: tuple[Path, str]) -> None:
    code, _, _ = finished(*QUICK, "--epochs", "1", "--seed", "7", "--output", tmp_path / "again.pt")
    assert code == 0
    first, again = load(finished_run[0] / "models/model.pt"), load(tmp_path / "again.pt")
    assert first.calibration == again.calibration
    assert all(torch.equal(tensor, again.state_dict[name]) for name, tensor in first.state_dict.items())


@pytest.mark.data
@pytest.mark.timeout(600)
def test_ctrl_c_after_an_epoch_leaves_its_checkpoint_and_exit_code_130(tmp_path: Path) -> None:
    output = tmp_path / "model.pt"
    with running(*QUICK, "--epochs", "1000", "--output", output) as process:
        text, errors = interrupt(process, "epoch")
    assert (process.returncode, errors) == (130, "")
    result = json.loads(text.splitlines()[-1])
    assert 1 <= result["epochs"] < 1000
    assert load(output).training["epochs"] == result["epochs"]
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "model.pt.resume"}


@pytest.mark.data
@pytest.mark.timeout(600)
def test_ctrl_c_in_the_first_epoch_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "model.pt"
    output.write_bytes(b"old")
    with running("--recipe", "tutorial", "--device", "cpu", "--output", output) as process:
        _, errors = interrupt(process, "Recipe")
    assert process.returncode == 130
    assert errors == "Interrupted.\n"
    assert output.read_bytes() == b"old"
    assert {path.name for path in tmp_path.iterdir()} - {"model.pt.resume"} == {"model.pt"}


@pytest.mark.data
@pytest.mark.timeout(600)
def test_a_diverging_run_is_one_sentence_and_leaves_the_old_checkpoint(tmp_path: Path) -> None:
    output = tmp_path / "model.pt"
    output.write_bytes(b"old")
    code, _, errors = finished(*QUICK, "--lr", "1e30", "--output", output)
    assert code == 1
    assert re.fullmatch(r"error: [^\n]*smaller --lr\.\n", errors)
    assert output.read_bytes() == b"old"


@pytest.mark.data
@pytest.mark.timeout(600)
def test_the_default_recipe_learns_in_one_epoch(tmp_path: Path) -> None:
    code, text, _ = finished("--batch-size", "500", "--epochs", "1", "--output", tmp_path / "model.pt")
    assert code == 0
    result = json.loads(text.splitlines()[-1])
    assert load(tmp_path / "model.pt").recipe == result["recipe"] == "fast"
    assert result["test_accuracy"] > 0.75


@pytest.mark.data
@pytest.mark.timeout(600)
def test_knowledge_distillation_names_the_teacher_in_the_checkpoint(tmp_path: Path, tiny_checkpoint: Path) -> None:
    output = tmp_path / "model.pt"
    code, text, _ = finished(
        "--recipe", "shipped", "--epochs", "1", "--teacher", tiny_checkpoint, "--output", output
    )  # fmt: skip
    assert code == 0
    teacher = load(tiny_checkpoint).model
    assert f"Knowledge distillation: computing the logits of the teacher, {teacher}." in text
    assert load(output).training["settings"]["teacher"] == teacher
