import asyncio
import hashlib
import shutil
from pathlib import Path
from typing import Any

import pytest

from service.metrics import Metrics
from service.reload import NotReady, Reloader
from service.settings import Settings
from tests.service.conftest import DEADLINE_SECONDS, POLL_SECONDS


async def loaded(model: Path, **settings: Any) -> Reloader:
    reloader = Reloader(Settings(model=model, **settings), Metrics())
    await reloader.load()
    return reloader


def test_without_a_model_the_reason_is_given(tmp_path: Path) -> None:
    async def ask() -> None:
        reloader = Reloader(Settings(model=tmp_path / "gone.pt"), Metrics())
        with pytest.raises(NotReady, match="being loaded"):
            _ = reloader.model
        await reloader.load()
        with pytest.raises(NotReady, match=r"gone\.pt does not exist"):
            _ = reloader.model

    asyncio.run(ask())


def test_a_new_checkpoint_takes_over_and_a_broken_one_does_not(
    tiny_checkpoint: Path, tutorial_state_dict: Path, tmp_path: Path
) -> None:
    path = tmp_path / "model.pt"

    async def until(reloader: Reloader, model: str, refusal: str | None) -> None:
        async with asyncio.timeout(DEADLINE_SECONDS):
            while not (reloader.model.classifier.model.startswith(model) and reloader.refusal == refusal):
                await asyncio.sleep(POLL_SECONDS)

    async def ask() -> None:
        reloader = await loaded(Path(shutil.copy(tiny_checkpoint, path)))
        watching = asyncio.create_task(reloader.watch())
        shutil.copy(tutorial_state_dict, path)
        await until(reloader, "tutorial-", None)
        path.write_bytes(tiny_checkpoint.read_bytes()[:1000])
        await until(
            reloader, "tutorial-", "model.pt is not a PyTorch checkpoint, or it is cut short: not a zip archive."
        )
        path.unlink()
        await until(reloader, "tutorial-", "model.pt does not exist: train it with `python -m training.run`.")
        shutil.copy(tiny_checkpoint, path)
        await until(reloader, "tiny-", None)
        watching.cancel()

    asyncio.run(ask())


def test_only_the_pinned_checkpoint_is_served(tiny_checkpoint: Path) -> None:
    right = hashlib.sha256(tiny_checkpoint.read_bytes()).hexdigest()

    async def ask(pinned: str) -> None:
        _ = (await loaded(tiny_checkpoint, model_sha256=pinned)).model

    asyncio.run(ask(right))
    with pytest.raises(NotReady, match=f"has the SHA-256 {right[:8]}…, not 00000000… as expected"):
        asyncio.run(ask("0" * 64))
