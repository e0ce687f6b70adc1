import asyncio
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.metrics import Metrics
from service.model_store import ModelStore, NotReady
from service.settings import Settings
from tests.service.conftest import DEADLINE_SECONDS, POLL_SECONDS


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
        await until(models, "tutorial-", "model.pt is not a PyTorch checkpoint, or it is cut short: not a zip archive.")
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
