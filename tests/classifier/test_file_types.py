"""Files that are not accepted pictures: the sentence says what they are, and what to send."""

import base64
import io
import zipfile

import pytest
from PIL import Image

from classifier.picture import UnsupportedPicture, open_picture
from tests.classifier.test_hostile_pictures import SAMPLES, encode

LITTLE = Image.new("RGB", (32, 32))


def archive() -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as file:
        file.writestr("shoe.png", SAMPLES["png"])
    return buffer.getvalue()


FILES = {
    "This is a HEIC picture, as iPhones store them; send it as JPEG.": b"\0\0\0\x24ftypheic\0\0\0\0mif1heic"
    + bytes(64),
    "This is a HEIC picture, as iPhones": b"\0\0\0\x18ftypmif1\0\0\0\0mif1heix" + bytes(64),
    "This is a TIFF picture; send it as JPEG or PNG.": encode(LITTLE, "TIFF"),
    "This is a JPEG XL picture; ": b"\xff\x0a\xfa\x1f",
    "This is a JPEG XL picture": b"\0\0\0\x0cJXL \r\n\x87\n",
    "This is a JPEG 2000 picture; ": encode(LITTLE, "JPEG2000"),
    "This is an ICO icon; ": encode(LITTLE, "ICO"),
    "This is a Photoshop (PSD) picture; ": b"8BPS\0\1",
    "This is a PNM picture; send it as PNG.": encode(LITTLE, "PPM"),
    "This is a QOI picture; ": encode(LITTLE, "QOI"),
    "This is a PDF document; ": encode(LITTLE, "PDF"),
    "This is a PostScript file; ": encode(LITTLE, "EPS"),
    "This is an SVG drawing; send it as PNG.": b'\xef\xbb\xbf<?xml version="1.0"?>\n<!-- -->\n<svg xmlns="x"/>',
    "This is an SVG drawing": b"  <svg xmlns='http://www.w3.org/2000/svg'>",
    "This is an HTML page, not a picture": b"\n<!DOCTYPE HTML><html>",
    "This is an XML": b"<?xml version='1.0'?><a/>",
    "This is a ZIP archive or an Office document, not a picture": archive(),
    "This is a gzip file": b"\x1f\x8b\x08\0",
    "This is an MP4 or QuickTime video": b"\0\0\0\x20ftypisom\0\0\2\0isomiso2",
    "This is an MP4 or QuickTime": b"\0\0\0\x14ftypqt  \0\0\2\0qt  ",
    "This is a WebM or Matroska video": b"\x1aE\xdf\xa3",
    "This is an AVI video": b"RIFF\0\0\1\0AVI LIST",
    "This is an IDX file": b"\0\0\x08\3\0\0\x27\x10",
    "This is JSON": b'{"image": "AAAA"}',
    "This is text, not a picture; send the bytes of the file: with curl, -F file=@shoe.png.": b"shoe.png",
    "This is text": "Füße\n".encode(),
    "This is an address as text; ": b"https://shop.example/shoe.png",
    "This is a PNG picture whose line ends": SAMPLES["png"].replace(b"\r", b"").replace(b"\n", b""),
    "This is a PNG picture whose line ends were": SAMPLES["png"].replace(b"\r\n", b"\n"),
    "The file is not a picture of an accepted format: PNG, JPEG, WebP, AVIF, GIF, BMP.": bytes(range(128, 256)),
}


@pytest.mark.parametrize("sentence", FILES)
def test_the_sentence_says_what_the_file_is(sentence: str) -> None:
    with pytest.raises(UnsupportedPicture) as caught:
        open_picture(FILES[sentence])
    assert str(caught.value).startswith(sentence)
    assert str(caught.value).endswith(".")


@pytest.mark.parametrize("name", ["png", "jpeg", "webp", "gif", "bmp", "avif"])
@pytest.mark.parametrize("form", ["{}", "data:image/png;base64,{}", '"{}"', "{}\n"])
def test_base64_is_named(name: str, form: str) -> None:
    text = form.format(base64.encodebytes(SAMPLES[name]).decode())
    with pytest.raises(UnsupportedPicture, match=r"^This is a picture as base64 text; .*-F file=@shoe\.png\.$"):
        open_picture(text.encode())


def test_a_stripped_png_names_the_option_of_curl() -> None:
    with pytest.raises(UnsupportedPicture, match=r"--data-binary @shoe\.png"):
        open_picture(SAMPLES["png"].translate(None, b"\r\n\0"))
