"""Warnings about levels that look like those of another range, and their absence on dark images."""

import io
import warnings

import numpy as np
import PIL.Image
import PIL.ImageDraw
import pytest
from preprocessors import MARKER, tiny_preprocessor

from keras_t5gemma2.preprocessing.read_image import read_image

pytestmark = pytest.mark.once


def _warnings(call):
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        call()
    return [str(w.message) for w in caught if "as good as black" in str(w.message)]


def _uniform(high, dtype, shape=(24, 32, 3)):
    rng = np.random.default_rng(0)
    if np.dtype(dtype).kind == "f":
        return rng.uniform(0, high, shape).astype(dtype)
    return rng.integers(0, high + 1, shape).astype(dtype)


def _with(image, level):
    image = image.copy()
    image[3, 5] = level
    return image


def _digit(high, dtype):
    """Eight by eight as scikit-learn's digits: about half black, the rest up to `high`."""
    image = _uniform(high, dtype, (8, 8))
    image[:, :3] = 0
    return image


def _png(array):
    file = io.BytesIO()
    PIL.Image.fromarray(array).save(file, "PNG")
    return file.getvalue()


DOUBTFUL = {
    "floats": _uniform(1, "float32"),
    "floats and a 1": _with(_uniform(1, "float32"), 1.0),
    "floats and a -0": _with(_uniform(1, "float64"), -0.0),
    "floats and a 255": _with(_uniform(1, "float16"), 255.0),
    "floats and an overshoot": _uniform(1.2, "float32"),
    "dim floats": _uniform(0.2, "float32"),
    "gray floats": _uniform(1, "float32", (24, 32)),
    "floats with alpha": np.dstack([_uniform(1, "float32"), np.full((24, 32), 255, "float32")]),
    "few floats": _uniform(1, "float32", (3, 5, 3)),
    "floats of 0 and 1": _uniform(1, "uint8").astype("float32"),
    "bytes of 0 and 1": _uniform(1, "uint8"),
    "bytes to 16": _uniform(16, "uint8"),
    "bytes to 16 and a 255": _with(_uniform(16, "uint8"), 255),
    "floats to 16": _uniform(16, "float64"),
    "digit of bytes": _digit(16, "uint8"),
    "digit of floats": _digit(16, "int64").astype("float64"),
    "digit and a 255": _with(_digit(16, "uint8"), 255),
    "mask of 0 and 16": _uniform(1, "uint8") * 16,
    "8 bits in 16": _uniform(255, "uint16"),
    "12 bits in 16": _uniform(4095, "uint16"),
    "Pillow": PIL.Image.fromarray(_uniform(16, "uint8")),
    "file": _png(_uniform(1, "uint8")),
    "large": _with(_uniform(16, "uint8", (600, 500, 3)), 255),
}


@pytest.mark.parametrize("kind", DOUBTFUL)
def test_levels_of_another_range_are_warned_about_once(kind):
    (message,) = _warnings(lambda: read_image(DOUBTFUL[kind]))
    assert "look like [0, 1" in message and "Multiply" in message and "Received: a" in message


def _stars():
    image = _uniform(3, "uint8", (400, 400, 3))
    image[::20, ::20] = 200
    return image


def _lines():
    image = PIL.Image.new("RGB", (400, 300))
    PIL.ImageDraw.Draw(image).line((10, 10, 390, 280), "white", 3)
    return image.resize((200, 150), PIL.Image.Resampling.BILINEAR)


def _night():
    """Nearly black, with a lit window."""
    image = _uniform(12, "uint8", (300, 400, 3))
    image[100:170, 100:170] = 180
    return image


FINE = {
    "black": np.zeros((24, 32, 3), "uint8"),
    "black floats": np.zeros((24, 32, 3), "float32"),
    "white": np.full((24, 32, 3), 255, "uint8"),
    "dark color": np.full((24, 32, 3), 15, "uint8"),
    "noise of a dark frame": _uniform(3, "uint8"),
    "stars": _stars(),
    "lines": _lines(),
    "lines of floats": np.asarray(_lines(), "float32"),
    "night": _night(),
    "night of floats": _night() * np.float32(0.9),
    "dark": _uniform(40, "uint8"),
    "blue": np.full((24, 32, 3), (0, 0, 100), "uint8"),
    "black and white": _uniform(1, "uint8") * 255,
    "boolean": _uniform(1, "uint8") > 0,
    "one pixel": np.full((1, 1, 3), 7, "uint8"),
    "16 bits": _uniform(65535, "uint16"),
}


@pytest.mark.parametrize("kind", FINE)
def test_dark_images_are_not_warned_about(kind):
    assert _warnings(lambda: read_image(FINE[kind])) == []


def test_a_call_warns_once_and_names_the_row():
    preprocessor = tiny_preprocessor()
    images = [_uniform(255, "uint8"), _uniform(1, "float32"), _uniform(16, "uint8")]
    rows = {"encoder_text": [MARKER] * 3, "images": images}
    (message,) = _warnings(lambda: preprocessor.generate_preprocess(rows))
    assert message.startswith("In row 1, image 0: The levels of an image look like [0, 1], which")
    assert message.endswith("The same holds for 1 more")


def test_levels_out_of_range_say_what_to_do():
    with pytest.raises(ValueError, match=r"levels from -1.0 to 1.0 .*Scale and round them first"):
        read_image(np.array([[-1.0, 1.0]]))
