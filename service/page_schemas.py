"""The schemas of `/explain` and `/model`, which the web page uses, with their examples."""

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, create_model

from classifier.evidence import OCCLUSION, OCCLUSION_SOURCE
from classifier.networks import CLASSES
from classifier.receptive_field import ReceptiveField as FieldOfCells
from service.schemas import EXAMPLE_PREDICTION, INTERNAL_ERROR, MISSING_MODEL, Prediction, Problems, problem

Maps = Annotated[str, Field(description="bytes in base64: one map after the other, row by row from above")]
Low = Annotated[float, Field(description="the value of the byte 0")]
High = Annotated[float, Field(description="the value of the byte 255; a byte is low + byte / 255 * (high - low)")]


class Seen(BaseModel):
    """The image that the network saw; a photo reduced to 80×80 pixels by means."""

    channels: Literal[1, 3]
    height: int
    width: int
    data: str = Field(description="bytes in base64: row by row from above, the channels of a pixel together")


class ReceptiveField(BaseModel):
    """Cell i of a map depends on the pixels start + stride * i to start + stride * i + size - 1, along either axis."""

    size: float
    stride: float
    start: float


class Stage(BaseModel):
    """Feature maps of a layer."""

    name: str = Field(description="the layer in words")
    layer: str = Field(description="its name in PyTorch")
    shape: list[int] = Field(description="channels, rows and columns of all its maps", min_length=3, max_length=3)
    channels: list[int] = Field(description="the channels that are shown")
    height: int = Field(description="rows of the maps in data, which may be reduced")
    width: int
    low: Low
    high: High
    data: Maps
    receptive_field: ReceptiveField


class Features(BaseModel):
    """The vector before the last layer."""

    name: str
    values: list[float]


class Evidence(BaseModel):
    """For each of the ten classes a map: above 0 where the image speaks for the class, below 0 against it."""

    method: str
    source: str = Field(description="the publication of the method")
    height: int
    width: int
    low: Low
    high: High
    data: Maps
    box: list[float] = Field(
        description="top, left, bottom and right of the maps, as fractions of the image", min_length=4, max_length=4
    )


EXAMPLE_EXPLANATION: dict[str, Any] = {
    **EXAMPLE_PREDICTION,
    "logits": [0.1] * (len(CLASSES) - 1) + [8.4],
    "temperature": 1.0,
    "views": 1,
    "seen": {"channels": 1, "height": 2, "width": 2, "data": "AP8A/w=="},
    "stages": [
        {"name": "whitening filters", "layer": "filters", "shape": [18, 2, 2], "channels": [3], "height": 2, "width": 2,
         "low": -1.5, "high": 2.0, "data": "AECA/w==", "receptive_field": FieldOfCells(3, 1, -1)._asdict()}
    ],
    "features": {"name": "the 2 numbers before the last layer", "values": [0.0, 3.25]},
    "evidence": {"method": OCCLUSION, "source": OCCLUSION_SOURCE, "height": 1, "width": 1, "low": -2.0, "high": 2.0,
                 "data": "gICAgICAgICA/w==", "box": [0.0714286, 0.0714286, 0.928571, 0.928571]},
}  # fmt: skip
ExplainedPrediction = create_model(
    "ExplainedPrediction",
    __base__=Prediction,
    __doc__="The prediction for one picture, and what it rests on.",
    logits=(list[float], Field(description="the ten numbers that the network gives", min_length=10, max_length=10)),
    temperature=(float, Field(description="divides the logits before the softmax")),
    views=(Literal[1, 2, 6], Field(description="test-time augmentation: the maps are those of the first view")),
    seen=(Seen, ...),
    stages=(list[Stage], Field(description="the first layer, one in the middle, the last feature maps")),
    features=(Features | None, Field(description="null if there are more than 128 numbers")),
    evidence=(Evidence | None, Field(description="null if it would take too long with this network")),
)
ExplainedPrediction.model_config["json_schema_extra"] = {"example": EXAMPLE_EXPLANATION}


class FirstLayer(BaseModel):
    """A value of the first maps is bias + sum(weight * (pixel - mean) / std); outside of the image, pixel = mean."""

    weights: list[list[list[list[float]]]] | None = Field(
        description="out, in, rows, columns; null if it is no convolution of pixels"
    )
    bias: list[float] | None
    mean: float
    std: float
    padding: int | None = Field(description="pixels outside of the image, on the left and above")
    stride: int | None


class Network(BaseModel):
    """A network that is loaded."""

    model: str = Field(description="the recipe and the first 8 hex digits of the checkpoint's SHA-256")
    sha256: str = Field(description="of the checkpoint")
    input: list[int] = Field(description="channels, rows and columns of an image", min_length=3, max_length=3)
    architecture: str
    arguments: dict[str, Any]
    parameters: int
    multiply_adds: int = Field(description="of one image")
    temperature: float
    metrics: dict[str, Any] = Field(description="as in the checkpoint, within limits")
    training: dict[str, Any] = Field(description="as in the checkpoint, within limits")
    limits: list[str] = Field(description="what it was trained on, and where it fails")
    first_layer: FirstLayer


EXAMPLE_NETWORK: dict[str, Any] = {
    "model": "tutorial-1a2b3c4d", "sha256": "1a2b3c4d" * 8, "input": [1, 28, 28], "architecture": "Net",
    "arguments": {"sigmoid": True}, "parameters": 11_252, "multiply_adds": 191_920, "temperature": 1.0,
    "metrics": {"test_accuracy": 0.8912}, "training": {"recipe": "tutorial", "seed": 0, "epochs": 25},
    "limits": ["Every picture gets one of the ten classes, also one that shows something else."],
    "first_layer": {"weights": [[[[0.25]]]], "bias": [0.5], "mean": 0.0, "std": 255.0, "padding": 0, "stride": 1},
}  # fmt: skip


class ModelPage(BaseModel):
    """The networks that are loaded: that for images of Fashion-MNIST, then the photo network if there is one."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {"classes": list(CLASSES), "max_upload_bytes": 10 * 2**20, "networks": [EXAMPLE_NETWORK]}
        }
    )

    classes: list[str]
    max_upload_bytes: int = Field(description="of an encoded picture")
    networks: list[Network]


MODEL_ANSWERS: Problems = {
    304: {"description": "The answer is the one whose ETag the request has in If-None-Match"},
    500: problem("An error of the service", INTERNAL_ERROR),
    503: problem("No model is loaded", MISSING_MODEL),
}
