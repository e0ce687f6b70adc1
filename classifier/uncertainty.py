"""Uncertainty of a prediction: temperature scaling, conformal prediction sets, out-of-distribution detection.

Plain Python on the ten logits of one picture. Ten numbers take 3 µs there and 9 µs in NumPy, and NumPy would warn of an
overflow (AMD EPYC).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from math import exp, inf, log
from typing import Any

from classifier.pixels import CLASSES

COVERAGES = ("0.95", "0.99")  # of the prediction sets: how often they hold the right class
TEMPERATURES = (1e-3, 1e3)  # the lowest and the highest that are valid
FAMILIAR = 0.5  # a picture of this familiarity or more looks like one of the classes
LOWEST_EXPONENT = -700.0  # the exponential of less is 0


@dataclass(frozen=True)
class Calibration:
    """What was fitted on pictures that the network did not learn from."""

    temperature: float = 1.0  # divides the logits
    thresholds: tuple[float, ...] = ()  # probabilities, one for each of COVERAGES; () if none were fitted
    energy: float = 0.0  # of a picture that is just familiar
    energy_scale: float = 0.0  # over which familiarity falls; 0 if none was fitted


def calibration(found: Mapping[str, Any]) -> Calibration | None:
    """The calibration in a checkpoint; None if a value is missing or out of its range. All but the temperature may be
    missing, as in older checkpoints."""
    lowest, highest = TEMPERATURES
    temperature = found.get("temperature")
    if not isinstance(temperature, float) or not lowest <= temperature <= highest:
        return None
    if found.keys() == {"temperature"}:
        return Calibration(temperature)
    thresholds = [found.get(f"set_{coverage}") for coverage in COVERAGES]
    energies = [found.get(name) for name in ("energy", "energy_scale")]
    if not all(isinstance(value, float) and -inf < value < inf for value in (*thresholds, *energies)):
        return None
    fitted = Calibration(temperature, tuple(thresholds), *energies)  # type: ignore[arg-type]
    in_range = all(0 <= threshold <= 1 for threshold in fitted.thresholds) and fitted.energy_scale > 0
    return fitted if in_range else None


def as_dict(fitted: Calibration) -> dict[str, float]:
    """The calibration as a checkpoint holds it."""
    thresholds = {f"set_{name}": value for name, value in zip(COVERAGES, fitted.thresholds, strict=True)}
    return {"temperature": fitted.temperature, **thresholds,
            "energy": fitted.energy, "energy_scale": fitted.energy_scale}  # fmt: skip


def probabilities_and_energy(logits: list[float], temperature: float) -> tuple[list[float], float]:
    """The probabilities of the ten classes, which sum to 1 within 1e-6, and the energy, log(sum(exp(logits / T))).

    Temperature scaling: the softmax of logits / temperature (Guo et al. 2017, "On Calibration of Modern Neural
    Networks"). The energy is that of Liu et al. 2020, "Energy-based Out-of-distribution Detection", without its minus
    sign: it is low for pictures that are like none of the training images.
    """
    highest = max(logits)
    exponentials = [exp((logit - highest) / temperature) for logit in logits]
    total = sum(exponentials)
    return [exponential / total for exponential in exponentials], highest / temperature + log(total)


def prediction_set(probabilities: list[float], threshold: float) -> list[str]:
    """The classes of at least this probability, in class order; the most probable class alone if there are none.

    Split conformal prediction with the score 1 - p (Sadinle et al. 2019, "Least Ambiguous Set-Valued Classifiers").
    """
    names = [name for name, probability in zip(CLASSES, probabilities, strict=True) if probability >= threshold]
    return names or [CLASSES[probabilities.index(max(probabilities))]]


def familiarity(energy: float, fitted: Calibration) -> float:
    """From 0 to 1, 0.5 for a picture that is just familiar: the logistic function of the energy."""
    return 1 / (1 + exp(min(-LOWEST_EXPONENT, (fitted.energy - energy) / fitted.energy_scale)))
