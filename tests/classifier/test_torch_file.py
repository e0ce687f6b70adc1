"""Only regular files of bounded size are read, and nothing is waited for."""

import os
from pathlib import Path

from classifier import torch_file
from tests.classifier.test_hostile_checkpoints import refusal


def test_a_path_that_is_not_a_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    assert "not a regular file" in refusal(tmp_path / "pipe.pt")
    (tmp_path / "folder.pt").mkdir()
    assert "not a regular file" in refusal(tmp_path / "folder.pt")
    (tmp_path / "zero.pt").symlink_to("/dev/zero")
    assert "not a regular file" in refusal(tmp_path / "zero.pt")
    assert "does not exist" in refusal(tmp_path / "missing.pt")
    assert "cannot be read" in refusal(tmp_path / ("x" * 300))


def test_a_pipe_that_is_being_written_is_refused_at_once(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.pt")
    writer = os.open(tmp_path / "pipe.pt", os.O_RDWR)
    try:
        assert "not a regular file" in refusal(tmp_path / "pipe.pt")
    finally:
        os.close(writer)


def test_a_file_over_the_size_limit_is_not_read(tmp_path: Path) -> None:
    with (tmp_path / "large.pt").open("wb") as file:
        file.truncate(torch_file.MAX_BYTES + 1)  # a sparse file, which takes no disk space
    assert "over the limit of 134,217,728" in refusal(tmp_path / "large.pt")
