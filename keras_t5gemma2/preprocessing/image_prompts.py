"""How images stand in the encoder's text: the reference's wording, in characters and in tokens."""

import numpy as np


def place_images(text, crop_counts, tokenizer):
    r"""`text` with a block of tokens in place of each image marker.

    The block is "\n\n", start of image, image token, end of image, "\n\n". It holds a single
    image token, which `widen_images` repeats after tokenization: no text stands between the
    image tokens, so that the ids are those of the text with all of them.

    Args:
        text: string with as many markers as there are images.
        crop_counts: list of ints, crops of each image, as Pan and Scan makes them.
        tokenizer: gives the strings of the three tokens.

    Returns:
        A string.
    """
    marker = tokenizer.start_of_image_token
    block = f"\n\n{marker}{tokenizer.image_token}{tokenizer.end_of_image_token}\n\n"
    first, *rest = text.split(marker)
    blocks = [_with_crops(block, count) for count in crop_counts]
    return first + "".join(map("".join, zip(blocks, rest, strict=True)))


def _with_crops(block, crop_count):
    if crop_count == 0:
        return block
    crops = " ".join([block] * crop_count)
    return (
        f"Here is the original image {block} and here are some crops to help you see better {crops}"
    )


def widen_images(ids, image_token_id, tokens_per_image):
    """`ids` with every image token repeated.

    >>> widen_images(np.array([2, 7, 5]), image_token_id=7, tokens_per_image=3)
    array([2, 7, 7, 7, 5])
    """
    return np.repeat(ids, np.where(ids == image_token_id, tokens_per_image, 1))
