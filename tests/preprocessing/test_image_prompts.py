"""How images stand in the encoder's text."""

import numpy as np
import pytest
from preprocessors import MARKER, TOKENIZER

from keras_t5gemma2.preprocessing.image_prompts import place_images, widen_images

pytestmark = pytest.mark.once
BLOCK = "\n\n<start_of_image><image_soft_token><end_of_image>\n\n"


def test_a_block_stands_where_the_marker_did():
    assert place_images(f"a {MARKER} b", [0], TOKENIZER) == f"a {BLOCK} b"
    assert place_images(f"{MARKER}{MARKER}", [0, 0], TOKENIZER) == BLOCK + BLOCK
    assert place_images("a", [], TOKENIZER) == "a"


def test_crops_come_behind_their_own_image():
    """In the words of the reference."""
    got = place_images(f"{MARKER} and {MARKER}", [2, 0], TOKENIZER)
    crops = "and here are some crops to help you see better"
    assert got == f"Here is the original image {BLOCK} {crops} {BLOCK} {BLOCK} and {BLOCK}"


def test_as_many_markers_as_images():
    with pytest.raises(ValueError, match="zip"):
        place_images(MARKER, [0, 0], TOKENIZER)


def test_every_image_token_is_widened_and_no_other():
    ids = np.array([7, 2, 7, 5], "int32")
    got = widen_images(ids, image_token_id=7, tokens_per_image=2)
    assert got.tolist() == [7, 7, 2, 7, 7, 5] and got.dtype == "int32"
    assert widen_images(ids[1:2], 7, 2).tolist() == [2]
