"""Pan and Scan: which parts of a long image are looked at on their own."""

import math
from typing import NamedTuple

from keras_t5gemma2.messages import shown


class Box(NamedTuple):
    """A rectangle in pixels of the original image; `right` and `bottom` are outside of it."""

    left: int
    top: int
    right: int
    bottom: int


def pan_and_scan(width, height, min_crop_size=256, max_num_crops=4, min_ratio_to_activate=1.2):
    """Boxes of the crops of an image, or none where the image is not long enough.

    The long side is split into equal parts, about as many as the sides' ratio; the short side
    stays whole. The boxes stand side by side and together cover the image.

    Args:
        width: int. Of the image, in pixels.
        height: int. Of the image, in pixels.
        min_crop_size: int. Pixels that each side of a crop has at least, else there are no crops.
        max_num_crops: int. Crops of one image, at most.
        min_ratio_to_activate: float. Long side over short side from which on there are crops.

    Returns:
        A list of `Box`, from left to right or from top to bottom.

    Raises:
        ValueError: if a size or `max_num_crops` is below 1.

    Example:

    >>> pan_and_scan(width=1000, height=500)
    [Box(left=0, top=0, right=500, bottom=500), Box(left=500, top=0, right=1000, bottom=500)]
    >>> pan_and_scan(width=500, height=500)
    []
    """
    check_at_least_one(
        width=width, height=height, min_crop_size=min_crop_size, max_num_crops=max_num_crops
    )
    long, short = max(width, height), min(width, height)
    if long / short < min_ratio_to_activate:
        return []
    # Halves round up, where Python's `round` goes to the even neighbor.
    num_crops = min(long // min_crop_size, math.floor(long / short + 0.5))
    num_crops = min(max(num_crops, 2), max_num_crops)
    step = math.ceil(long / num_crops)
    if min(step, short) < min_crop_size:
        return []
    # Rounding up the step can leave nothing for the last crops of an image of a few pixels.
    ranges = [(start, min(start + step, long)) for start in range(0, long, step)]
    if width >= height:
        return [Box(start, 0, stop, height) for start, stop in ranges]
    return [Box(0, start, width, stop) for start, stop in ranges]


def check_at_least_one(**counts):
    """Raises a `ValueError` that names the first of `counts` that is below 1."""
    for name, count in counts.items():
        if count < 1:
            raise ValueError(f"`{name}` must be at least 1. Received: {name}={shown(count)}")
