import pytest

from service.uploads import BrokenUpload, boundary_of, file_fields, is_file

BOUNDARY = b"xyz"
PART = b'--xyz\r\nContent-Disposition: form-data; name="file"; filename="a.png"\r\n\r\npicture\r\n'
END = b"--xyz--\r\n"


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
    with pytest.raises(BrokenUpload):
        file_fields(form, BOUNDARY)


def test_endless_headers_are_refused() -> None:
    with pytest.raises(BrokenUpload):
        file_fields(b"--xyz\r\n" + b"X-A: b\r\n" * 1_000 + b"\r\n\r\n" + END, BOUNDARY)
    with pytest.raises(BrokenUpload):
        file_fields(b"--xyz\r\nX-A: " + b"b" * 100_000 + b"\r\n\r\n\r\n" + END, BOUNDARY)
    with pytest.raises(BrokenUpload):
        file_fields(PART + END, b"x" * 100_000)


def test_several_files_come_in_order() -> None:
    assert file_fields(PART + PART.replace(b"picture", b"") + END, BOUNDARY) == [b"picture", b""]


@pytest.mark.parametrize("content_type", [b"multipart/form-data", b"multipart/form-data; boundary="])
def test_a_form_without_boundary_is_broken(content_type: bytes) -> None:
    with pytest.raises(BrokenUpload, match="names no boundary"):
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
    assert is_file(disposition) is expected
