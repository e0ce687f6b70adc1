"""A run that loses its process, its disk or its folder."""

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
from training.loop import Progression, loop
from training.recipes import Recipe
from training.resume import MAX_SHARE, SideFile

KILLS = 20
SEED = 3


class Killed(Exception):
    """Stands for SIGKILL where the process itself has to go on."""


class KillingStream(io.StringIO):
    """A stream that ends the run when it is first written a certain text."""

    def __init__(self, text: str) -> None:
        super().__init__()
        self.text = text

    def write(self, text: str) -> int:
        if self.text in text:
            raise Killed
        return super().write(text)


def train(
    recipe: Recipe, images: Images, side_file: SideFile, resume: bool = False, console: Console | None = None
) -> Progression:
    torch.manual_seed(SEED)
    network = ARCHITECTURES[recipe.architecture](**recipe.arguments)
    parts = split(images, recipe.held_out, SEED)
    return loop(console or Console(quiet=True), recipe, network, *parts, SEED, side_file, resume)


def same(first: dict[str, torch.Tensor] | None, second: dict[str, torch.Tensor] | None) -> bool:
    assert first
    assert second
    return first.keys() == second.keys() and all(torch.equal(tensor, second[name]) for name, tensor in first.items())


def side_file(folder: Path, recipe: Recipe, seed: int = SEED, processes: int = 1) -> SideFile:
    return SideFile(folder / "model.pt", recipe, seed, processes)


@pytest.fixture
def hard_recipe(tiny_recipe: Recipe) -> Recipe:
    """With all that is random, and all that one epoch remembers for the next."""
    arguments = {"widths": (8, 16), "dropout": 0.2}
    return replace(
        tiny_recipe, arguments=arguments, epochs=5, optimizer="muon", spared=0.5, flip=True, shift=1, erase=0.5
    )


def test_the_hard_recipe_does_spare_images(tmp_path: Path, tiny_images: Images, hard_recipe: Recipe) -> None:
    file = side_file(tmp_path, hard_recipe)
    history = train(hard_recipe, tiny_images, file).history
    assert history[2]["images"] < history[0]["images"] == history[4]["images"] == len(tiny_images) - 100


@pytest.mark.parametrize("epoch", range(1, 6))
def test_a_resumed_run_ends_as_the_run_that_was_never_killed(
    epoch: int, tmp_path: Path, tiny_images: Images, hard_recipe: Recipe
) -> None:
    whole = train(hard_recipe, tiny_images, SideFile(tmp_path / "whole.pt", hard_recipe, SEED, 1))
    file = side_file(tmp_path, hard_recipe)
    with pytest.raises(Killed):
        train(hard_recipe, tiny_images, file, console=Console(file=KillingStream(f"epoch  {epoch}/5")))
    resumed = train(hard_recipe, tiny_images, file, resume=True)
    assert same(resumed.best_weights, whole.best_weights)
    assert resumed.best_loss == whole.best_loss
    losses = [[epoch["validation_loss"] for epoch in progression.history] for progression in (resumed, whole)]
    assert losses[0] == losses[1]


def test_a_run_that_was_complete_trains_no_more(tmp_path: Path, tiny_images: Images, tiny_recipe: Recipe) -> None:
    file = side_file(tmp_path, tiny_recipe)
    whole = train(tiny_recipe, tiny_images, file)
    again = train(tiny_recipe, tiny_images, file, resume=True, console=Console(file=KillingStream("epoch")))
    assert again.history == whole.history
    assert same(again.best_weights, whole.best_weights)


def test_a_run_that_is_not_resumed_replaces_the_side_file(
    tmp_path: Path, tiny_images: Images, tiny_recipe: Recipe
) -> None:
    file = side_file(tmp_path, tiny_recipe)
    train(tiny_recipe, tiny_images, file)
    with pytest.raises(Killed):
        train(tiny_recipe, tiny_images, file, console=Console(file=KillingStream("epoch  1")))
    assert file.read()["progression"]["history"] == []


