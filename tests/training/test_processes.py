"""Two processes without a shared disk: all go on, or each ends with one sentence."""

import signal
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from classifier.checkpoint import load
from tests.service.conftest import poll
from tests.training.processes import SECONDS, ended, two_processes, wait_for
from tests.training.test_resume import same
from tests.training.test_run import QUICK
from training.data import DEBIAN_DIR
from training.recipes import TUTORIAL
from training.resume import ResumeFile

pytestmark = [pytest.mark.cluster, pytest.mark.long]

EPOCHS = 2


@pytest.fixture
def disks(tmp_path: Path) -> tuple[Path, Path]:
    """The output of each process, in a folder of its own."""
    outputs = (tmp_path / "0" / "model.pt", tmp_path / "1" / "model.pt")
    for output in outputs:
        output.parent.mkdir()
    return outputs


def files(disks: tuple[Path, Path]) -> list[list[str]]:
    return [sorted(path.name for path in output.parent.iterdir()) for output in disks]


def arguments(output: Path, *others: str | Path) -> tuple[str | Path, ...]:
    return (*QUICK, "--epochs", str(EPOCHS), "--output", output, *others)


def refused(main: tuple[str | Path, ...], other: tuple[str | Path, ...]) -> list[str]:
    """The sentence of each process of a run that cannot start."""
    with two_processes(main, other) as processes:
        (code, text, errors), (other_code, other_text, other_errors) = ended(processes)
    assert (code, other_code) == (1, 1)
    assert "epoch" not in text
    assert other_text == ""
    for sentence in (errors, other_errors):
        assert sentence.startswith("error: ")
        assert sentence.count("\n") == 1
    return [errors, other_errors]


def test_the_main_process_alone_needs_a_writable_output(disks: tuple[Path, Path]) -> None:
    disks[0].mkdir()
    sentences = refused(arguments(disks[0]), arguments(disks[1]))
    assert sentences[0].endswith(f"--output {disks[0]} is a folder or a device; name a file.\n")
    assert sentences[1].startswith("error: process 0 on ")
    assert sentences[1].endswith(f" failed: --output {disks[0]} is a folder or a device; name a file.\n")


def test_other_arguments_in_one_process_are_refused(disks: tuple[Path, Path]) -> None:
    first, second = refused(arguments(disks[0]), arguments(disks[1], "--seed", "1"))
    assert first == second
    assert first.startswith("error: process 1 on ")
    assert "has seed 1, and process 0 on" in first
    assert files(disks) == [[], []]


def resume_file(output: Path, seed: int = 0, processes: int = 2) -> ResumeFile:
    recipe = replace(TUTORIAL, batch_size=1000, epochs=EPOCHS)
    return ResumeFile(output, recipe, seed, processes)


@pytest.mark.parametrize(
    ("rank", "fault", "words"),
    [
        (0, "damaged", "model.pt.resume is a zip archive that is cut short or damaged"),
        (1, "another seed", "model.pt.resume was written by a run with seed 1, and this one has 0"),
        (0, "one process", "model.pt.resume was written by a run with processes 1, and this one has 2"),
    ],
)
def test_a_resume_file_that_is_refused_ends_all(rank: int, fault: str, words: str, disks: tuple[Path, Path]) -> None:
    file = resume_file(disks[rank], int(fault == "another seed"), 1 if fault == "one process" else 2)
    file.write({})
    if fault == "damaged":
        file.path.write_bytes(file.path.read_bytes()[:-100])
    content = file.path.read_bytes()
    sentences = refused(arguments(disks[0], "--resume"), arguments(disks[1], "--resume"))
    assert all(words in sentence for sentence in sentences)
    assert f"process {rank} on " in sentences[1 - rank]
    assert file.path.read_bytes() == content
    assert files(disks) == [["model.pt.resume"] if rank == each else [] for each in (0, 1)]


@pytest.mark.data
@pytest.mark.parametrize("rank", [0, 1])
def test_data_missing_on_one_machine_ends_all(rank: int, disks: tuple[Path, Path], tmp_path: Path) -> None:
    folders = [tmp_path if each == rank else DEBIAN_DIR for each in (0, 1)]
    sentences = refused(
        *(arguments(output, "--data-dir", folder) for output, folder in zip(disks, folders, strict=True))
    )
    assert all(f"{tmp_path} does not hold train-images-idx3-ubyte" in sentence for sentence in sentences)
    assert f"process {rank} on " in sentences[1 - rank]
    assert files(disks) == [[], []]


