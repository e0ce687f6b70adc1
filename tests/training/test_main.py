import importlib

import pytest

from training.__main__ import COMMANDS, main


def test_the_package_lists_its_commands(capsys: pytest.CaptureFixture[str]) -> None:
    assert main() == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[:3] for line in lines] == [["python", "-m", name] for name in COMMANDS]


@pytest.mark.parametrize("name", COMMANDS)
def test_a_listed_command_has_help(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        importlib.import_module(name).main(["--help"])
    assert caught.value.code == 0
    assert capsys.readouterr().out.startswith(f"usage: python -m {name} ")
