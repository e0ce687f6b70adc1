"""What a refused file is, by its first bytes (file signatures, magic numbers), and what to send instead."""

import base64
import re
from contextlib import suppress

ACCEPTED = "PNG, JPEG, WebP, AVIF, GIF, BMP"
HEAD_BYTES = 1024  # that are looked at
PNG_START = b"\x89PNG"
BRAND = slice(8, 12)  # of an ISO base media file, behind the size and "ftyp"
HEIC_BRANDS = re.compile(rb"hei[cmsx]|hev[cmsx]|mif1|msf1")

PICTURES = (  # signature, name; other software can save these as JPEG or PNG
    (b"II*\0", "a TIFF picture"),
    (b"MM\0*", "a TIFF picture"),
    (b"II+\0", "a TIFF picture"),
    (b"MM\0+", "a TIFF picture"),
    (b"\xff\x0a", "a JPEG XL picture"),
    (b"\0\0\0\x0cJXL \r\n\x87\n", "a JPEG XL picture"),
    (b"\0\0\0\x0cjP  \r\n\x87\n", "a JPEG 2000 picture"),
    (b"\xff\x4f\xff\x51", "a JPEG 2000 picture"),
    (b"II\xbc", "a JPEG XR picture"),
    (b"\0\0\1\0", "an ICO icon"),
    (b"\0\0\2\0", "a CUR cursor"),
    (b"icns", "an ICNS icon"),
    (b"8BPS", "a Photoshop (PSD) picture"),
    (b"gimp xcf", "a GIMP (XCF) picture"),
    (b"DDS ", "a DDS texture"),
    (b"v/1\1", "an OpenEXR picture"),
    (b"#?R", "a Radiance (HDR) picture"),
    (b"SIMPLE  =", "a FITS picture"),
    (b"qoif", "a QOI picture"),
    (b"BPG\xfb", "a BPG picture"),
    (b"\x8aMNG", "an MNG animation"),
    (b"\x8bJNG", "a JNG picture"),
    (b"\xd7\xcd\xc6\x9a", "a WMF drawing"),
    (b"%!PS", "a PostScript file"),
    (b"\xc5\xd0\xd3\xc6", "a PostScript file"),
    (b"%PDF-", "a PDF document"),
    (b"RIFF....CDR", "a CorelDRAW drawing"),
    (b"FUJIFILM", "a raw photo of a camera"),
)
OTHERS = (
    (b"PK\3\4", "a ZIP archive or an Office document"),
    (b"PK\5\6", "an empty ZIP archive"),
    (b"Rar!", "a RAR archive"),
    (b"7z\xbc\xaf", "a 7-Zip archive"),
    (b"\x1f\x8b", "a gzip file"),
    (b"BZh", "a bzip2 file"),
    (b"\xfd7zXZ", "an XZ file"),
    (b"\x28\xb5\x2f\xfd", "a Zstandard file"),
    (b"\x1aE\xdf\xa3", "a WebM or Matroska video"),
    (b"RIFF....AVI ", "an AVI video"),
    (b"RIFF....WAVE", "a WAV sound"),
    (b"0&\xb2u", "a Windows Media file"),
    (b"FLV\1", "a Flash video"),
    (b"\0\0\1\xba", "an MPEG video"),
    (b"OggS", "an Ogg file"),
    (b"ID3", "an MP3 sound"),
    (b"fLaC", "a FLAC sound"),
    (b"\0\0\x08\1", "an IDX file of a data set"),
    (b"\0\0\x08\3", "an IDX file of a data set"),
    (b"\x93NUMPY", "a NumPy array"),
    (b"\x89HDF", "an HDF5 file"),
    (b"\x7fELF", "a program"),
    (b"MZ", "a program"),
    (b"\xd0\xcf\x11\xe0", "an Office document"),
    (b"{\\rtf", "an RTF document"),
    (b"SQLite format 3", "an SQLite database"),
)


