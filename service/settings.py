"""Settings: typed, from the environment with the prefix SERVICE_, units in the names."""

import re
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field, SecretStr, ValidationError
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from classifier.picture import MAX_JPEG_PIXELS, MAX_PIXELS

PREFIX = "SERVICE_"
ORIGIN = re.compile(r"([a-z][a-z0-9+.-]*)://([^\s/?#@*:\[\]'\"]+|\[[0-9a-f:.]+\])(?::(\d{1,5}))?/?", re.IGNORECASE)
USUAL_PORTS = {"http": "80", "https": "443"}  # that a browser leaves out
DEFAULT_PORT = 8000


class SettingsError(Exception):
    """A setting has a wrong value; one sentence that names it."""


def names_a_file(path: Path) -> Path:
    if not path.name:
        raise ValueError("it names no file")
    return path


def comma_separated(value: object) -> object:
    return tuple(filter(None, (part.strip() for part in value.split(",")))) if isinstance(value, str) else value


def origin(value: str) -> str:
    """`value` as browsers write it in the header Origin: lower case, no slash at the end, no usual port."""
    if value in ("*", "null"):
        return value
    if not (match := ORIGIN.fullmatch(value)):
        raise ValueError("an origin is a scheme, a host and perhaps a port, such as https://shop.example")
    scheme, host, port = match.groups()
    if port and int(port) > 65_535:
        raise ValueError("its port is over 65,535")
    try:
        name = host.encode("idna").decode().lower()
    except UnicodeError:
        raise ValueError("its host is not a name") from None
    scheme = scheme.lower()
    return f"{scheme}://{name}" + (f":{int(port)}" if port and port != USUAL_PORTS.get(scheme) else "")


def prefix(value: str) -> str | None:
    """`value` with a slash at its beginning and none at its end; None if nothing is left."""
    return f"/{path}" if (path := "/".join(filter(None, value.strip().split("/")))) else None


def without_kubernetes_link(value: object) -> object:
    """The default for tcp://…, which Kubernetes sets as SERVICE_PORT in the pods beside a Service named `service`."""
    return DEFAULT_PORT if isinstance(value, str) and value.startswith("tcp://") else value


class Settings(BaseSettings):
    """Each field is also an environment variable: `max_upload_bytes` is SERVICE_MAX_UPLOAD_BYTES."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    model: Annotated[Path, AfterValidator(names_a_file), Field(description="checkpoint file to serve")] = Path(
        "models/model_scratch.pt"
    )
    photo_model: Annotated[
        Path | None,
        BeforeValidator(lambda value: value or None),
        AfterValidator(lambda path: path and names_a_file(path)),
        Field(description="checkpoint file of the photo network; empty: none"),
    ] = Path("models/photos.pt")
    model_sha256: Annotated[
        str | None, Field(pattern="^[0-9a-f]{64}$", description="SHA-256 of the only checkpoint to serve")
    ] = None
    device: Annotated[
        Literal["auto", "cpu", "cuda", "mps"],
        Field(description="device of the network; auto: cuda, then mps, then cpu"),
    ] = "auto"
    precision: Annotated[
        Literal["auto", "float32"],
        Field(description="precision of the network on a CPU; auto: bfloat16 if the processor multiplies it"),
    ] = "auto"
    host: Annotated[str, Field(description="address to listen on")] = "127.0.0.1"
    port: Annotated[
        int, BeforeValidator(without_kubernetes_link), Field(ge=0, le=65_535, description="port to listen on")
    ] = DEFAULT_PORT
    workers: Annotated[int, Field(ge=1, le=256, description="processes that share the port")] = 1
    threads: Annotated[int, Field(ge=1, le=256, description="CPU threads of the network in each worker")] = 1
    access_log: Annotated[bool, Field(description="access log: one line for each request on standard output")] = True
    metrics: Annotated[bool, Field(description="page /metrics, for Prometheus")] = True
    docs: Annotated[bool, Field(description="pages /docs and /openapi.json")] = True
    page: Annotated[bool, Field(description="page /, and /explain and /model, which it uses")] = True
    api_key: Annotated[
        SecretStr | None, Field(min_length=1, description="key that requests must have; none: no key")
    ] = None
    root_path: Annotated[
        str | None,
        AfterValidator(lambda value: prefix(value or "")),
        Field(description="prefix of all paths that a proxy in front does not strip"),
    ] = None
    cors_origins: Annotated[
        tuple[Annotated[str, AfterValidator(origin)], ...],
        NoDecode,
        BeforeValidator(comma_separated),
        Field(description="sites whose pages may send requests (CORS), separated by commas"),
    ] = ()
    request_seconds: Annotated[
        float,
        Field(
            gt=0,
            le=3600,
            description="deadline for the headers of a request to arrive, and for its answer to be read, in seconds",
        ),
    ] = 10
    keep_alive_seconds: Annotated[
        int, Field(ge=1, le=3600, description="time that a connection may be idle between two requests, in seconds")
    ] = 75
    min_upload_bytes_per_second: Annotated[
        int, Field(ge=1, description="slowest upload, on average over SERVICE_REQUEST_SECONDS, in bytes/s")
    ] = 16 * 2**10
    drain_seconds: Annotated[
        float, Field(ge=0, le=3600, description="duration of the drain after SIGTERM, in seconds")
    ] = 5
    max_upload_bytes: Annotated[
        int, Field(ge=1, description="size of an encoded picture, and of a batch, in bytes")
    ] = 10 * 2**20
    max_files: Annotated[int, Field(ge=1, description="pictures in one request to /predict/batch")] = 64
    max_pixels: Annotated[int, Field(ge=1, description="pixels of a picture, width times height")] = MAX_PIXELS
    max_jpeg_pixels: Annotated[int, Field(ge=1, description="pixels of a JPEG picture, width times height")] = (
        MAX_JPEG_PIXELS
    )
    max_batch: Annotated[int, Field(ge=1, le=128, description="pictures in a batch of the network")] = 32
    max_waiting: Annotated[int, Field(ge=1, description="pictures in flight in a worker; beyond that, 503")] = 256
    max_wait_seconds: Annotated[
        float, Field(gt=0, le=3600, description="time until work on a picture must begin, in seconds; after that, 503")
    ] = 2


def load_settings(**flags: Any) -> Settings:
    """The settings from the environment, which `flags` beat. Raises SettingsError."""
    try:
        return Settings(**flags)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        source = f"--{name}" if name in flags else f"{PREFIX}{name.upper()}"
        raise SettingsError(
            f"{source} is {str(first['input'])!r}: {first['msg'].lower().removeprefix('value error, ')}."
        ) from error
