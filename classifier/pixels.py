"""What a network takes and gives: the shapes of images and the ten classes. Importing this does not load torch."""

import numpy as np
from numpy.typing import NDArray

CLASSES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
SIDE = 28  # pixels, of an image of Fashion-MNIST
SHAPE = (1, SIDE, SIDE)  # of such an image: channels, rows, columns
PHOTO_SIDE = 160  # pixels, of an image for the photo network
PHOTO_SHAPE = (3, PHOTO_SIDE, PHOTO_SIDE)  # red, green, blue

Pixels = NDArray[np.uint8]
