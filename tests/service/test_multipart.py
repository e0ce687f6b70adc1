"""The parser of forms: what it finds, what it refuses, and that no form takes it long."""

import time
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from service.multipart import (
    MAX_PADDING,
    MAX_PARAMETERS,
    BrokenForm,
    TooManyParts,
    boundary_of,
    parameters,
    read_form,
)

BOUNDARY = b"xyz"
MAX_PARTS = 64
PART = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\npicture\r\n'
END = b"--xyz--\r\n"


def file_fields(form: bytes, boundary: bytes, max_parts: int = MAX_PARTS) -> list[bytes]:
    return [content for name, content in read_form(form, boundary, max_parts) if name == b"file"]


def test_the_field_file_is_found_among_others() -> None:
    other = b'--xyz\r\nContent-Disposition: form-data; name="comment"\r\n\r\nhello\r\n'
    assert file_fields(other + PART + other + END, BOUNDARY) == [b"picture"]


def test_header_names_are_read_in_any_case_and_without_file_name() -> None:
    part = b"--xyz\r\nCONTENT-DISPOSITION: form-data; name=file\r\nContent-Type: x/y\r\n\r\npicture\r\n"
    assert file_fields(part + END, BOUNDARY) == [b"picture"]


def test_a_picture_that_holds_line_breaks_and_dashes_comes_whole() -> None:
    picture = b"\r\n--xy\r\n--\r\n\x00" * 50
    assert file_fields(PART.replace(b"picture", picture) + END, BOUNDARY) == [picture]


@pytest.mark.parametrize("form", [b"", PART, PART[:30], b"--abc\r\n", PART + b"--xyz", b"\x00" * 100])
def test_a_form_that_ends_early_is_broken(form: bytes) -> None:
    with pytest.raises(BrokenForm):
        file_fields(form, BOUNDARY)


@pytest.mark.parametrize(
    "preamble", [b"\r\n", b"This is a multi-part message.\r\n", b"--xy\r\n--xyzz\r\n", b"\r\n" * 9]
)
def test_a_preamble_is_skipped(preamble: bytes) -> None:
    assert file_fields(preamble + PART + END, BOUNDARY) == [b"picture"]


@pytest.mark.parametrize("padding", [b"", b" ", b" \t", b" " * MAX_PADDING])
def test_spaces_behind_a_boundary_are_skipped(padding: bytes) -> None:
    assert file_fields(PART.replace(b"--xyz", b"--xyz" + padding) + END, BOUNDARY) == [b"picture"]


@pytest.mark.parametrize(
    ("form", "names"),
    [
        (PART + b"--xyz\r\n\r\nnameless\r\n" + END, [b"file", b""]),
        (b'--xyz\r\nContent-Disposition: form-data;\r\n name="file"\r\n\r\nfolded\r\n' + END, [b"file"]),
        (b"--xyz\r\nX: y\r\ncontent-disposition:form-data;name=file\r\n\r\n\r\n" + END, [b"file"]),
        (b'--xyz\r\nContent-Disposition: form-data; name="a\\"b;c"\r\n\r\n' + END, [b'a"b;c']),
        (b"--xyz\r\nContent-Disposition: form-data; name*=utf-8''file; name=\"x\"\r\n\r\n\r\n" + END, [b"x"]),
        (END, []),
    ],
)
def test_names_are_found_however_a_part_is_written(form: bytes, names: list[bytes]) -> None:
    assert [name for name, _ in read_form(form, BOUNDARY, MAX_PARTS)] == names


def test_endless_headers_are_refused() -> None:
    with pytest.raises(BrokenForm):
        file_fields(b"--xyz\r\n" + b"X-A: b\r\n" * 1_000 + b"\r\n\r\n" + END, BOUNDARY)
    with pytest.raises(BrokenForm):
        file_fields(b"--xyz\r\nX-A: " + b"b" * 100_000 + b"\r\n\r\n\r\n" + END, BOUNDARY)
    with pytest.raises(BrokenForm):
        file_fields(PART + END, b"x" * 100_000)


def test_parts_are_counted_before_the_form_is_parsed() -> None:
    other = b'--xyz\r\nContent-Disposition: form-data; name="other"\r\n\r\n\r\n'
    assert file_fields(PART + other * (MAX_PARTS - 1) + END, BOUNDARY) == [b"picture"]
    begin = time.process_time()
    with pytest.raises(TooManyParts, match=r"^over 64 parts, the limit$"):
        file_fields(PART + other * 150_000 + END, BOUNDARY)
    assert time.process_time() - begin < 0.2


def test_several_files_come_in_order() -> None:
    assert file_fields(PART + PART.replace(b"picture", b"") + END, BOUNDARY) == [b"picture", b""]


@pytest.mark.parametrize("content_type", [b"multipart/form-data", b"multipart/form-data; boundary="])
def test_a_form_without_boundary_is_broken(content_type: bytes) -> None:
    with pytest.raises(BrokenForm, match="names no boundary"):
        boundary_of(content_type)


@pytest.mark.parametrize(
    ("content_type", "boundary"),
    [
        (
            b"multipart/form-data; boundary=----WebKitFormBoundary7MA4YWxkTrZu0gW",
            b"----WebKitFormBoundary7MA4YWxkTrZu0gW",
        ),
        (b"multipart/form-data; boundary=0123456789abcdef", b"0123456789abcdef"),
        (b'multipart/form-data; boundary="a b"', b"a b"),
        (b"Multipart/Form-Data;charset=utf-8;boundary=x", b"x"),
        (b"multipart/form-data; boundary=x; charset=utf-8", b"x"),
        (b"application/json", None),
        (b"multipart/mixed; boundary=x", None),
        (b"", None),
    ],
)
def test_the_boundary_is_found_however_it_is_written(content_type: bytes, boundary: bytes | None) -> None:
    assert boundary_of(content_type) == boundary


