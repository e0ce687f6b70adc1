"""An HTTP body -> the picture's bytes, within limits.

The body is a form (multipart/form-data) with the picture in its field `file`, or the picture itself; then its
Content-Type does not matter. Both stay in memory: no upload is written to disk.
"""

import re
from collections.abc import Iterable

from starlette.types import Receive, Scope

from service.logs import printable
from service.multipart import BrokenForm, TooManyParts, boundary_of, read_form

FILE = b"file"
FILES = re.compile(rb"files?(\[\d*\])?")  # a batch's field `file`, and as axios and PHP's clients name several
MAX_PARTS = 64  # parts of a form besides its pictures
MAX_NAMES = 4  # names of fields in a sentence
FORM_BYTES = 16 * 2**10  # 16 KiB: bytes of a form besides its pictures, for each picture
LET_THE_CLIENT = "let the client set this header"  # curl, requests and browsers add the boundary only if nobody sets it


class UploadError(Exception):
    """An upload is refused; one sentence for clients.

    UploadError
      x BrokenUpload        a multipart form that does not parse, or a body that ends early
      x MissingFile         no picture in the request, or several where one is expected
      x UnsupportedUpload   a body that is encoded, or a form that is declared to be something else
      x UploadTooLarge      more bytes, files or parts than the limit
    """


class BrokenUpload(UploadError):
    pass


class MissingFile(UploadError):
    pass


class UnsupportedUpload(UploadError):
    pass


class UploadTooLarge(UploadError):
    pass


class RefusedByServer(Exception):
    """The server refuses a request that is not complete; one sentence for clients.

    RefusedByServer
      x InvalidRequest    it is not valid HTTP
      x RequestTimeout    it arrives too slowly
      x HeadersTooLarge
    """


class InvalidRequest(RefusedByServer):
    pass


class RequestTimeout(RefusedByServer):
    pass


class HeadersTooLarge(RefusedByServer):
    pass


# ASGI extension of a request that the server refuses: {"reason": a key of this dict, "detail": one sentence}. A request
# without a complete head has the extension from the start; another gets it when its body ends early.
REFUSAL = "refusal"
REFUSALS = {
    "invalid_http": InvalidRequest,
    "request_timeout": RequestTimeout,
    "headers_too_large": HeadersTooLarge,
}


def refusal_of(scope: Scope) -> RefusedByServer | None:
    """The error of a request that the server refuses."""
    refusal = scope.get("extensions", {}).get(REFUSAL)
    return REFUSALS[refusal["reason"]](refusal["detail"]) if refusal else None


