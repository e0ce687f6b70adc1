"""Reads a picture as a network of Fashion-MNIST takes it."""

from classifier.picture import MAX_JPEG_PIXELS, MAX_PIXELS
from classifier.pixels import Pixels
from classifier.preprocessing import prepare


def read_pixels(content: bytes, max_pixels: int = MAX_PIXELS, max_jpeg_pixels: int = MAX_JPEG_PIXELS) -> Pixels:
    """uint8 [28,28] of a picture for a network of Fashion-MNIST."""
    pixels: Pixels = prepare(content, max_pixels, max_jpeg_pixels).pixels[0]
    return pixels