@pytest.mark.parametrize(
    ("disposition", "expected"),
    [
        (b'form-data; name="file"', True),
        (b'form-data; name="file"; filename="shoe.png"', True),
        (b"form-data; name=file", True),
        (b'form-data; filename="shoe.png"; name="file"', True),
        (b'form-data; name="file2"', False),
        (b'form-data; name="other"; filename="file"', False),
        (b'form-data; name="fil\xc3\xa9"', False),
        (b"", False),
    ],
)
def test_the_field_is_found_however_it_is_written(disposition: bytes, expected: bool) -> None:
    assert (parameters(disposition).get(b"name") == b"file") is expected


FUZZED = settings(max_examples=300, deadline=None, derandomize=True, database=None)
WORDS = st.sampled_from(
    [b"file", b"other", b"", b'"', b"\\", b";", b"=", b"form-data", b"name=", b"filename*=utf-8''", b"\xff"]
)
LINES = st.sampled_from([b"\r\n", b"\n", b"\r", b"\r\n\r\n", b"", b"\0"])
DISPOSITIONS = st.one_of(
    st.sampled_from(
        [
            *(b'form-data; name="file"', b"form-data; name=file", b'form-data; name="file"; filename="x\\".png"'),
            *(b'form-data; name="other"', b"form-data", b"attachment; name=file", b"form-data; name=file; name=other"),
        ]
    ),
    st.lists(WORDS, max_size=8).map(b"".join),
    st.binary(max_size=40),
)
NAMES = st.one_of(
    st.sampled_from([b"Content-Disposition", b"content-disposition", b"Content-Type", b"X"]), st.binary(max_size=10)
)
HEADERS = st.lists(st.tuples(NAMES, st.one_of(DISPOSITIONS, st.binary(max_size=20))), max_size=12)
CONTENTS = st.one_of(st.binary(max_size=60), st.sampled_from([b"--xyz", b"\r\n--xyz", b"\r\n--xyz--", b"\r\n" * 9]))


@st.composite
def forms(draw: st.DrawFn) -> bytes:
    """Nearly a multipart form: parts, headers, line ends and boundaries may be there, twice or not."""
    form = draw(st.one_of(st.just(b""), st.binary(max_size=20), LINES))
    for _ in range(draw(st.integers(0, 4))):
        form += draw(st.sampled_from([b"--xyz", b"--xyz", b"--xyz", b"--xy", b"xyz", b"--xyz--"])) + draw(LINES)
        for name, value in draw(HEADERS):
            form += name + draw(st.sampled_from([b": ", b": ", b":", b""])) + value + b"\r\n"
        form += draw(LINES) + draw(CONTENTS) + draw(LINES)
    return form + draw(st.sampled_from([END, b"--xyz--", b"--xyz-", b"", END + b"epilogue", b"\r\n" + END]))


@FUZZED
@given(forms(), st.sampled_from([BOUNDARY, b"", b"xy", b"x" * 300, b"\r\n", b"\xff", b"-"]))
def test_of_nearly_a_form_only_a_broken_upload_comes_out(form: bytes, boundary: bytes) -> None:
    with suppress(BrokenForm, TooManyParts):
        for content in file_fields(form, boundary):
            assert content in form


@FUZZED
@given(st.binary(max_size=300))
def test_of_any_bytes_only_a_broken_upload_comes_out(form: bytes) -> None:
    with suppress(BrokenForm):
        file_fields(form, BOUNDARY)
    with suppress(BrokenForm):
        file_fields(PART + form + END, BOUNDARY)


@FUZZED
@given(
    st.lists(st.tuples(st.sampled_from(["file", "other"]), st.binary(max_size=200)), max_size=6),
    st.sampled_from([b"", b"preamble\r\n", b"\r\n"]),
    st.sampled_from([b"", b"epilogue", b"\r\n--xyz\r\n"]),
)
def test_a_right_form_comes_apart_as_it_was_put_together(
    fields: list[tuple[str, bytes]], preamble: bytes, epilogue: bytes
) -> None:
    form = b"".join(
        b'--xyz\r\nContent-Disposition: form-data; name="%s"\r\n\r\n%s\r\n' % (name.encode(), content)
        for name, content in fields
    )
    expected = [content for name, content in fields if name == "file"]
    if any(b"\r\n--xyz" in b"\r\n" + content for _, content in fields):
        return  # a boundary that is in a content is none
    assert file_fields(preamble + form + END + epilogue, BOUNDARY) == expected


@FUZZED
@given(
    st.one_of(
        st.binary(max_size=100),
        st.lists(WORDS, max_size=8).map(lambda words: b"multipart/form-data; boundary" + b"".join(words)),
    ),
    DISPOSITIONS,
)
def test_of_any_header_only_a_broken_upload_comes_out(content_type: bytes, disposition: bytes) -> None:
    with suppress(BrokenForm):
        boundary = boundary_of(content_type)
        assert boundary is None or boundary
        if boundary is not None:
            with suppress(BrokenForm):
                file_fields(PART + END, boundary)
    assert len(parameters(disposition)) <= MAX_PARAMETERS
