"""An HTTP body -> the picture's bytes, within limits.

The body is the picture itself (`Content-Type: image/*`) or a multipart form with the picture in its field `file`,
parsed by python-multipart in memory: no upload is written to disk.
"""

import re

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.types import Receive, Scope

FIELD = b"file"
# The common spelling of both headers; python-multipart parses all others, which takes ten times as long.
USUAL_TYPE = re.compile(rb"multipart/form-data; boundary=([\w'()+./:=?-]+)")
USUAL_FILE = re.compile(rb'form-data; name="file"(;|$)')
MAX_PARTS = 64  # parts of a form besides its pictures; python-multipart takes up to 25 µs for each
FORM_BYTES = 16 * 2**10  # 16 KiB: bytes of a form besides its pictures, for each picture


class UploadError(Exception):
    """An upload is refused; one sentence for clients.

    UploadError
      x BrokenUpload     a multipart form that does not parse, or a body that ends early
      x MissingFile      no picture in the request
      x UploadTooLarge   more bytes than the limit
    """


class BrokenUpload(UploadError):
    pass


class MissingFile(UploadError):
    pass


class UploadTooLarge(UploadError):
    pass


async def read(scope: Scope, receive: Receive, max_bytes: int) -> bytes:
    """The bytes of the one picture in a request, at most `max_bytes`. Raises UploadError."""
    headers = dict(scope["headers"])
    content_type = headers.get(b"content-type", b"")
    if content_type.lower().startswith(b"image/"):
        return await body(headers, receive, max_bytes, max_bytes)
    boundary = boundary_of(content_type)
    if boundary is None:
        raise MissingFile(
            "Send the picture as the multipart field 'file', or as the body with a Content-Type of image/*."
        )
    pictures = file_fields(await body(headers, receive, max_bytes + FORM_BYTES, max_bytes), boundary)
    if len(pictures) != 1:
        raise MissingFile(f"The multipart form has {len(pictures)} fields 'file'; expected exactly one.")
    if len(pictures[0]) > max_bytes:
        raise UploadTooLarge(f"The picture has {len(pictures[0]):,} bytes, over the limit of {max_bytes:,}.")
    return pictures[0]


async def read_several(scope: Scope, receive: Receive, max_bytes: int, max_files: int) -> list[bytes]:
    """The bytes of 1 to `max_files` pictures, together at most `max_bytes`, in order. Raises UploadError."""
    headers = dict(scope["headers"])
    boundary = boundary_of(headers.get(b"content-type", b""))
    if boundary is None:
        raise MissingFile("Send the pictures as multipart fields 'file'.")
    form = await body(headers, receive, max_bytes + FORM_BYTES * max_files, max_bytes)
    pictures = file_fields(form, boundary, max_files + MAX_PARTS)
    if not pictures:
        raise MissingFile("The multipart form has 0 fields 'file'; expected at least one.")
    if len(pictures) > max_files:
        raise UploadTooLarge(f"The form has {len(pictures):,} fields 'file', over the limit of {max_files:,}.")
    if (size := sum(map(len, pictures))) > max_bytes:
        raise UploadTooLarge(f"The pictures have {size:,} bytes together, over the limit of {max_bytes:,}.")
    return pictures


async def body(headers: dict[bytes, bytes], receive: Receive, most: int, max_bytes: int) -> bytes:
    """The body, of at most `most` bytes, counted as they arrive; Content-Length may be wrong. Raises UploadError."""
    announced = headers.get(b"content-length", b"")
    if announced.isdigit() and int(announced) > most:
        raise UploadTooLarge(f"The body has {int(announced):,} bytes, over the limit of {max_bytes:,} for pictures.")
    chunks: list[bytes] = []
    size = 0
    while True:
        message = await receive()
        if message["type"] == "http.disconnect":
            raise BrokenUpload("The body ended before it was complete.")
        chunk = message.get("body", b"")
        size += len(chunk)
        if size > most:
            raise UploadTooLarge(f"The body has over {most:,} bytes; the limit for pictures is {max_bytes:,}.")
        chunks.append(chunk)
        if not message.get("more_body"):
            return b"".join(chunks)


def boundary_of(content_type: bytes) -> bytes | None:
    """The boundary of a multipart form, None for any other Content-Type. Raises BrokenUpload."""
    if usual := USUAL_TYPE.fullmatch(content_type):
        return usual[1]
    kind, options = parse_options_header(content_type)
    if kind != b"multipart/form-data":
        return None
    if not options.get(b"boundary"):
        raise BrokenUpload("The Content-Type multipart/form-data names no boundary.")
    return options[b"boundary"]


def is_file(disposition: bytes) -> bool:
    """Whether this Content-Disposition is that of a field `file`."""
    if USUAL_FILE.match(disposition):
        return True
    return parse_options_header(disposition)[1].get(b"name") == FIELD


def file_fields(form: bytes, boundary: bytes, max_parts: int = MAX_PARTS) -> list[bytes]:
    """The contents of the fields named `file`, in order. Raises BrokenUpload, UploadTooLarge."""
    if (parts := form.count(b"--" + boundary) - 1) > max_parts:  # without the closing boundary
        raise UploadTooLarge(f"The form has {parts:,} parts, over the limit of {max_parts:,}.")
    files: list[list[bytes]] = []  # the chunks of each picture
    header = b""
    wanted = complete = False

    # The parser gets the whole form at once, so each header name and value comes in one chunk.
    def part_begin() -> None:
        nonlocal wanted
        wanted = False

    def header_field(data: bytes, start: int, end: int) -> None:
        nonlocal header
        header = data[start:end].lower()

    def header_value(data: bytes, start: int, end: int) -> None:
        nonlocal wanted
        if header == b"content-disposition" and is_file(data[start:end]):
            files.append([])
            wanted = True

    def part_data(data: bytes, start: int, end: int) -> None:
        if wanted:
            files[-1].append(data[start:end])

    def form_end() -> None:
        nonlocal complete
        complete = True

    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": part_begin,
                "on_header_field": header_field,
                "on_header_value": header_value,
                "on_part_data": part_data,
                "on_end": form_end,
            },
        )
        parser.write(form)
        parser.finalize()
    except FormParserError as error:
        raise BrokenUpload("The multipart form is malformed.") from error
    if not complete:
        raise BrokenUpload("The multipart form is incomplete: its closing boundary is missing.")
    return [b"".join(chunks) for chunks in files]
