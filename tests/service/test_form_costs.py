"""No form, and no Content-Type, holds the event loop for long; the costliest that a search found."""

import time
from collections.abc import Callable
from contextlib import suppress

import pytest

from service.multipart import BrokenForm, TooManyParts, boundary_of, read_form
from tests.service.test_multipart import BOUNDARY, END, PART


def head(text: bytes) -> bytes:
    return b"--xyz\r\nContent-Disposition: form-data" + text + b"\r\n\r\n\r\n"


MILLIONS = 10 * 2**20 - 200
COSTLY: dict[str, Callable[[], bytes]] = {  # forms of at most 10 MiB that a search found to cost most
    "spaces behind a boundary": lambda: PART + b"--xyz" + b" " * MILLIONS + b"\r\n\r\n" + END,
    "lines that begin like a boundary": lambda: PART.replace(b"picture", b"\r\n--xyz!" * (MILLIONS // 8)) + END,
    "empty parts": lambda: PART + b"--xyz\r\n\r\n" * (MILLIONS // 9) + END,
    "boundaries in a row": lambda: b"--xyz\r\n" * (MILLIONS // 7),
    "a preamble of line ends": lambda: b"\r\n" * (MILLIONS // 2),
    "a preamble of near boundaries": lambda: b"\r\n--xy" * (MILLIONS // 6),
    "long headers": lambda: b"--xyz\r\n" + b"A: b\r\n" * (MILLIONS // 6),
    "many parameters": lambda: head(b"; a=" * 1000) * 128 + END,
    "many semicolons": lambda: head(b";" * 4000) * 128 + END,
    "open quotes": lambda: head(b';a="\\"' * 600) * 128 + END,
    "escapes in a quote": lambda: head(b';a="' + rb"\a" * 2000) * 128 + END,
    "quotes of escapes": lambda: head(b';a="' + rb"\\" * 7 + b'"') * 128 + END,
    "dashes": lambda: b"-" * MILLIONS,
    "tabs": lambda: head(b";" + b"\t" * 4000) * 128 + END,
    "folded lines": lambda: head(b"\r\n ;" * 900) * 128 + END,
    "many dispositions": lambda: (b"--xyz\r\n" + b"Content-Disposition;\r\n" * 180 + b"\r\n\r\n") * 128 + END,
}


@pytest.mark.parametrize("name", COSTLY)
def test_no_form_holds_the_event_loop_for_long(name: str) -> None:
    form = COSTLY[name]()
    boundary = b"-" if name == "dashes" else BOUNDARY
    begin = time.process_time()
    with suppress(BrokenForm, TooManyParts):
        read_form(form, boundary, 128)
    assert time.process_time() - begin < 0.06  # the worst takes 20 ms, on a loaded machine 33 ms


@pytest.mark.parametrize("octets", [b";", b'"', b"\\", b'; a="', b"=", b";\t", b"; boundary="])
def test_no_content_type_takes_long(octets: bytes) -> None:
    begin = time.process_time()
    with suppress(BrokenForm):
        boundary_of(b"multipart/form-data" + octets * (60_000 // len(octets)))
    assert time.process_time() - begin < 0.01
