"""The type and the side of an image as networks take it. Importing this does not load torch."""

import numpy as np
from numpy.typing import NDArray

SIDE = 28  # pixels

Pixels = NDArray[np.uint8]
