"""What a request may ask for."""

import dataclasses

from keras_t5gemma2.messages import shown
from keras_t5gemma2.options import integer, number


@dataclasses.dataclass(frozen=True)
class Limits:
    """Limits of a request, each of which is refused with an error that names it.

    Attributes:
        body_bytes: int. Bytes of a body.
        max_tokens: int. New tokens of a text.
        texts: int. Texts that a request writes: its prompts times `n`.
        inputs: int. Texts that a request of embeddings has.
        images: int. Images of a request.
        image_pixels: int. Pixels of an image, refused before it is decoded.
        seconds: number. Time until a request is given up.

    Example:

    >>> Limits(texts=4).texts
    4
    """

    body_bytes: int = 20 << 20
    max_tokens: int = 1024
    texts: int = 16
    inputs: int = 256
    images: int = 8
    image_pixels: int = 32 << 20
    seconds: float = 300.0

    def __post_init__(self):
        for field in dataclasses.fields(self):
            value = getattr(self, field.name)
            found = number(value) if field.name == "seconds" else integer(value)
            if found is None or found <= 0:
                raise ValueError(
                    f"`{field.name}` must be a positive number. Received: "
                    f"{field.name}={shown(value)}"
                )
