"""One table: error -> HTTP status and the reason that metrics count. Every error answer is made here."""

import logging

from starlette.exceptions import HTTPException
from starlette.responses import JSONResponse, Response
from starlette.types import Scope

from classifier.picture import BrokenPicture, PictureTooLarge, UnsupportedPicture
from service.admission import DeadlineExceeded, Overloaded
from service.logs import printable
from service.metrics import Metrics
from service.model_store import NotReady
from service.schemas import INTERNAL_ERROR
from service.uploads import (
    BrokenUpload,
    HeadersTooLarge,
    InvalidRequest,
    MissingFile,
    RequestTimeout,
    UnsupportedUpload,
    UploadTooLarge,
)

ERRORS: dict[type[Exception], tuple[int, str]] = {
    BrokenPicture: (400, "broken_picture"),
    BrokenUpload: (400, "broken_upload"),
    InvalidRequest: (400, "invalid_http"),
    RequestTimeout: (408, "request_timeout"),
    PictureTooLarge: (413, "picture_too_large"),
    UploadTooLarge: (413, "upload_too_large"),
    UnsupportedPicture: (415, "unsupported_picture"),
    UnsupportedUpload: (415, "unsupported_upload"),
    MissingFile: (422, "missing_file"),
    HeadersTooLarge: (431, "headers_too_large"),
    NotReady: (503, "not_ready"),
    Overloaded: (503, "overloaded"),
    DeadlineExceeded: (503, "deadline_exceeded"),
}
RETRY_AFTER_SECONDS = 1
BACKPRESSURE = "backpressure"  # ASGI extension: asks the server to stop reading from this client for a while

logger = logging.getLogger(__name__)


def describe_error(error: BaseException, metrics: Metrics) -> tuple[int, str]:
    """The status and the sentence for clients. Counts an error of the table; logs an unexpected one."""
    if known := ERRORS.get(type(error)):  # type: ignore[arg-type]
        status, reason = known
        metrics.rejected.labels(reason).inc()
        return status, str(error)
    logger.error("A request failed with an unexpected error.", exc_info=error)
    return 500, INTERNAL_ERROR


def error_response(scope: Scope, error: BaseException, metrics: Metrics) -> Response:
    """The answer to a request that failed with this error.

    Backpressure: if the server offers the extension, it stops reading from a client that was refused for overload until
    Retry-After is over.
    """
    if isinstance(error, Overloaded) and (extension := scope.get("extensions", {}).get(BACKPRESSURE)) is not None:
        extension["pause_seconds"] = RETRY_AFTER_SECONDS
    if isinstance(error, HTTPException):
        return routing_response(scope, error)
    status, sentence = describe_error(error, metrics)
    headers = {}
    if status == 503:
        headers["Retry-After"] = str(RETRY_AFTER_SECONDS)
    return JSONResponse({"detail": sentence}, status, headers)


def routing_response(scope: Scope, error: HTTPException) -> Response:
    """The answer to a request whose path or method there is not."""
    path, headers = printable(scope["path"]), dict(error.headers or {})
    if error.status_code == 405:
        named = set(headers["Allow"].split(", "))
        methods = sorted(named | {"HEAD"} if "GET" in named else named)
        headers["Allow"] = ", ".join(methods)
        sentence = f"{path} takes {' or '.join(methods)}, not {printable(scope['method'], 16)}."
    else:
        sentence = f"There is nothing at {path}; send a picture with POST to /predict, or several to /predict/batch."
    return JSONResponse({"detail": sentence}, error.status_code, headers)
