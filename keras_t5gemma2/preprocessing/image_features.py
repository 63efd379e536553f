"""What the frozen vision tower makes of an image, kept so that it is computed once."""

import numpy as np

from keras_t5gemma2.typing import Tensor


class ImageFeatures:
    """An image as the vision tower sees it; taken wherever an image is.

    `T5Gemma2Seq2SeqLM.precompute` makes them. They are those of one vision tower: another one,
    or the same one after training it, does not know what they mean. They can be pickled.

    Args:
        values: (1 + crops, tokens_per_image, hidden_dim of the tower) array of floats: of the
            whole image, and of its crops where Pan and Scan made some.

    Raises:
        ValueError: `values` is no such array.

    Example:

    >>> lm = keras_t5gemma2.T5Gemma2Seq2SeqLM.from_preset("t5gemma2_tiny")
    >>> image = np.zeros((32, 32, 3), "uint8")
    >>> rows = {"encoder_text": ["<start_of_image>?"], "images": [image], "decoder_text": ["3"]}
    >>> lm.precompute(rows, verbose=0)["images"][0]
    [ImageFeatures(crops=0, tokens_per_image=4, hidden_dim=96)]
    """

    def __init__(self, values: Tensor) -> None:
        values = np.asarray(values)
        if values.ndim != 3 or values.dtype.kind != "f" or 0 in values.shape:
            raise ValueError(
                "`values` must be floats of shape (1 + crops, tokens_per_image, hidden_dim). "
                f"Received: {values.dtype} of shape {values.shape}"
            )
        self.values = values

    def __repr__(self) -> str:
        parts, tokens, width = self.values.shape
        return f"ImageFeatures(crops={parts - 1}, tokens_per_image={tokens}, hidden_dim={width})"
