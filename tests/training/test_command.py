import json
from typing import Any

import pytest

from classifier.checkpoint import CheckpointError
from classifier.classifier import DeviceError
from training.command import Parser, TrainingError, execute
from training.data import DataError


def test_the_result_is_the_last_line_and_its_exit_code_is_kept_out(capsys: pytest.CaptureFixture[str]) -> None:
    def story() -> dict[str, Any]:
        print("for people")
        return {"recipe": "größe", "loss": 0.5, "exit_code": 3}

    assert execute(story) == 3
    assert json.loads(capsys.readouterr().out.splitlines()[-1]) == {"recipe": "größe", "loss": 0.5}


@pytest.mark.parametrize("kind", [CheckpointError, DataError, DeviceError, TrainingError])
def test_what_goes_wrong_is_one_sentence(kind: type[Exception], capsys: pytest.CaptureFixture[str]) -> None:
    def story() -> dict[str, Any]:
        raise kind("the shoe is lost.")

    assert execute(story) == 1
    assert capsys.readouterr() == ("", "error: the shoe is lost.\n")


def test_ctrl_c_is_exit_code_130(capsys: pytest.CaptureFixture[str]) -> None:
    def story() -> dict[str, Any]:
        raise KeyboardInterrupt

    assert execute(story) == 130
    assert capsys.readouterr() == ("", "Interrupted.\n")


def test_a_mistake_of_ours_is_not_hidden() -> None:
    def story() -> dict[str, Any]:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        execute(story)


def test_a_wrong_argument_is_one_line_that_points_to_the_help(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        Parser(prog="python -m shoe").parse_args(["--lace"])
    assert caught.value.code == 2
    assert capsys.readouterr().err == "python -m shoe: unrecognized arguments: --lace (--help lists the arguments)\n"