def refusal(content: bytes) -> str:
    """One sentence for clients on a file with no accepted signature: what it is, and what to send instead."""
    head = content[:HEAD_BYTES]
    if head.startswith(PNG_START):
        return (
            "This is a PNG picture whose line ends were removed or changed on the way; "
            "with curl, send it with --data-binary @shoe.png or -F file=@shoe.png."
        )
    if head[4:8] in (b"ftyp", b"moov", b"mdat", b"wide"):
        return iso_refusal(head)
    for signature, name in PICTURES:
        if matches(head, signature):
            return f"This is {name}; send it as JPEG or PNG."
    for signature, name in OTHERS:
        if matches(head, signature):
            return not_accepted(name)
    if re.match(rb"P[1-7FfH]\s", head):
        return "This is a PNM picture; send it as PNG."
    if head[257:262] == b"ustar":
        return not_accepted("a TAR archive")
    return text_refusal(head) or f"The file is not a picture of an accepted format: {ACCEPTED}."


def matches(head: bytes, signature: bytes) -> bool:
    """Whether the head begins with the signature, in which four dots behind RIFF are any length."""
    if signature.startswith(b"RIFF"):
        return head.startswith(b"RIFF") and head[8:].startswith(signature[8:])
    return head.startswith(signature)


def not_accepted(name: str) -> str:
    return f"This is {name}, not a picture of an accepted format: {ACCEPTED}."


def iso_refusal(head: bytes) -> str:
    """The sentence for an ISO base media file: HEIC, a raw photo or a video."""
    brands = head[BRAND] + head[16 : max(16, min(int.from_bytes(head[:4]), HEAD_BYTES))]
    if head[4:8] == b"ftyp" and HEIC_BRANDS.search(brands):
        return "This is a HEIC picture, as iPhones store them; send it as JPEG."
    if head[BRAND] == b"crx ":
        return "This is a raw photo of a camera; send it as JPEG."
    return not_accepted("an MP4 or QuickTime video")


def text_refusal(head: bytes) -> str | None:
    """The sentence for text: a drawing or page in XML, base64, a data URI, an address. None if it is not text."""
    if head.startswith((b"\xff\xfe", b"\xfe\xff")):
        return not_accepted("text")
    try:
        text = head.decode("utf-8-sig", "strict" if len(head) < HEAD_BYTES else "ignore").strip()
    except UnicodeDecodeError:
        return None
    if not text or not all(character.isprintable() or character.isspace() for character in text):
        return None
    lower = text.lower()
    if "<svg" in lower:
        return "This is an SVG drawing; send it as PNG."
    if lower.startswith(("<!doctype html", "<html", "<head", "<body", "<!--")):
        return not_accepted("an HTML page")
    if lower.startswith("<"):
        return not_accepted("an XML or HTML text")
    if lower.startswith("data:") or is_base64(text):
        return "This is a picture as base64 text; send the bytes of the file: with curl, -F file=@shoe.png."
    if lower.startswith(("http://", "https://", "file://")):
        return "This is an address as text; send the bytes of the file: with curl, -F file=@shoe.png."
    if lower.startswith(("{", "[")):
        return "This is JSON, not a picture; send the bytes of the file: with curl, -F file=@shoe.png."
    return "This is text, not a picture; send the bytes of the file: with curl, -F file=@shoe.png."


def is_base64(text: str) -> bool:
    """Whether the text is base64 of a file with a known signature."""
    compact = "".join(text.split()).strip("\"'")
    if len(compact) < 24 or not re.fullmatch(r"[\w+/-]+=*", compact, re.ASCII):
        return False
    with suppress(ValueError):
        start = base64.b64decode(compact[:24].replace("-", "+").replace("_", "/"))
        known = (b"\xff\xd8\xff", PNG_START, b"GIF8", b"RIFF", b"BM", *(signature for signature, _ in PICTURES))
        return start.startswith(known) or start[4:8] == b"ftyp"
    return False
