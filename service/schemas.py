"""The API's words."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from training.classifier.model import CLASSES

Probability = Annotated[float, Field(ge=0, le=1)]

EXAMPLE_PROBABILITIES: dict[str, JsonValue] = {name: 0.9982 if name == "Ankle boot" else 0.0002 for name in CLASSES}


class Prediction(BaseModel):
    """What is said of one picture."""

    model_config = ConfigDict(
        validate_by_alias=True,
        validate_by_name=True,
        json_schema_extra={
            "example": {
                "class": "Ankle boot",
                "index": 9,
                "confidence": 0.9982,
                "probabilities": EXAMPLE_PROBABILITIES,
                "model": "fast-1a2b3c4d",
            }
        },
    )

    class_name: str = Field(alias="class", description="the most probable class")
    index: int = Field(ge=0, lt=len(CLASSES), description="its index, in Fashion-MNIST's order")
    confidence: Probability = Field(description="its probability")
    probabilities: dict[str, Probability] = Field(description="of all ten classes, in order; they sum to 1")
    model: str = Field(description="recipe and first 8 hex digits of the checkpoint's SHA-256")


class Health(BaseModel):
    """The service answers pictures."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"status": "ok", "device": "cpu", "model": "fast-1a2b3c4d"}}
    )

    status: str
    device: str = Field(description="where the network runs: cpu, cuda or mps")
    model: str = Field(description="recipe and first 8 hex digits of the checkpoint's SHA-256")


class Liveness(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "alive"}})

    status: str


class Problem(BaseModel):
    """Why there is no other answer, in one sentence that names the limit and the value."""

    detail: str
