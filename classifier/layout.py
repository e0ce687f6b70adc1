"""Layout: where the garment is in a picture, and on which background.

Works on pictures that are reduced already: uint8 [3,height,width], red, green, blue.
"""

import numpy as np
from numpy.typing import NDArray

from classifier.pixels import SIDE, Pixels

EVEN_LEVELS = 16  # two colours that differ by no more, in each of red, green and blue, are the same
EVEN_FRACTION = 0.9  # a border is of one colour if so many of its pixels are
PLAIN_FRACTION = 0.5  # the same of a background, which the garment may hide at the border
FRAME_FRACTION = 0.03  # of the side: a frame all around is no thicker
MIXED, MIXED_LEVELS = 3, 4  # so many rings inside a frame may still change in colour, by more than so much
BAR_FRACTION = 0.98  # so much of the first row behind a bar has another colour
GARMENT_LEVELS, GARMENT_FRACTION = 12, 0.08  # a pixel is of the garment if it differs from the background by more than
# this, and by more than this fraction of the largest difference
NOISE_FRACTION = 0.01  # a row or a column with fewer pixels of the garment is noise
TOUCHING = 26 / SIDE  # of the side: every garment of Fashion-MNIST is at least that large
CARD_FRACTION, DISC_FRACTION = 0.93, 0.05  # of its box a card fills; of its area a disc may differ from an ellipse
CARD_EVEN_FRACTION = 0.75  # of the card's border has its colour
VISIBLE = 128  # alpha, of 255; a pixel with less belongs to what is around

Mask = NDArray[np.bool_]
Box = tuple[int, int, int, int]  # left, top, right, bottom


def border(picture: Pixels) -> Pixels:
    """The outermost pixels of a picture, [3,height,width], as [3, 2 * width + 2 * height]."""
    return np.concatenate((picture[:, 0], picture[:, -1], picture[:, :, 0], picture[:, :, -1]), axis=1)


