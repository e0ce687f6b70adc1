import json
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from classifier.checkpoint import CheckpointError
from classifier.classifier import DeviceError
from training import evaluate, predict, run
from training.command import Parser, TrainingError, execute
from training.data import DataError
from training.recipes import RECIPES

ROOT = Path(__file__).parents[2]


def test_the_result_is_the_last_line_without_its_exit_code(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> dict[str, Any]:
        print("for people")
        return {"recipe": "größe", "loss": 0.5, "exit_code": 3}

    assert execute(command) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"recipe": "größe", "loss": 0.5}


@pytest.mark.parametrize("kind", [CheckpointError, DataError, DeviceError, TrainingError])
def test_an_error_is_one_sentence_and_exit_code_1(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> dict[str, Any]:
        raise kind("the shoe is lost.")

    assert execute(command) == 1
    assert capsys.readouterr() == ("", "error: the shoe is lost.\n")


def test_ctrl_c_is_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> dict[str, Any]:
        raise KeyboardInterrupt

    assert execute(command) == 130
    assert capsys.readouterr() == ("", "Interrupted.\n")


def test_a_programming_error_is_not_hidden() -> None:
    def command() -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        execute(command)


def test_a_wrong_argument_is_one_line_that_names_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Parser(prog="python -m shoe").parse_args(["--lace"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "python -m shoe: unrecognized arguments: --lace (--help lists the arguments)\n"


@pytest.mark.parametrize(
    "error",
    [
        MemoryError(),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB."),
        RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory: you tried"),
        RuntimeError("std::bad_alloc"),
        RuntimeError("MPS backend out of memory"),
    ],
    ids=range(5),
)  # fmt: skip
def test_full_memory_is_one_sentence(error: Exception, capsys: pytest.CaptureFixture[str]) -> None:
    def command() -> dict[str, Any]:
        raise error

    assert execute(command) == 1
    output = capsys.readouterr()
    assert output.out == ""
    assert output.err.startswith("error: there is not enough memory: ")
    assert "--batch-size" in output.err
    assert output.err.count("\n") == 1


def test_an_allocation_that_really_fails_is_one_sentence(capsys: pytest.CaptureFixture[str]) -> None:
    assert execute(lambda: {"sum": torch.ones(2**45, dtype=torch.uint8).sum()}) == 1
    assert "not enough memory" in capsys.readouterr().err


@pytest.mark.parametrize("module", [run, evaluate, predict], ids=lambda module: module.__name__)
def test_the_help_has_a_text_for_every_argument_and_its_default(
    module: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with pytest.raises(SystemExit):
        module.main(["--help"])
    text = " ".join(capsys.readouterr().out.split())
    options = text.partition("options:")[2].partition("recipes:")[0]
    flags = re.findall(r" (--[a-z-]+)(.*?)(?= --[a-z-]+ | --[a-z-]+$|$)", options)
    for flag, description in flags:
        if flag not in ("--help", "--teacher", "--photos"):
            assert "default: " in description, flag
    if module is run:
        for name in RECIPES:
            assert re.search(rf" {name} \w", text.partition("recipes:")[2]), name


def test_without_the_extra_the_commands_say_what_to_install() -> None:
    hidden = "import sys; sys.modules['rich'] = None; import importlib.util as u; f = u.find_spec; "
    program = (
        f"{hidden}u.find_spec = lambda name, *rest: None if name == 'rich' else f(name, *rest); import training.predict"
    )
    process = subprocess.run([sys.executable, "-c", program], cwd=ROOT, capture_output=True, text=True)
    assert process.returncode == 1
    assert (
        process.stderr
        == "error: the training commands need the extra train: pip install 'fashion-mnist-service[train]'\n"
    )


@pytest.mark.parametrize("encoding", ["cp1252", "ascii", "latin-1", "utf-8"])
def test_any_name_is_printed_on_any_terminal(encoding: str, tmp_path: Path, tiny_checkpoint: Path) -> None:
    names = (b"shoe.png", "größe→.png".encode(), b"\xff\xfe.png", b"\x1b[31mred\n.png")
    paths = [os.path.join(os.fsencode(tmp_path), name) for name in names]
    for path in paths:
        Path(os.fsdecode(path)).write_bytes((ROOT / "shoe.png").read_bytes())
    process = subprocess.run(
        [sys.executable, "-m", "training.predict", *paths, "missing\n\x1b", "--checkpoint", str(tiny_checkpoint)],
        cwd=ROOT,
        env=os.environ | {"PYTHONIOENCODING": encoding},
        capture_output=True,
    )
    assert (process.returncode, process.stderr) == (1, b"missing\\n\\x1b: No such file or directory.\n")
    predictions = json.loads(process.stdout.splitlines()[-1])["predictions"]
    assert [prediction["file"] for prediction in predictions[:-1]] == list(map(os.fsdecode, paths))
    assert b"\x1b" not in process.stdout
    process.stdout.decode(encoding)
