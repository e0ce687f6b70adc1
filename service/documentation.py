"""The page /docs: Swagger UI from the files of fastapi-offline, with relative addresses, so that any prefix works."""

from functools import partial
from pathlib import Path

import fastapi_offline
from fastapi import FastAPI
from fastapi.openapi.docs import get_swagger_ui_html
from starlette.requests import Request
from starlette.responses import RedirectResponse, Response
from starlette.routing import Route
from starlette.staticfiles import StaticFiles

from service.page_files import sent_path

FOLDER = Path(fastapi_offline.__file__).parent / "static"
STATIC = "static-offline-docs"
SCRIPT, STYLE, ICON = "swagger-ui-bundle.js", "swagger-ui.css", "favicon.png"
FILES = frozenset(f"/{STATIC}/{name}" for name in (SCRIPT, STYLE, ICON))
PAGES = FILES | {"/docs"}
OPEN = PAGES | {"/", "/openapi.json"}  # no API key is needed: they hold no secret


def add_documentation(api: FastAPI, start_page: bool) -> None:
    """Adds the page and its three files, and with `start_page` a redirect from / to it. `api` serves openapi.json."""
    static = StaticFiles(directory=FOLDER)

    async def file(name: str, request: Request) -> Response:
        return await static.get_response(name, request.scope)

    async def page(request: Request) -> Response:
        up = "../" * trailing_slashes(request)
        return get_swagger_ui_html(
            title=api.title,
            openapi_url=f"{up}openapi.json",
            swagger_js_url=f"{up}{STATIC}/{SCRIPT}",
            swagger_css_url=f"{up}{STATIC}/{STYLE}",
            swagger_favicon_url=f"{up}{STATIC}/{ICON}",
        )

    async def root(request: Request) -> Response:
        asked = sent_path(request)
        return RedirectResponse("docs" if asked.endswith("/") else f"{asked.rpartition('/')[2]}/docs")

    if start_page:
        api.router.routes.append(Route("/", root))
    api.router.routes += [
        Route("/docs", page),
        *(Route(f"/{STATIC}/{name}", partial(file, name)) for name in (SCRIPT, STYLE, ICON)),
    ]


def trailing_slashes(request: Request) -> int:
    path = sent_path(request)
    return len(path) - len(path.rstrip("/"))
