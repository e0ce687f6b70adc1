"""An HTTP body -> the picture's bytes, within limits.

The body is the picture itself (`Content-Type: image/*`) or a multipart form with the picture in its field `file`,
taken apart by python-multipart in memory: nothing is ever spooled to a disk.
"""

from python_multipart import MultipartParser
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import parse_options_header
from starlette.requests import ClientDisconnect, Request

FIELD = b"file"
FORM_BYTES = 16 * 2**10  # 16 KiB: what a form may hold besides, for each picture


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


async def read(request: Request, max_bytes: int) -> bytes:
    """The bytes of the one picture in `request`, at most `max_bytes`. Raises UploadError."""
    content_type, options = parse_options_header(request.headers.get("content-type"))
    if content_type.startswith(b"image/"):
        return await body(request, max_bytes, max_bytes)
    if content_type != b"multipart/form-data":
        raise MissingFile(
            "Send the picture as the multipart field 'file', or as the body with a Content-Type of image/*."
        )
    pictures = file_fields(await body(request, max_bytes + FORM_BYTES, max_bytes), options.get(b"boundary"))
    if len(pictures) != 1:
        raise MissingFile(f"The multipart form has {len(pictures)} fields 'file'; expected exactly one.")
    if len(pictures[0]) > max_bytes:
        raise UploadTooLarge(f"The picture has {len(pictures[0]):,} bytes, over the limit of {max_bytes:,}.")
    return pictures[0]


async def read_several(request: Request, max_bytes: int, max_files: int) -> list[bytes]:
    """The bytes of 1 to `max_files` pictures, together at most `max_bytes`, in order. Raises UploadError."""
    content_type, options = parse_options_header(request.headers.get("content-type"))
    if content_type != b"multipart/form-data":
        raise MissingFile("Send the pictures as multipart fields 'file'.")
    form = await body(request, max_bytes + FORM_BYTES * max_files, max_bytes)
    pictures = file_fields(form, options.get(b"boundary"))
    if not pictures:
        raise MissingFile("The multipart form has 0 fields 'file'; expected at least one.")
    if len(pictures) > max_files:
        raise UploadTooLarge(f"The form has {len(pictures):,} fields 'file', over the limit of {max_files:,}.")
    if (size := sum(map(len, pictures))) > max_bytes:
        raise UploadTooLarge(f"The pictures have {size:,} bytes together, over the limit of {max_bytes:,}.")
    return pictures


async def body(request: Request, most: int, max_bytes: int) -> bytes:
    """The whole body if it is at most `most` bytes; counted as it arrives, whatever Content-Length says."""
    announced = request.headers.get("content-length", "")
    if announced.isdecimal() and int(announced) > most:
        raise UploadTooLarge(f"The body has {int(announced):,} bytes, over the limit of {max_bytes:,} for pictures.")
    chunks: list[bytes] = []
    size = 0
    try:
        async for chunk in request.stream():
            size += len(chunk)
            if size > most:
                raise UploadTooLarge(f"The body has over {most:,} bytes; the limit for pictures is {max_bytes:,}.")
            chunks.append(chunk)
    except ClientDisconnect as error:
        raise BrokenUpload("The body ended before it was complete.") from error
    return chunks[0] if len(chunks) == 1 else b"".join(chunks)


def file_fields(form: bytes, boundary: bytes | None) -> list[bytes]:
    """The contents of the fields named `file`, in order. Raises BrokenUpload."""
    if not boundary:
        raise BrokenUpload("The Content-Type multipart/form-data names no boundary.")
    parts = Parts()
    try:
        parser = MultipartParser(
            boundary,
            {
                "on_part_begin": parts.begin,
                "on_header_field": parts.header_name,
                "on_header_value": parts.header_value,
                "on_header_end": parts.header_end,
                "on_part_data": parts.data,
                "on_end": parts.end,
            },
        )
        parser.write(form)
        parser.finalize()
    except FormParserError as error:
        raise BrokenUpload("The multipart form is malformed.") from error
    if not parts.complete:
        raise BrokenUpload("The multipart form is incomplete: its closing boundary is missing.")
    return [b"".join(chunks) for chunks in parts.files]


class Parts:
    """Gathers what python-multipart's parser finds: the data of the fields named `file`; other fields are dropped."""

    def __init__(self) -> None:
        self.files: list[list[bytes]] = []
        self.complete = False

    def begin(self) -> None:
        self.name = self.value = b""
        self.wanted = False

    def header_name(self, data: bytes, start: int, end: int) -> None:
        self.name += data[start:end]

    def header_value(self, data: bytes, start: int, end: int) -> None:
        self.value += data[start:end]

    def header_end(self) -> None:
        if self.name.lower() == b"content-disposition":
            _, options = parse_options_header(self.value)
            if options.get(b"name") == FIELD:
                self.files.append([])
                self.wanted = True
        self.name = self.value = b""

    def data(self, data: bytes, start: int, end: int) -> None:
        if self.wanted:
            self.files[-1].append(data[start:end])

    def end(self) -> None:
        self.complete = True