def test_a_teacher_missing_on_one_machine_ends_all(disks: tuple[Path, Path], tiny_checkpoint: Path) -> None:
    main, other = (
        ("--recipe", "shipped", "--device", "cpu", "--output", output, "--teacher", teacher)
        for output, teacher in zip(disks, (tiny_checkpoint, disks[1].with_name("teacher.pt")), strict=True)
    )
    sentences = refused(main, other)
    assert all("teacher.pt does not exist" in sentence for sentence in sentences)


@pytest.fixture(scope="module")
def expected(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """The weights of an undisturbed run of two processes."""
    outputs = [tmp_path_factory.mktemp("undisturbed") / "model.pt" for _ in range(2)]
    with two_processes(arguments(outputs[0]), arguments(outputs[1])) as processes:
        assert [code for code, _, _ in ended(processes)] == [0, 0]
    assert not outputs[1].exists()
    return load(outputs[0]).state_dict


@pytest.mark.data
@pytest.mark.timeout(600)
@pytest.mark.parametrize(("killed", "holder"), [(1, 0), (0, 1)])
def test_a_run_whose_process_is_killed_resumes_from_the_disk_of_one(
    killed: int, holder: int, disks: tuple[Path, Path], expected: dict[str, torch.Tensor]
) -> None:
    """The main process keeps the resume file; torchrun can make another machine's process the main one later."""
    with two_processes(arguments(disks[0]), arguments(disks[1])) as processes:
        wait_for(processes[0], "epoch  1/")
        for _ in poll():
            if resume_file(disks[0]).read()["run_state"]["history"]:
                break
        processes[killed].kill()
        code, text, errors = ended(processes)[1 - killed]
    assert code == 1
    assert errors.startswith(f"error: process {1 - killed} on ")
    assert errors.count("\n") == 1
    assert "Saved" not in text
    assert files(disks) == [["model.pt.resume"], []]
    main, other = arguments(disks[holder], "--resume"), arguments(disks[1 - holder], "--resume")
    with two_processes(main, other) as processes:
        (code, text, errors), (other_code, _, other_errors) = ended(processes)
    assert (code, other_code, errors, other_errors) == (0, 0, "", "")
    assert "Resuming from" in text
    assert "epoch  1/" not in text
    assert same(load(disks[holder]).state_dict, expected)
    assert files(disks) == [["model.pt"] if rank == holder else [] for rank in (0, 1)]


@pytest.mark.data
@pytest.mark.timeout(600)
def test_a_result_that_cannot_be_saved_ends_all_and_can_be_resumed(
    disks: tuple[Path, Path], expected: dict[str, torch.Tensor]
) -> None:
    with two_processes(arguments(disks[0]), arguments(disks[1])) as processes:
        wait_for(processes[0], "epoch  1/")
        (disks[0] / "folder").mkdir(parents=True)
        answers = ended(processes)
    assert [code for code, _, _ in answers] == [1, 1]
    assert all("model.pt could not be written: Is a directory.\n" in errors for _, _, errors in answers)
    assert all(errors.count("\n") == 1 for _, _, errors in answers)
    assert files(disks) == [["model.pt", "model.pt.resume"], []]
    (disks[0] / "folder").rmdir()
    disks[0].rmdir()
    with two_processes(arguments(disks[0], "--resume"), arguments(disks[1], "--resume")) as processes:
        assert [code for code, _, _ in ended(processes)] == [0, 0]
    assert same(load(disks[0]).state_dict, expected)


@pytest.mark.data
@pytest.mark.timeout(600)
@pytest.mark.parametrize("interrupted", [(0,), (1,), (0, 1)], ids=["main", "other", "both"])
def test_an_interrupted_process_ends_all(interrupted: tuple[int, ...], disks: tuple[Path, Path]) -> None:
    """After Ctrl-C the main process saves its best epoch. A process that is interrupted elsewhere is only lost."""
    with two_processes(arguments(disks[0], "--epochs", "1000"), arguments(disks[1], "--epochs", "1000")) as processes:
        wait_for(processes[0], "epoch")
        for rank in interrupted:
            processes[rank].send_signal(signal.SIGINT)
        processes[1].wait(SECONDS)
        answers = ended(processes)
    is_saved = 0 in interrupted
    assert answers[0][0] == (130 if is_saved else 1)
    assert answers[1][0] == (1 if interrupted == (0,) else -signal.SIGINT)
    for (_, _, errors), lines in zip(answers, (int(not is_saved), int(interrupted == (0,))), strict=True):
        assert errors.count("\n") == errors.count("error: process ") == lines
    assert files(disks) == [["model.pt", "model.pt.resume"] if is_saved else ["model.pt.resume"], []]
