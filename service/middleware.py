"""ASGI middleware around every answer: request id, security headers, request metrics, access log; the API key."""

import logging
import re
import secrets
import time
from collections.abc import Set
from hmac import compare_digest
from itertools import count

from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.logs import FIELDS
from service.metrics import Metrics
from service.schemas import NO_KEY, OPEN

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
STATIC = "/static-offline-docs/"  # files of the documentation page
DOCUMENTATION = ("/docs", STATIC)
POLLED = {*OPEN, "/metrics"}  # requested every few seconds: only errors are logged
CLIENT_LEFT = 499  # nginx's status for a request whose client closed the connection

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
DOCUMENTATION_HEADERS = [  # the documentation page has an inline script
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; frame-ancestors 'none'",
    ),
]

logger = logging.getLogger("service.requests")


class RequestMiddleware:
    """Gives each answer its request id and its headers, and counts and logs it."""

    def __init__(self, app: ASGIApp, routes: Set[str], metrics: Metrics, access_log: bool) -> None:
        """`routes` are the paths that metrics and logs name; all others are "other"."""
        self._app = app
        self._routes = routes
        self._metrics = metrics
        self._access_log = access_log
        self._process = secrets.token_hex(4).encode()
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        path = path_of(scope)
        route = path if path in self._routes else "other"
        request_id = dict(scope["headers"]).get(b"x-request-id", b"")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = b"%s-%d" % (self._process, next(self._numbers))
        own_headers = DOCUMENTATION_HEADERS if path.startswith(DOCUMENTATION) else HEADERS
        status = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *own_headers, (b"x-request-id", request_id)]
            await send(message)

        try:
            await self._app(scope, receive, send_with_headers)
        except Exception:
            if status is None:  # else FastAPI has answered and logged the error, and raises it again
                raise
        finally:
            seconds = time.perf_counter() - begin
            status = status or CLIENT_LEFT
            self._metrics.count_request(route, status, seconds)
            if self._access_log and (status >= 400 or route not in POLLED):
                fields = {"ms": round(1e3 * seconds, 2), "id": request_id.decode()}
                logger.info("%s %s %d", scope["method"], route, status, extra={FIELDS: fields})


class ApiKeyMiddleware:
    """Answers 401 unless the request has the API key; health and the documentation's files are open."""

    def __init__(self, app: ASGIApp, key: str, metrics: Metrics) -> None:
        self._app = app
        self._expected = f"Bearer {key}".encode()
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or self._may_pass(scope):
            await self._app(scope, receive, send)
            return
        self._metrics.rejected.labels("unauthorized").inc()
        response = JSONResponse({"detail": NO_KEY}, 401, {"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)

    def _may_pass(self, scope: Scope) -> bool:
        path = path_of(scope)
        if path in OPEN or path.startswith(STATIC):
            return True
        authorization = dict(scope["headers"]).get(b"authorization", b"")
        return compare_digest(authorization, self._expected)  # in constant time


def path_of(scope: Scope) -> str:
    """The path below the prefix under which the app is mounted."""
    path: str = scope["path"]
    return path.removeprefix(scope.get("root_path", ""))
