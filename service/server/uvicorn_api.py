"""Every name of uvicorn's that it does not promise to keep: protocol, supervisor, signal handling.

`tests/service/server/test_uvicorn_api.py` checks them against the installed version; pyproject.toml bounds uvicorn from
above. docs/development.md says how to lift the bound.
"""

import asyncio

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server
from uvicorn.supervisors.multiprocess import Multiprocess, Process

__all__ = ["NAMES", "PROTOCOL_ATTRIBUTES", "HttpToolsProtocol", "Multiprocess", "last_cycle"]

NAMES: dict[type, tuple[str, ...]] = {  # class -> methods that we override, call or rely on
    HttpToolsProtocol: (
        "connection_made",
        "connection_lost",
        "data_received",
        "on_message_begin",
        "on_headers_complete",
        "on_body",
        "on_message_complete",
        "on_response_complete",
        "shutdown",
        "timeout_keep_alive_handler",
        "_start_asgi_task",
    ),
    RequestResponseCycle: ("run_asgi", "send", "receive"),
    Multiprocess: ("run", "terminate_all", "keep_subprocess_alive", "join_all"),
    Process: ("pid", "is_alive"),
    Server: ("run", "handle_exit"),
}
PROTOCOL_ATTRIBUTES = (  # of a connection
    "access_logger",
    "app",
    "connections",
    "cycle",
    "flow",
    "headers",
    "logger",
    "loop",
    "parser",
    "pipeline",
    "scope",
    "server_state",
    "timeout_keep_alive",
    "timeout_keep_alive_task",
    "transport",
)


def last_cycle(connection: HttpToolsProtocol) -> RequestResponseCycle:
    """A request without a body, as `connection.scope` describes it, after whose answer the connection is closed."""
    return RequestResponseCycle(
        scope=connection.scope,
        transport=connection.answer_transport,  # type: ignore[attr-defined]
        flow=connection.flow,
        logger=connection.logger,
        access_logger=connection.access_logger,
        access_log=False,
        default_headers=connection.server_state.default_headers,
        message_event=asyncio.Event(),
        expect_100_continue=False,
        keep_alive=False,
        on_response=connection.on_response_complete,
    )
