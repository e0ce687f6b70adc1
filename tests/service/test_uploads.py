import pytest

from service.uploads import BrokenUpload, file_fields

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


@pytest.mark.parametrize("boundary", [None, b""])
def test_a_form_without_boundary_is_broken(boundary: bytes | None) -> None:
    with pytest.raises(BrokenUpload, match="names no boundary"):
        file_fields(PART + END, boundary)
