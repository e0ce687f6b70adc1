"""ASGI middleware around every answer: path, request id, security headers, metrics, access log; API key; CORS."""

import logging
import re
import secrets
import time
from collections.abc import Set
from hmac import compare_digest
from itertools import count

from starlette.datastructures import Headers
from starlette.middleware.cors import CORSMiddleware
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from service import page_files
from service.documentation import PAGES
from service.logs import FIELDS, printable
from service.metrics import Metrics
from service.schemas import NO_KEY, OPEN
from service.uploads import REFUSAL

REQUEST_ID = re.compile(rb"[^\x00- \x7f-\xff\"'\\,<>{}`]{1,128}")  # nothing that could break a log line
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
    """Gives each answer its request id and its headers, and counts and logs it. The app behind it sees plain paths."""

    def __init__(
        self,
        app: ASGIApp,
        refused: ASGIApp,
        routes: Set[str],
        metrics: Metrics,
        access_log: bool,
        root_path: str = "",
        page: Set[str] = frozenset(),
    ) -> None:
        """`refused` answers requests that the server refuses before it has their headers.

        `routes` are the paths that metrics name, all others are "other". `root_path` is a proxy's prefix. `page` are
        the paths of the web page's files.
        """
        self._app = app
        self._refused = refused
        self._labels = {path: path for path in routes} | dict.fromkeys(page, page_files.LABEL)
        self._headers = dict.fromkeys(PAGES, DOCUMENTATION_HEADERS) | dict.fromkeys(page, page_files.HEADERS)
        self._metrics = metrics
        self._access_log = access_log
        self._root_path = root_path
        self._process = secrets.token_hex(4).encode()
        self._numbers = count(1)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        begin = time.perf_counter()
        asked, method = scope["path"], scope["method"]
        if asked not in self._labels or method == "HEAD":
            scope = self._plain(scope)
        path = scope["path"]
        route = self._labels.get(path, "other")
        request_id = dict(scope["headers"]).get(b"x-request-id", b"")
        if not REQUEST_ID.fullmatch(request_id):
            request_id = b"%s-%d" % (self._process, next(self._numbers))
        own_headers = self._headers.get(path, HEADERS)
        status = None

        async def send_with_headers(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
                message["headers"] = [*message["headers"], *own_headers, (b"x-request-id", request_id)]
            await send(message)

        try:
            app = self._refused if REFUSAL in scope.get("extensions", ()) else self._app
            await app(scope, receive, send_with_headers)
        except Exception:
            if status is None:  # else FastAPI has answered and logged the error, and raises it again
                raise
        finally:
            seconds = time.perf_counter() - begin
            status = status or CLIENT_LEFT
            self._metrics.count_request(route, status, seconds)
            if self._access_log and (status >= 400 or route not in POLLED):
                fields = {"ms": round(1e3 * seconds, 2), "id": request_id.decode()}
                shown = route if route == path else printable(asked).replace(" ", "%20")
                logger.info("%.16s %s %d", method, shown, status, extra={FIELDS: fields})

    def _plain(self, scope: Scope) -> Scope:
        """The scope with its path below every prefix, without empty segments, and with HEAD as GET.

        The server leaves out the body of an answer to HEAD.
        """
        path = scope["path"].removeprefix(scope.get("root_path", ""))
        path = "/" + "/".join(filter(None, path.split("/")))
        if f"{path}/".startswith(f"{self._root_path}/"):
            path = path[len(self._root_path) :] or "/"
        method = "GET" if scope["method"] == "HEAD" else scope["method"]
        return {**scope, "path": path, "root_path": "", "method": method}


class ApiKeyMiddleware:
    """Answers 401 unless the request has the API key or its path is in `open_paths`."""

    def __init__(self, app: ASGIApp, key: str, open_paths: Set[str], metrics: Metrics) -> None:
        self._app = app
        self._key = key.encode()
        self._open_paths = open_paths
        self._metrics = metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http" or scope["path"] in self._open_paths or self._has_key(scope):
            await self._app(scope, receive, send)
            return
        self._metrics.rejected.labels("unauthorized").inc()
        response = JSONResponse({"detail": NO_KEY}, 401, {"WWW-Authenticate": "Bearer"})
        await response(scope, receive, send)

    def _has_key(self, scope: Scope) -> bool:
        """Whether there is `Authorization: Bearer KEY`: the scheme in any case, one or more spaces (RFC 9110 11.1)."""
        scheme, _, key = dict(scope["headers"]).get(b"authorization", b"").partition(b" ")
        return scheme.lower() == b"bearer" and compare_digest(key.lstrip(b" "), self._key)  # in constant time


class Cors(CORSMiddleware):
    """Starlette's CORS, with the sentence of a refused preflight as JSON like every other error."""

    def preflight_response(self, request_headers: Headers) -> Response:
        response = super().preflight_response(request_headers)
        if response.status_code == 200:
            return response
        origin, method = (printable(request_headers[name], 100) for name in ("origin", "access-control-request-method"))
        sentence = (
            f"The origin '{origin}' may not send {method} from a web page; "
            f"SERVICE_CORS_ORIGINS names the origins that may, with {' and '.join(self.allow_methods)}."
        )
        headers = {name: value for name, value in response.headers.items() if not name.startswith("content-")}
        return JSONResponse({"detail": sentence}, response.status_code, headers)
