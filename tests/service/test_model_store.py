import asyncio
import hashlib
import logging
import os
import resource
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from service.metrics import Metrics
from service.model_store import WATCH_SECONDS, ModelStore, NotReady, identity
from service.settings import Settings
from tests.service.conftest import DEADLINE_SECONDS, POLL_SECONDS

NOBODY = 65534  # user id


async def loaded(model: Path, **settings: Any) -> ModelStore:
    models = ModelStore(Settings(model=model, **settings), Metrics())
    await models.load()
    return models


def test_without_a_model_the_reason_is_given(tmp_path: Path) -> None:
    async def ask() -> None:
        models = ModelStore(Settings(model=tmp_path / "gone.pt"), Metrics())
        with pytest.raises(NotReady, match="being loaded"):
            models.current()
        await models.load()
        with pytest.raises(NotReady, match=r"gone\.pt does not exist"):
            models.current()

    asyncio.run(ask())


def test_a_new_checkpoint_takes_over_and_a_broken_one_does_not(
    tiny_checkpoint: Path, tutorial_state_dict: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"

    async def until(models: ModelStore, model: str, refusal: str | None) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (models.current().classifier.model.startswith(model) and models.refusal == refusal):
                await asyncio.sleep(POLL_SECONDS)

    async def ask() -> None:
        models = await loaded(Path(shutil.copy(tiny_checkpoint, path)))
        watching = asyncio.create_task(models.watch())
        shutil.copy(tutorial_state_dict, path)
        await until(models, "tutorial-", None)
        path.write_bytes(tiny_checkpoint.read_bytes()[:1000])
        await until(models, "tutorial-", "model.pt is a zip archive that is cut short or damaged: copy it again.")
        path.unlink()
        await until(models, "tutorial-", "model.pt does not exist: train it with `python -m training.run`.")
        shutil.copy(tiny_checkpoint, path)
        await until(models, "tiny-", None)
        watching.cancel()

    asyncio.run(ask())


def test_only_the_pinned_checkpoint_is_served(tiny_checkpoint: Path) -> None:
    right = hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()

    async def ask(pinned: str) -> None:
        (await loaded(tiny_checkpoint, model_sha256=pinned)).current()

    asyncio.run(ask(right))
    with pytest.raises(NotReady, match=f"has the SHA-256 {right[:8]}…, not 00000000… as expected"):
        asyncio.run(ask("0" * 64))


async def until(condition: Callable[[], bool]) -> None:
    async with asyncio.timeout(DEADLINE_SECONDS):
        while not condition():
            await asyncio.sleep(POLL_SECONDS)


def refusals(models: ModelStore) -> float:
    return float(models._metrics.model_refusals._value.get())


class Panic(BaseException):
    """An error as a library in Rust raises it, which is no Exception."""


@pytest.mark.parametrize("error", [ValueError, RecursionError, StopIteration, MemoryError, SystemExit, Panic])
def test_whatever_a_load_raises_is_refused_and_the_next_file_is_taken(
    error: type[BaseException], tiny_checkpoint: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path = Path(shutil.copy(tiny_checkpoint, tmp_path / "model.pt"))
    sha256 = hashlib.sha256

    def failing(content: bytes) -> Any:  # hashlib stands for any library that a load calls
        if content == b"fail":
            raise error("of a library")
        return sha256(content)

    async def ask(monkeypatch: pytest.MonkeyPatch) -> None:
        models = await loaded(path)
        watching = asyncio.create_task(models.watch())
        monkeypatch.setattr(hashlib, "sha256", failing)
        path.write_bytes(b"fail")
        await until(lambda: models.refusal is not None)
        assert models.refusal == "The model could not be loaded; the log has the reason."
        assert models.current().classifier.model.startswith("tiny-")
        assert refusals(models) == 1
        shutil.copy(tiny_checkpoint, path)
        await until(lambda: models.refusal is None)
        assert not watching.done()
        watching.cancel()
        models.close()

    with pytest.MonkeyPatch.context() as monkeypatch:
        asyncio.run(ask(monkeypatch))
    assert any(record.exc_info for record in caplog.records)


@pytest.fixture
def unprivileged() -> Iterator[Path]:
    """A folder that everybody may read, while this process is not root."""
    with tempfile.TemporaryDirectory() as folder:
        Path(folder).chmod(0o755)
        user = os.geteuid()
        yield Path(folder)
        os.seteuid(user)


def test_a_file_that_becomes_readable_is_taken(tiny_checkpoint: Path, unprivileged: Path) -> None:
    path = Path(shutil.copy(tiny_checkpoint, unprivileged / "model.pt"))
    user = os.geteuid()
    path.chmod(0)

    async def ask() -> None:
        if user == 0:
            os.seteuid(NOBODY)
        models = await loaded(path)
        assert models.refusal == "model.pt cannot be read: Permission denied."
        watching = asyncio.create_task(models.watch())
        os.seteuid(user)
        path.chmod(0o644)
        await until(lambda: models.refusal is None)
        watching.cancel()

    asyncio.run(ask())


def test_too_many_open_files_pass(tiny_checkpoint: Path) -> None:
    async def ask() -> None:
        limits = resource.getrlimit(resource.RLIMIT_NOFILE)
        models = ModelStore(Settings(model=tiny_checkpoint), Metrics())
        lowest_free = os.open(os.devnull, os.O_RDONLY)
        os.close(lowest_free)
        resource.setrlimit(resource.RLIMIT_NOFILE, (lowest_free, limits[1]))
        try:
            await models.load()
        finally:
            resource.setrlimit(resource.RLIMIT_NOFILE, limits)
        assert models.refusal == "tiny.pt cannot be read: Too many open files."
        watching = asyncio.create_task(models.watch())
        await until(lambda: models.refusal is None)
        assert refusals(models) == 1
        watching.cancel()

    asyncio.run(ask())


def test_a_change_of_permissions_alone_is_noticed(tiny_checkpoint: Path, tmp_path: Path) -> None:
    path = Path(shutil.copy(tiny_checkpoint, tmp_path / "model.pt"))
    before = identity(path)
    path.chmod(0o600)
    assert identity(path) != before


def test_a_wrong_file_is_not_tried_again_until_it_changes(tmp_path: Path) -> None:
    path = tmp_path / "model.pt"
    path.write_bytes(b"no checkpoint")

    async def ask() -> None:
        models = await loaded(path)
        watching = asyncio.create_task(models.watch())
        await asyncio.sleep(2.5 * WATCH_SECONDS)
        assert refusals(models) == 1
        watching.cancel()

    asyncio.run(ask())


def test_the_log_has_the_path_and_http_the_name(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    models = asyncio.run(loaded(tmp_path / "nowhere/typo.pt"))
    assert models.refusal == "typo.pt does not exist: train it with `python -m training.run`."
    assert f"{tmp_path}/nowhere/typo.pt does not exist" in caplog.text


def test_a_bare_state_dict_is_said_to_be_assumed(tutorial_state_dict: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        asyncio.run(loaded(tutorial_state_dict))
    [line] = [record.getMessage() for record in caplog.records if record.levelno == logging.WARNING]
    assert "pixels / 255 and no Normalize, no ReLU behind the convolutions, and a sigmoid at the end" in line


def test_the_end_does_not_wait_for_a_load_that_hangs(tiny_checkpoint: Path) -> None:
    def hang(content: bytes) -> None:
        time.sleep(DEADLINE_SECONDS)

    async def ask() -> None:
        models = ModelStore(Settings(model=tiny_checkpoint), Metrics())
        loading = asyncio.create_task(models.load())
        await asyncio.sleep(POLL_SECONDS)
        begin = time.monotonic()
        models.close()
        loading.cancel()
        assert time.monotonic() - begin < DEADLINE_SECONDS / 2

    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.setattr(hashlib, "sha256", hang)
        asyncio.run(ask())