def median(colours: Pixels) -> Pixels:
    """The median of each of red, green and blue, uint8 [3], of colours, uint8 [3,N]."""
    return np.sort(colours, axis=1)[:, colours.shape[1] // 2]


def difference(colours: Pixels, colour: Pixels) -> Pixels:
    """How much each colour, uint8 [3,…], differs from `colour`, uint8 [3]: most of red, green and blue, uint8 […]."""
    other = colour.reshape(3, *(1,) * (colours.ndim - 1))
    differences: Pixels = (np.maximum(colours, other) - np.minimum(colours, other)).max(axis=0)
    return differences


def inner_box(picture: Pixels) -> Box:
    """What remains without a thin frame, or without bars above and below or left and right.

    Both have one colour and end at a straight line, where some pixels may be a mixture of both sides. What remains has
    a background of one other colour, else all of the picture remains.
    """
    height, width = picture.shape[1:]
    whole = (0, 0, width, height)
    outside = picture[:, 0, 0]
    differs = np.greater(difference(picture, outside), EVEN_LEVELS)
    top, bottom = between_bars(differs)
    left, right = between_bars(differs.T)
    for box in ((0, top, width, bottom), (left, 0, right, height)):
        if box != whole and is_plain(picture, box, outside):
            return box
    outside = median(border(picture))  # the corners of a reduced frame are darker than its edges
    differs = np.greater(difference(picture, outside), EVEN_LEVELS)
    if border_fraction(differs) > 1 - EVEN_FRACTION:
        return whole
    for thickness in range(1, 1 + round(FRAME_FRACTION * min(width, height))):
        if border_fraction(differs[thickness:-thickness, thickness:-thickness]) > EVEN_FRACTION:
            first = behind_mixture(picture, thickness + 1)
            box = (first, first, width - first, height - first)
            return box if is_plain(picture, box, outside) else whole
    return whole


def behind_mixture(picture: Pixels, first: int) -> int:
    """The distance from the border, from `first` on, at which the colour of a ring of pixels changes no more."""
    for distance in range(first, first + MIXED):
        colours = [median(border(picture[:, ring:-ring, ring:-ring])) for ring in (distance, distance + 1)]
        if difference(*colours) <= MIXED_LEVELS:
            return distance
    return first + MIXED


def border_fraction(found: Mask) -> float:
    """The fraction of the outermost pixels, of bool [height,width], that are True."""
    return float(border(found[None].view(np.uint8)).mean())


def between_bars(differs: Mask) -> tuple[int, int]:
    """The first row, and the row behind the last one, of what is between two bars, above and below.

    `differs`, bool [height,width], is True where a pixel has another colour than the bars.
    """
    height = len(differs)
    rows = np.atleast_1d(differs.any(axis=1))
    top, bottom = int(rows.argmax()), height - int(rows[::-1].argmax())
    has_bars = 0 < top < bottom < height and np.mean([differs[top], differs[bottom - 1]]) > BAR_FRACTION
    return (top + 1, bottom - 1) if has_bars else (0, height)


def is_plain(picture: Pixels, box: Box, outside: Pixels) -> bool:
    """Whether the box has a border of one colour, other than that outside, and something in it."""
    inside = picture[:, box[1] : box[3], box[0] : box[2]]
    if min(inside.shape[1:]) < 3:
        return False
    edge = border(inside)
    colour = median(edge)
    return bool(
        difference(colour, outside) > EVEN_LEVELS
        and (difference(edge, colour) <= EVEN_LEVELS).mean() > PLAIN_FRACTION
        and (difference(inside, colour) > EVEN_LEVELS).mean() > NOISE_FRACTION
    )


def is_grey(picture: Pixels) -> bool:
    """Whether red, green and blue are the same, but for a few pixels."""
    spread = picture.max(axis=0) - picture.min(axis=0)
    return bool((spread > EVEN_LEVELS).mean() <= NOISE_FRACTION)


def background(picture: Pixels) -> tuple[Pixels, bool]:
    """The colour of the background, uint8 [3], and whether it is plain.

    It is plain if three of the four corners have one colour, as in all but 12 of the 70,000 images of Fashion-MNIST,
    and half of the border has it. Else its colour is the median of the border.
    """
    edge = border(picture)
    corners = picture[:, [0, 0, -1, -1], [0, -1, 0, -1]]
    for corner in corners.T:
        same = difference(corners, corner) <= EVEN_LEVELS
        if same.sum() >= 3:
            alike = difference(edge, median(corners[:, same])) <= EVEN_LEVELS
            if alike.mean() >= PLAIN_FRACTION:
                return median(edge[:, alike]), True
    return median(edge), False


def garment_box(picture: Pixels, colour: Pixels) -> Box:
    """The box of what differs from the background's colour; all of the picture if nothing does, or all of its side."""
    height, width = picture.shape[1:]
    whole = (0, 0, width, height)
    differences = difference(picture, colour)
    differs = np.greater(differences, max(GARMENT_LEVELS, GARMENT_FRACTION * float(differences.max())))
    box = box_of(differs, NOISE_FRACTION)
    if box is None or max(box[2] - box[0], box[3] - box[1]) >= TOUCHING * max(width, height):
        return whole
    return box


def visible_box(alpha: Pixels) -> Box | None:
    """The box of the visible pixels, uint8 [height,width]; None if there is none."""
    return box_of(np.greater_equal(alpha, VISIBLE), 0)


def box_of(found: Mask, fraction: float) -> Box | None:
    """The box from the first to the last row and column of which more than this fraction is True, None if none is."""
    rows, columns = (np.flatnonzero(found.mean(axis=axis) > fraction) for axis in (1, 0))
    if not len(rows) or not len(columns):
        return None
    return int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1


def card_colour(picture: Pixels, alpha: Pixels) -> Pixels | None:
    """The background's colour, uint8 [3], if what is visible is a card or a disc with a garment on it.

    `picture` is uint8 [3,height,width] and `alpha` uint8 [height,width], both of the visible box. None for a garment
    that was cut out.
    """
    visible = alpha >= VISIBLE
    height, width = visible.shape
    y, x = ((np.arange(side) + 0.5) / side * 2 - 1 for side in (height, width))
    disc = (x**2 + y[:, None] ** 2) <= 1
    if visible.mean() < CARD_FRACTION and (visible != disc).mean() > DISC_FRACTION:
        return None
    edge = visible.copy()
    edge[1:-1, 1:-1] &= ~(visible[:-2, 1:-1] & visible[2:, 1:-1] & visible[1:-1, :-2] & visible[1:-1, 2:])
    colours = picture[:, edge]
    colour = median(colours)
    even = (difference(colours, colour) <= EVEN_LEVELS).mean() > CARD_EVEN_FRACTION
    other = (difference(picture[:, visible], colour) > EVEN_LEVELS).mean() > NOISE_FRACTION
    return colour if even and other else None
