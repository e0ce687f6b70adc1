"""Resuming a run after its process was killed, its disk was full or its folder was moved."""

import io
import random
import resource
import subprocess
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from rich.console import Console

from classifier.checkpoint import load
from classifier.networks import ARCHITECTURES
from classifier.torch_file import CheckpointError
from tests.training.test_run import QUICK, finished, running
from training.command import TrainingError
from training.data import Images, split
from training.loop import Run, RunState, train
from training.recipes import Recipe
from training.resume import MAX_TIME_FRACTION, ResumeFile

KILLS = 20
SEED = 3


class Killed(Exception):
    """Replaces SIGKILL where the process of the test must survive."""


class KillingStream(io.StringIO):
    """A stream that ends the run when a text is written to it."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def write(self, text: str) -> int:
        if self.text in text:
            raise Killed
        return super().write(text)


def train_on(
    images: Images, recipe: Recipe, file: ResumeFile, resume: bool = False, stream: io.StringIO | None = None
) -> RunState:
    torch.manual_seed(SEED)
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    training, validation = split(images, recipe.validation_images, SEED)
    console = Console(file=stream or io.StringIO())
    saved = file.read() if resume else None
    return train(Run(recipe, network, training, validation, SEED, console, resume_file=file, saved=saved))


def same(first: dict[str, torch.Tensor] | None, second: dict[str, torch.Tensor] | None) -> bool:
    assert first
    assert second
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def resume_file(folder: Path, recipe: Recipe, seed: int = SEED, processes: int = 1) -> ResumeFile:
    return ResumeFile(folder / "model.pt", recipe, seed, processes)


@pytest.fixture
def stateful_recipe(tiny_recipe: Recipe) -> Recipe:
    """With everything that is random and everything that carries over from one epoch to the next."""
    arguments = {"widths": (8, 16), "dropout": 0.2}
    return replace(
        tiny_recipe, arguments=arguments, epochs=5, optimizer="muon", prune_ratio=0.5, flip=True, erase_probability=0.5
    )


def test_the_recipe_of_these_tests_prunes_images(tmp_path: Path, tiny_images: Images, stateful_recipe: Recipe) -> None:
    file = resume_file(tmp_path, stateful_recipe)
    history = train_on(tiny_images, stateful_recipe, file).history
    assert history[2]["images"] < history[0]["images"] == history[4]["images"] == len(tiny_images) - 100


@pytest.mark.parametrize("epoch", range(1, 6))
def test_a_resumed_run_ends_with_the_weights_of_an_uninterrupted_one(
    epoch: int, tmp_path: Path, tiny_images: Images, stateful_recipe: Recipe
) -> None:
    whole = train_on(tiny_images, stateful_recipe, ResumeFile(tmp_path / "whole.pt", stateful_recipe, SEED, 1))
    file = resume_file(tmp_path, stateful_recipe)
    with pytest.raises(Killed):
        train_on(tiny_images, stateful_recipe, file, stream=KillingStream(f"epoch  {epoch}/5"))
    resumed = train_on(tiny_images, stateful_recipe, file, resume=True)
    assert same(resumed.best_weights, whole.best_weights)
    assert resumed.best_loss == whole.best_loss
    losses = [[epoch["validation_loss"] for epoch in state.history] for state in (resumed, whole)]
    assert losses[0] == losses[1]


def test_a_completed_run_is_not_trained_further(tmp_path: Path, tiny_images: Images, tiny_recipe: Recipe) -> None:
    file = resume_file(tmp_path, tiny_recipe)
    whole = train_on(tiny_images, tiny_recipe, file)
    again = train_on(tiny_images, tiny_recipe, file, resume=True, stream=KillingStream("epoch"))
    assert again.history == whole.history
    assert same(again.best_weights, whole.best_weights)


def test_a_run_that_is_not_resumed_replaces_the_resume_file(
    tmp_path: Path, tiny_images: Images, tiny_recipe: Recipe
) -> None:
    file = resume_file(tmp_path, tiny_recipe)
    train_on(tiny_images, tiny_recipe, file)
    with pytest.raises(Killed):
        train_on(tiny_images, tiny_recipe, file, stream=KillingStream("epoch  1"))
    assert file.read()["run_state"]["history"] == []


def test_writing_takes_at_most_a_fraction_of_the_time(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("training.resume.time.perf_counter", lambda: now)
    file = resume_file(tmp_path, tiny_recipe)
    assert file.is_due()

    def slow_disk(content: dict[str, Any], path: Path) -> None:
        nonlocal now
        now += 1.0

    monkeypatch.setattr("training.resume.torch_file.write", slow_disk)
    file.write({})
    assert not file.is_due()
    now = 101.0 + 1.0 / MAX_TIME_FRACTION
    assert file.is_due()


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"recipe": {"name": "tutorial"}}, "recipe tiny, and this one has tutorial"),
        ({"recipe": {"learning_rate": 0.5}}, "learning_rate 0.01, and this one has 0.5"),
        ({"seed": 4}, "seed 3, and this one has 4"),
        ({"processes": 2}, "processes 1, and this one has 2"),
    ],
    ids=["recipe", "setting", "seed", "processes"],
)
def test_the_resume_file_of_another_run_is_refused(
    change: dict[str, Any], words: str, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    resume_file(tmp_path, tiny_recipe).write({})
    arguments = change | {"recipe": replace(tiny_recipe, **change.get("recipe", {}))}
    with pytest.raises(TrainingError, match=r"^model\.pt\.resume was written by a run with") as caught:
        resume_file(tmp_path, **arguments).read()
    assert words in str(caught.value)


@pytest.mark.parametrize(
    ("name", "value", "words"),
    [("torch.__version__", "9.9", r"with torch .*, and this one has 9\.9"), ("training.resume.VERSION", 9, "has 9;")],
    ids=["torch", "format"],
)
def test_a_resume_file_of_another_version_is_refused(
    name: str, value: object, words: str, tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    resume_file(tmp_path, tiny_recipe).write({})
    monkeypatch.setattr(name, value)
    with pytest.raises(TrainingError, match=words):
        resume_file(tmp_path, tiny_recipe).read()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and so on"], ids=["empty", "broken"])
def test_a_damaged_resume_file_is_one_sentence(content: bytes, tmp_path: Path, tiny_recipe: Recipe) -> None:
    file = resume_file(tmp_path, tiny_recipe)
    file.path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^model\.pt\.resume is "):
        file.read()


def test_a_removed_resume_file_leaves_nothing(tmp_path: Path, tiny_recipe: Recipe) -> None:
    file = resume_file(tmp_path, tiny_recipe)
    file.write({})
    (tmp_path / ".model.pt.resume.123.tmp").touch()  # of a process that was killed during a write
    file.remove()
    file.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
@pytest.mark.timeout(6_000)
def test_a_run_killed_at_20_random_points_ends_with_the_weights_of_an_uninterrupted_one(tmp_path: Path) -> None:
    arguments = (*QUICK, "--epochs", "4", "--seed", "7", "--output")
    begin = time.monotonic()
    assert finished(*arguments, tmp_path / "whole.pt")[0] == 0
    seconds = time.monotonic() - begin
    expected = load(tmp_path / "whole.pt").state_dict
    killed = tmp_path / "killed.pt"
    generator = random.Random(0)
    kills = 0
    while kills < KILLS:
        with running(*arguments, killed, "--resume") as process:
            try:
                assert process.wait(generator.uniform(0, seconds)) == 0
            except subprocess.TimeoutExpired:
                process.kill()
                process.wait()
                kills += 1
                if not killed.exists() or killed.with_name("killed.pt.resume").exists():
                    continue  # it had not ended
        assert same(load(killed).state_dict, expected)
        killed.unlink()
    code, _, errors = finished(*arguments, killed, "--resume")
    assert (code, errors) == (0, "")
    assert same(load(killed).state_dict, expected)
    assert {path.name for path in tmp_path.iterdir()} == {"whole.pt", "killed.pt"}


@pytest.mark.data
@pytest.mark.timeout(600)
@pytest.mark.parametrize("accident", ["the disk is full", "the folder is gone"])
def test_a_resume_file_that_cannot_be_written_is_one_sentence(accident: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"old")
    with running(*QUICK, "--epochs", "1000", "--output", folder / "model.pt") as process:
        assert process.stdout
        next(line for line in process.stdout if line.startswith("epoch"))
        if accident == "the disk is full":
            resource.prlimit(
                process.pid, resource.RLIMIT_FSIZE, (1_000, 1_000)
            )  # a write past this fails, as on a full disk
        else:
            folder.rename(tmp_path / "elsewhere")
        _, errors = process.communicate()
    assert process.returncode == 1
    assert errors.startswith("error: model.pt.resume could not be written: ")
    assert errors.count("\n") == 1
    if folder.exists():
        assert (folder / "model.pt").read_bytes() == b"old"
        assert {path.name for path in folder.iterdir()} == {"model.pt", "model.pt.resume"}


@pytest.mark.data
@pytest.mark.timeout(600)
def test_without_a_resume_file_the_run_starts_anew(tmp_path: Path) -> None:
    code, text, _ = finished(*QUICK, "--epochs", "1", "--resume", "--output", tmp_path / "model.pt")
    assert code == 0
    assert f"No {tmp_path / 'model.pt'}.resume: starting anew." in text
