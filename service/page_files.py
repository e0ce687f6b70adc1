"""The files of the web page: `GET /` and `GET /page/*`, read from `service/page/` once at the start."""

import hashlib
from collections.abc import Iterator
from functools import partial
from pathlib import Path
from typing import NamedTuple

from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import BaseRoute, Route

FOLDER = Path(__file__).parent / "page"
INDEX = "index.html"
# The system's own table may be wrong: the registry of Windows can say that .js is text/plain.
CONTENT_TYPES = {
    ".css": "text/css; charset=utf-8",
    ".html": "text/html; charset=utf-8",
    ".js": "text/javascript; charset=utf-8",
    ".png": "image/png",
    ".svg": "image/svg+xml",
}
HEADERS = [  # of the answers at these paths
    (b"x-content-type-options", b"nosniff"),
    (b"referrer-policy", b"no-referrer"),
    (b"permissions-policy", b"camera=(self)"),
    (
        b"content-security-policy",
        b"default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob:; connect-src 'self'; "
        b"base-uri 'none'; form-action 'self'; frame-ancestors 'none'; "
        b"require-trusted-types-for 'script'; trusted-types 'none'",
    ),
]
LABEL = "/page"  # of all these paths in metrics


class PageFile(NamedTuple):
    """A file as it is sent."""

    content: bytes
    content_type: str
    etag: str


def read_files(folder: Path = FOLDER) -> dict[str, PageFile]:
    """The files by their paths: index.html at `/`, every file below `/page/`. Files of other types are left out."""
    files: dict[str, PageFile] = {}
    for path in sorted(folder.rglob("*")):
        if path.is_file() and (content_type := CONTENT_TYPES.get(path.suffix)):
            content = path.read_bytes()
            name = path.relative_to(folder).as_posix()
            files[f"/page/{name}"] = PageFile(content, content_type, etag_of(content))
    files["/"] = files.pop(f"/page/{INDEX}")
    return files


def routes(files: dict[str, PageFile]) -> Iterator[BaseRoute]:
    """A route for each file."""

    async def send(file: PageFile, request: Request) -> Response:
        return cached_response(request, file.content, file.content_type, file.etag)

    async def start(request: Request) -> Response:
        asked = sent_path(request)
        if not asked.endswith("/"):  # under a prefix; the page's relative addresses need the slash
            return RedirectResponse(f"{asked.rpartition('/')[2]}/")
        return await send(files["/"], request)

    yield Route("/", start)
    yield from (Route(path, partial(send, file)) for path, file in files.items() if path != "/")


def cached_response(request: Request, content: bytes, content_type: str, etag: str) -> Response:
    """200 with `content`, or 304 if the client has it: browsers ask each time, so an update is seen at once."""
    headers = {"Cache-Control": "no-cache", "ETag": etag}
    if etag in known_etags(request.headers.get("If-None-Match", "")):
        return Response(None, 304, headers)
    return Response(content, headers={**headers, "Content-Type": content_type})


def known_etags(header: str) -> set[str]:
    """The ETags of a header If-None-Match. Weak ones, which a proxy makes when it compresses, count too."""
    return {tag.strip().removeprefix("W/") for tag in header.split(",")}


def etag_of(content: bytes) -> str:
    return f'"{hashlib.sha256(content).hexdigest()[:16]}"'


def sent_path(request: Request) -> str:
    """The path as the client sent it, which a browser resolves relative addresses against."""
    raw: bytes = request.scope.get("raw_path") or b"/"
    return raw.partition(b"?")[0].decode("latin-1")
