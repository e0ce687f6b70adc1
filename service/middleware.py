"""What surrounds every answer: the request's id, the key, the headers, the count, the line in the log."""

import logging
import re
import secrets
import time
from collections.abc import Awaitable, Callable
from hmac import compare_digest
from itertools import count

from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service.drain import Drain
from service.logs import FIELDS
from service.metrics import Metrics
from service.schemas import NO_KEY, OPEN
from service.settings import Settings

REQUEST_ID = re.compile(rb"[A-Za-z0-9._-]{1,64}")
ROUTES = {"/", "/predict", "/predict/batch", "/health", "/health/live", "/metrics", "/docs", "/openapi.json"}
STATIC = "/static-offline-docs/"  # the files of the documentation page, open as well
PAGES = ("/docs", STATIC)
QUIET = {*OPEN, "/metrics"}  # asked every few seconds, and logged only where something is wrong
CLIENT_LEFT = 499  # as a status, nginx's, of a request whose client did not wait for its answer

HEADERS = [
    (b"x-content-type-options", b"nosniff"),
    (b"content-security-policy", b"default-src 'none'; frame-ancestors 'none'"),
]
PAGE_HEADERS = [  # of the documentation page, which holds a script of its own
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (
        b"content-security-policy",
        b"default-src 'self'; script-src 'self' 'unsafe-inline'; style-src 'self' 'unsafe-inline'; "
        b"img-src 'self' data:; frame-ancestors 'none'",
    ),
]

logger = logging.getLogger("service.requests")


class Middleware:
    """An ASGI application around another, with a short way past it for POST requests to /predict.

    FastAPI's own way there, through eight layers, takes as long as decoding the picture and running the network.
    `predict` gives the JSON of an answer, or a response that says why there is none.
    """

    def __init__(
        self,
        app: ASGIApp,
        predict: Callable[[Scope, Receive], Awaitable[bytes | Response]],
        settings: Settings,
        metrics: Metrics,
        drain: Drain,
    ) -> None:
        self.app = app
        self.predict = predict
        self.metrics = metrics
        self.drain = drain
        self.log = settings.access_log
        key = settings.api_key
        self.key = None if key is None else f"Bearer {key.get_secret_value()}".encode()
        self.inner: ASGIApp = self.respond
        if settings.cors_origins:
            self.inner = CORSMiddleware(
                self.respond,
                settings.cors_origins,
                allow_methods=["GET", "POST"],
                allow_headers=["*"],
                expose_headers=["X-Request-ID", "Retry-After"],
            )
        self._process = secrets.token_hex(4).encode()
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        begin = time.perf_counter()
        path = path_of(scope)
        route = path if path in ROUTES else "other"
        headers = dict(scope["headers"])
        request_id = headers.get(b"x-request-id", b"")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = b"%s-%d" % (self._process, next(self._numbers))
        more = [*(PAGE_HEADERS if path.startswith(PAGES) else HEADERS), (b"x-request-id", request_id)]
        if self.drain.active:
            more.append((b"connection", b"close"))
        status = CLIENT_LEFT

        async def answer(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *more]
            await send(message)

        try:
            await self.inner(scope, receive, answer)
        finally:
            seconds = time.perf_counter() - begin
            self.metrics.count_request(route, status, seconds)
            if self.log and (status >= 400 or route not in QUIET):
                fields = {"ms": round(1e3 * seconds, 2), "id": request_id.decode()}
                logger.info("%s %s %d", scope["method"], route, status, extra={FIELDS: fields})

    async def respond(self, scope: Scope, receive: Receive, send: Send) -> None:
        path = path_of(scope)
        if self.key and not may_pass(path, scope, self.key):
            self.metrics.rejected.labels("Unauthorized").inc()
            await unauthorized()(scope, receive, send)
        elif path == "/predict" and scope["method"] == "POST":
            content = await self.predict(scope, receive)
            if isinstance(content, bytes):
                headers = [(b"content-type", b"application/json"), (b"content-length", b"%d" % len(content))]
                await send({"type": "http.response.start", "status": 200, "headers": headers})
                await send({"type": "http.response.body", "body": content})
            else:
                await content(scope, receive, send)
        else:
            await self.app(scope, receive, send)


def path_of(scope: Scope) -> str:
    path: str = scope["path"]
    return path.removeprefix(scope["root_path"])


def may_pass(path: str, scope: Scope, key: bytes) -> bool:
    """Whether a request may pass where a key is wanted. Comparing it takes as long wherever it differs."""
    if path in OPEN or path.startswith(STATIC):
        return True
    return compare_digest(dict(scope["headers"]).get(b"authorization", b""), key)


def unauthorized() -> JSONResponse:
    return JSONResponse({"detail": NO_KEY}, 401, {"WWW-Authenticate": "Bearer"})
