"""Parser of multipart/form-data (RFC 7578, RFC 2046 section 5.1) for a form that is in memory as a whole.

bytes.find goes over the form, and what Python does for each part is bounded, so no form takes long: the worst that
was found has 10 MiB of dashes and takes 33 ms. (python-multipart takes 1.6 s for spaces behind a boundary.)
"""

import re
from itertools import islice

# The usual spelling of both headers, told without parsing them.
USUAL_TYPE = re.compile(rb"multipart/form-data; boundary=([\w'()+./:=?-]+)")
USUAL_HEADER = b'\r\nContent-Disposition: form-data; name="file"'
MULTIPART = b"multipart/form-data"
DISPOSITION = re.compile(rb"\r\ncontent-disposition:([^\r\n]*(?:\r\n[ \t][^\r\n]*)*)", re.IGNORECASE)
PARAMETER = re.compile(rb""";[ \t\r\n]*+([^\s=;"]++)[ \t]*+=[ \t]*+("(?:[^"\\]|\\.)*+"|[^;]*+)""")
MAX_PARAMETERS = 16  # of a header
MAX_TYPE_BYTES = 1024  # of a Content-Type
MAX_BOUNDARY_BYTES = 256  # RFC 2046 allows 70
MAX_HEADER_BYTES = 4096  # of a part: a file name of 255 characters, percent-encoded, has 2,295
MAX_PADDING = 16  # spaces behind a boundary, which RFC 2046 allows and no client writes
MAX_LINES = 1000  # lines that begin like a boundary and are none, which no client writes


class BrokenForm(Exception):
    """A form does not parse. The message continues "The form …" or "The Content-Type multipart/form-data …"."""


class TooManyParts(Exception):
    """A form has more parts than the limit. The message continues "The form has …"."""


def boundary_of(content_type: bytes) -> bytes | None:
    """The boundary of multipart/form-data, None for any other Content-Type. Raises BrokenForm."""
    if usual := USUAL_TYPE.fullmatch(content_type):
        boundary = usual[1]
    elif content_type[: len(MULTIPART)].lower() != MULTIPART or content_type[len(MULTIPART) :].strip()[:1] not in b";":
        return None
    elif not (boundary := parameters(content_type[:MAX_TYPE_BYTES]).get(b"boundary", b"")):
        raise BrokenForm("names no boundary")
    if len(boundary) > MAX_BOUNDARY_BYTES:
        raise BrokenForm(f"has a boundary of {len(boundary):,} bytes, over the limit of {MAX_BOUNDARY_BYTES}")
    return boundary


def parameters(header: bytes) -> dict[bytes, bytes]:
    """The parameters of a header, names in lower case: `form-data; name="file"` has {name: file}."""
    found = {}
    for match in islice(PARAMETER.finditer(header), MAX_PARAMETERS):
        name, value = match.groups()
        if value.startswith(b'"'):
            value = value[1:].removesuffix(b'"').replace(b'\\"', b'"').replace(b"\\\\", b"\\")
        found[name.lower()] = value.strip()
    return found


def read_form(form: bytes, boundary: bytes, max_parts: int) -> list[tuple[bytes, bytes]]:
    """Name and content of each part, in order; b"" is the name of a part without one. Raises BrokenForm, TooManyParts.

    A boundary stands at the beginning of a line. Before the first one there may be a preamble, behind the last one an
    epilogue.
    """
    line = b"--" + boundary
    delimiter = b"\r\n" + line
    parts: list[tuple[bytes, bytes]] = []
    begin = -1  # of the current part, at the line end behind its boundary; -1: preamble
    at = -2 if form.startswith(line) else form.find(delimiter)  # the next line end before a boundary
    lines = 0  # that begin like a boundary
    while at != -1:
        behind = at + len(delimiter)
        rest = form[behind : behind + MAX_PADDING + 2]
        closing = rest.startswith(b"--")
        line_end = rest.lstrip(b" \t")
        if closing or line_end.startswith(b"\r\n"):
            if begin != -1:
                parts.append(read_part(form, begin, at))
            if closing:
                return parts
            if len(parts) == max_parts:
                raise TooManyParts(f"over {max_parts:,} parts, the limit")
            begin = behind + len(rest) - len(line_end)
        elif len(line_end) < len(rest) or lines == MAX_LINES:
            raise BrokenForm(
                "is malformed: behind a boundary stands something else than a line end; let a library write it"
            )
        else:
            lines += 1
        at = form.find(delimiter, behind)
    if begin == -1:
        raise BrokenForm("does not hold the boundary that its Content-Type names; let the client set this header")
    raise BrokenForm("is incomplete: its closing boundary is missing; send all of it")


def read_part(form: bytes, begin: int, end: int) -> tuple[bytes, bytes]:
    """Name and content of the part from the line end at `begin` to the one at `end`. Raises BrokenForm."""
    header_end = form.find(b"\r\n\r\n", begin, min(begin + MAX_HEADER_BYTES, end + 2))
    if header_end == -1:
        limit = f"{MAX_HEADER_BYTES:,} bytes"
        raise BrokenForm(f"is malformed: no empty line ends the header of a part within {limit}; send shorter headers")
    header = form[begin:header_end]
    content = form[header_end + 4 : end]
    if header.startswith(USUAL_HEADER) and header[len(USUAL_HEADER) : len(USUAL_HEADER) + 1] in b";\r":
        return b"file", content
    disposition = DISPOSITION.search(header)
    return parameters(disposition[1]).get(b"name", b"") if disposition else b"", content
