"""Temperature scaling, prediction sets, familiarity, and the calibration that a checkpoint may hold."""

import math
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from classifier.checkpoint import Checkpoint, load, save
from classifier.networks import Net
from classifier.pixels import CLASSES
from classifier.uncertainty import (
    COVERAGES,
    FAMILIAR,
    Calibration,
    as_dict,
    calibration,
    familiarity,
    prediction_set,
    probabilities_and_energy,
)

FITTED = Calibration(1.5, (0.25, 0.02), energy=4.0, energy_scale=0.5)
TRIED = settings(max_examples=200, deadline=None, derandomize=True, database=None)
LOGITS = st.lists(st.floats(-1e4, 1e4, width=32), min_size=10, max_size=10)
TEMPERATURES = st.floats(1e-3, 1e3)


@TRIED
@given(LOGITS, TEMPERATURES)
def test_probabilities_sum_to_one_and_keep_the_order_of_the_logits(logits: list[float], temperature: float) -> None:
    probabilities, energy = probabilities_and_energy(logits, temperature)
    assert sum(probabilities) == pytest.approx(1, abs=1e-6)
    assert all(0 <= probability <= 1 for probability in probabilities)
    assert logits.index(max(logits)) == probabilities.index(max(probabilities)) or len(set(probabilities)) < 10
    assert energy == pytest.approx(np.logaddexp.reduce(np.array(logits) / temperature), rel=1e-9, abs=1e-9)


def test_the_temperature_divides_the_logits() -> None:
    logits = [float(number) for number in range(10)]
    hot, hot_energy = probabilities_and_energy(logits, 3.0)
    divided, energy = probabilities_and_energy([logit / 3 for logit in logits], 1.0)
    assert hot == pytest.approx(divided)
    assert hot_energy == pytest.approx(energy)


@TRIED
@given(LOGITS, TEMPERATURES, st.floats(0, 1))
def test_a_set_holds_the_most_probable_class_and_each_of_enough_probability(
    logits: list[float], temperature: float, threshold: float
) -> None:
    probabilities, _ = probabilities_and_energy(logits, temperature)
    found = prediction_set(probabilities, threshold)
    assert CLASSES[probabilities.index(max(probabilities))] in found
    assert found == [name for name in CLASSES if name in found]  # each once, in class order
    for name, probability in zip(CLASSES, probabilities, strict=True):
        assert (name in found) == (probability >= threshold) or found == [name]


def test_a_lower_threshold_gives_a_larger_set() -> None:
    probabilities = [0.5, 0.2, 0.1, 0.1, 0.05, 0.05, 0.0, 0.0, 0.0, 0.0]
    sets = [prediction_set(probabilities, threshold) for threshold in (1.0, 0.6, 0.5, 0.2, 0.1, 0.01, 0.0)]
    assert [len(names) for names in sets] == [1, 1, 1, 2, 4, 6, 10]
    assert all(set(smaller) <= set(larger) for smaller, larger in pairwise(sets))


@TRIED
@given(st.floats(allow_nan=False), st.floats(allow_nan=False))
def test_familiarity_rises_with_the_energy_and_stays_within_0_and_1(one: float, other: float) -> None:
    lower, higher = sorted((one, other))
    assert 0 <= familiarity(lower, FITTED) <= familiarity(higher, FITTED) <= 1


@pytest.mark.parametrize("scale", [1e-300, 1e-3, 1.0, 1e300])
@pytest.mark.parametrize("energy", [-1e300, -1e4, 0.0, 1e4, 1e300, math.inf, -math.inf])
def test_familiarity_of_extreme_energies_is_within_0_and_1(energy: float, scale: float) -> None:
    assert 0 <= familiarity(energy, Calibration(1.0, (0.5, 0.5), 0.0, scale)) <= 1


def test_a_picture_of_the_fitted_energy_is_just_familiar() -> None:
    assert familiarity(FITTED.energy, FITTED) == FAMILIAR == 0.5
    assert familiarity(FITTED.energy + FITTED.energy_scale, FITTED) == pytest.approx(1 / (1 + math.exp(-1)))
    assert familiarity(FITTED.energy - 1e9, FITTED) < 1e-300
    assert familiarity(FITTED.energy + 1e9, FITTED) == 1


def test_a_calibration_is_read_as_it_was_written() -> None:
    assert calibration(as_dict(FITTED)) == FITTED
    assert list(as_dict(FITTED)) == ["temperature", *(f"set_{name}" for name in COVERAGES), "energy", "energy_scale"]


def test_a_checkpoint_keeps_its_calibration(tmp_path: Path) -> None:
    checkpoint = Checkpoint("Net", {}, Net().state_dict(), as_dict(FITTED), training={"recipe": "calibrated"})
    save(checkpoint, tmp_path / "model.pt")
    assert calibration(load(tmp_path / "model.pt").calibration) == FITTED


@pytest.mark.parametrize("temperature", [1e-3, 1.0, 1e3])
def test_a_temperature_alone_is_a_calibration(temperature: float) -> None:
    assert calibration({"temperature": temperature}) == Calibration(temperature, (), 0.0, 0.0)


@pytest.mark.parametrize("name", as_dict(FITTED))
def test_a_calibration_without_one_of_its_values_is_none(name: str) -> None:
    found = as_dict(FITTED)
    del found[name]
    assert calibration(found) is None
    assert calibration({}) is None


@pytest.mark.parametrize("name", as_dict(FITTED))
@pytest.mark.parametrize("value", [math.inf, -math.inf, math.nan, "1", None, 1, True, [0.5]])
def test_a_calibration_with_a_value_that_is_no_finite_float_is_none(name: str, value: Any) -> None:
    assert calibration({**as_dict(FITTED), name: value}) is None


@pytest.mark.parametrize(
    ("name", "value"),
    [
        *[("temperature", value) for value in (0.0, -1.0, 9e-4, 1_001.0)],
        *[(f"set_{coverage}", value) for coverage in COVERAGES for value in (-0.01, 1.01)],
        *[("energy_scale", value) for value in (0.0, -1.0)],
    ],
)
def test_a_calibration_with_a_value_out_of_range_is_none(name: str, value: float) -> None:
    assert calibration({**as_dict(FITTED), name: value}) is None


@pytest.mark.parametrize("value", [-1e6, 0.0, 1e6])
def test_any_finite_energy_is_in_range(value: float) -> None:
    assert calibration({**as_dict(FITTED), "energy": value}) is not None
