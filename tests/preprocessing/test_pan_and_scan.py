"""Pan and Scan against the reference's boxes."""

import itertools
import random

import numpy as np
import pytest
from transformers.models.gemma3.image_processing_pil_gemma3 import Gemma3ImageProcessorPil

from keras_t5gemma2.preprocessing.pan_and_scan import Box, pan_and_scan

pytestmark = pytest.mark.once

REFERENCE = Gemma3ImageProcessorPil()
EDGES = (1, 2, 3, 5, 255, 256, 257, 307, 308, 511, 512, 513, 640, 767, 768, 1023, 1024, 1025, 1280)
EXTREMES = (7, 256, 896, 4096, 9999, 100_003)


def _random_sizes(count):
    generator = random.Random(11)
    return [tuple(int(2 ** generator.uniform(0, 14)) for _ in range(2)) for _ in range(count)]


SIZES = [
    *itertools.product(EDGES, EDGES),
    *itertools.product(EXTREMES, EXTREMES),
    *itertools.product(range(300, 360), range(250, 310)),
    *_random_sizes(3000),
]
RULES = [(256, 4, 1.2), (100, 3, 1.5), (7, 11, 1.0), (300, 2, 2.0), (64, 1, 1.2)]


def _reference_boxes(width, height, *rule):
    """The crops that the reference cuts, as boxes, without the empty ones (see below)."""
    crops = REFERENCE.pan_and_scan(_Coordinates(width, height), *rule)
    return [crop.box for crop in crops if min(crop.shape) > 0]


class _Coordinates:
    """Stands for a (3, height, width) image, of which only the slices are of interest."""

    def __init__(self, width, height, box=None):
        self.shape = (3, height, width)
        self.ndim = 3
        self.box = box

    def __getitem__(self, slices):
        _, height, width = self.shape
        (top, bottom, _), (left, right, _) = (
            part.indices(size) for part, size in zip(slices[1:], (height, width), strict=True)
        )
        return _Coordinates(right - left, bottom - top, Box(left, top, right, bottom))


@pytest.mark.parametrize("rule", RULES)
def test_boxes_are_the_reference_s(rule):
    differing = [
        size for size in SIZES if pan_and_scan(*size, *rule) != _reference_boxes(*size, *rule)
    ]
    assert differing == []
    cropped = [size for size in SIZES if pan_and_scan(*size, *rule)]
    assert len(SIZES) // 20 < len(cropped) < len(SIZES)


def test_defaults_are_the_published_rule():
    assert all(pan_and_scan(*size) == pan_and_scan(*size, *RULES[0]) for size in SIZES)


def test_crops_hold_the_reference_s_pixels():
    image = np.arange(3 * 300 * 1111, dtype="int32").reshape(3, 300, 1111)
    expected = REFERENCE.pan_and_scan(image, *RULES[0])
    boxes = pan_and_scan(1111, 300)
    assert len(boxes) == len(expected) == 4
    for box, crop in zip(boxes, expected, strict=True):
        np.testing.assert_array_equal(image[:, box.top : box.bottom, box.left : box.right], crop)


@pytest.mark.parametrize("size", [(1100, 300), (300, 1100), (513, 300), (5, 1), (11, 2)])
def test_boxes_cover_the_image_once(size):
    seen = np.zeros(size[::-1], "int32")
    boxes = pan_and_scan(*size, min_crop_size=1, max_num_crops=7)
    for left, top, right, bottom in boxes:
        assert left < right and top < bottom
        seen[top:bottom, left:right] += 1
    assert len(boxes) > 1
    assert (seen == 1).all()


def test_no_box_is_empty_where_rounding_leaves_nothing():
    # Five pixels in four parts of two: the reference cuts a fourth, empty crop.
    rule = dict(min_crop_size=1, max_num_crops=4)
    assert pan_and_scan(5, 1, **rule) == [Box(0, 0, 2, 1), Box(2, 0, 4, 1), Box(4, 0, 5, 1)]


@pytest.mark.parametrize(
    "arguments",
    [dict(width=0), dict(height=-3), dict(min_crop_size=0), dict(max_num_crops=0)],
)
def test_sizes_below_one_are_refused(arguments):
    (name, value) = next(iter(arguments.items()))
    with pytest.raises(ValueError, match=f"`{name}` must be at least 1. Received: {name}={value}"):
        pan_and_scan(**{"width": 300, "height": 700, **arguments})
