"""What a run says about the file at --output, and how it ends when it cannot go on."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from classifier.checkpoint import Checkpoint, load, save
from classifier.networks import Net
from tests.training.test_run import ONE_THREAD, QUICK, ROOT, interrupt, running
from training import run


@pytest.mark.data
@pytest.mark.timeout(600)
def test_what_stands_at_the_output_is_said_and_an_interrupted_run_leaves_it(
    tmp_path: Path, tiny_checkpoint: Path
) -> None:
    output = Path(shutil.copy(tiny_checkpoint, tmp_path / "model.pt"))
    before = load(output)
    with running(*QUICK, "--epochs", "1000", "--output", output) as process:
        assert process.stdout
        first = process.stdout.readline()
        text, errors = interrupt(process, "epoch")
    assert first == (
        f"{output} holds {before.model}, ConvNet, {before.parameters:,} parameters, 50.00% on the test set. "
        "This run replaces it at its end, but not if interrupted.\n"
    )
    assert (process.returncode, errors) == (130, "")
    assert load(output).sha256 == before.sha256
    result = json.loads(text.splitlines()[-1])
    beside = tmp_path / "model.interrupted.pt"
    assert result["output"] == str(beside)
    assert load(beside).recipe == "tutorial"
    assert f"The run was interrupted, so {output} stays as it was." in text
    assert {path.name for path in tmp_path.iterdir()} == {"model.pt", "model.pt.resume", "model.interrupted.pt"}


def test_a_finished_run_cannot_be_extended(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    output = tmp_path / "model.pt"
    finished_run = Checkpoint("Net", {}, Net().state_dict(), training={"recipe": "tutorial", "seed": 3, "epochs": 1})
    sha256 = save(finished_run, output)
    arguments = [*QUICK, "--seed", "3", "--resume", "--epochs", "2", "--output", str(output)]
    assert run.main(arguments) == 1
    sentence = capsys.readouterr().err
    assert sentence.startswith(f"error: there is no {output}.resume to resume: ")
    assert "a run of this recipe and seed that has ended, and such a run cannot be extended" in sentence
    assert load(output).sha256 == sha256


@pytest.mark.data
def test_a_batch_too_small_is_said_in_the_right_number(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main([*QUICK[:2], "--device", "cpu", "--batch-size", "1", "--output", str(tmp_path / "model.pt")]) == 1
    assert capsys.readouterr().err == "error: --batch-size 1 is too small for 1 process: at least 2 images.\n"


@pytest.mark.data
@pytest.mark.timeout(600)
def test_full_memory_in_a_run_is_one_sentence(tmp_path: Path) -> None:
    limited = "import resource as r; r.setrlimit(r.RLIMIT_AS, (5 * 10**9, 5 * 10**9)); from training.run import main; "
    arguments = ["--recipe", "best", "--batch-size", "20000", "--device", "cpu", "--output", str(tmp_path / "model.pt")]
    process = subprocess.run(
        [sys.executable, "-c", f"{limited} raise SystemExit(main({arguments!r}))"],
        cwd=ROOT,
        env=os.environ | ONE_THREAD,
        capture_output=True,
        text=True,
    )
    assert process.returncode == 1
    assert process.stderr.startswith("error: there is not enough memory: ")
    assert process.stderr.count("\n") == 1
