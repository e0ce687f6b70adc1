"""Hostile checkpoints cost little time and memory until they are refused."""

import resource
import time
from pathlib import Path

import pytest

from classifier.checkpoint import CheckpointError, load
from tests.classifier.hostile_checkpoints import HOSTILE, generated, good
from tests.classifier.test_hostile_checkpoints import refusal

REFUSAL_SECONDS = 20.0  # the slowest takes 0.8 s
REFUSAL_BYTES = 300 * 2**20


@pytest.mark.parametrize("name", HOSTILE)
def test_a_hostile_checkpoint_is_refused_soon_and_without_much_memory(name: str, tmp_path: Path) -> None:
    path = tmp_path / "hostile.pt"
    path.write_bytes(HOSTILE[name]())
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    begin = time.monotonic()
    sentence = refusal(path)
    assert time.monotonic() - begin < REFUSAL_SECONDS
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 < REFUSAL_BYTES
    assert len(sentence) < 500


def test_generated_checkpoints_are_refused_or_harmless(tmp_path: Path) -> None:
    path = tmp_path / "generated.pt"
    refused = 0
    for content in generated(2_000, good(tmp_path)):
        path.write_bytes(content)
        try:
            load(path)
        except CheckpointError:
            refused += 1
    assert refused > 1_900
