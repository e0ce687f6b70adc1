import json
from typing import Any

import pytest

from classifier.checkpoint import CheckpointError
from classifier.classifier import DeviceError
from training.command import Parser, TrainingError, execute
from training.data import DataError


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
