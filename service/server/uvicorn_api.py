"""Every name of uvicorn's that it does not promise to keep: protocol, supervisor, signal handling.

`tests/service/server/test_uvicorn_api.py` checks them against the installed version; pyproject.toml bounds uvicorn from
above. docs/development.md says how to lift the bound.
"""

from uvicorn.protocols.http.httptools_impl import HttpToolsProtocol, RequestResponseCycle
from uvicorn.server import Server
from uvicorn.supervisors.multiprocess import Multiprocess, Process

__all__ = ["NAMES", "PROTOCOL_ATTRIBUTES", "HttpToolsProtocol", "Multiprocess", "RequestResponseCycle"]

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
    "timeout_keep_alive",
    "timeout_keep_alive_task",
    "transport",
    "url",
)