def test_writing_takes_no_more_than_its_share_of_the_time(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    now = 100.0
    monkeypatch.setattr("training.resume.time.perf_counter", lambda: now)
    file = side_file(tmp_path, tiny_recipe)
    assert file.is_due()

    def slow_disk(content: dict[str, Any], path: Path) -> None:
        nonlocal now
        now += 1.0

    monkeypatch.setattr("training.resume.torch_file.write", slow_disk)
    file.write({})
    assert not file.is_due()
    now = 101.0 + 1.0 / MAX_SHARE
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
def test_a_side_file_of_another_run_is_refused_by_name(
    change: dict[str, Any], words: str, tmp_path: Path, tiny_recipe: Recipe
) -> None:
    side_file(tmp_path, tiny_recipe).write({})
    arguments = change | {"recipe": replace(tiny_recipe, **change.get("recipe", {}))}
    with pytest.raises(TrainingError, match=r"^model\.pt\.resume was left by a run with") as caught:
        side_file(tmp_path, **arguments).read()
    assert words in str(caught.value)


def test_a_side_file_of_another_version_is_refused(
    tmp_path: Path, tiny_recipe: Recipe, monkeypatch: pytest.MonkeyPatch
) -> None:
    side_file(tmp_path, tiny_recipe).write({})
    monkeypatch.setattr(torch, "__version__", "9.9")
    with pytest.raises(TrainingError, match=r"with torch .*, and this one has 9\.9"):
        side_file(tmp_path, tiny_recipe).read()


@pytest.mark.parametrize("content", [b"", b"PK\x03\x04 and so on"], ids=["empty", "broken"])
def test_a_damaged_side_file_is_one_sentence(content: bytes, tmp_path: Path, tiny_recipe: Recipe) -> None:
    file = side_file(tmp_path, tiny_recipe)
    file.path.write_bytes(content)
    with pytest.raises(CheckpointError, match=r"^model\.pt\.resume is "):
        file.read()


def test_a_removed_side_file_leaves_nothing(tmp_path: Path, tiny_recipe: Recipe) -> None:
    file = side_file(tmp_path, tiny_recipe)
    file.write({})
    (tmp_path / ".model.pt.resume.123.tmp").touch()  # of a process that was killed while it wrote
    file.remove()
    file.remove()
    assert list(tmp_path.iterdir()) == []


@pytest.mark.data
@pytest.mark.timeout(900)
def test_a_run_killed_at_20_random_points_ends_with_the_weights_of_one_that_was_not(tmp_path: Path) -> None:
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
                kills += 1
                continue
        assert same(load(killed).state_dict, expected)
        killed.unlink()
    code, _, errors = finished(*arguments, killed, "--resume")
    assert (code, errors) == (0, "")
    assert same(load(killed).state_dict, expected)
    assert {path.name for path in tmp_path.iterdir()} == {"whole.pt", "killed.pt"}


@pytest.mark.data
@pytest.mark.parametrize("accident", ["the disk is full", "the folder is gone"])
def test_an_accident_in_mid_run_is_one_sentence(accident: str, tmp_path: Path) -> None:
    folder = tmp_path / "models"
    folder.mkdir()
    (folder / "model.pt").write_bytes(b"old")
    with running(*QUICK, "--epochs", "1000", "--output", folder / "model.pt") as process:
        assert process.stdout
        next(line for line in process.stdout if line.startswith("epoch"))
        if accident == "the disk is full":
            resource.prlimit(process.pid, resource.RLIMIT_FSIZE, (1_000, 1_000))  # a write past this fails as there
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
def test_resuming_without_a_side_file_says_so_and_starts_from_the_beginning(tmp_path: Path) -> None:
    code, text, _ = finished(*QUICK, "--epochs", "1", "--resume", "--output", tmp_path / "model.pt")
    assert code == 0
    assert f"No {tmp_path / 'model.pt'}.resume: from the beginning." in text
