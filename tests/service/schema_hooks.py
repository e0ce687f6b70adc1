"""For schemathesis, which imports it: what is a picture in the schema is a real picture in most requests."""

import io

import schemathesis
from hypothesis import strategies as st
from PIL import Image


def picture(format: str, side: int) -> bytes:
    buffer = io.BytesIO()
    Image.linear_gradient("L").resize((side, side)).save(buffer, format)
    return buffer.getvalue()


PICTURES = st.builds(picture, st.sampled_from(["PNG", "JPEG", "GIF", "BMP", "WEBP"]), st.integers(1, 100))
schemathesis.openapi.format("binary", PICTURES)
schemathesis.openapi.media_type("image/*", PICTURES)