async def read(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The bytes of the one picture in a request, at most `max_bytes`. Raises UploadError."""
    headers = dict(scope["headers"])
    boundary = boundary_in(headers)
    if boundary is None:
        return checked(await body(scope, headers, receive, max_bytes, max_bytes), headers)
    parts = parts_of(await body(scope, headers, receive, max_bytes + FORM_BYTES, max_bytes), boundary, MAX_PARTS)
    pictures = [content for name, content in parts if name == FILE]
    if not pictures:
        raise MissingFile(f"The form has {listed(parts)}; send the picture in the field 'file'.")
    if len(pictures) > 1:
        raise MissingFile(
            f"The form has {len(pictures):,} fields 'file', /predict takes one; send several to /predict/batch."
        )
    if len(pictures[0]) > max_bytes:
        raise UploadTooLarge(
            f"The picture has {len(pictures[0]):,} bytes, over the limit of {max_bytes:,}; send a smaller one."
        )
    return pictures[0]


async def read_several(scope: Scope, receive: Receive, max_bytes: int, max_files: int) -> list[bytes]:
    """The bytes of 1 to `max_files` pictures, together at most `max_bytes`, in order. Raises UploadError."""
    headers = dict(scope["headers"])
    boundary = boundary_in(headers)
    if boundary is None:
        raise MissingFile(
            "/predict/batch takes a form with several fields 'file', and this body is none; "
            "send a single picture as the body to /predict."
        )
    form = await body(scope, headers, receive, max_bytes + FORM_BYTES * max_files, max_bytes)
    parts = parts_of(form, boundary, max_files + MAX_PARTS)
    pictures = [content for name, content in parts if FILES.fullmatch(name)]
    if not pictures:
        raise MissingFile(f"The form has {listed(parts)}; send each picture in a field 'file'.")
    if len(pictures) > max_files:
        raise UploadTooLarge(
            f"The form has {len(pictures):,} fields 'file', over the limit of {max_files:,}; "
            "send them in several requests."
        )
    if (size := sum(map(len, pictures))) > max_bytes:
        raise UploadTooLarge(
            f"The pictures have {size:,} bytes together, over the limit of {max_bytes:,}; "
            "send them in several requests."
        )
    return pictures


def boundary_in(headers: dict[bytes, bytes]) -> bytes | None:
    """The boundary of a form, None if the body is none. Raises BrokenUpload, UnsupportedUpload."""
    coding = headers.get(b"content-encoding")
    if coding and coding.lower() != b"identity":
        raise UnsupportedUpload(
            f"The body has the Content-Encoding {quoted(coding)}; send it as it is, without this header."
        )
    try:
        return boundary_of(headers.get(b"content-type", b""))
    except BrokenForm as error:
        raise BrokenUpload(f"The Content-Type multipart/form-data {error}; {LET_THE_CLIENT}.") from error


def parts_of(form: bytes, boundary: bytes, max_parts: int) -> list[tuple[bytes, bytes]]:
    """Name and content of each part of a form. Raises BrokenUpload, UploadTooLarge."""
    try:
        return read_form(form, boundary, max_parts)
    except TooManyParts as error:
        raise UploadTooLarge(f"The form has {error}; send only the field 'file'.") from error
    except BrokenForm as error:
        raise BrokenUpload(f"The form {error}.") from error


def checked(content: bytes, headers: dict[bytes, bytes]) -> bytes:
    """The body as the picture itself. Raises MissingFile if it is empty, UnsupportedUpload if it is a form."""
    kind = headers.get(b"content-type", b"")
    if not content and not kind.lower().startswith(b"image/"):
        raise MissingFile("The body is empty; send the picture as the body, or as the field 'file' of a form.")
    if content.startswith(b"--") and b"form-data" in content[:1000]:
        raise UnsupportedUpload(f"The body is a form, but its Content-Type is {quoted(kind)}; {LET_THE_CLIENT}.")
    return content


def listed(parts: Iterable[tuple[bytes, bytes]]) -> str:
    """What to call the fields of a form: "no fields", "the field 'a'", "the fields 'a', 'b' and 3 more"."""
    names = list(dict.fromkeys(quoted(name) for name, _ in parts))
    if len(names) < 2:
        return f"the field {names[0]}" if names else "no fields"
    more = f" and {len(names) - MAX_NAMES} more" if len(names) > MAX_NAMES else ""
    return f"the fields {', '.join(names[:MAX_NAMES])}{more}"


def quoted(value: bytes) -> str:
    return f"'{printable(value.decode(errors='replace'), 40)}'"


async def body(scope: Scope, headers: dict[bytes, bytes], receive: Receive, most: int, max_bytes: int) -> bytes:
    """The body, of at most `most` bytes, counted as they arrive; Content-Length may be wrong.

    Raises UploadError and RefusedByServer.
    """
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > most:
        raise UploadTooLarge(
            f"The body has {int(announced):,} bytes, over the limit of {max_bytes:,} for pictures; send smaller ones."
        )
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BrokenUpload("The body ended before it was complete; send all of it.")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise UploadTooLarge(
                f"The body has over {most:,} bytes, and the limit for pictures is {max_bytes:,}; send smaller ones."
            )
        chunks.append(chunk)
        if not message.get("more_body"):
            if refusal := refusal_of(scope):
                raise refusal
            return b"".join(chunks)
