"""Images of requests: data URLs alone, so that no request reads a file or asks another server."""

import base64
import binascii
import re

from keras_t5gemma2.messages import shown
from keras_t5gemma2.preprocessing.read_image import read_image
from keras_t5gemma2.serving.errors import RequestError

_DATA_URL = re.compile(r"data:image/[\w.+-]+;base64,", re.IGNORECASE)


def image_of(url, param, max_pixels):
    """The Pillow image of a `data:` URL.

    Args:
        url: what came for an image.
        param: string, the argument that it came in.
        max_pixels: int, of its picture.

    Raises:
        RequestError: it is no `data:` URL with an image in base64, or too large.
    """
    head = _DATA_URL.match(url) if isinstance(url, str) else None
    if head is None:
        raise RequestError(
            400,
            "An image must be a data URL, such as data:image/png;base64,...: no file and no "
            f"address is read. Received: {shown(url)}",
            param,
        )
    try:
        data = base64.b64decode(url[head.end() :], validate=True)
        return read_image(data, max_pixels=max_pixels)
    except (ValueError, TypeError, OSError, binascii.Error) as error:
        raise RequestError(400, f"An image cannot be read: {error}", param) from error
