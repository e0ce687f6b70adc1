"""The API's schemas, its examples and the statuses that each operation may answer with."""

from typing import Any, get_args, get_type_hints

from pydantic import BaseModel, ConfigDict, Field, create_model

from classifier import classifier, preprocessing
from classifier.networks import CLASSES
from classifier.picture import ACCEPTED
from classifier.uncertainty import Calibration

EXAMPLE_CALIBRATION = Calibration(1.0, (0.5, 0.05), 5.0, 1.0)
EXAMPLE_PREDICTION: Any = {
    **classifier.prediction([0.0002] * (len(CLASSES) - 1) + [0.9982], "fast-1a2b3c4d", 9.0, EXAMPLE_CALIBRATION),
    "input": {"format": "PNG", "width": 28, "height": 28, "adapted": []},
}


def describe_fields(shape: type) -> dict[str, Any]:
    """The fields of a TypedDict whose annotations are `Annotated[type, description]`, as pydantic takes them."""
    fields: dict[str, Any] = {}
    for name, hint in get_type_hints(shape, include_extras=True).items():
        kind, description, *_ = get_args(hint)
        fields[name] = (kind, Field(description=description))
    return fields


Input = create_model(
    "Input", __doc__="What was uploaded, and what was done to it.", **describe_fields(preprocessing.Input)
)
Prediction = create_model(
    "Prediction",
    __doc__="The prediction for one picture.",
    __config__=ConfigDict(json_schema_extra={"example": EXAMPLE_PREDICTION}),
    **describe_fields(classifier.Prediction),
    input=(Input, Field(description="what was uploaded, and what was done to it")),
)


class Refusal(BaseModel):
    """Why one picture of a batch got no prediction."""

    detail: str
    status: int = Field(description="the status of the picture if it were sent alone")


class Batch(BaseModel):
    """The predictions for several pictures, in their order."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "predictions": [
                    EXAMPLE_PREDICTION,
                    {"detail": "The PNG picture is damaged or incomplete.", "status": 400},
                ]
            }
        }
    )

    predictions: list[Prediction | Refusal]  # type: ignore[valid-type]


class Health(BaseModel):
    """The service is ready for pictures."""

    model_config = ConfigDict(
        json_schema_extra={
            "example": {
                "status": "ok",
                "device": "cpu",
                "runtime": "openvino",
                "precision": "bfloat16",
                "model": "fast-1a2b3c4d",
            }
        }
    )

    status: str
    device: str = Field(description="where the network runs: cpu, cuda or mps")
    runtime: str = Field(description="what runs the network: openvino or pytorch")
    precision: str = Field(description="of the network's products: bfloat16 or float32")
    model: str = Field(description="the recipe and the first 8 hex digits of the checkpoint's SHA-256")
    refused: str | None = Field(None, description="why a newer checkpoint was refused, if one was")
    photo_model: str | None = Field(None, description="the same as model, of the photo network, if there is one")
    photo_refused: str | None = Field(None, description="why there is no photo network, or no newer one")


class Liveness(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "alive"}})

    status: str


class Problem(BaseModel):
    """An error, in one sentence that names the limit and the value."""

    detail: str


PICTURE = {"type": "string", "format": "binary"}


def form(field: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": ["file"], "properties": {"file": field}}}


UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": form(PICTURE), "image/*": {"schema": PICTURE}},  # any other type, too
    }
}
UPLOADS = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": form({"type": "array", "items": PICTURE, "minItems": 1})},
    }
}


def problem(description: str, example: str) -> dict[str, Any]:
    return {
        "model": Problem,
        "description": description,
        "content": {"application/json": {"example": {"detail": example}}},
    }


MISSING_MODEL = "model_scratch.pt does not exist: train it with `python -m training.run`."
NO_KEY = "Missing or wrong API key: send it as Authorization: Bearer KEY."
INTERNAL_ERROR = "The service failed to answer; its log has the reason."

TOO_SLOW = problem(
    "The request did not arrive before its deadline",
    "The headers were not complete within 10 s; send them without a pause.",
)
TOO_LONG = problem("Too many or too long headers", "The headers have over 65,536 bytes, the limit; send fewer.")

Problems = dict[int | str, dict[str, Any]]
HEALTH_PROBLEMS: Problems = {
    500: problem("An error of the service", INTERNAL_ERROR),
    503: problem("No model is loaded, or the service is about to stop", MISSING_MODEL),
}
PREDICT_PROBLEMS: Problems = {
    400: problem("A broken or empty picture, or a malformed form", "The PNG picture is damaged or incomplete."),
    408: TOO_SLOW,
    413: problem(
        "Over the byte or the pixel limit",
        "The body has 20,000,000 bytes, over the limit of 10,485,760 for pictures; send smaller ones.",
    ),
    415: problem(
        "Not a picture of an accepted format",
        f"The file is not a picture of an accepted format: {ACCEPTED}.",
    ),
    422: problem("No file, or several", "The form has the field 'image'; send the picture in the field 'file'."),
    431: TOO_LONG,
    500: problem("An error of the service", INTERNAL_ERROR),
    503: problem("No model is loaded, or too many pictures are in flight", MISSING_MODEL),
}
BATCH_PROBLEMS: Problems = {
    400: problem("A malformed form", "The form is incomplete: its closing boundary is missing; send all of it."),
    408: TOO_SLOW,
    413: problem(
        "Too many bytes or files",
        "The form has 65 fields 'file', over the limit of 64; send them in several requests.",
    ),
    415: problem("An encoded body", "The body has the Content-Encoding 'gzip'; send it as it is, without this header."),
    422: problem("No file", "The form has the field 'image'; send each picture in a field 'file'."),
    431: TOO_LONG,
    500: problem("An error of the service", INTERNAL_ERROR),
    503: problem("No model is loaded, or too many pictures are in flight", MISSING_MODEL),
}

HEADERS = {  # by status; "all": of every answer
    "all": {
        "X-Request-ID": "the request's own, if it has 1 to 128 printable characters without separators; else a new one"
    },
    "401": {"WWW-Authenticate": "Bearer"},
    "503": {"Retry-After": "seconds"},
}
KEY = "key"
OPEN = ("/health", "/health/live")  # no API key is needed


def complete(schema: dict[str, Any], key: bool) -> dict[str, Any]:
    """FastAPI's OpenAPI document, with what the middleware adds: headers, and the API key if one is set."""
    refusal = problem("Missing or wrong API key", NO_KEY)
    refusal["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/Problem"}
    del refusal["model"]
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if key and path not in OPEN:
                operation["security"] = [{KEY: []}]
                operation["responses"]["401"] = dict(refusal)
            for status, response in operation["responses"].items():
                headers = HEADERS.get(status, {}) | HEADERS["all"]
                response["headers"] = {
                    name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
                }
    if key:
        schema["components"]["securitySchemes"] = {KEY: {"type": "http", "scheme": "bearer"}}
    return schema
