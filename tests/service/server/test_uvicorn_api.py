"""The names of uvicorn's that it does not promise, against the installed version."""

import asyncio

import pytest
import uvicorn

from service.server.uvicorn_api import NAMES, PROTOCOL_ATTRIBUTES, HttpToolsProtocol


async def ignored(*args: object) -> None:
    """An app, for the configuration."""


@pytest.mark.parametrize(("kind", "name"), [(kind, name) for kind, names in NAMES.items() for name in names])
def test_uvicorn_has_the_method(kind: type, name: str) -> None:
    assert hasattr(kind, name)


def test_a_connection_has_the_attributes() -> None:
    async def attributes() -> set[str]:
        config = uvicorn.Config("tests.service.server.test_uvicorn_api:ignored", interface="asgi3")
        config.load()
        server = uvicorn.Server(config)
        return set(vars(HttpToolsProtocol(config, server.server_state, {})))

    assert set(PROTOCOL_ATTRIBUTES) <= asyncio.run(attributes())
