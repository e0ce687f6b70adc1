"""The API's words."""

from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, JsonValue

from classifier.networks import CLASSES
from classifier.picture import ACCEPTED

Probability = Annotated[float, Field(ge=0, le=1)]

EXAMPLE_PREDICTION: dict[str, JsonValue] = {
    "class": "Ankle boot",
    "index": 9,
    "confidence": 0.9982,
    "probabilities": {name: 0.9982 if name == "Ankle boot" else 0.0002 for name in CLASSES},
    "model": "fast-1a2b3c4d",
}


class Prediction(BaseModel):
    """What is said of one picture."""

    model_config = ConfigDict(
        validate_by_alias=True,
        validate_by_name=True,
        json_schema_extra={"example": EXAMPLE_PREDICTION},
    )

    class_name: str = Field(alias="class", description="the most probable class")
    index: int = Field(ge=0, lt=len(CLASSES), description="its index, in Fashion-MNIST's order")
    confidence: Probability = Field(description="its probability")
    probabilities: dict[str, Probability] = Field(description="of all ten classes, in order; they sum to 1")
    model: str = Field(description="recipe and first 8 hex digits of the checkpoint's SHA-256")


class Refusal(BaseModel):
    """Why one picture of a batch got no prediction."""

    detail: str
    status: int = Field(description="what the picture alone would have been answered with")


class Batch(BaseModel):
    """What is said of several pictures, in their order."""

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

    predictions: list[Prediction | Refusal]


class Health(BaseModel):
    """The service answers pictures."""

    model_config = ConfigDict(
        json_schema_extra={"example": {"status": "ok", "device": "cpu", "model": "fast-1a2b3c4d"}}
    )

    status: str
    device: str = Field(description="where the network runs: cpu, cuda or mps")
    model: str = Field(description="recipe and first 8 hex digits of the checkpoint's SHA-256")
    refused: str | None = Field(None, description="why the newer checkpoint in its place is not served, if so")


class Liveness(BaseModel):
    """The process answers."""

    model_config = ConfigDict(json_schema_extra={"example": {"status": "alive"}})

    status: str


class Problem(BaseModel):
    """Why there is no other answer, in one sentence that names the limit and the value."""

    detail: str


PICTURE = {"type": "string", "format": "binary"}


def form(field: dict[str, Any]) -> dict[str, Any]:
    return {"schema": {"type": "object", "required": ["file"], "properties": {"file": field}}}


UPLOAD = {
    "requestBody": {
        "required": True,
        "content": {"multipart/form-data": form(PICTURE), "image/*": {"schema": PICTURE}},
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
NO_KEY = "This service wants a key: send it as Authorization: Bearer."
INTERNAL_ERROR = "The service failed to answer; its log says why."

TOO_SLOW = problem("The request did not arrive in time", "The request was not complete within 10 s.")
TOO_LONG = problem("Too many or too long headers", "The headers have over 65,536 bytes, the limit.")

Problems = dict[int | str, dict[str, Any]]
HEALTH_PROBLEMS: Problems = {
    500: problem("A fault of the service", INTERNAL_ERROR),
    503: problem("No model is loaded, or the service is about to stop", MISSING_MODEL),
}
PREDICT_PROBLEMS: Problems = {
    400: problem("A broken or empty picture, or a malformed form", "The PNG picture is damaged or incomplete."),
    408: TOO_SLOW,
    413: problem(
        "Over the byte or the pixel limit",
        "The body has 20,000,000 bytes, over the limit of 10,485,760 for pictures.",
    ),
    415: problem(
        "Not a picture of an accepted format",
        f"The file is not a picture of an accepted format: {ACCEPTED}.",
    ),
    422: problem("No file", "The multipart form has 0 fields 'file'; expected exactly one."),
    431: TOO_LONG,
    500: problem("A fault of the service", INTERNAL_ERROR),
    503: problem("No model is loaded, or too many requests wait", MISSING_MODEL),
}
BATCH_PROBLEMS: Problems = {
    400: problem("A malformed form", "The multipart form is malformed."),
    408: TOO_SLOW,
    413: problem("Too many bytes or files", "The form has 65 fields 'file', over the limit of 64."),
    422: problem("No file", "The multipart form has 0 fields 'file'; expected at least one."),
    431: TOO_LONG,
    500: problem("A fault of the service", INTERNAL_ERROR),
    503: problem("No model is loaded, or too many requests wait", MISSING_MODEL),
}

HEADERS = {  # by status; "all": of every answer
    "all": {"X-Request-ID": "the request's own, if it bore one of at most 64 letters, digits, '.', '_' or '-'"},
    "401": {"WWW-Authenticate": "Bearer"},
    "503": {"Retry-After": "seconds"},
}
KEY = "key"
OPEN = ("/health", "/health/live")  # without a key


def complete(schema: dict[str, Any], key: bool) -> dict[str, Any]:
    """FastAPI's OpenAPI document with what stands around its routes: headers, and the key if there is one."""
    refusal = problem("No key, or a wrong one", NO_KEY)
    refusal["content"]["application/json"]["schema"] = {"$ref": "#/components/schemas/Problem"}
    del refusal["model"]
    for path, operations in schema["paths"].items():
        for operation in operations.values():
            if key and path not in OPEN:
                operation["security"] = [{KEY: []}]
                operation["responses"]["401"] = dict(refusal)
            for status, response in operation["responses"].items():
                # The two that the protocol writes, before there is a request, have no headers of the app's.
                headers = HEADERS.get(status, {}) | ({} if status in ("408", "431") else HEADERS["all"])
                response["headers"] = {
                    name: {"description": text, "schema": {"type": "string"}} for name, text in headers.items()
                }
    if key:
        schema["components"]["securitySchemes"] = {KEY: {"type": "http", "scheme": "bearer"}}
    return schema
