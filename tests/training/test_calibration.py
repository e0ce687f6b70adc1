from pathlib import Path

import pytest
import torch
from torch.nn import functional

from classifier.checkpoint import TEMPERATURES, load
from classifier.networks import SIDE
from training.calibration import calibrate, fit_temperature
from training.data import Images


def labelled(labels: torch.Tensor) -> Images:
    """Images, all black, with these labels."""
    return Images(torch.zeros(len(labels), 1, SIDE, SIDE, dtype=torch.uint8), labels)


def calibrated(n: int = 20_000) -> tuple[torch.Tensor, Images]:
    """Logits float32 [N,10], and images whose labels are drawn from the probabilities of these logits."""
    generator = torch.Generator().manual_seed(0)
    logits = 2 * torch.randn(n, 10, generator=generator)
    return logits, labelled(torch.multinomial(logits.softmax(dim=1), 1, generator=generator).flatten())


@pytest.mark.parametrize("factor", [0.1, 0.5, 1.0, 3.0, 20.0])
def test_a_known_temperature_is_recovered(factor: float) -> None:
    logits, images = calibrated()
    assert fit_temperature(factor * logits, images) == pytest.approx(factor, rel=0.03)


def test_no_other_temperature_has_a_lower_cross_entropy() -> None:
    logits, images = calibrated(2_000)
    fitted = fit_temperature(logits, images)
    temperatures = (fitted, fitted * 0.99, fitted * 1.01)
    losses = [functional.cross_entropy(logits.double() / t, images.labels) for t in temperatures]
    assert losses[0] == min(losses)


@pytest.mark.parametrize("sign", [1.0, -1.0], ids=["all-right", "all-wrong"])
def test_the_temperature_stays_within_the_range_of_a_checkpoint(sign: float) -> None:
    labels = torch.arange(10).repeat(10)
    temperature = fit_temperature(sign * 50 * functional.one_hot(labels, 10).float(), labelled(labels))
    assert TEMPERATURES[0] <= temperature <= TEMPERATURES[1]


def test_the_fit_is_reproducible_and_leaves_the_logits_unchanged() -> None:
    logits, images = calibrated(500)
    before = logits.clone()
    assert fit_temperature(logits, images) == fit_temperature(logits, images)
    assert torch.equal(logits, before)


def test_logits_computed_in_inference_mode_are_accepted() -> None:
    logits, images = calibrated(500)
    with torch.inference_mode():
        copied = logits.clone()
    assert fit_temperature(copied, images) == fit_temperature(logits, images)


def test_calibration_lowers_the_temperature_of_a_network_that_is_always_right(
    tiny_checkpoint: Path, tiny_images: Images
) -> None:
    checkpoint = load(tiny_checkpoint)
    calibrated = calibrate(checkpoint, tiny_images)
    assert calibrated.calibration["temperature"] < checkpoint.calibration["temperature"] == 1.0
    assert calibrated.state_dict is checkpoint.state_dict
