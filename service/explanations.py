"""The answer of `POST /explain`: an explanation as plain values, its maps as base64 of bytes."""

from base64 import b64encode
from math import isnan
from typing import Any

import numpy as np
from numpy.typing import NDArray

from classifier.classifier import Classifier
from classifier.evidence import Evidence
from classifier.explanation import Explanation, Stage
from classifier.pixels import SHAPE, Pixels

LEVELS = 255  # steps of a byte between the lowest and the highest value of a map
LARGEST = float(np.finfo(np.float32).max)  # JSON has no infinity
DIGITS = 6  # significant ones, of numbers that are not the prediction's own
SEEN_REDUCTION = 2  # pixels, the side of the squares whose means are sent of a photo


def explanation_answer(explanation: Explanation, classifier: Classifier, pixels: Pixels) -> dict[str, Any]:
    """The fields of the answer, but for `input`. `pixels` are uint8 [1,28,28] or [3,160,160]."""
    features, evidence = explanation.features, explanation.evidence
    return {
        **explanation.prediction,
        "logits": [finite(logit) for logit in explanation.logits],
        "temperature": classifier.calibration.temperature,
        "views": getattr(classifier.network, "tta_views", 1),
        "seen": seen(pixels),
        "stages": [stage_answer(stage) for stage in explanation.stages],
        "features": features
        and {
            "name": f"the {len(features)} numbers before the last layer",
            "values": [rounded(value) for value in features],
        },
        "evidence": evidence and evidence_answer(evidence),
    }


def seen(pixels: Pixels) -> dict[str, Any]:
    """The image that the network saw, a photo reduced by means; rows from above, channels interleaved."""
    channels, height, width = pixels.shape
    if pixels.shape != SHAPE:
        height, width = height // SEEN_REDUCTION, width // SEEN_REDUCTION
        squares = pixels.reshape(channels, height, SEEN_REDUCTION, width, SEEN_REDUCTION)
        pixels = squares.mean(axis=(2, 4)).round().astype(np.uint8)
    data = base64(pixels.transpose(1, 2, 0))
    return {"channels": channels, "height": height, "width": width, "data": data}


def stage_answer(stage: Stage) -> dict[str, Any]:
    low, high = (float(value) for value in (stage.maps.min(), stage.maps.max()))
    return {
        "name": stage.layer.name,
        "layer": stage.layer.module,
        "shape": stage.shape,
        "channels": stage.channels,
        "height": stage.maps.shape[1],
        "width": stage.maps.shape[2],
        "low": low,
        "high": high,
        "data": base64(quantised(stage.maps, low, high)),
        "receptive_field": stage.field._asdict(),
    }


def evidence_answer(evidence: Evidence) -> dict[str, Any]:
    largest = float(np.abs(evidence.maps).max())
    return {
        "method": evidence.method,
        "source": evidence.source,
        "height": evidence.maps.shape[1],
        "width": evidence.maps.shape[2],
        "low": -largest,
        "high": largest,
        "data": base64(quantised(evidence.maps, -largest, largest)),
        "box": [rounded(edge) for edge in evidence.box],
    }


def quantised(maps: NDArray[np.float64], low: float, high: float) -> NDArray[np.uint8]:
    """The maps as bytes: a value is low + byte / 255 * (high - low), within half a step."""
    fractions = (maps - low) / (high - low) if high > low else np.full_like(maps, 0.5)
    levels: NDArray[np.uint8] = (LEVELS * fractions).round().astype(np.uint8)
    return levels


def base64(values: NDArray[np.uint8]) -> str:
    return b64encode(np.ascontiguousarray(values).tobytes()).decode()


def rounded(value: float) -> float:
    return float(f"{finite(value):.{DIGITS}g}")


def finite(value: float) -> float:
    """The value within the range of float32; 0 in the place of one that is not a number."""
    return 0.0 if isnan(value) else min(max(value, -LARGEST), LARGEST)
