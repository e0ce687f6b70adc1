"""Settings: typed, from the environment with the prefix SERVICE_, units in the names."""

from pathlib import Path
from typing import Any, Literal

from pydantic import Field, ValidationError
from pydantic_settings import BaseSettings, SettingsConfigDict

from training.classifier import images

PREFIX = "SERVICE_"


class SettingsError(Exception):
    """A setting has a wrong value; one sentence that names it."""


class Settings(BaseSettings):
    """Each field is also an environment variable: `max_upload_bytes` is SERVICE_MAX_UPLOAD_BYTES."""

    model_config = SettingsConfigDict(env_prefix=PREFIX, frozen=True)

    model: Path = Field(Path("models/model_scratch.pt"), description="the checkpoint to serve")
    device: Literal["auto", "cpu", "cuda", "mps"] = Field("auto", description="auto: cuda, then mps, then cpu")
    host: str = Field("127.0.0.1", description="the address to listen on")
    port: int = Field(8000, ge=0, le=65_535, description="the port to listen on; 0 takes a free one")
    workers: int = Field(1, ge=1, le=256, description="processes that share the port")
    threads: int = Field(1, ge=1, le=256, description="CPU threads of the network in each worker")
    max_upload_bytes: int = Field(10 * 2**20, ge=1, description="of a picture, as it is sent")
    max_pixels: int = Field(images.MAX_PIXELS, ge=1, description="of a picture, width times height")
    max_jpeg_pixels: int = Field(
        images.MAX_JPEG_PIXELS, ge=1, description="of a JPEG, which is decoded at reduced size"
    )
    max_batch: int = Field(64, ge=1, description="pictures the network sees at once")
    max_waiting: int = Field(256, ge=1, description="pictures that wait for the network; beyond that, 503")


def load_settings(**flags: Any) -> Settings:
    """The settings from the environment; a flag that is not None beats it. Raises SettingsError."""
    given = {name: value for name, value in flags.items() if value is not None}
    try:
        return Settings(**given)
    except ValidationError as error:
        first = error.errors()[0]
        name = str(first["loc"][0])
        source = f"--{name}" if name in given else f"{PREFIX}{name.upper()}"
        raise SettingsError(f"{source} is {str(first['input'])!r}: {first['msg'].lower()}.") from error
